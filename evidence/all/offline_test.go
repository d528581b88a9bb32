package all

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/hyperenclave"
	"github.com/assay-attest/assay/evidence/ima"
	"github.com/assay-attest/assay/rats"
)

var when = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func judge(t *testing.T, format string, file []byte, change func(*appraise.Given)) *appraise.Judgement {
	t.Helper()
	q := appraise.Question{Given: appraise.Given{File: file, Now: when, Binding: rats.Binding{Profile: rats.ProfileNone}}, Format: format}
	if change != nil {
		change(&q.Given)
	}
	j, err := appraise.Judge(t.Context(), Offline(), q)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestOfflineFormatsHaveNamesOfTheirOwn(t *testing.T) {
	seen := make(map[string]bool)
	for _, o := range Offline() {
		names := []string{string(o.Descriptor().ID)}
		if n, ok := o.(appraise.Named); ok {
			names = append(names, n.Names()...)
		}
		for _, n := range names {
			if seen[n] || n == "" {
				t.Errorf("%q stands twice", n)
			}
			seen[n] = true
		}
		if o.Descriptor().Title == "" || o.Descriptor().Doc == "" || len(o.Descriptor().MediaTypes) == 0 {
			t.Errorf("%v: no title, page or media type", names)
		}
	}
}

// Deny by default: no format finds anything in bytes of no meaning, and none accepts them if it must look.
func TestNoFormatAcceptsGarbage(t *testing.T) {
	for _, garbage := range [][]byte{nil, {0}, bytes.Repeat([]byte{0}, 5000), bytes.Repeat([]byte{0xff}, 5000), []byte("{}"), []byte("[]"), []byte("x")} {
		if j := judge(t, "", garbage, nil); j.Genuine || j.Accepted {
			t.Errorf("%d bytes: %+v", len(garbage), j)
		}
		for _, o := range Offline() {
			if j := judge(t, string(o.Descriptor().ID), garbage, nil); j.Genuine || j.Accepted || len(j.Reasons) == 0 {
				t.Errorf("%s of %d bytes: %+v", o.Descriptor().ID, len(garbage), j)
			}
			if i, ok := o.(appraise.Inspector); ok {
				_, _ = i.Inspect(garbage)
			}
		}
	}
}

// R100: a SIGSTRUCT by itself: genuine if its author signed it, and refused if one bit of it is another.
func TestEnclaveSignaturesAreJudged(t *testing.T) {
	s := abi.NewSigstruct()
	s.Date = 0x20260102
	b := s.Bytes()
	if j := judge(t, "", b, nil); j.Format != formatSigstruct || j.Genuine || j.Accepted {
		t.Errorf("an unsigned structure: %+v", j)
	}
	if j := judge(t, "sigstruct", b[:len(b)-1], nil); j.Genuine || len(j.Reasons) == 0 {
		t.Errorf("a cut structure: %+v", j)
	}
	if v, err := inspectSigstruct(b); err != nil || v.(*signature).Date != "20260102" {
		t.Errorf("%+v, %v", v, err)
	}
}

// listLine is an entry of a list: the boot aggregate.
const listLine = "10 91f34b5c671d73504b274a919661cf80dab1e127 ima-ng sha1:1801e1be3e65ef1eaa5c16617bec8f1274eaf6b3 boot_aggregate\n"

func TestRemarksNameUnquotedEntriesAndViolations(t *testing.T) {
	for _, o := range Offline() {
		if m, ok := o.(appraise.Remarking); ok && len(m.Remarks(nil)) > 0 {
			t.Errorf("%s remarks upon nothing", o.Descriptor().ID)
		}
	}
	j := judge(t, "", []byte(listLine), nil)
	if j.Format != "ima" || j.Genuine {
		t.Errorf("%+v", j)
	}
	got := listRemarks(&ima.Claims{Count: 7, Unquoted: 2, Tail: []string{"/a", "/b"}, Violations: []ima.Violation{{Entry: 3, Path: "/c"}}})
	if len(got) != 2 || got[0].Code != CodeListUnquoted.Code || got[1].Code != CodeListViolation.Code || !strings.Contains(got[0].Path, "unquoted") {
		t.Errorf("%v", got)
	}
	if rats.Worst(got) != rats.Warning {
		t.Error("a remark refuses")
	}
}

func TestBinaryStructuresAreShownWithNamesAndHex(t *testing.T) {
	for in, want := range map[string]string{
		"MRENCLAVE": "mrenclave", "ISVProdID": "isv_prod_id", "CPUSVN": "cpusvn", "ReportData": "report_data", "Q1": "q1", "TEETCBSVN2": "teetcbsvn2",
	} {
		if got := snake(in); got != want {
			t.Errorf("%s became %s", in, got)
		}
	}
	got := hexed(struct {
		Sum  [2]byte
		List []struct{ N uint16 }
		p    int
	}{Sum: [2]byte{1, 2}, List: []struct{ N uint16 }{{3}}}).(map[string]any)
	if got["sum"] != "0102" || len(got) != 2 || !slices.Equal([]any{got["list"].([]any)[0].(map[string]any)["n"]}, []any{uint64(3)}) {
		t.Errorf("%v", got)
	}
	if hexed(nil) != nil {
		t.Error("nothing became something")
	}
}

// Whatever the file is, it is judged without panic, and nothing that isn't signed is genuine.
func FuzzJudge(f *testing.F) {
	f.Add([]byte(listLine), "")
	f.Add([]byte(`{"quote":"AAAA","td_quote":"AAAA","hcl_report":"SENMQQ==","vcek":""}`), "azure-hcl")
	f.Add([]byte(`{"tcbInfo":{"id":"SGX","version":3},"signature":"00"}`), "collateral")
	s := abi.NewSigstruct()
	f.Add(s.Bytes(), "sigstruct")
	f.Fuzz(func(t *testing.T, b []byte, format string) {
		q := appraise.Question{Given: appraise.Given{File: b, Now: when, Binding: rats.Binding{Profile: rats.ProfileNone}}, Format: format}
		j, err := appraise.Judge(t.Context(), Offline(), q)
		if err == nil && (j.Accepted && !j.Genuine || !j.Genuine && len(j.Reasons) == 0) {
			t.Errorf("%+v", j)
		}
		if o, body := appraise.Recognise(Offline(), "", b); o != nil {
			if i, ok := o.(appraise.Inspector); ok {
				_, _ = i.Inspect(body)
			}
		}
	})
}

// R090: HyperEnclave's quote is genuine under the authority that is given, and accepted by no default.
func TestHyperEnclaveQuotesAreGenuineAndNotAccepted(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile("../hyperenclave/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	quote, anchor := read("quote.bin"), read("anchor.der")
	under := func(g *appraise.Given) { g.CA = []appraise.File{{Name: "anchor.der", Body: anchor}} }
	j := judge(t, "", quote, under)
	if !j.Genuine || j.Accepted || j.Format != hyperenclave.Format || !slices.ContainsFunc(j.Reasons, func(r appraise.Finding) bool { return r.Code == hyperenclave.CodeLegacy.Code }) {
		t.Errorf("%+v", j)
	}
	if j = judge(t, "", quote, nil); j.Genuine || j.Accepted || j.Reasons[0].Code != hyperenclave.CodeNoAnchor.Code {
		t.Errorf("%+v", j)
	}
	quote[600]++
	if j = judge(t, "", quote, under); j.Genuine || j.Accepted || j.Reasons[0].Code != hyperenclave.CodeTPMSignature.Code {
		t.Errorf("%+v", j)
	}
}

// A boot log and systemd's behind it are judged together.
func TestLogThatGoesOnIsGivenToTheBootLog(t *testing.T) {
	for _, o := range Offline() {
		if o.Descriptor().ID != "eventlog" {
			continue
		}
		const log = "\x1e{\"pcr\":11,\"digests\":[{\"hashAlg\":\"md5\",\"digest\":\"00\"}]}\n"
		e, _, err := o.Prepare(appraise.Given{Body: []byte("x"), Beside: map[string][]byte{appraise.BesideLog: []byte(log)}})
		if err != nil || len(e.Parts) != 1 || string(e.Parts[0].Data) != log {
			t.Errorf("%+v, %v", e, err)
		}
		return
	}
	t.Fatal("there is no such format")
}
