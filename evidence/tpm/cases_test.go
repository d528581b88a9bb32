package tpm_test

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// recordings is the folder of genuine quotes and certificates that other projects recorded. It stands beside the
// project, or beside a folder of clones of it.
var recordings = func() string {
	dir := "../.."
	for range 4 {
		dir = filepath.Join("..", dir)
		if _, err := os.Stat(filepath.Join(dir, "shared/evidence/CASES.json")); err == nil {
			return filepath.Join(dir, "shared/evidence")
		}
	}
	return "../../../shared/evidence"
}()

type recordedCase struct {
	ID, Format, File string
	At               *time.Time
	CA               []string
	PCRs, Nonce      *string
	Signature, AK    *string
	Options          struct {
		Mutate *struct {
			File        *string
			Offset, Xor int
		}
	}
	Expect struct {
		Parse, Genuine *bool
		Accepted       *bool `json:"accepted_by_default"`
		Facts          map[string]any
	}
}

func (c recordedCase) read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(recordings, name))
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Options.Mutate; m != nil && (m.File == nil && name == c.File || m.File != nil && *m.File == name) {
		b[m.Offset] ^= byte(m.Xor)
	}
	return b
}

// disputed are facts that a case states and we judge otherwise, and why.
var disputed = map[string]string{
	"tpm/hirs/ak-name": "the file is a TPMT_PUBLIC without length; the case takes its first two bytes, the key's type, for a length and hashes the rest",
}

// R140: genuine quotes and certificates of many makers verify, changed ones don't.
func TestRecordedQuotesAndCertificatesAreJudgedAsTheirSourcesSay(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(recordings, "CASES.json"))
	if err != nil {
		t.Skipf("the recordings are not beside the project: %v", err)
	}
	var doc struct{ Cases []recordedCase }
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range doc.Cases {
		if c.Format != "tpm" && c.Format != "ek-cert" {
			continue
		}
		n++
		t.Run(c.ID, func(t *testing.T) {
			e, in, v, inspect, rules := c.prepare(t)
			got, err := v.Verify(t.Context(), e, in)
			decoded, parseErr := inspect(e.Body)
			if p := c.Expect.Parse; p != nil && *p != (parseErr == nil) {
				t.Errorf("parse: %v", parseErr)
			}
			if g := c.Expect.Genuine; g != nil && *g != (err == nil) {
				t.Errorf("genuine: %v", err)
			}
			if err != nil {
				if _, ok := rats.ReasonOf(err); !ok {
					t.Errorf("malfunction: %v", err)
				}
			} else {
				decoded = got.Claims
			}
			if a := c.Expect.Accepted; a != nil {
				if accepted := err == nil && len(rules.Check(got.Claims, nil, in.Now)) == 0; accepted != *a {
					t.Errorf("accepted by default: %t", accepted)
				}
			}
			if why, ok := disputed[c.ID]; ok {
				t.Logf("its facts are not asserted: %s", why)
				return
			}
			checkFacts(t, c.Expect.Facts, decoded)
		})
	}
	t.Logf("%d cases", n)
}

func (c recordedCase) prepare(t *testing.T) (rats.Evidence, rats.Inputs, rats.Verifier, func([]byte) (any, error), rats.Rules) {
	t.Helper()
	in := rats.Inputs{Binding: rats.Binding{Profile: rats.ProfileNone}, Now: now}
	if c.At != nil {
		in.Now = *c.At
	}
	body := c.read(t, c.File)
	if c.Format == "ek-cert" {
		for _, name := range c.CA {
			for rest := c.read(t, name); len(rest) > 0; {
				block, after := pem.Decode(rest)
				if block == nil {
					if rest[0] == 0x30 {
						in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: tpm.MediaTypeAnchor, Body: rest})
					}
					break
				}
				in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: tpm.MediaTypeAnchor, Body: block.Bytes})
				rest = after
			}
		}
		e := rats.Evidence{Format: tpm.FormatCertificate, MediaType: tpm.MediaTypeCertificate, Body: body}
		return e, in, tpm.NewCertificate(), tpm.InspectCertificate, new(tpm.CertificateRules)
	}
	e := rats.Evidence{Format: tpm.Format, MediaType: tpm.MediaTypeRecorded, Body: body}
	if c.Nonce != nil && *c.Nonce != "" {
		b, err := hex.DecodeString(*c.Nonce)
		if err != nil {
			t.Fatal(err)
		}
		in.Binding = rats.Binding{Profile: rats.ProfileRaw, UserData: b}
	}
	for part, name := range map[string]*string{tpm.PartSignature: c.Signature, tpm.PartAK: c.AK, tpm.PartPCRs: c.PCRs} {
		if name != nil {
			e.Parts = append(e.Parts, rats.Part{Name: part, Data: c.read(t, *name)})
		}
	}
	return e, in, tpm.NewRecorded(), tpm.InspectRecorded, tpm.DefaultRules()
}

func checkFacts(t *testing.T, want map[string]any, claims any) {
	t.Helper()
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	var have map[string]any
	if err := json.Unmarshal(b, &have); err != nil {
		t.Fatal(err)
	}
	if r, ok := have["recorded"].(map[string]any); ok {
		for k, v := range r {
			have[k] = v
		}
	}
	for k, v := range want {
		if !reflect.DeepEqual(have[k], v) {
			t.Errorf("%s is %v, expected %v", k, have[k], v)
		}
	}
}
