package identity_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// joined is an office with one approved node.
func joined(t *testing.T) (*office, *machine, api.Joined) {
	t.Helper()
	o, m := newOffice(t), newMachine(t)
	return o, m, o.join(m, o.token(api.TokenRequest{Name: "web-1", EK: m.ek.Digest}), "")
}

func (o *office) issue(node string) api.AKCertificate {
	o.t.Helper()
	c, err := o.IssueAK(o.t.Context(), namespace, o.space, node)
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

func (o *office) crl() []byte {
	o.t.Helper()
	der, err := o.CRL(o.t.Context(), o.space)
	if err != nil {
		o.t.Fatal(err)
	}
	return der
}

// R092, S48: the certificate of an attestation key names the node and nothing of the TPM, lives 30 days, has its serial in
// the registry, and is found good by us and by OpenSSL until it runs out or is revoked.
func TestAttestationKeyGetsACertificate(t *testing.T) {
	o, m, j := joined(t)
	c := o.issue(j.Node)
	if life := c.Expires.Sub(start); life > 30*24*time.Hour || life < 29*24*time.Hour {
		t.Errorf("it lives %s", life)
	}
	if bytes.Contains(c.Certificate, m.ek.Digest.Sum) || bytes.Contains(c.Certificate, m.ek.Public[len(m.ek.Public)-32:]) {
		t.Error("the certificate shows the EK")
	}
	who, err := o.pins.VerifyAK(c.Certificate, o.crl())
	if err != nil || who.Node != j.Node || who.Namespace != namespace || who.Serial != c.Serial {
		t.Errorf("it is of %+v, %v", who, err)
	}
	if want, err := tpm.AKPublicKey(m.ak.Public); err != nil || !bytes.Equal(spkiOf(t, want), spkiOf(t, who.Key)) {
		t.Errorf("it is for another key, %v", err)
	}
	list, err := o.ListAKs(t.Context(), o.space)
	if err != nil || len(list.Certificates) != 1 || list.Certificates[0].Serial != c.Serial || list.Certificates[0].Node != j.Node || len(list.Revoked) != 0 {
		t.Errorf("registry %+v, %v", list, err)
	}
	good := openssl(t, o, c.Certificate)
	if err := o.RevokeAK(t.Context(), o.space, "admin:me", c.Serial); err != nil {
		t.Fatal(err)
	}
	_, err = o.pins.VerifyAK(c.Certificate, o.crl())
	wantCode(t, err, identity.CodeAKRevoked)
	if bad := openssl(t, o, c.Certificate); !strings.Contains(good, ": OK") || !strings.Contains(bad, "certificate revoked") {
		t.Errorf("OpenSSL says %q, and after revocation %q", good, bad)
	}
	wantCode(t, o.RevokeAK(t.Context(), o.space, "admin:me", c.Serial), identity.CodeAKUnknown)
	if v := o.space.data.audit; v[len(v)-1].Verb != "ak.revoke" || v[len(v)-2].Verb != "ak.issue" {
		t.Errorf("audited %+v", v)
	}
}

// openssl verifies a certificate with the CA and the present list of revoked ones.
func openssl(t *testing.T, o *office, der []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{
		"ca": {Type: "CERTIFICATE", Bytes: o.ca.DER()}, "ak": {Type: "CERTIFICATE", Bytes: der}, "crl": {Type: "X509 CRL", Bytes: o.crl()},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := strconv.FormatInt(o.clock.now().Unix(), 10)
	out, _ := exec.Command("openssl", "verify", "-CAfile", dir+"/ca", "-crl_check", "-CRLfile", dir+"/crl", "-attime", at, dir+"/ak").CombinedOutput()
	return string(out)
}

// What doesn't count as a certificate of an attestation key, each with its code.
func TestAttestationKeyCertificatesThatDoNotCount(t *testing.T) {
	o, m, j := joined(t)
	c := o.issue(j.Node)
	stranger, _ := newCA(t, o.clock)
	foreign, _, err := stranger.AKCertificate(namespace, j.Node, m.ak.Public)
	if err != nil {
		t.Fatal(err)
	}
	crl := o.crl()
	verify := func(der, crl []byte) error { _, err := o.pins.VerifyAK(der, crl); return err }
	wantCode(t, verify(c.Certificate[:100], crl), identity.CodeAKMalformed)
	wantCode(t, verify(j.Certificate, crl), identity.CodeAKUsage) // the node's TLS certificate
	wantCode(t, verify(foreign, crl), identity.CodePeerCA)
	wantCode(t, verify(c.Certificate, nil), identity.CodeAKList)
	o.clock.t = start.Add(61 * time.Minute)
	wantCode(t, verify(c.Certificate, crl), identity.CodeAKList) // an old list
	o.clock.t = start.Add(30*24*time.Hour + time.Minute)
	wantCode(t, verify(c.Certificate, o.crl()), identity.CodeAKExpired)
	o.clock.t = start.Add(-time.Hour)
	wantCode(t, verify(c.Certificate, crl), identity.CodeAKExpired)
	o.clock.t = start
	// The other way round: it opens no connection.
	if _, err := o.pins.Verify([]*x509.Certificate{parse(t, c.Certificate)}); err == nil {
		t.Error("the certificate of the attestation key is a client certificate")
	}
}

// R092: an attestation key of the right name but wrong attributes gets no certificate, whoever asks.
func TestKeysWithWrongAttributesGetNoCertificate(t *testing.T) {
	o, m, j := joined(t)
	for what, change := range map[string]func([]byte){
		"not restricted":       func(b []byte) { b[7] &^= 0x01 }, // TPMA_OBJECT bit 16
		"not fixed to the TPM": func(b []byte) { b[9] &^= 0x02 }, // bit 1
		"made elsewhere":       func(b []byte) { b[9] &^= 0x20 }, // bit 5
		"for decrypting too":   func(b []byte) { b[7] |= 0x02 },  // bit 17
	} {
		ak := bytes.Clone(m.ak.Public)
		change(ak)
		if _, _, err := o.ca.AKCertificate(namespace, j.Node, ak); err == nil {
			t.Errorf("%s: it is certified", what)
		} else if r, ok := rats.ReasonOf(err); !ok || !strings.HasPrefix(string(r.Code), "tpm.ak.") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := o.ca.AKCertificate(namespace, j.Node, m.key.TPMPublic()); err == nil {
		t.Error("the TLS key is certified as an attestation key")
	}
	if _, _, err := o.ca.AKCertificate("", "x", m.ak.Public); err == nil {
		t.Error("a certificate for nobody")
	}
}

func TestWhoGetsNoAttestationKeyCertificate(t *testing.T) {
	o, m := newOffice(t), newMachine(t)
	j := o.join(m, o.token(api.TokenRequest{}), "web-1")
	ask := func() error { _, err := o.IssueAK(t.Context(), namespace, o.space, j.Node); return err }
	wantCode(t, ask(), identity.CodeAKUnapproved)
	if err := o.Approve(t.Context(), o.space, "admin:me", j.Node); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, ask(), identity.CodeAKMany)
	o.clock.t = start.Add(31 * 24 * time.Hour) // renewal: those that have run out make room
	if err := ask(); err != nil {
		t.Error(err)
	}
	n := o.space.data.nodes[j.Node]
	if len(n.AKCerts) != 1 {
		t.Errorf("%d certificates are kept", len(n.AKCerts))
	}
	n.Endorsements = nil
	o.space.data.nodes[j.Node] = n
	wantCode(t, ask(), identity.CodeAKRecord)
}

// S48: whatever ends a node ends its certificates.
func TestEndOfANodeRevokesItsCertificates(t *testing.T) {
	for what, end := range map[string]func(o *office, m *machine, node string) error{
		"revoked": func(o *office, _ *machine, node string) error {
			return o.Revoke(o.t.Context(), o.space, "admin:me", node)
		},
		"deleted": func(o *office, _ *machine, node string) error {
			return o.space.Update(o.t.Context(), func(tx store.Tx) error {
				n, err := tx.Nodes().Get(node)
				if err != nil {
					return err
				}
				if err := o.Forget(tx, n); err != nil {
					return err
				}
				return tx.Nodes().Delete(node)
			})
		},
		"replaced": func(o *office, m *machine, _ string) error {
			o.join(m, o.token(api.TokenRequest{EK: m.ek.Digest, Replace: true}), "web-2")
			return nil
		},
	} {
		o, m, j := joined(t)
		a, b := o.issue(j.Node), o.issue(j.Node)
		if err := end(o, m, j.Node); err != nil {
			t.Fatal(err)
		}
		for _, c := range []api.AKCertificate{a, b} {
			_, err := o.pins.VerifyAK(c.Certificate, o.crl())
			wantCode(t, err, identity.CodeAKRevoked)
		}
		list, err := o.ListAKs(t.Context(), o.space)
		if err != nil || len(list.Revoked) != 2 || list.Revoked[0].Why != what || len(list.Certificates) != 0 {
			t.Errorf("%s: registry %+v, %v", what, list, err)
		}
		o.clock.t = start.Add(31 * 24 * time.Hour)
		if list, err = o.ListAKs(t.Context(), o.space); err != nil || len(list.Revoked) != 0 {
			t.Errorf("%s: what has run out stays in the list: %+v, %v", what, list, err)
		}
	}
}
