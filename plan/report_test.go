package plan

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

func testOutcomes() ([]uint32, []Outcome) {
	sum := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	return []uint32{1, 2, 3}, []Outcome{
		{Test: 1, Name: []byte("/etc/passwd"), Digest: sum(1, 32), Size: 3, Nanos: 5},
		{Test: 3, Err: "measure.limit.time"},
		{Test: 3, Name: []byte("/usr/x"), Err: "measure.file.unreadable"},
		{Test: 3, Name: []byte("/usr/\xff\n"), Digest: sum(2, 64), Size: 1 << 40, Nanos: 7},
	}
}

func testReport(t testing.TB) (Report, *ecdsa.PrivateKey, rats.Evidence) {
	t.Helper()
	ids, outcomes := testOutcomes()
	bulk, timings, err := EncodeOutcomes(ids, outcomes, nil)
	if err != nil {
		t.Fatal(err)
	}
	k, spki := ecKey(t)
	r := Report{
		Nonce: bytes.Repeat([]byte{1}, 32), Manifest: bytes.Repeat([]byte{2}, 32), Plan: testPlan().Digest(),
		Outcomes: rats.SHA256(bulk), Timings: rats.SHA256(timings), Sequence: 4, Backend: BackendNative, Simulated: true, Signer: spki,
	}
	e, err := r.Sign(k, bulk, timings)
	if err != nil {
		t.Fatal(err)
	}
	return r, k, e
}

func TestOutcomesSurviveTheirEncoding(t *testing.T) {
	ids, outcomes := testOutcomes()
	bulk, timings, err := EncodeOutcomes(ids, outcomes, nil)
	if err != nil {
		t.Fatal(err)
	}
	gotIDs, got, err := DecodeOutcomes(bulk, timings)
	if err != nil || !reflect.DeepEqual(gotIDs, ids) {
		t.Fatalf("%v, %v", gotIDs, err)
	}
	for i := range got {
		want := outcomes[i]
		if !bytes.Equal(got[i].Name, want.Name) || !bytes.Equal(got[i].Digest, want.Digest) || got[i].Size != want.Size || got[i].Nanos != want.Nanos || got[i].Err != want.Err || got[i].Test != want.Test {
			t.Errorf("%d: %+v, want %+v", i, got[i], want)
		}
	}
	for i := range outcomes {
		outcomes[i].Nanos += 100
	}
	again, times, _ := EncodeOutcomes(ids, outcomes, nil)
	if !bytes.Equal(again, bulk) || bytes.Equal(times, timings) {
		t.Error("times stand in the wrong part")
	}
}

func TestMalformedOutcomesAreNotEncoded(t *testing.T) {
	for name, change := range map[string]func(ids *[]uint32, o *[]Outcome){
		"unknown test":       func(_ *[]uint32, o *[]Outcome) { (*o)[0].Test = 9 },
		"tests out of order": func(_ *[]uint32, o *[]Outcome) { (*o)[0], (*o)[1] = (*o)[1], (*o)[0] },
		"name twice":         func(_ *[]uint32, o *[]Outcome) { (*o)[3].Name = (*o)[2].Name },
		"names descend":      func(_ *[]uint32, o *[]Outcome) { (*o)[2].Name = []byte("/z") },
		"long name":          func(_ *[]uint32, o *[]Outcome) { (*o)[0].Name = make([]byte, MaxName+1) },
		"no name":            func(_ *[]uint32, o *[]Outcome) { (*o)[0].Name = nil },
		"digest and error":   func(_ *[]uint32, o *[]Outcome) { (*o)[0].Err = "x" },
		"neither":            func(_ *[]uint32, o *[]Outcome) { (*o)[0].Digest = nil },
		"short digest":       func(_ *[]uint32, o *[]Outcome) { (*o)[0].Digest = make([]byte, 20) },
		"negative size":      func(_ *[]uint32, o *[]Outcome) { (*o)[0].Size = -1 },
		"code with text":     func(_ *[]uint32, o *[]Outcome) { (*o)[1].Err = "Bad Code" },
		"long code":          func(_ *[]uint32, o *[]Outcome) { (*o)[1].Err = rats.Code(strings.Repeat("a", 65)) },
		"too many tests":     func(ids *[]uint32, _ *[]Outcome) { *ids = make([]uint32, MaxTests+1) },
		"too many":           func(_ *[]uint32, o *[]Outcome) { *o = make([]Outcome, MaxOutcomes+1) },
	} {
		ids, o := testOutcomes()
		change(&ids, &o)
		_, _, err := EncodeOutcomes(ids, o, nil)
		wantCode(t, name, err, CodeOutcomes)
	}
}

func TestMalformedOutcomesAreRefused(t *testing.T) {
	ids, outcomes := testOutcomes()
	bulk, timings, _ := EncodeOutcomes(ids, outcomes, nil)
	at := func(b []byte, i int, v byte) []byte { b = bytes.Clone(b); b[i] = v; return b }
	n := 4 + len(outcomesTag)
	for name, c := range map[string][2][]byte{
		"empty":           {nil, timings},
		"no timings":      {bulk, nil},
		"tag":             {at(bulk, 5, 'x'), timings},
		"timings tag":     {bulk, at(timings, 5, 'x')},
		"more tests":      {at(bulk, n+3, 4), timings},
		"many tests":      {at(bulk, n, 0xff), timings},
		"fewer tests":     {at(bulk, n+3, 2), timings},
		"more outcomes":   {at(bulk, n+11, 2), timings},
		"test twice":      {at(bulk, n+7, 2), timings},
		"truncated":       {bulk[:len(bulk)-1], timings},
		"followed":        {append(bytes.Clone(bulk), 0), timings},
		"timings cut":     {bulk, timings[:len(timings)-8]},
		"timings long":    {bulk, append(bytes.Clone(timings), make([]byte, 8)...)},
		"negative time":   {bulk, at(timings, 4+len(timingsTag)+4, 0xff)},
		"negative unit":   {bulk, at(timings, 4+len(timingsTag)+12, 0xff)},
		"many conditions": {bulk, at(timings, len(timings)-1, 65)},
		"cut condition":   {bulk, at(timings, len(timings)-1, 1)},
		"many timings":    {bulk, at(timings, 4+len(timingsTag), 0xff)},
		"timings more":    {bulk, append(at(timings, 4+len(timingsTag)+3, 5), make([]byte, 8)...)},
		"long name":       {at(bulk, n+12, 0xff), timings},
		"huge":            {make([]byte, MaxOutcomeBytes+1), timings},
		"negative size":   {at(bulk, n+14+len("/etc/passwd")+1+32, 0xff), timings},
		"name like last":  {bytes.Replace(bulk, []byte("/usr/\xff"), []byte("/usr/\x00"), 1), timings},
	} {
		_, _, err := DecodeOutcomes(c[0], c[1])
		wantCode(t, name, err, CodeOutcomes)
	}
}

func TestReportSurvivesItsSignature(t *testing.T) {
	want, _, e := testReport(t)
	got, bulk, timings, err := OpenReport(e)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, o, err := DecodeOutcomes(bulk, timings); err != nil || len(o) != 4 {
		t.Errorf("%d outcomes, %v", len(o), err)
	}
}

func TestReportRefusalMatrix(t *testing.T) {
	report, key, _ := testReport(t)
	resign := func(e *rats.Evidence, change func(*Report)) {
		r := report
		change(&r)
		header := r.encode()
		sig, err := sign(key, header)
		if err != nil {
			t.Fatal(err)
		}
		e.Body = appendField(appendField(nil, header), sig)
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if _, err := report.Sign(p384, nil, nil); err == nil {
		t.Error("signed with another curve")
	}
	for _, c := range []struct {
		name   string
		change func(*rats.Evidence)
		want   rats.CodeInfo
	}{
		{"format", func(e *rats.Evidence) { e.Format = "tpm" }, CodeReport},
		{"media type", func(e *rats.Evidence) { e.MediaType = "text/plain" }, CodeReport},
		{"no body", func(e *rats.Evidence) { e.Body = nil }, CodeReport},
		{"long body", func(e *rats.Evidence) { e.Body = make([]byte, maxReport+1) }, CodeReport},
		{"body followed", func(e *rats.Evidence) { e.Body = append(e.Body, 0) }, CodeReport},
		{"sequence altered", func(e *rats.Evidence) {
			i := bytes.LastIndex(e.Body, []byte{0, 0, 0, 4, 0, 0, 0, byte(len(BackendNative))})
			e.Body[i+3] = 5
		}, CodeReportSignature},
		{"signature altered", func(e *rats.Evidence) { e.Body[len(e.Body)-1] ^= 1 }, CodeReportSignature},
		{"signed by another", func(e *rats.Evidence) { _, report.Signer = ecKey(t); resign(e, func(*Report) {}) }, CodeReportSignature},
		{"signer is no key", func(e *rats.Evidence) { resign(e, func(r *Report) { r.Signer = []byte("key") }) }, CodeReport},
		{"short nonce", func(e *rats.Evidence) { resign(e, func(r *Report) { r.Nonce = r.Nonce[:16] }) }, CodeReport},
		{"short manifest hash", func(e *rats.Evidence) { resign(e, func(r *Report) { r.Manifest = nil }) }, CodeReport},
		{"no plan", func(e *rats.Evidence) { resign(e, func(r *Report) { r.Plan = rats.Digest{} }) }, CodeReport},
		{"other digest", func(e *rats.Evidence) { resign(e, func(r *Report) { r.Plan = rats.SHA384() }) }, CodeReport},
		{"sequence 0", func(e *rats.Evidence) { resign(e, func(r *Report) { r.Sequence = 0 }) }, CodeReport},
		{"unknown backend", func(e *rats.Evidence) { resign(e, func(r *Report) { r.Backend = "sgx" }) }, CodeReport},
		{"not simulated", func(e *rats.Evidence) { resign(e, func(r *Report) { r.Simulated = false }) }, CodeReport},
		{"outcome altered", func(e *rats.Evidence) { e.Parts[0].Data = append([]byte{1}, e.Parts[0].Data...) }, CodeReportParts},
		{"timing altered", func(e *rats.Evidence) { e.Parts[1].Data = nil }, CodeReportParts},
		{"no outcomes", func(e *rats.Evidence) { e.Parts = e.Parts[1:] }, CodeReportParts},
		{"outcomes twice", func(e *rats.Evidence) { e.Parts = append(e.Parts, e.Parts[0]) }, CodeReportParts},
		{"another part", func(e *rats.Evidence) { e.Parts = append(e.Parts, rats.Part{Name: "x"}) }, CodeReportParts},
		{"offset", func(e *rats.Evidence) { e.Parts[0].Offset = 1 }, CodeReportParts},
	} {
		var e rats.Evidence
		report, key, e = testReport(t)
		e.Body = bytes.Clone(e.Body)
		c.change(&e)
		_, _, _, err := OpenReport(e)
		wantCode(t, c.name, err, c.want)
	}
	// A header with other bytes for the same meaning.
	report, _, _ = testReport(t)
	header := report.encode()
	i := bytes.Index(header, []byte(BackendNative)) + len(BackendNative)
	header[i] = 2
	_, err := decodeReport(header)
	wantCode(t, "simulated = 2", err, CodeReport)
	_, err = decodeReport(append(report.encode(), 0))
	wantCode(t, "followed", err, CodeReport)
}

// R024: results travel encrypted to the server, over the enclave's signature.
func TestEvidenceReachesItsVerifierOnly(t *testing.T) {
	_, _, e := testReport(t)
	k := boxKey(t)
	box, err := SealEvidence(nil, k.Public(), e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenEvidence(k, box)
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = OpenEvidence(boxKey(t), box)
	wantCode(t, "another key", err, CodeEvidenceSealed)
	order, _ := sealed.Seal(k.Public(), []byte(orderTag), nil)
	_, err = OpenEvidence(k, order)
	wantCode(t, "another purpose", err, CodeEvidenceSealed)
	empty, _ := sealed.Seal(k.Public(), []byte(evidenceTag), nil)
	_, err = OpenEvidence(k, empty)
	wantCode(t, "empty", err, CodeEvidence)
	_, err = OpenEvidence(k, make([]byte, MaxEvidence+sealed.Overhead+1))
	wantCode(t, "huge", err, CodeEvidence)
	_, err = SealEvidence(nil, k.Public(), rats.Evidence{Body: make([]byte, MaxEvidence)})
	wantCode(t, "too large", err, CodeEvidence)
	_, err = SealEvidence(nil, k.Public(), rats.Evidence{Parts: make([]rats.Part, maxParts+1)})
	wantCode(t, "too many parts", err, CodeEvidence)
}

func TestEveryCodeHasItsOwnName(t *testing.T) {
	seen := map[rats.Code]bool{}
	for _, c := range append(Codes, sealed.Codes...) {
		if seen[c.Code] || c.Title == "" || c.Hint == "" {
			t.Errorf("%s", c.Code)
		}
		seen[c.Code] = true
	}
}

func FuzzDecodeReport(f *testing.F) {
	r, _, _ := testReport(f)
	f.Add(r.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeReport(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Errorf("another encoding: %x", b)
		}
	})
}

func FuzzOpenReport(f *testing.F) {
	_, _, e := testReport(f)
	f.Add(e.Body)
	f.Fuzz(func(t *testing.T, b []byte) {
		e := e
		e.Body = b
		_, _, _, _ = OpenReport(e)
	})
}

func FuzzDecodeOutcomes(f *testing.F) {
	ids, outcomes := testOutcomes()
	bulk, timings, _ := EncodeOutcomes(ids, outcomes, nil)
	f.Add(bulk, timings)
	bulk, timings, _ = EncodeOutcomes(nil, nil, nil)
	f.Add(bulk, timings)
	f.Fuzz(func(t *testing.T, bulk, timings []byte) {
		ids, o, err := DecodeOutcomes(bulk, timings)
		if err != nil {
			return
		}
		again, times, err := EncodeOutcomes(ids, o, nil)
		if err != nil || !bytes.Equal(again, bulk) || !bytes.Equal(times, timings) {
			t.Errorf("another encoding: %x: %v", bulk, err)
		}
	})
}

func FuzzDecodeEvidence(f *testing.F) {
	k := boxKey(f)
	_, _, e := testReport(f)
	box, _ := SealEvidence(nil, k.Public(), e)
	plain, _ := k.Open([]byte(evidenceTag), box)
	f.Add(plain)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEvidence(b)
		if err != nil {
			return
		}
		box, err := SealEvidence(nil, k.Public(), e)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := k.Open([]byte(evidenceTag), box); err != nil || !bytes.Equal(again, b) {
			t.Errorf("another encoding: %x", b)
		}
	})
}

func BenchmarkDecodeOutcomes(b *testing.B) {
	var o []Outcome
	for i := range 2000 {
		o = append(o, Outcome{Test: 1, Name: fmt.Appendf(nil, "/usr/bin/%06d", i), Digest: make([]byte, 32)})
	}
	bulk, timings, err := EncodeOutcomes([]uint32{1}, o, nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := DecodeOutcomes(bulk, timings); err != nil {
			b.Fatal(err)
		}
	}
}
