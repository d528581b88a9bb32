package endorse_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/sgx"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/rats"
)

// sealed returns a bundle of everything about a platform.
func sealed(t testing.TB, r *rig, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	r.fetchAll(t)
	b, err := r.NewBundle()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := b.Seal(nil, key)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestTheSameBundleAtTheSameTimeGivesTheSameVerdict verifies fresh evidence with a bundle at times in and out of its validity:
// straight away, again, from the file, and out of a cache that imported it.
//
// R115: verification at a stated time is reproducible.
func TestTheSameBundleAtTheSameTimeGivesTheSameVerdict(t *testing.T) {
	r := newRig(t)
	key := fakevendor.KeyP256(rand.Reader)
	doc := sealed(t, r, key)
	made, err := r.NewBundle()
	if err != nil {
		t.Fatal(err)
	}
	read, err := endorse.OpenBundle(doc, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(made, read) {
		t.Errorf("the bundle changed on its way through a file:\n%+v\n%+v", made, read)
	}
	again, err := read.Seal(nil, key)
	if err != nil || !bytes.Equal(again, doc) {
		t.Errorf("equal bundles have other bytes: %v", err)
	}
	cfg := r.config()
	cfg.Dir, cfg.Transport = t.TempDir(), nil
	offline := open(t, cfg)
	if taken, kept, err := offline.Import(read); err != nil || taken != 6 || kept != 0 {
		t.Fatalf("%d taken, %d kept, %v", taken, kept, err)
	}
	reopened := open(t, cfg)
	raw := rats.Binding{Profile: rats.ProfileRaw, UserData: make([]byte, 64)}
	pieces := []rats.Evidence{
		evidence(sgx.Format, sgx.MediaType, r.platform.SGX(3, raw.UserData)), evidence(tdx.Format, tdx.MediaType, r.platform.TDX(5, true, raw.UserData)),
	}
	from, until := read.Validity()
	verdicts := make(map[string]bool)
	for _, e := range pieces {
		for _, at := range []time.Time{from.Add(-time.Second), from, start, until, until.Add(time.Second), until.AddDate(20, 0, 0)} {
			var first string
			for name, source := range map[string]endorse.Source{"made": made, "read": read, "imported": offline, "reopened": reopened} {
				got := verdict(t, e, raw, source, r, at)
				if first == "" {
					first = got
				}
				if name == "made" || name == "read" {
					if other := verdict(t, e, raw, source, r, at); other != got {
						t.Errorf("%s at %s: another verdict the second time", e.Format, at)
					}
				}
				if got != first {
					t.Errorf("%s at %s, %s:\n%s\n%s", e.Format, at, name, got, first)
				}
			}
			verdicts[string(e.Format)+first] = true
		}
	}
	if len(verdicts) < 4 {
		t.Errorf("only %d different verdicts: time made no difference", len(verdicts))
	}
}

// verdict is everything that a verification says, as text.
func verdict(t *testing.T, e rats.Evidence, b rats.Binding, s endorse.Source, r *rig, at time.Time) string {
	t.Helper()
	v := map[rats.Format]rats.Verifier{sgx.Format: sgx.New(), tdx.Format: tdx.New()}[e.Format]
	got, err := v.Verify(t.Context(), e, rats.Inputs{Binding: b, Now: at, Anchors: r.intel.Anchors(), Endorsements: s.Endorsements(t.Context(), []rats.Evidence{e})})
	if err != nil {
		return err.Error()
	}
	out, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestATamperedBundleIsRefused(t *testing.T) {
	r := newRig(t)
	key, other := fakevendor.KeyP256(rand.Reader), fakevendor.KeyP256(rand.Reader)
	doc := sealed(t, r, key)
	var env struct {
		PayloadType string           `json:"payloadType"`
		Payload     string           `json:"payload"`
		Signatures  []map[string]any `json:"signatures"`
	}
	if err := json.Unmarshal(doc, &env); err != nil {
		t.Fatal(err)
	}
	payload, _ := base64.StdEncoding.DecodeString(env.Payload)
	wrap := func(body []byte, signer *ecdsa.PrivateKey) []byte {
		e := env
		e.Payload = base64.StdEncoding.EncodeToString(body)
		if signer != nil {
			sum := sha256.Sum256(append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(env.PayloadType), env.PayloadType, len(body)), body...))
			sig, _ := ecdsa.SignASN1(rand.Reader, signer, sum[:])
			e.Signatures = []map[string]any{{"keyid": env.Signatures[0]["keyid"], "sig": base64.StdEncoding.EncodeToString(sig)}}
		}
		b, _ := json.Marshal(e)
		return b
	}
	changed := func(old, new string) []byte {
		if !bytes.Contains(payload, []byte(old)) {
			t.Fatalf("the payload holds no %s", old)
		}
		return bytes.Replace(payload, []byte(old), []byte(new), 1)
	}
	if _, err := endorse.OpenBundle(wrap(payload, key), other.Public(), key.Public()); err != nil {
		t.Fatalf("signed again: %v", err)
	}
	for name, c := range map[string]struct {
		doc  []byte
		code rats.CodeInfo
	}{
		"one byte of the payload": {wrap(changed(`"version":1`, `"version":2`), nil), endorse.CodeBundleSignature},
		"another signer":          {wrap(payload, other), endorse.CodeBundleSignature},

		"another type":                {bytes.Replace(doc, []byte("bundle+json"), []byte("bundle+yaml"), 1), endorse.CodeBundle},
		"no signatures":               {append(bytes.Clone(doc[:bytes.Index(doc, []byte(`"signatures":`))+13]), "[]}"...), endorse.CodeBundle},
		"an unknown field":            {append([]byte(`{"x":1,`), doc[1:]...), endorse.CodeBundle},
		"something after it":          {append(bytes.Clone(doc), "{}"...), endorse.CodeBundle},
		"broken base64":               {bytes.Replace(doc, []byte(`"payload":"`), []byte(`"payload":"!`), 1), endorse.CodeBundle},
		"truncated":                   {doc[:len(doc)/2], endorse.CodeBundle},
		"signed: another version":     {wrap(changed(`"version":1`, `"version":2`), key), endorse.CodeBundle},
		"signed: an unknown field":    {wrap(changed(`"version":1`, `"version":1,"x":1`), key), endorse.CodeBundle},
		"signed: a key of nothing":    {wrap(changed(`"key":"intel:`, `"key":"amd:`), key), endorse.CodeKey},
		"signed: a document's digest": {wrap(changed(`"digest":"sha256:`, `"digest":"sha384:`), key), endorse.CodeBundle},
		"signed: the list of digests": {wrap(changed(`"digests":["`, `"digests":["`+rats.SHA256().String()+`","`), key), endorse.CodeBundle},
		"signed: a document's dates":  {wrap(changed(`"until":"2026-04-03T05:06:07Z","digest"`, `"until":"2027-04-03T05:06:07Z","digest"`), key), endorse.CodeBundle},
		"signed: a document twice":    {wrap(twice(t, payload), key), endorse.CodeBundle},
		"signed: an altered document": {wrap(altered(t, payload), key), endorse.CodeChain},
	} {
		_, err := endorse.OpenBundle(c.doc, key.Public())
		wantCode(t, name, err, c.code)
	}
	_, err := endorse.OpenBundle(doc)
	wantCode(t, "no trusted signer", err, endorse.CodeBundleSigner)
	_, err = endorse.OpenBundle(doc, other.Public())
	wantCode(t, "another trusted signer", err, endorse.CodeBundleSigner)
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	_, err = endorse.OpenBundle(doc, public)
	wantCode(t, "a signer of another kind", err, endorse.CodeBundleSigner)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	for _, k := range []interface {
		Seal() error
	}{sealer(func() error { _, err := (&endorse.Bundle{}).Seal(nil, private); return err }), sealer(func() error { _, err := (&endorse.Bundle{}).Seal(nil, p384); return err })} {
		wantCode(t, "sealed with another kind of key", k.Seal(), endorse.CodeBundleSigner)
	}
	_, err = endorse.OpenBundle(make([]byte, 97<<20), key.Public())
	wantCode(t, "huge", err, endorse.CodeBundle)
}

type sealer func() error

func (s sealer) Seal() error { return s() }

// twice doubles the first document.
func twice(t *testing.T, payload []byte) []byte {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(payload, &p); err != nil {
		t.Fatal(err)
	}
	docs, digests := p["documents"].([]any), p["digests"].([]any)
	p["documents"], p["digests"] = append(docs[:1:1], docs...), append(digests[:1:1], digests...)
	out, _ := json.Marshal(p)
	return out
}

// altered changes a status inside a signed document.
func altered(t *testing.T, payload []byte) []byte {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(payload, &p); err != nil {
		t.Fatal(err)
	}
	for _, d := range p["documents"].([]any) {
		d := d.(map[string]any)
		body, _ := base64.StdEncoding.DecodeString(d["body"].(string))
		if n := strings.Replace(string(body), "OutOfDate", "UpToDate_", 1); n != string(body) {
			d["body"] = base64.StdEncoding.EncodeToString([]byte(n))
			break
		}
	}
	out, _ := json.Marshal(p)
	return out
}

func TestImportKeepsWhatIsNewer(t *testing.T) {
	r := newRig(t)
	key := fakevendor.KeyP256(rand.Reader)
	doc := sealed(t, r, key)
	r.clock.add(25 * time.Hour)
	if _, err := r.Get(t.Context(), identity); err != nil {
		t.Fatal(err)
	}
	b, err := endorse.ReadBundle(doc)
	if err != nil {
		t.Fatal(err)
	}
	if taken, kept, err := r.Import(b); err != nil || taken != 5 || kept != 1 {
		t.Errorf("%d taken, %d kept, %v", taken, kept, err)
	}
	if d, _ := r.Find(identity); !d.From.After(start) {
		t.Error("an older document replaced a newer one")
	}
	cfg := r.config()
	cfg.Roots = endorse.Roots{endorse.Intel: {fakevendor.NewIntel(rand.Reader, r.clock.now).Root.Cert}}
	_, _, err = open(t, cfg).Import(b)
	wantCode(t, "another root", err, endorse.CodeChain)
}

func TestABundleOfSomeDocuments(t *testing.T) {
	r := newRig(t)
	r.fetchAll(t)
	b, err := r.NewBundle(identity, r.keys()[5], identity)
	if err != nil || len(b.Documents) != 2 {
		t.Fatalf("%v, %v", b, err)
	}
	_, err = r.NewBundle("amd:/vcek/v1/Milan/crl")
	wantCode(t, "not at hand", err, endorse.CodeService)
}

func TestFilesOfCollateralAreRecognised(t *testing.T) {
	r := newRig(t)
	doc := sealed(t, r, fakevendor.KeyP256(rand.Reader))
	d, _ := r.Find(identity)
	file, _ := json.Marshal(d)
	for name, c := range map[string]struct {
		b    []byte
		want int
	}{
		"bundle": {doc, 11}, "file of a cache": {file, 2}, "answer of a service": {d.Body, 1}, "anything": {[]byte("x"), 1},
	} {
		got, err := endorse.Contents(c.b, start)
		if err != nil || len(got) != c.want {
			t.Errorf("%s: %d endorsements, %v", name, len(got), err)
		}
	}
	_, err := endorse.Contents(doc[:len(doc)-10], start)
	wantCode(t, "broken bundle", err, endorse.CodeBundle)
}

// small is a bundle of one document: fuzzing minimises large inputs for minutes.
func small(f *testing.F) []byte {
	f.Helper()
	r := newRig(f)
	if _, err := r.Get(f.Context(), r.keys()[5]); err != nil {
		f.Fatal(err)
	}
	b, err := r.NewBundle()
	if err != nil {
		f.Fatal(err)
	}
	doc, err := b.Seal(nil, fakevendor.KeyP256(rand.Reader))
	if err != nil {
		f.Fatal(err)
	}
	return doc
}

func FuzzReadBundle(f *testing.F) {
	r := newRig(f)
	f.Add(small(f))
	f.Add([]byte(`{"payloadType":"application/vnd.assay.collateral-bundle+json","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`))
	d, err := r.Get(f.Context(), identity)
	if err != nil {
		f.Fatal(err)
	}
	file, _ := json.Marshal(d)
	f.Add(file)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := endorse.Contents(b, start); err != nil {
			if _, ok := rats.ReasonOf(err); !ok {
				t.Errorf("an error without a code: %v", err)
			}
		}
		bundle, err := endorse.ReadBundle(b)
		if err != nil {
			return
		}
		for _, d := range bundle.Documents {
			if _, err := endorse.ParseKey(string(d.Key)); err != nil || len(d.Endorsements()) == 0 {
				t.Errorf("document %q: %v", d.Key, err)
			}
		}
	})
}

// FuzzPayload fuzzes what lies inside the envelope's base64.
func FuzzPayload(f *testing.F) {
	doc := small(f)
	var env map[string]any
	if err := json.Unmarshal(doc, &env); err != nil {
		f.Fatal(err)
	}
	payload, _ := base64.StdEncoding.DecodeString(env["payload"].(string))
	f.Add(payload)
	f.Fuzz(func(t *testing.T, b []byte) {
		env["payload"] = base64.StdEncoding.EncodeToString(b)
		doc, _ := json.Marshal(env)
		if _, err := endorse.ReadBundle(doc); err != nil {
			if _, ok := rats.ReasonOf(err); !ok {
				t.Errorf("an error without a code: %v", err)
			}
		}
	})
}

func FuzzWantedBy(f *testing.F) {
	r := newRig(f)
	f.Add(r.platform.SGX(3, nil))
	f.Add(r.platform.TDX(5, true, nil))
	report := make([]byte, 1184)
	report[0], report[0x34], report[0x188], report[0x1a0] = 5, 1, 0x1a, 1
	f.Add(report)
	report[0] = 2
	f.Add(append([]byte("HCLA"+strings.Repeat("\x00", 28)), report...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, k := range endorse.WantedBy(b) {
			if _, err := endorse.ParseKey(string(k)); err != nil {
				t.Errorf("%q: %v", k, err)
			}
		}
	})
}
