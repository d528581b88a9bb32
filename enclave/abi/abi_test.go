package abi

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-attest/assay/rats"
)

// forms are the structures of fixed length, with how each reads and writes itself.
var forms = map[string]struct {
	size int
	copy func([]byte) ([]byte, error)
}{
	"report body":   {ReportBodySize, func(b []byte) ([]byte, error) { v, err := ParseReportBody(b); return v.Bytes(), err }},
	"report":        {ReportSize, func(b []byte) ([]byte, error) { v, err := ParseReport(b); return v.Bytes(), err }},
	"target info":   {TargetInfoSize, func(b []byte) ([]byte, error) { v, err := ParseTargetInfo(b); return v.Bytes(), err }},
	"key request":   {KeyRequestSize, func(b []byte) ([]byte, error) { v, err := ParseKeyRequest(b); return v.Bytes(), err }},
	"SIGSTRUCT":     {SigstructSize, func(b []byte) ([]byte, error) { v, err := ParseSigstruct(b); return v.Bytes(), err }},
	"quote header":  {QuoteHeaderSize, func(b []byte) ([]byte, error) { v, err := ParseQuoteHeader(b); return v.Bytes(), err }},
	"EPID quote":    {EPIDQuoteSize - 4, func(b []byte) ([]byte, error) { v, err := ParseEPIDQuote(b); return v.Bytes(), err }},
	"TD report 1.0": {TDReport10Size, func(b []byte) ([]byte, error) { v, err := ParseTDBody(b); return v.Bytes(), err }},
	"TD report 1.5": {TDReport15Size, func(b []byte) ([]byte, error) { v, err := ParseTDBody(b); return v.Bytes(), err }},
	"TDREPORT":      {TDReportSize, func(b []byte) ([]byte, error) { v, err := ParseTDReport(b); return v.Bytes(), err }},
}

func codeOf(t *testing.T, err error) rats.Code {
	t.Helper()
	if err == nil {
		return ""
	}
	r, ok := rats.ReasonOf(err)
	if !ok {
		t.Fatalf("%v is not a refusal", err)
	}
	return r.Code
}

// R009, R101: every structure is written again bit for bit, reserved fields included.
func TestStructuresAreWrittenAsTheyWereRead(t *testing.T) {
	for name, f := range forms {
		b := make([]byte, f.size)
		for range 20 {
			if _, err := rand.Read(b); err != nil {
				t.Fatal(err)
			}
			if got, err := f.copy(b); err != nil || !bytes.Equal(got, b) {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func TestStructuresOfAnotherLengthAreRefused(t *testing.T) {
	for name, f := range forms {
		for n := range f.size + 2 {
			if n == f.size || name == "TD report 1.0" && n == TDReport15Size || name == "TD report 1.5" && n == TDReport10Size {
				continue
			}
			if _, err := f.copy(make([]byte, n)); codeOf(t, err) != CodeLength.Code {
				t.Fatalf("%s of %d bytes: %v", name, n, err)
			}
		}
	}
}

// The offsets are those of the SDM's tables, checked through bytes rather than through the structs.
func TestFieldsStandWhereTheManualSays(t *testing.T) {
	b := make([]byte, SigstructSize)
	for offset, v := range map[int]byte{20: 1, 512: 2, 900: 3, 928: 4, 960: 5, 1024: 6, 1026: 7, 1040: 8, 1424: 9, 912: 10, 1008: 11} {
		b[offset] = v
	}
	s, err := ParseSigstruct(b)
	if err != nil || s.Date != 1 || s.Exponent != 2 || s.MiscSelect != 3 || s.Attributes.Flags != 4 || s.EnclaveHash[0] != 5 ||
		s.ISVProdID != 6 || s.ISVSVN != 7 || s.Q1[0] != 8 || s.Q2[0] != 9 || s.ISVFamilyID[0] != 10 || s.ISVExtProdID[0] != 11 {
		t.Errorf("%+v", s)
	}
	b = make([]byte, ReportBodySize)
	for offset, v := range map[int]byte{16: 1, 32: 2, 48: 3, 64: 4, 128: 5, 192: 6, 256: 7, 258: 8, 260: 9, 304: 10, 320: 11} {
		b[offset] = v
	}
	r, err := ParseReportBody(b)
	if err != nil || r.MiscSelect != 1 || r.ISVExtProdID[0] != 2 || r.Attributes.Flags != 3 || r.MRENCLAVE[0] != 4 || r.MRSIGNER[0] != 5 ||
		r.ConfigID[0] != 6 || r.ISVProdID != 7 || r.ISVSVN != 8 || r.ConfigSVN != 9 || r.ISVFamilyID[0] != 10 || r.ReportData[0] != 11 {
		t.Errorf("%+v", r)
	}
	b = make([]byte, TDReport15Size)
	for offset, v := range map[int]byte{16: 1, 64: 2, 112: 3, 120: 4, 128: 5, 136: 6, 184: 7, 232: 8, 280: 9, 328: 10, 472: 11, 520: 12, 584: 13, 600: 14} {
		b[offset] = v
	}
	d, err := ParseTDBody(b)
	if err != nil || d.MRSEAM[0] != 1 || d.MRSIGNERSEAM[0] != 2 || d.SEAMAttributes != 3 || d.Attributes != 4 || d.XFAM != 5 || d.MRTD[0] != 6 ||
		d.MRConfigID[0] != 7 || d.MROwner[0] != 8 || d.MROwnerConfig[0] != 9 || d.RTMR[0][0] != 10 || d.RTMR[3][0] != 11 ||
		d.ReportData[0] != 12 || d.TEETCBSVN2[0] != 13 || d.MRServiceTD[0] != 14 {
		t.Errorf("%+v", d)
	}
}

func TestTargetOfNamesTheReportingEnclave(t *testing.T) {
	r := ReportBody{MRENCLAVE: [32]byte{1}, Attributes: Attributes{FlagInit | FlagKSS, 3}, ConfigSVN: 4, MiscSelect: 5, ConfigID: [64]byte{6}}
	b := TargetOf(r).Bytes()
	if b[0] != 1 || b[32] != FlagInit|FlagKSS || b[40] != 3 || b[50] != 4 || b[52] != 5 || b[64] != 6 {
		t.Errorf("%x", b[:128])
	}
	if r.Attributes.Debug() || !(Attributes{Flags: FlagDebug}).Debug() || !bytes.Equal(r.Attributes.Bytes(), b[32:48]) {
		t.Error("attributes")
	}
}

func TestCodesAreDistinct(t *testing.T) {
	seen := map[rats.Code]bool{}
	for _, c := range Codes {
		if seen[c.Code] || c.Title == "" || c.Hint == "" {
			t.Errorf("%s", c.Code)
		}
		seen[c.Code] = true
	}
}

func FuzzStructures(f *testing.F) {
	for _, form := range forms {
		f.Add(make([]byte, form.size))
	}
	f.Add(hyperEnclaveQuote(make([]byte, 20)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, form := range forms {
			if got, err := form.copy(b); err == nil && !bytes.Equal(got, b) {
				t.Errorf("%s", name)
			}
		}
		if s, err := ParseSigstruct(b); err == nil {
			_ = s.Verify()
		}
		if q, err := ParseHyperEnclaveQuote(b); err == nil && !bytes.Equal(q.Bytes(), b) {
			t.Error("HyperEnclave")
		}
	})
}

// evidence is where recordings of genuine evidence lie, beside the project.
const evidence = "../../../shared/evidence"

func recorded(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("ASSAY_EVIDENCE")
	if dir == "" {
		dir = evidence
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		t.Skipf("the recorded evidence is not here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// R100: genuine SIGSTRUCTs verify, and every stated change of them is refused.
func TestRecordedSigstructs(t *testing.T) {
	var doc struct {
		Cases []struct {
			ID, Format, File string
			Options          struct {
				Slice  *struct{ Offset, Length int }
				Mutate *struct{ Offset, XOR int }
			}
			Expect struct {
				Parse, Genuine, Debug *bool
				Facts                 map[string]any
			}
		}
	}
	if err := json.Unmarshal(recorded(t, "CASES.json"), &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range doc.Cases {
		if c.Format != "sigstruct" {
			continue
		}
		n++
		b := recorded(t, c.File)
		if s := c.Options.Slice; s != nil {
			b = b[s.Offset : s.Offset+s.Length]
		}
		if m := c.Options.Mutate; m != nil {
			b[m.Offset] ^= byte(m.XOR)
		}
		s, err := ParseSigstruct(b)
		genuine := err == nil && s.Verify() == nil
		e := c.Expect
		if e.Parse != nil && *e.Parse != (err == nil) || e.Genuine != nil && *e.Genuine != genuine || e.Debug != nil && *e.Debug != s.Attributes.Debug() {
			t.Errorf("%s: parse %v, genuine %v", c.ID, err, genuine)
		}
		seen := map[string]any{
			"mrsigner": fmt.Sprintf("%x", s.MRSIGNER()), "mrenclave": fmt.Sprintf("%x", s.EnclaveHash), "date": s.DateText(),
			"isv_prod_id": float64(s.ISVProdID), "isv_svn": float64(s.ISVSVN),
		}
		for k, v := range e.Facts {
			if seen[k] != v {
				t.Errorf("%s: %s is %v, expected %v", c.ID, k, seen[k], v)
			}
		}
	}
	t.Logf("%d cases", n)
}

func TestEveryChangedByteOfARecordedSigstructIsRefused(t *testing.T) {
	b := recorded(t, "sigstruct/fortanix/test_enclave.sig")
	for i := range b {
		b[i] ^= 0x10
		s, err := ParseSigstruct(b)
		// Bytes 1028 to 1039 are reserved and outside of the signature.
		if unsigned := i >= 1028 && i < 1040; err != nil || (s.Verify() == nil) != unsigned {
			t.Errorf("byte %d: %v", i, s.Verify())
		}
		b[i] ^= 0x10
	}
}

func TestRecordedTDReportsParse(t *testing.T) {
	for _, name := range []string{"tdx/coco/tdx_report_1.bin", "tdx/google/report.dat"} {
		b := recorded(t, name)
		r, err := ParseTDReport(b)
		if err != nil || !bytes.Equal(r.Bytes(), b) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
