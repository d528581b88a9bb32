// Package dcaptest serves tests of what is built on package dcap: a fake Intel that certifies platforms, signs
// collateral and makes quotes, and a reader of recorded cases of genuine evidence. Nothing it makes is trusted by
// anything but a test that hands over its root.
package dcaptest

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// Case is one recorded case: what to verify, when, with what, and what must come out. Nil expectations are not known.
type Case struct {
	ID         string     `json:"id"`
	Format     string     `json:"format"`
	File       string     `json:"file"`
	At         *time.Time `json:"at"`
	Collateral []string   `json:"collateral"`
	CA         []string   `json:"ca"`
	Signature  string     `json:"signature"`
	ReportData *string    `json:"report_data"`
	Options    struct {
		Kind      string                        `json:"kind"`
		Container string                        `json:"container"`
		Slice     *struct{ Offset, Length int } `json:"slice"`
		Mutate    *struct {
			File        string
			Offset, XOR int
		} `json:"mutate"`
		RequireCRL *bool    `json:"require_crl"`
		MaxAgeDays int      `json:"max_collateral_age_days"`
		MinNumber  uint32   `json:"min_tcb_evaluation_number"`
		FMSPCDeny  []string `json:"fmspc_deny"`
		PCKChain   []string `json:"pck_chain"`
	} `json:"options"`
	Expect struct {
		Parse      *bool          `json:"parse"`
		Genuine    *bool          `json:"genuine"`
		Accepted   *bool          `json:"accepted_by_default"`
		TCBStatus  *string        `json:"tcb_status"`
		Advisories []string       `json:"advisories"`
		Debug      *bool          `json:"debug"`
		Hint       string         `json:"reason_hint"`
		Facts      map[string]any `json:"facts"`
	} `json:"expect"`
}

// folder returns where recordings lie: beside the project, seen from a package two folders deep.
func folder() string {
	if dir := os.Getenv("ASSAY_EVIDENCE"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", "..", "shared", "evidence")
}

// Recorded reads a recording, or skips the test where the folder of recordings is absent.
func Recorded(t testing.TB, name string) []byte {
	t.Helper()
	if _, err := os.Stat(folder()); os.IsNotExist(err) {
		t.Skip("the folder of recorded evidence is absent; set ASSAY_EVIDENCE")
	}
	b, err := os.ReadFile(filepath.Join(folder(), filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Cases returns the recorded cases of a format, or skips the test where there are none.
func Cases(t testing.TB, format string) []Case {
	t.Helper()
	var doc struct{ Cases []Case }
	if err := json.Unmarshal(Recorded(t, "CASES.json"), &doc); err != nil {
		t.Fatal(err)
	}
	var out []Case
	for _, c := range doc.Cases {
		if c.Format == format {
			out = append(out, c)
		}
	}
	return out
}

// read returns a file with the case's change, if that is of this file.
func (c Case) read(t testing.TB, name string, input bool) []byte {
	b := bytes.Clone(Recorded(t, name))
	if s := c.Options.Slice; s != nil && input {
		b = b[s.Offset : s.Offset+s.Length]
	}
	if input && len(b) > 0 && len(bytes.Trim(b, "0123456789abcdef\n")) == 0 {
		if plain, err := hex.DecodeString(string(bytes.TrimSpace(b))); err == nil {
			b = plain
		}
	}
	if m := c.Options.Mutate; m != nil && (m.File == name || m.File == "" && input) {
		b[m.Offset] ^= byte(m.XOR)
	}
	return b
}

// Input returns the bytes to verify.
func (c Case) Input(t testing.TB) []byte { return c.read(t, c.File, true) }

// Time returns when to verify.
func (c Case) Time() time.Time {
	if c.At != nil {
		return *c.At
	}
	return time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
}

// Inputs returns the time, collateral and anchors of the case.
func (c Case) Inputs(t testing.TB) rats.Inputs {
	in := rats.Inputs{Now: c.Time(), Binding: rats.Binding{Profile: rats.ProfileNone}}
	for _, name := range append(append([]string(nil), c.Collateral...), c.Options.PCKChain...) {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{Body: c.read(t, name, false)})
	}
	for i, name := range c.CA {
		if i == 0 {
			in.Anchors = x509.NewCertPool()
		}
		b := Recorded(t, name)
		if block, _ := pem.Decode(b); block != nil {
			b = block.Bytes
		}
		cert, err := x509.ParseCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		in.Anchors.AddCert(cert)
	}
	if c.ReportData != nil {
		b, err := hex.DecodeString(*c.ReportData)
		if err != nil {
			t.Fatal(err)
		}
		in.Binding = rats.Binding{Profile: rats.ProfileRaw, UserData: b}
	}
	return in
}

// Rules returns the platform rules that the options of the case ask for, and nothing relaxed besides.
func (c Case) Rules() dcap.Rules {
	r := dcap.Rules{
		MinEvaluation: c.Options.MinNumber, FMSPCDeny: c.Options.FMSPCDeny,
		MaxCollateralAge: time.Duration(c.Options.MaxAgeDays) * 24 * time.Hour,
	}
	if w := c.Options.RequireCRL; w != nil && !*w {
		r.InsecureWithoutCRLs = c.Time().Add(time.Hour)
	}
	return r
}

// Outcome is what a verifier made of a case.
type Outcome struct {
	Parsed, Genuine, Accepted, Debug bool
	TCBStatus                        string
	Advisories                       []string
	Facts                            map[string]any
	Why                              string
}

// Compare reports every expectation of the case that the outcome doesn't meet.
func (c Case) Compare(t testing.TB, o Outcome) {
	t.Helper()
	e := c.Expect
	for _, x := range []struct {
		name string
		want *bool
		got  bool
	}{{"parse", e.Parse, o.Parsed}, {"genuine", e.Genuine, o.Genuine}, {"accepted_by_default", e.Accepted, o.Accepted}, {"debug", e.Debug, o.Debug}} {
		if x.want != nil && *x.want != x.got {
			t.Errorf("%s: %s is %v, expected %v (%s; hint %s)", c.ID, x.name, x.got, *x.want, o.Why, e.Hint)
		}
	}
	if e.TCBStatus != nil && *e.TCBStatus != o.TCBStatus {
		t.Errorf("%s: TCB status %q, expected %q (%s)", c.ID, o.TCBStatus, *e.TCBStatus, o.Why)
	}
	if e.Advisories != nil {
		got, _ := json.Marshal(append([]string{}, o.Advisories...))
		want, _ := json.Marshal(e.Advisories)
		if !bytes.Equal(got, want) {
			t.Errorf("%s: advisories %s, expected %s", c.ID, got, want)
		}
	}
	if o.Facts == nil {
		return
	}
	for k, want := range e.Facts {
		got, ok := o.Facts[k]
		if b, _ := json.Marshal(got); ok {
			if w, _ := json.Marshal(want); !bytes.Equal(b, w) {
				t.Errorf("%s: %s is %s, expected %s", c.ID, k, b, w)
			}
			continue
		}
		t.Errorf("%s: no fact %s", c.ID, k)
	}
}

// Judge is how a format is put to recorded cases.
type Judge struct {
	Format rats.Format
	Parse  func([]byte) (debug bool, err error)
	Verify func([]byte, rats.Inputs) (rats.Verified, error)
	Facts  func(rats.Claims) map[string]any
	Rules  func(dcap.Rules) rats.Rules // with the platform's part given, whatever the measurement
}

// Run puts a format to all its recorded cases.
func (j Judge) Run(t *testing.T) {
	t.Helper()
	cases := Cases(t, string(j.Format))
	for _, c := range cases {
		c.Compare(t, j.judge(t, c))
	}
	t.Logf("%d cases", len(cases))
}

func (j Judge) judge(t *testing.T, c Case) (o Outcome) {
	b, in := c.Input(t), c.Inputs(t)
	var err error
	o.Debug, err = j.Parse(b)
	o.Parsed = err == nil
	verified, err := j.Verify(b, in)
	if o.Genuine = err == nil; !o.Genuine {
		if _, ok := rats.ReasonOf(err); !ok {
			t.Errorf("%s: malfunction: %v", c.ID, err)
		}
		o.Why = err.Error()
		return o
	}
	if claims, ok := verified.Claims.(interface {
		TCBStatus() (string, []string, time.Time)
	}); ok {
		o.TCBStatus, o.Advisories, _ = claims.TCBStatus()
	}
	o.Facts = j.Facts(verified.Claims)
	r := j.Rules(c.Rules())
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatal(reasons)
	}
	reasons := r.Check(verified.Claims, nil, in.Now)
	o.Accepted = rats.VerdictOf(rats.Worst(reasons), false).Exit == rats.ExitOK
	for _, r := range reasons {
		o.Why += r.String() + "\n"
	}
	return o
}

// CodeOf returns the code of a refusal; an error that is none fails the test.
func CodeOf(t testing.TB, err error) rats.Code {
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

// Bound returns the binding of an exchange with one key, for evidence of a format.
func Bound(t testing.TB, format rats.Format) rats.Binding {
	t.Helper()
	m := rats.Manifest{Purpose: rats.PurposeAttest, Namespace: "n", Node: "d", Verifier: rats.SHA256(), Nonce: make([]byte, 32), Instance: make([]byte, 16),
		Keys: []rats.BoundKey{{Use: rats.KeyTLS, Public: []byte{1}}}, Formats: []rats.Format{format}}
	b, err := m.Bind()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
