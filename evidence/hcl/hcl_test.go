package hcl_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"math/big"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/rats"
)

func clock() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

// reports makes a report of each kind.
func reports(t testing.TB) map[string][]byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &fakevendor.Paravisor{AK: &key.PublicKey, UserData: []byte("user data")}
	w := fakevendor.NewWorld(rand.Reader, clock)
	td, _ := p.TDX(w.Intel.Platform())
	return map[string][]byte{hcl.KindSNP: p.SNP(w.AMD.Chip(fakevendor.Milan)), hcl.KindTDX: td}
}

func hasCode(err error, want rats.CodeInfo) bool {
	r, ok := rats.ReasonOf(err)
	return ok && r.Code == want.Code
}

func TestReportsOfBothKindsAreReadWholeOnly(t *testing.T) {
	for kind, b := range reports(t) {
		h, err := hcl.Parse(b)
		if err != nil || h.Kind != kind || !hcl.Detect(b) || h.Claims().ReportType != kind || !bytes.HasPrefix(h.Data.UserData, []byte("user data")) {
			t.Fatalf("%s: %v", kind, err)
		}
		whole := len(bytes.TrimRight(b, "\x00"))
		for n := range whole {
			if _, err := hcl.Parse(b[:n]); !hasCode(err, hcl.CodeMalformed) {
				t.Fatalf("%s, cut at %d: %v", kind, n, err)
			}
		}
		// What no signature covers must hold together: every byte of the envelope that is read, and of the runtime data.
		for at := 1236; at < whole; at++ {
			bad := bytes.Clone(b)
			bad[at] ^= 1
			if _, err := hcl.Parse(bad); !hasCode(err, hcl.CodeUnbound) {
				t.Fatalf("%s, byte %d changed: %v", kind, at, err)
			}
		}
	}
}

func TestTDReportIsReadOnlyWhole(t *testing.T) {
	td := make([]byte, 1024)
	td[0] = 0x81
	td[512+16] = 0xab // MRTD
	info, tcb := sha512.Sum384(td[512:]), sha512.Sum384(td[256:256+239])
	copy(td[80:], info[:])
	copy(td[32:], tcb[:])
	r, err := hcl.ParseTDReport(td)
	if err != nil || r.MRTD[0] != 0xab {
		t.Fatalf("%v, %+v", err, r)
	}
	for _, at := range []int{0, 40, 90, 300, 700, 1023} {
		bad := bytes.Clone(td)
		bad[at] ^= 1
		if _, err := hcl.ParseTDReport(bad); !hasCode(err, hcl.CodeTDReport) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	if _, err := hcl.ParseTDReport(td[:1023]); err == nil {
		t.Error("a truncated one is read")
	}
}

func FuzzParse(f *testing.F) {
	// Nothing here checks signatures, so the seeds need none: every worker makes them.
	n := new(big.Int).SetBit(big.NewInt(1), 2047, 1)
	p := &fakevendor.Paravisor{AK: &rsa.PublicKey{N: n, E: 65537}}
	for kind, at := range map[uint32]int{2: 0x50, 4: 128} {
		hardware := make([]byte, 1184)
		copy(hardware[at:], p.ReportData())
		b := p.Wrap(kind, hardware)
		if _, err := hcl.Parse(b); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := hcl.Parse(b)
		if err != nil {
			return
		}
		if _, err := h.AK(); err != nil {
			t.Error(err)
		}
		_ = h.Claims()
		_, _ = hcl.ParseTDReport(h.Hardware)
	})
}
