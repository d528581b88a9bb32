package snp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/rats"
)

// recordings is where recorded evidence of real machines lies, beside the project.
const recordings = "../../../shared/evidence"

func recording(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// folder finds the recordings, and skips the test where there are none: they stay out of the repository.
func folder(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{os.Getenv("ASSAY_EVIDENCE"), recordings, "../" + recordings} {
		if _, err := os.Stat(filepath.Join(dir, "CASES.json")); dir != "" && err == nil {
			return dir
		}
	}
	t.Skip("the recorded evidence is not here: set ASSAY_EVIDENCE to its folder")
	return ""
}

type testCase struct {
	ID         string   `json:"id"`
	Format     string   `json:"format"`
	File       string   `json:"file"`
	At         string   `json:"at"`
	Collateral []string `json:"collateral"`
	Nonce      string   `json:"nonce"`
	Options    struct {
		Slice *struct {
			Offset, Length int
		} `json:"slice"`
		Mutate *struct {
			Offset int    `json:"offset"`
			XOR    byte   `json:"xor"`
			File   string `json:"file"`
		} `json:"mutate"`
		Container string `json:"container"`
		Kind      string `json:"kind"`
	} `json:"options"`
	Expect struct {
		Parse    *bool          `json:"parse"`
		Genuine  *bool          `json:"genuine"`
		Accepted *bool          `json:"accepted_by_default"`
		Debug    *bool          `json:"debug"`
		Hint     string         `json:"reason_hint"`
		Facts    map[string]any `json:"facts"`
	} `json:"expect"`
}

func cases(t testing.TB) []testCase {
	t.Helper()
	var doc struct {
		Cases []testCase `json:"cases"`
	}
	if err := json.Unmarshal(recording(t, "CASES.json"), &doc); err != nil {
		t.Fatal(err)
	}
	var out []testCase
	for _, c := range doc.Cases {
		ours := c.Format == "snp" || c.Format == "azure-hcl" || c.Format == "coco" && strings.HasPrefix(c.File, "snp/") ||
			c.Format == "collateral" && strings.HasPrefix(c.File, "snp/")
		if ours {
			out = append(out, c)
		}
	}
	return out
}

// R116: every recorded case of SEV-SNP and of Azure's paravisor.
func TestRecordedReportsGetTheVerdictsOfTheirCases(t *testing.T) {
	all := cases(t)
	for _, c := range all {
		t.Run(c.ID, func(t *testing.T) { runCase(t, c) })
	}
	t.Logf("%d cases", len(all))
}

func runCase(t *testing.T, c testCase) {
	b := recording(t, c.File)
	if s := c.Options.Slice; s != nil {
		b = b[s.Offset : s.Offset+s.Length]
	}
	if m := c.Options.Mutate; m != nil {
		b[m.Offset] ^= m.XOR
	}
	var err error
	claims := map[string]any{}
	switch {
	case c.Format == "collateral":
		err = checkCollateral(t, c, b)
	case c.Options.Container == "trustee-az-snp-vtpm-json":
		claims, err = azureCase(t, c, b)
	case bytes.HasPrefix(b, []byte("HCLA")) && binary.LittleEndian.Uint32(b[1224:]) == 4:
		claims, err = tdxCase(t, b)
	default:
		claims, err = verifyCase(t, c, b)
	}
	if want := c.Expect.Genuine; want != nil && *want != (err == nil) {
		t.Errorf("genuine is %v, want %v: %v", err == nil, *want, err)
	}
	if c.Expect.Accepted != nil && !*c.Expect.Accepted && err == nil {
		t.Error("nothing speaks against it")
	}
	if c.Expect.Parse != nil && *c.Expect.Parse {
		if r, ok := rats.ReasonOf(err); ok && strings.HasSuffix(string(r.Code), ".malformed") {
			t.Errorf("it is not parsed: %v", err)
		}
	}
	if err != nil {
		t.Logf("refused: %v", err)
		if len(claims) > 0 || c.Expect.Genuine == nil || *c.Expect.Genuine == false {
			return
		}
	}
	checkFacts(t, c, claims)
}

func checkFacts(t *testing.T, c testCase, claims map[string]any) {
	if d := c.Expect.Debug; d != nil && claims["debug"] != *d {
		t.Errorf("debug is %v", claims["debug"])
	}
	for name, want := range c.Expect.Facts {
		if file, ok := want.(string); ok && name == "host_data_is_sha256_of" {
			name, want = "host_data", hostData(t, file)
		}
		if got := claims[name]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func hostData(t *testing.T, file string) string {
	t.Helper()
	name, _, _ := strings.Cut(file, " ")
	var raw []byte
	if err := json.Unmarshal([]byte(`"`+strings.TrimSpace(string(recording(t, name)))+`"`), &raw); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func inputs(t *testing.T, c testCase) rats.Inputs {
	t.Helper()
	in := rats.Inputs{Binding: rats.Binding{Profile: rats.ProfileNone}, Now: time.Date(2025, 7, 1, 0, 0, 0, 0, time.UTC)}
	if c.At != "" {
		var err error
		if in.Now, err = time.Parse(time.RFC3339, c.At); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range c.Collateral {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{Body: recording(t, f)})
	}
	return in
}

// flat returns claims by their JSON names, those of the paravisor among them.
func flat(t *testing.T, claims rats.Claims) map[string]any {
	t.Helper()
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if h, ok := m["hcl"].(map[string]any); ok {
		for k, v := range h {
			m[k] = v
		}
	}
	return m
}

func verifyCase(t *testing.T, c testCase, b []byte) (map[string]any, error) {
	e, err := snp.Import(b)
	if err != nil {
		return nil, err
	}
	v, err := snp.New().Verify(context.Background(), e, inputs(t, c))
	if err != nil {
		return nil, err
	}
	return flat(t, v.Claims), nil
}

// azureCase verifies the report as format snp, then the vTPM's quote by the key that the report names.
func azureCase(t *testing.T, c testCase, b []byte) (map[string]any, error) {
	claims, err := verifyCase(t, c, b)
	if err != nil {
		return nil, err
	}
	a, err := snp.ParseAzure(b)
	if err != nil {
		return nil, err
	}
	h, err := hcl.Parse(a.HCL)
	if err != nil {
		return nil, err
	}
	nonce, err := hex.DecodeString(c.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(a.TPMQuote.Message, append([]byte{0, byte(len(nonce))}, nonce...)) {
		return nil, fmt.Errorf("the quote is of another nonce")
	}
	sum := sha256.Sum256(a.TPMQuote.Message)
	claims["vtpm_quote_signature_ok"] = rsa.VerifyPKCS1v15(h.Data.AK, crypto.SHA256, sum[:], a.TPMQuote.Signature) == nil
	pcrs := sha256.Sum256(bytes.Join(a.TPMQuote.PCRs, nil))
	claims["pcr_digest_ok"] = bytes.HasSuffix(a.TPMQuote.Message, pcrs[:])
	claims["vardata_bound"] = true
	return claims, nil
}

// tdxCase reads a paravisor's report of a TDX guest; without its TD quote nothing more can be said.
func tdxCase(t *testing.T, b []byte) (map[string]any, error) {
	h, err := hcl.Parse(b)
	if err != nil {
		return nil, err
	}
	td, err := hcl.ParseTDReport(h.Hardware)
	if err != nil {
		t.Errorf("TD report: %v", err)
	}
	if td != nil && (td.ReportData != h.ReportData() || td.MRTD == [48]byte{}) {
		t.Error("the TD report says nothing")
	}
	if _, err := snp.New().Verify(t.Context(), rats.Evidence{Format: snp.Format, MediaType: snp.MediaTypeHCL, Body: b}, rats.Inputs{}); !hasCode(err, hcl.CodeKind) {
		t.Errorf("as SEV-SNP: %v", err)
	}
	return map[string]any{
		"report_type": h.Kind, "vardata_bound": true, "vardata_sha256": hex.EncodeToString(rats.SHA256(h.Runtime).Sum),
		"hcl_ak_modulus_sha256": hex.EncodeToString(rats.SHA256(h.Data.AK.N.Bytes()).Sum),
	}, nil
}

// checkCollateral checks that recorded chains are the built-in ones, and that a VCEK is signed under them.
func checkCollateral(t *testing.T, c testCase, b []byte) error {
	if c.Options.Kind == "vcek" {
		cert, err := x509.ParseCertificate(b)
		if err != nil {
			return err
		}
		return cert.CheckSignatureFrom(certsOf(t, recording(t, c.Collateral[0]))[0])
	}
	var built []byte
	for _, f := range []string{"milan", "genoa", "turin"} {
		text, err := os.ReadFile("roots/" + f + ".pem")
		if err != nil {
			t.Fatal(err)
		}
		built = append(built, text...)
	}
	for _, cert := range certsOf(t, b) {
		found := false
		for _, own := range certsOf(t, built) {
			found = found || own.Equal(cert)
		}
		if !found {
			return fmt.Errorf("%s is not built in", cert.Subject.CommonName)
		}
	}
	return nil
}

func hasCode(err error, want rats.CodeInfo) bool {
	r, ok := rats.ReasonOf(err)
	return ok && r.Code == want.Code
}
