package identity_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// machine is a machine with a TPM that wants to join.
type machine struct {
	dev *tpm.Device
	ek  tpm.EK
	ak  *tpm.AK
	key *tpm.Key
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	ctx := context.Background()
	dev, err := tpm.Open(ctx, swtpm.Start(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	m := &machine{dev: dev}
	if m.ek, err = dev.EK(ctx); err != nil {
		t.Fatal(err)
	}
	if m.ak, err = dev.AK(ctx, rats.SHA256([]byte("ak")).Sum); err != nil {
		t.Fatal(err)
	}
	m.key = m.signingKey(t, "tls")
	return m
}

func (m *machine) signingKey(t *testing.T, unique string) *tpm.Key {
	t.Helper()
	k, err := m.dev.SigningKey(context.Background(), rats.SHA256([]byte(unique)).Sum)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (m *machine) request(t *testing.T, token, name string) api.JoinRequest {
	t.Helper()
	return api.JoinRequest{
		Token: token, Name: name, EK: m.ek.Public, EKCert: m.ek.CertDER, AK: m.ak.Public,
		TLSKey: spkiOf(t, m.key.Public()), TLSTPM: m.key.TPMPublic(),
	}
}

// answer does what an agent does with a challenge.
func (m *machine) answer(t *testing.T, r api.JoinRequest, c api.JoinChallenge) api.JoinFinish {
	t.Helper()
	ctx := context.Background()
	secret, err := m.dev.Activate(ctx, m.ak, c.Credential, c.Secret)
	if err != nil {
		t.Fatal(err)
	}
	info, sig, err := m.dev.Certify(ctx, m.key, m.ak, c.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	return api.JoinFinish{Request: r, Continue: c.Continue, Activated: secret, CertifyInfo: info, CertifySig: sig}
}

// office is the verifier's side.
type office struct {
	*identity.Joiner
	t     *testing.T
	clock *clock
	ca    *identity.CA
	pins  *identity.Pins
	space *fakeSpace
	vouch func(store.Node, rats.Endorsement) []rats.Reason
}

const namespace = "default"

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, clock: &clock{start}, space: newFakeSpace()}
	o.ca, _ = newCA(t, o.clock)
	o.pins = newPins(t, o.clock, o.ca)
	var err error
	o.Joiner, err = identity.NewJoiner(o.config())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *office) config() identity.Config {
	return identity.Config{
		Keys: newSealer(o.t), CA: o.ca, Pins: o.pins, Now: o.clock.now, Rand: rand.Reader,
		VerifierID: rats.SHA256([]byte("verifier")), PlanSigner: []byte("plan signer"),
		Vouch: func(_ context.Context, ns string, n store.Node, e rats.Endorsement) []rats.Reason {
			if o.vouch == nil || ns != namespace {
				return []rats.Reason{unvouched.At(rats.None, "ek", "a secret", "seen")}
			}
			return o.vouch(n, e)
		},
	}
}

// unvouched is what a policy that knows nobody says.
var unvouched = rats.CodeInfo{Code: "policy.enrolment.unknown", Title: "unknown", Hint: "ask"}

func (o *office) token(r api.TokenRequest) string {
	o.t.Helper()
	tok, err := o.CreateToken(o.t.Context(), namespace, o.space, "admin:me", r)
	if err != nil {
		o.t.Fatal(err)
	}
	return tok.Token
}

func (o *office) begin(r api.JoinRequest) api.JoinChallenge {
	o.t.Helper()
	c, err := o.Begin(o.t.Context(), namespace, o.space, r)
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

func (o *office) join(m *machine, token, name string) api.Joined {
	o.t.Helper()
	r := m.request(o.t, token, name)
	j, err := o.Finish(o.t.Context(), namespace, o.space, m.answer(o.t, r, o.begin(r)))
	if err != nil {
		o.t.Fatal(err)
	}
	return j
}

// sealer is a TokenKeys.
type sealer struct{ cipher.AEAD }

func newSealer(t testing.TB) sealer {
	t.Helper()
	b, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		t.Fatal(err)
	}
	return sealer{a}
}

func (s sealer) Seal(aad, plaintext []byte) []byte { return s.AEAD.Seal(nil, nil, plaintext, aad) }

func (s sealer) Open(aad, token []byte) ([]byte, error) {
	if len(token) < 28 {
		return nil, errors.New("too short")
	}
	return s.AEAD.Open(nil, nil, token, aad)
}
