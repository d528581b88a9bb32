package tpm_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	evidence "github.com/assay-attest/assay/evidence/tpm"
	attester "github.com/assay-attest/assay/internal/attester/tpm"
	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// machine is one with a software TPM that joined.
type machine struct {
	swtpm  *swtpm.TPM
	device *tpm.Device
	ak     *tpm.AK
	record evidence.Enrolment
}

var unique = bytes.Repeat([]byte{1}, tpm.UniqueSize)

func newMachine(t *testing.T, sw *swtpm.TPM) *machine {
	t.Helper()
	d, err := tpm.Open(t.Context(), sw.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	ak, err := d.AK(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := d.EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	record, err := evidence.Enrol(ek.Public, ek.CertDER, ak.Public, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !record.EKDigest.Equal(ek.Digest) {
		t.Errorf("the device says its EK is %s, the verifier %s", ek.Digest, record.EKDigest)
	}
	return &machine{sw, d, ak, record}
}

// attest runs one exchange with a fresh nonce.
func (m *machine) attest(t *testing.T, params []byte) (rats.Verified, error) {
	t.Helper()
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		t.Fatal(err)
	}
	binding, err := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("v")),
		Nonce: nonce, Instance: make([]byte, 16), Formats: []rats.Format{evidence.Format},
	}.Bind()
	if err != nil {
		t.Fatal(err)
	}
	a := attester.New(m.device, m.ak)
	if r := a.Probe(t.Context()); !r.OK {
		t.Fatalf("probe: %+v", r)
	}
	e, err := a.Collect(t.Context(), rats.Ask{Format: evidence.Format, Binding: binding, Params: params})
	if err != nil {
		t.Fatal(err)
	}
	return evidence.New().Verify(t.Context(), e, rats.Inputs{
		Binding: binding, Now: time.Now(), Params: params, Endorsements: []rats.Endorsement{m.record.Endorsement()},
	})
}

func rules(t *testing.T, cas [][]byte) *evidence.Rules {
	t.Helper()
	r := &evidence.Rules{}
	for _, der := range cas {
		r.EKCAs = append(r.EKCAs, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatal(reasons)
	}
	return r
}

// R140: what a TPM quotes is verified, and its maker is known by the certificate chain.
func TestSoftwareTPMAttestsAndIsMarkedAsSuch(t *testing.T) {
	sw := swtpm.Start(t)
	m := newMachine(t, sw)
	r := rules(t, sw.CACerts())
	v, err := m.attest(t, r.Params())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(v.Marks, []string{rats.MarkSoftwareTPM}) {
		t.Errorf("marks: %v", v.Marks)
	}
	c := v.Claims.(*evidence.Claims)
	if c.Manufacturer != "id:00001014" || c.Model != "swtpm" || !c.EKCertified || len(c.PCRs["sha256"]) != 9 {
		t.Errorf("claims: %+v", c)
	}
	if reasons := r.Check(v.Claims, nil, time.Now()); len(reasons) > 0 {
		t.Errorf("check: %v", reasons)
	}
	if reasons := r.Vouch(m.record.Endorsement(), time.Now()); len(reasons) > 0 {
		t.Errorf("vouch: %v", reasons)
	}
	// The issuer alone is anchor enough; its root alone is not, for the TPM holds no intermediate.
	if reasons := rules(t, sw.CACerts()[:1]).Check(v.Claims, nil, time.Now()); len(reasons) > 0 {
		t.Errorf("check with the issuer: %v", reasons)
	}
	if reasons := rules(t, sw.CACerts()[1:]).Check(v.Claims, nil, time.Now()); len(reasons) == 0 {
		t.Error("a chain with a gap was accepted")
	}
}

func TestQuotesOfOtherBanksAndAllPCRsVerify(t *testing.T) {
	m := newMachine(t, swtpm.StartUncertified(t))
	all := make([]int, 24)
	for i := range all {
		all[i] = i
	}
	for _, bank := range []string{"sha256", "sha384"} {
		params, err := json.Marshal(evidence.Params{Bank: bank, PCRs: all})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.attest(t, params); err != nil {
			t.Errorf("%s: %v", bank, err)
		}
	}
}

// R144: AK and EK are bound by a credential, which a real TPM opens.
func TestCredentialIsActivatedByTheTPMItWasMadeFor(t *testing.T) {
	m := newMachine(t, swtpm.Start(t))
	secret := bytes.Repeat([]byte{9}, 32)
	credential, enc, err := evidence.MakeCredential(rand.Reader, m.record.EK, m.record.AK, secret)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // more often than there are slots
		got, err := m.device.Activate(t.Context(), m.ak, credential, enc)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, secret) {
			t.Errorf("got %x", got)
		}
	}
	other, err := m.device.AK(t.Context(), bytes.Repeat([]byte{2}, tpm.UniqueSize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.device.Activate(t.Context(), other, credential, enc); err == nil {
		t.Error("the credential was opened for another AK")
	}
	if _, err := newMachine(t, swtpm.Start(t)).device.Activate(t.Context(), m.ak, credential, enc); err == nil {
		t.Error("the credential was opened by another TPM")
	}
}

// R144: the TLS key is certified by the AK, and carries TLS 1.3 client authentication.
func TestCertifiedKeyAuthenticatesATLSClient(t *testing.T) {
	m := newMachine(t, swtpm.StartUncertified(t))
	key, err := m.device.SigningKey(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	nonce := bytes.Repeat([]byte{4}, 32)
	info, sig, err := m.device.Certify(t.Context(), key, m.ak, nonce)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := evidence.VerifyCertify(m.record.AK, key.TPMPublic(), nonce, info, sig)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "n"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true})
	client := tls.Client(near, &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	done := make(chan error, 1)
	go func() { done <- client.HandshakeContext(t.Context()) }()
	if err := server.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := server.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo; !bytes.Equal(got, spki) {
		t.Error("the peer has another key than was certified")
	}
}

// R032, R140: a reset makes resetCount grow and is another boot; a clock that is not safe, as after this power failure
// under an open connection, refuses nothing.
func TestResetIsAnotherBootAndAnUnsafeClockRefusesNothing(t *testing.T) {
	m := newMachine(t, swtpm.StartUncertified(t))
	params := []byte(`{"bank":"sha256","pcrs":[0]}`)
	before, err := m.attest(t, params)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.swtpm.Reset(); err != nil {
		t.Fatal(err)
	}
	after, err := m.attest(t, params)
	if err != nil {
		t.Fatal(err)
	}
	b, a := before.Claims.(*evidence.Claims), after.Claims.(*evidence.Claims)
	if a.ResetCount <= b.ResetCount {
		t.Errorf("resetCount was %d and is %d", b.ResetCount, a.ResetCount)
	}
	if before.Facts.Boots[0].ID.Equal(after.Facts.Boots[0].ID) {
		t.Error("the boot has the same id as the one before")
	}
	if a.ClockSafe {
		t.Error("the clock is safe after a power failure: this test proves nothing")
	}
}

func TestMachineWithoutTPMSaysWhyAndHowToMendIt(t *testing.T) {
	for _, a := range []rats.Attester{attester.New(nil, nil), attester.New(&tpm.Device{}, nil)} {
		if r := a.Probe(t.Context()); r.OK || r.Why == "" || r.Fix == "" {
			t.Errorf("got %+v", r)
		}
		if _, err := a.Collect(t.Context(), rats.Ask{Format: evidence.Format}); err == nil {
			t.Error("evidence was collected")
		}
		if a.Descriptor().ID != evidence.Format {
			t.Errorf("format is %s", a.Descriptor().ID)
		}
	}
	m := newMachine(t, swtpm.StartUncertified(t))
	m.swtpm.Stop()
	if r := attester.New(m.device, m.ak).Probe(t.Context()); r.OK || !strings.Contains(r.Why, "TPM") || r.Fix == "" {
		t.Errorf("with a stopped TPM: %+v", r)
	}
}

func TestAsksThatMakeNoSenseAreRefused(t *testing.T) {
	m := newMachine(t, swtpm.StartUncertified(t))
	a := attester.New(m.device, m.ak)
	binding := rats.Binding{Profile: rats.ProfileRaw, UserData: make([]byte, 32)}
	params := []byte(`{"bank":"sha256","pcrs":[0]}`)
	for name, ask := range map[string]rats.Ask{
		"other format":   {Format: "ima", Binding: binding, Params: params},
		"no parameters":  {Format: evidence.Format, Binding: binding},
		"PCR 24":         {Format: evidence.Format, Binding: binding, Params: []byte(`{"bank":"sha256","pcrs":[24]}`)},
		"no binding":     {Format: evidence.Format, Params: params},
		"unused bank":    {Format: evidence.Format, Binding: binding, Params: []byte(`{"bank":"sha512","pcrs":[0]}`)},
		"binding of 99 ": {Format: evidence.Format, Binding: rats.Binding{UserData: make([]byte, 99)}, Params: params},
	} {
		if _, err := a.Collect(t.Context(), ask); err == nil {
			t.Errorf("%s: evidence was collected", name)
		}
	}
}
