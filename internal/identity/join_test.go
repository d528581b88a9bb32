package identity_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	tpmevidence "github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// R092: a TPM that proves AK and TLS key its own becomes a node, and its certificate admits it over TLS.
func TestMachineJoinsAndIsAdmitted(t *testing.T) {
	o, m := newOffice(t), newMachine(t)
	tok := o.token(api.TokenRequest{Name: "web-1", EK: m.ek.Digest, Labels: map[string]string{"role": "web"}})
	j := o.join(m, tok, "ignored")
	if j.Name != "web-1" || j.Namespace != namespace || j.Enrolment != store.EnrolmentApproved || len(j.Reasons) != 0 {
		t.Errorf("joined as %+v", j)
	}
	if len(j.CAs) != 1 || !j.Verifier.Equal(rats.SHA256([]byte("verifier"))) || string(j.PlanSigner) != "plan signer" {
		t.Errorf("told CAs %d, verifier %s, plan signer %q", len(j.CAs), j.Verifier, j.PlanSigner)
	}
	spki := spkiOf(t, m.key.Public())
	n := o.space.data.nodes[j.Node]
	if n.Name != "web-1" || n.Kind != "host" || n.Labels["role"] != "web" || !n.TLSKey.Equal(rats.SHA256(spki)) || !n.CreatedAt.Equal(start) {
		t.Errorf("stored %+v", n)
	}
	if !identity.EKOf(n).Equal(m.ek.Digest) || len(n.Endorsements) != 1 {
		t.Errorf("the enrolment record is of EK %s, want %s", identity.EKOf(n), m.ek.Digest)
	}
	last := o.space.data.audit[len(o.space.data.audit)-1]
	if last.Verb != "node.join" || last.Object != "node/"+j.Node || last.Actor != "node:"+j.Node {
		t.Errorf("audited %+v", last)
	}
	if e := o.space.data.events; len(e) != 1 || e[0].Kind != "node.joined" || e[0].Subject != "node/"+j.Node {
		t.Errorf("events %+v", e)
	}
	if everything, _ := json.Marshal(o.space.data.audit); strings.Contains(string(everything), tok) {
		t.Error("the token is in the audit log")
	}

	roots := x509.NewCertPool()
	roots.AddCert(parse(t, j.CAs[0]))
	status, body, err := ask(t, tlsServer(t, o.clock, o.ca, o.pins), &tls.Config{
		RootCAs: roots, Time: o.clock.now,
		Certificates: []tls.Certificate{{Certificate: [][]byte{j.Certificate}, PrivateKey: m.key}},
	})
	if err != nil || status != http.StatusOK || !strings.Contains(body, j.Node) {
		t.Errorf("connecting with the TPM's key: %d %q %v", status, body, err)
	}
	p, err := o.pins.Verify([]*x509.Certificate{parse(t, j.Certificate)})
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.Admit(namespace, n, p); err != nil || p.Serial != n.Serial {
		t.Errorf("admitting: %v; serial %s, stored %s", err, p.Serial, n.Serial)
	}
}

// S07: without a named EK or a policy that vouches for the TPM the node stays pending.
func TestNodeIsPendingUnlessSomebodyVouches(t *testing.T) {
	m := newMachine(t)
	for _, tc := range []struct {
		name  string
		vouch func(store.Node, rats.Endorsement) []rats.Reason
		want  string
	}{
		{"policy knows nobody", nil, store.EnrolmentPending},
		{"policy vouches", func(n store.Node, e rats.Endorsement) []rats.Reason {
			if n.Name != "web-1" || n.Labels["role"] != "web" || n.Kind != "host" || len(e.Body) == 0 {
				t.Errorf("asked about %+v, %+v", n, e)
			}
			return nil
		}, store.EnrolmentApproved},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := newOffice(t)
			o.vouch = tc.vouch
			j := o.join(m, o.token(api.TokenRequest{Labels: map[string]string{"role": "web"}}), "web-1")
			if j.Enrolment != tc.want || o.space.data.nodes[j.Node].Enrolment != tc.want {
				t.Errorf("enrolment %s, want %s", j.Enrolment, tc.want)
			}
			if tc.want == store.EnrolmentApproved {
				return
			}
			// S45: what would be accepted is not told.
			if len(j.Reasons) != 1 || j.Reasons[0].Code != unvouched.Code || j.Reasons[0].Expected+j.Reasons[0].Seen != "" {
				t.Errorf("told %+v", j.Reasons)
			}
		})
	}
	t.Run("no policies at all", func(t *testing.T) {
		o := newOffice(t)
		cfg := o.config()
		cfg.Vouch, cfg.Pins = nil, nil
		var err error
		if o.Joiner, err = identity.NewJoiner(cfg); err != nil {
			t.Fatal(err)
		}
		j := o.join(m, o.token(api.TokenRequest{}), "web-1")
		if j.Enrolment != store.EnrolmentPending || len(j.Reasons) != 1 || j.Reasons[0].Code != identity.CodeEnrolmentUnvouched.Code {
			t.Errorf("joined as %+v", j)
		}
	})
}

func TestJoinRequestRefusals(t *testing.T) {
	o, m := newOffice(t), newMachine(t)
	retoken := func(change func(*api.JoinTokenText)) func(*api.JoinRequest) {
		return func(r *api.JoinRequest) {
			text, err := api.ParseJoinToken(r.Token)
			if err != nil {
				t.Fatal(err)
			}
			change(&text)
			r.Token = text.String()
		}
	}
	o.space.data.nodes["nd_t"] = store.Node{ID: "nd_t", Name: "taken"}
	for _, tc := range []struct {
		name   string
		change func(*api.JoinRequest)
		want   rats.CodeInfo
	}{
		{"no token", func(r *api.JoinRequest) { r.Token = "" }, identity.CodeRequestSize},
		{"long token", func(r *api.JoinRequest) { r.Token = strings.Repeat("a", 2000) }, identity.CodeRequestSize},
		{"malformed token", func(r *api.JoinRequest) { r.Token = "asj1.x" }, identity.CodeTokenMalformed},
		{"token of another namespace", retoken(func(x *api.JoinTokenText) { x.Namespace = "other" }), identity.CodeTokenNamespace},
		{"unknown token", retoken(func(x *api.JoinTokenText) { x.ID = "jt_other" }), identity.CodeTokenUnknown},
		{"wrong secret", retoken(func(x *api.JoinTokenText) { x.Secret[31] ^= 1 }), identity.CodeTokenUnknown},
		{"token for another TPM", func(r *api.JoinRequest) { r.Token = o.token(api.TokenRequest{EK: rats.SHA256(nil)}) }, identity.CodeTokenEK},
		{"deleted token", func(r *api.JoinRequest) {
			r.Token = o.token(api.TokenRequest{})
			text, _ := api.ParseJoinToken(r.Token)
			if err := o.DeleteToken(t.Context(), o.space, "admin:me", text.ID); err != nil {
				t.Fatal(err)
			}
		}, identity.CodeTokenUnknown},
		{"no name", func(r *api.JoinRequest) { r.Name = "" }, identity.CodeNameInvalid},
		{"unusable name", func(r *api.JoinRequest) { r.Name = "Web 1" }, identity.CodeNameInvalid},
		{"taken name", func(r *api.JoinRequest) { r.Name = "taken" }, identity.CodeNameTaken},
		{"no EK", func(r *api.JoinRequest) { r.EK = nil }, identity.CodeRequestSize},
		{"long AK", func(r *api.JoinRequest) { r.AK = make([]byte, 4096) }, identity.CodeRequestSize},
		{"long EK certificate", func(r *api.JoinRequest) { r.EKCert = make([]byte, 25<<10) }, identity.CodeRequestSize},
		{"no TLS key", func(r *api.JoinRequest) { r.TLSKey = nil }, identity.CodeRequestSize},
		{"broken TLS key", func(r *api.JoinRequest) { r.TLSKey = []byte("key") }, identity.CodeKeyInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := m.request(t, o.token(api.TokenRequest{}), "web-1")
			tc.change(&r)
			_, err := o.Begin(t.Context(), namespace, o.space, r)
			wantCode(t, err, tc.want)
		})
	}
	t.Run("expired token", func(t *testing.T) {
		r := m.request(t, o.token(api.TokenRequest{TTL: "10m"}), "web-1")
		o.clock.t = o.clock.t.Add(10 * time.Minute)
		_, err := o.Begin(t.Context(), namespace, o.space, r)
		wantCode(t, err, identity.CodeTokenExpired)
	})
}

// R092: an AK that the TPM has, but which may sign anything, is not enrolled; nor one whose attributes were changed.
func TestAKWithWrongAttributesIsRefused(t *testing.T) {
	o, m := newOffice(t), newMachine(t)
	flipped := func(at int, bit byte) []byte {
		ak := bytes.Clone(m.ak.Public)
		ak[at] ^= bit
		return ak
	}
	// TPM2B_PUBLIC: size (2), type (2), name algorithm (2), attributes (4).
	for _, tc := range []struct {
		name string
		ak   []byte
		want rats.CodeInfo
	}{
		{"unrestricted key of the same TPM", m.key.TPMPublic(), tpmevidence.CodeAKRestricted},
		{"not restricted", flipped(7, 1), tpmevidence.CodeAKRestricted},
		{"may decrypt", flipped(7, 2), tpmevidence.CodeAKDecrypt},
		{"not signing", flipped(7, 4), tpmevidence.CodeAKSign},
		{"not fixed to the TPM", flipped(9, 2), tpmevidence.CodeAKFixedTPM},
		{"not fixed to its parent", flipped(9, 16), tpmevidence.CodeAKFixedParent},
		{"secret from elsewhere", flipped(9, 32), tpmevidence.CodeAKOrigin},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := m.request(t, o.token(api.TokenRequest{}), "web-1")
			r.AK = tc.ak
			_, err := o.Begin(t.Context(), namespace, o.space, r)
			wantCode(t, err, tc.want)
		})
	}
}

func TestJoinFinishRefusals(t *testing.T) {
	o, m, other := newOffice(t), newMachine(t), newMachine(t)
	otherKey := m.signingKey(t, "another")
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *api.JoinFinish)
		want   rats.CodeInfo
	}{
		{"continuation changed", func(_ *testing.T, f *api.JoinFinish) { f.Continue[20] ^= 1 }, identity.CodeContinueForged},
		{"continuation invented", func(_ *testing.T, f *api.JoinFinish) { f.Continue = []byte(`{"t":"x"}`) }, identity.CodeContinueForged},
		{"continuation of another namespace", func(t *testing.T, f *api.JoinFinish) {
			f.Continue = newSealer(t).Seal([]byte("assay/join/1\x00other"), []byte("{}"))
		}, identity.CodeContinueForged},
		{"continuation of another request", func(_ *testing.T, f *api.JoinFinish) {
			f.Continue = o.begin(m.request(t, f.Request.Token, "web-2")).Continue
		}, identity.CodeContinueOther},
		{"other name", func(_ *testing.T, f *api.JoinFinish) { f.Request.Name = "web-2" }, identity.CodeContinueOther},
		{"other token", func(_ *testing.T, f *api.JoinFinish) { f.Request.Token = o.token(api.TokenRequest{}) }, identity.CodeContinueOther},
		{"other AK", func(_ *testing.T, f *api.JoinFinish) { f.Request.AK = other.ak.Public }, identity.CodeContinueOther},
		{"other EK", func(_ *testing.T, f *api.JoinFinish) {
			f.Request.EK, f.Request.EKCert = other.ek.Public, other.ek.CertDER
		}, identity.CodeContinueOther},
		{"other TLS key", func(t *testing.T, f *api.JoinFinish) { f.Request.TLSKey = spkiOf(t, otherKey.Public()) }, identity.CodeContinueOther},
		{"no continuation", func(_ *testing.T, f *api.JoinFinish) { f.Continue = nil }, identity.CodeRequestSize},
		{"long signature", func(_ *testing.T, f *api.JoinFinish) { f.CertifySig = make([]byte, 2000) }, identity.CodeRequestSize},
		{"credential not opened", func(_ *testing.T, f *api.JoinFinish) { f.Activated = make([]byte, 32) }, identity.CodeActivationWrong},
		{"half the secret", func(_ *testing.T, f *api.JoinFinish) { f.Activated = f.Activated[:16] }, identity.CodeActivationWrong},
		{"token deleted meanwhile", func(t *testing.T, f *api.JoinFinish) {
			text, _ := api.ParseJoinToken(f.Request.Token)
			if err := o.DeleteToken(t.Context(), o.space, "admin:me", text.ID); err != nil {
				t.Fatal(err)
			}
		}, identity.CodeTokenUnknown},
		{"name taken meanwhile", func(t *testing.T, f *api.JoinFinish) {
			o.space.data.nodes["nd_x"] = store.Node{ID: "nd_x", Name: "web-1"}
			t.Cleanup(func() { delete(o.space.data.nodes, "nd_x") })
		}, identity.CodeNameTaken},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := m.request(t, o.token(api.TokenRequest{}), "web-1")
			f := m.answer(t, r, o.begin(r))
			tc.change(t, &f)
			_, err := o.Finish(t.Context(), namespace, o.space, f)
			wantCode(t, err, tc.want)
		})
	}
	t.Run("late", func(t *testing.T) {
		r := m.request(t, o.token(api.TokenRequest{}), "web-1")
		f := m.answer(t, r, o.begin(r))
		o.clock.t = o.clock.t.Add(time.Minute)
		_, err := o.Finish(t.Context(), namespace, o.space, f)
		wantCode(t, err, identity.CodeContinueLate)
	})
	if len(o.space.data.nodes) != 0 {
		t.Errorf("a refused join left %d nodes", len(o.space.data.nodes))
	}
}

// R092: what the TPM says must be about the TLS key and the AK of the request, and this exchange.
func TestTPMThatProvesSomethingElseIsRefused(t *testing.T) {
	o, m, other := newOffice(t), newMachine(t), newMachine(t)
	t.Run("another key certified", func(t *testing.T) {
		// The request announces one key's SPKI and another key's TPM2B_PUBLIC: an attacker's key beside the TPM's.
		r := m.request(t, o.token(api.TokenRequest{}), "web-1")
		r.TLSKey = spkiOf(t, newKey(t).Public())
		_, err := o.Finish(t.Context(), namespace, o.space, m.answer(t, r, o.begin(r)))
		wantCode(t, err, identity.CodeCertifyKey)
	})
	t.Run("certified over another nonce", func(t *testing.T) {
		r := m.request(t, o.token(api.TokenRequest{}), "web-1")
		c := o.begin(r)
		f := m.answer(t, r, c)
		old := m.answer(t, r, o.begin(r))
		f.CertifyInfo, f.CertifySig = old.CertifyInfo, old.CertifySig
		_, err := o.Finish(t.Context(), namespace, o.space, f)
		wantCode(t, err, tpmevidence.CodeCertifyNonce)
	})
	t.Run("certified by another TPM's AK", func(t *testing.T) {
		r := m.request(t, o.token(api.TokenRequest{}), "web-1")
		c := o.begin(r)
		f := m.answer(t, r, c)
		var err error
		if f.CertifyInfo, f.CertifySig, err = other.dev.Certify(t.Context(), other.key, other.ak, c.Nonce); err != nil {
			t.Fatal(err)
		}
		_, err = o.Finish(t.Context(), namespace, o.space, f)
		wantCode(t, err, tpmevidence.CodeCertifySignature)
	})
	t.Run("credential for another TPM", func(t *testing.T) {
		// The EK of one machine with the AK of another: the TPM of the EK does not open it for an AK it doesn't have.
		r := m.request(t, o.token(api.TokenRequest{}), "web-1")
		r.EK, r.EKCert = other.ek.Public, other.ek.CertDER
		c := o.begin(r)
		for _, x := range []*machine{m, other} {
			if _, err := x.dev.Activate(t.Context(), x.ak, c.Credential, c.Secret); err == nil {
				t.Error("a TPM opened a credential for EK and AK of two machines")
			}
		}
	})
	if len(o.space.data.nodes) != 0 {
		t.Errorf("a refused join left %d nodes", len(o.space.data.nodes))
	}
}

// S07: a token admits one node; replaying the same second step admits nobody.
func TestTokenAdmitsOnce(t *testing.T) {
	o, m := newOffice(t), newMachine(t)
	tok := o.token(api.TokenRequest{})
	r := m.request(t, tok, "web-1")
	f := m.answer(t, r, o.begin(r))
	j, err := o.Finish(t.Context(), namespace, o.space, f)
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.Finish(t.Context(), namespace, o.space, f)
	wantCode(t, err, identity.CodeTokenUsed)
	_, err = o.Begin(t.Context(), namespace, o.space, m.request(t, tok, "web-2"))
	wantCode(t, err, identity.CodeTokenUsed)
	// The same machine under the same name, with a fresh token: the administrator decides first.
	_, err = o.Begin(t.Context(), namespace, o.space, m.request(t, o.token(api.TokenRequest{}), "web-1"))
	wantCode(t, err, identity.CodeNodeExists)
	delete(o.space.data.nodes, j.Node)
	again := o.join(m, o.token(api.TokenRequest{}), "web-1")
	if again.Node == j.Node {
		t.Error("the id of a deleted node was given again")
	}
}

func TestOfTwoAgentsWithOneTokenOneWins(t *testing.T) {
	o := newOffice(t)
	tok := o.token(api.TokenRequest{})
	var finishes []api.JoinFinish
	for _, name := range []string{"web-1", "web-2"} {
		m := newMachine(t)
		r := m.request(t, tok, name)
		finishes = append(finishes, m.answer(t, r, o.begin(r)))
	}
	// Both have read the token as unused before either writes.
	var both sync.WaitGroup
	both.Add(2)
	o.space.onUpdate = func() { both.Done(); both.Wait() }
	errs := make([]error, 2)
	var done sync.WaitGroup
	for i, f := range finishes {
		done.Go(func() { _, errs[i] = o.Finish(t.Context(), namespace, o.space, f) })
	}
	done.Wait()
	if errs[0] != nil {
		errs[0], errs[1] = errs[1], errs[0]
	}
	if errs[0] != nil {
		t.Fatalf("nobody won: %v", errs)
	}
	wantCode(t, errs[1], identity.CodeTokenUsed)
	if len(o.space.data.nodes) != 1 {
		t.Errorf("%d nodes", len(o.space.data.nodes))
	}
}

// S40: an enrolment judged under older policies is judged again.
func TestEnrolmentIsJudgedUnderTheCurrentPolicies(t *testing.T) {
	o, m := newOffice(t), newMachine(t)
	bump := 1
	var asked int
	o.vouch = func(store.Node, rats.Endorsement) []rats.Reason {
		if asked++; asked > 1 {
			return []rats.Reason{unvouched.At(rats.None, "", "", "")}
		}
		return nil
	}
	r := m.request(t, o.token(api.TokenRequest{}), "web-1")
	f := m.answer(t, r, o.begin(r))
	o.space.onUpdate = func() {
		if bump > 0 {
			bump--
			o.space.data.epoch++
		}
	}
	j, err := o.Finish(t.Context(), namespace, o.space, f)
	if err != nil || asked != 2 || j.Enrolment != store.EnrolmentPending {
		t.Errorf("asked %d times, enrolment %s, %v", asked, j.Enrolment, err)
	}

	bump = 1000
	o.space.onUpdate = nil
	r = m.request(t, o.token(api.TokenRequest{Replace: true}), "web-2")
	f = m.answer(t, r, o.begin(r))
	o.space.onUpdate = func() { o.space.data.epoch++ }
	if _, err := o.Finish(t.Context(), namespace, o.space, f); !errors.Is(err, store.ErrEpoch) {
		t.Errorf("policies that change all the time: %v", err)
	}
}

func TestParentMustStillExist(t *testing.T) {
	o, m := newOffice(t), newMachine(t)
	o.space.data.nodes["nd_p"] = store.Node{ID: "nd_p", Name: "host-1"}
	r := m.request(t, o.token(api.TokenRequest{Kind: "vm", Parent: "host-1"}), "vm-1")
	f := m.answer(t, r, o.begin(r))
	delete(o.space.data.nodes, "nd_p")
	_, err := o.Finish(t.Context(), namespace, o.space, f)
	wantCode(t, err, identity.CodeTokenParent)
}
