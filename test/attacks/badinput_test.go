package attacks

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// what is everything a refused input must leave as it was.
type what struct {
	policies, sets, nodes, results int
	state                          rats.State
}

func (r *rig) what(m *wire.Machine) what {
	r.t.Helper()
	ctx := r.t.Context()
	p, err1 := r.admin.ListPolicies(ctx)
	s, err2 := r.admin.ListRefSets(ctx)
	n, err3 := r.admin.ListNodes(ctx, "", 1000)
	if err := errors.Join(err1, err2, err3); err != nil {
		r.t.Fatal(err)
	}
	w := what{policies: len(p), sets: len(s), nodes: len(n.Nodes)}
	for _, x := range p {
		w.policies += int(x.Version) * 100
	}
	for _, x := range s {
		w.sets += int(x.Version) * 100
	}
	if m != nil {
		w.results, w.state = r.results(m), r.state(m)
	}
	return w
}

func (r *rig) alter(from, to string) error {
	doc := r.defaultPolicy()
	if !strings.Contains(doc, from) {
		r.t.Fatalf("the policy has no %q", from)
	}
	_, err := r.admin.PutPolicy(r.t.Context(), "test", []byte(strings.Replace(doc, from, to, 1)))
	return err
}

func TestBadDocumentsAreRefusedEachWithItsCode(t *testing.T) {
	r := newRig(t)
	before := r.what(nil)
	value := strings.Repeat("ab", 32)
	for _, tt := range []struct {
		name     string
		from, to string
		want     rats.Code
	}{
		{"an unknown field", "priority:", "prioritee:", policy.CodeFieldUnknown.Code},
		{"an unknown field in a section", "quote:", "quotes:", policy.CodeFieldUnknown.Code},
		{"a PCR given twice", "quote: [0, 7]", `pcrs: {"7": [` + value + `], "07": [` + value + `]}`, tpm.CodeRulePCR.Code},
		{"a key given twice", "quote: [0, 7]", `pcrs: {7: [` + value + `], 7: [` + value + `]}`, policy.CodeFieldDuplicate.Code},
		{"bad hexadecimal digits", "quote: [0, 7]", `pcrs: {7: [zz]}`, tpm.CodeRuleValue.Code},
		{"a condition over an unknown claim", "formats:", "rules:\n  - {name: x, require: tpm.reset_cnt == 1u, slot: hardware}\nformats:", policy.CodeConditionSyntax.Code},
		{"a condition of the wrong type", "formats:", "rules:\n  - {name: x, require: tpm.software, slot: hardware}\n  - {name: y, require: 1 + 1, slot: hardware}\nformats:", policy.CodeConditionType.Code},
		{"nothing to trust a TPM by", "ek_cas:", "ek_pins: []\n    quote2:", policy.CodeFieldUnknown.Code},
		{"an unknown format", "  plan:", "  plans:", policy.CodeFormatUnknown.Code},
	} {
		t.Run(tt.name, func(t *testing.T) { refused(t, r.alter(tt.from, tt.to), tt.want) })
	}
	t.Run("a policy under another name", func(t *testing.T) {
		_, err := r.admin.PutPolicy(t.Context(), "other", []byte(r.defaultPolicy()))
		refused(t, err, httpapi.CodeDocumentName.Code)
	})
	t.Run("an empty reference set", func(t *testing.T) { // R127
		_, err := r.admin.PutRefSet(t.Context(), "empty", []byte(`{"type":"assay/refset/1","name":"empty","source":"x","created":"2026-01-01T00:00:00Z","entries":[]}`))
		refused(t, err, refvalue.CodeSetEmpty.Code)
	})
	if after := r.what(nil); after != before {
		t.Errorf("refused documents changed %+v to %+v", before, after)
	}
	if err := r.alter("priority: 10", "priority: 11"); err != nil {
		t.Errorf("a good change is refused: %v", err)
	}
}

// R127: a plan whose reference set doesn't exist denies.
func TestMissingReferenceSetDenies(t *testing.T) {
	r := newRig(t)
	m := r.machine("noset")
	if err := r.alter("reference: files", "reference: nowhere"); err != nil {
		t.Fatal(err)
	}
	told, err := m.Attest(t.Context(), r.challenge(m))
	if err != nil {
		t.Fatal(err)
	}
	if told.State == rats.StateTrusted || told.State == rats.StateWarning {
		t.Fatalf("state %s without reference values", told.State)
	}
}

func TestBadJoinsAreRefusedEachWithItsCode(t *testing.T) {
	r := newRig(t)
	used := r.token(api.TokenRequest{Name: "first"})
	o := r.options("first")
	o.Token = used
	if _, err := wire.Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	before := r.what(nil)
	ak := func(change func(*tpm2.TPMTPublic)) *softtpm.TPM {
		return softtpm.New(rand.Reader, softtpm.Options{CA: r.vendor, AKPublic: change})
	}
	for _, tt := range []struct {
		name   string
		change func(*wire.Options)
		want   rats.Code
	}{
		{"a used token", func(o *wire.Options) { o.Token = used }, identity.CodeTokenUsed.Code},
		{"a token with another secret", func(o *wire.Options) {
			tok, err := api.ParseJoinToken(o.Token)
			if err != nil {
				t.Fatal(err)
			}
			tok.Secret[0] ^= 1
			o.Token = tok.String()
		}, identity.CodeTokenUnknown.Code},
		{"a token for another EK", func(o *wire.Options) {
			o.Token = r.token(api.TokenRequest{Name: "ek", EK: rats.SHA256([]byte("another"))})
		}, identity.CodeTokenEK.Code},
		{"a taken name", func(o *wire.Options) { o.Token = r.token(api.TokenRequest{Name: "first"}) }, identity.CodeNameTaken.Code},
		{"an AK that is not restricted", func(o *wire.Options) {
			o.TPM = ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false })
		}, tpm.CodeAKRestricted.Code},
		{"an AK that is not fixedTPM", func(o *wire.Options) {
			o.TPM = ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false })
		}, tpm.CodeAKFixedTPM.Code},
		{"a truncated AK", func(o *wire.Options) {
			o.Change = func(q *api.JoinRequest) { q.AK = q.AK[:len(q.AK)-3] }
		}, tpm.CodeAKMalformed.Code},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := r.options("candidate")
			tt.change(&o)
			_, err := wire.Join(t.Context(), o)
			refused(t, err, tt.want)
		})
	}
	t.Run("an expired token", func(t *testing.T) {
		o := r.options("late")
		r.advance(61 * time.Minute)
		defer r.advance(-61 * time.Minute)
		_, err := wire.Join(t.Context(), o)
		refused(t, err, identity.CodeTokenExpired.Code)
	})
	if after := r.what(nil); after != before {
		t.Errorf("refused joins changed %+v to %+v", before, after)
	}
}

func TestBadEvidenceIsRefusedEachWithItsCode(t *testing.T) {
	r := newRig(t)
	m := r.machine("evidence")
	c := r.challenge(m)
	before := r.what(m)
	man, err := m.Manifest(c)
	if err != nil {
		t.Fatal(err)
	}
	bound, err := man.Bind()
	if err != nil {
		t.Fatal(err)
	}
	quote := func(a softtpm.Alter) []rats.Evidence {
		e, err := m.TPM.QuoteAltered("sha256", []int{0, 7}, bound.UserData, a)
		if err != nil {
			t.Fatal(err)
		}
		return []rats.Evidence{e}
	}
	other := softtpm.New(rand.Reader, softtpm.Options{CA: r.vendor})
	good := quote(softtpm.Alter{})
	for _, tt := range []struct {
		name     string
		evidence []rats.Evidence
		want     rats.Code
	}{
		{"no evidence", nil, appraise.CodeFormatMissing.Code},
		{"a format twice", append(quote(softtpm.Alter{}), good...), appraise.CodeFormatDoubled.Code},
		{"a format nobody asked for", append(quote(softtpm.Alter{}), rats.Evidence{Format: "sgx", MediaType: "x"}), appraise.CodeFormatExtra.Code},
		{"a truncated quote", quote(softtpm.Alter{Bytes: func(b []byte) []byte { return b[:len(b)/2] }}), tpm.CodeAttestMalformed.Code},
		{"a quote with an empty selection", quote(softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{}}), tpm.CodeEmptySelection.Code},
		{"a quote of other PCRs", quote(softtpm.Alter{Selection: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{1, 0, 0}}}}), tpm.CodeSelection.Code},
		{"another TPM's signature", quote(softtpm.Alter{Key: other}), "tpm.quote.signature"},
		{"a changed body", quote(softtpm.Alter{Evidence: func(e *rats.Evidence) { e.Body[len(e.Body)-1] ^= 1 }}), "tpm.quote.signature"},
		{"user data of another exchange", quote(softtpm.Alter{Attest: func(a *tpm2.TPMSAttest) { a.ExtraData = tpm2.TPM2BData{Buffer: bytes.Repeat([]byte{1}, 32)} }}), "tpm.quote.user-data"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := m.Client.Submit(t.Context(), m.Joined.Node, api.Submission{Token: c.Token, Manifest: bound.Manifest, Evidence: tt.evidence})
			refused(t, err, tt.want)
		})
	}
	t.Run("a token somebody made up", func(t *testing.T) {
		_, err := m.Client.Submit(t.Context(), m.Joined.Node, api.Submission{Token: bytes.Repeat([]byte{1}, 80), Manifest: bound.Manifest, Evidence: good})
		refused(t, err, "challenge.token.forged")
	})
	if after := r.what(m); after != before {
		t.Errorf("refused evidence changed %+v to %+v", before, after)
	}
	if _, err := m.Client.Submit(t.Context(), m.Joined.Node, api.Submission{Token: c.Token, Manifest: bound.Manifest, Evidence: good}); err != nil {
		t.Errorf("good evidence after the bad is refused: %v", err)
	}
}

// R046: a body without end is cut off, and costs no memory.
func TestGigabyteBodyIsRefused(t *testing.T) {
	r := newRig(t)
	m := r.machine("large")
	pool := x509.NewCertPool()
	for _, der := range r.cas {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		pool.AddCert(ca)
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{m.TLS}}}}
	defer hc.CloseIdleConnections()
	body := io.MultiReader(strings.NewReader(`{"token":"`), io.LimitReader(endless{}, 1<<30))
	res, err := hc.Post(r.url+api.Path("default", "nodes", m.Joined.Node, "evidence"), "application/json", body)
	if err != nil {
		if strings.Contains(err.Error(), "broken pipe") || strings.Contains(err.Error(), "reset") {
			return // the server hung up before it had taken it all
		}
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusRequestEntityTooLarge || !bytes.Contains(text, []byte(httpapi.CodeBodyTooLarge.Code)) {
		t.Errorf("status %d: %s", res.StatusCode, text)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	return len(p), nil
}

// R154: another CA in the middle, on either side. R031.
func TestAnotherCAInTheMiddleIsRefusedOnBothSides(t *testing.T) {
	r := newRig(t)
	m := r.machine("victim")
	ca, key := newCA(t)

	t.Run("the client refuses the server", func(t *testing.T) {
		leaf, leafKey := issue(t, ca, key, &x509.Certificate{
			SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf, ca.Raw}, PrivateKey: leafKey}}})
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
		go srv.Serve(l) //nolint:errcheck // closed below
		defer srv.Close()
		c, err := client.New(client.Options{Server: "https://" + l.Addr().String(), CAs: r.cas, Certificate: &m.TLS, Now: r.now})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Version(t.Context())
		refused(t, err, client.CodeOtherCA.Code)
	})
	node := func(t *testing.T, ca *x509.Certificate, key *ecdsa.PrivateKey, from, to time.Time) error {
		leaf, leafKey := issue(t, ca, key, &x509.Certificate{
			SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: m.Joined.Node}, NotBefore: from, NotAfter: to,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		c, err := client.New(client.Options{Server: r.url, CAs: r.cas, Certificate: &tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: leafKey}, Now: r.now})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Submit(t.Context(), m.Joined.Node, api.Submission{})
		return err
	}
	t.Run("the server refuses the client", func(t *testing.T) {
		if err := node(t, ca, key, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)); err == nil {
			t.Fatal("a certificate of another CA was accepted")
		}
	})
	t.Run("an expired certificate", func(t *testing.T) {
		r.advance(31 * 24 * time.Hour)
		defer r.advance(-31 * 24 * time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := client.New(client.Options{Server: r.url, CAs: r.cas, Certificate: &m.TLS, Now: r.now})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Submit(ctx, m.Joined.Node, api.Submission{}); err == nil {
			t.Fatal("an expired certificate was accepted")
		}
	})
	if r.results(m) != 0 {
		t.Error("a refused connection left a result")
	}
}

func newCA(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Assay CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

func issue(t *testing.T, ca *x509.Certificate, key *ecdsa.PrivateKey, tmpl *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, leafKey.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der, leafKey
}
