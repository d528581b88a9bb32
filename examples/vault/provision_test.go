package vault_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sigma"
	evidence "github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/examples/vault"
	"github.com/assay-attest/assay/examples/vault/provisioner"
	"github.com/assay-attest/assay/examples/vault/untrusted"
	"github.com/assay-attest/assay/internal/attesters"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

// quoting gives a platform's monitor an attestation key, and a simulated root.
func (p platform) quoting(t testing.TB) *monitor.Monitor {
	t.Helper()
	return p.monitor(t, func(c *monitor.Config) {
		c.Platform.Root = abi.RootSimulated
		key, err := c.Key.AttestationKey(c.Platform, "")
		if err != nil {
			t.Fatal(err)
		}
		c.Policy.Debug = [][32]byte{measured(t, first)}
		c.Quote = func(_ context.Context, body abi.ReportBody) ([]byte, error) {
			q, err := enclave.Quote(rand.Reader, body, key)
			return q.Bytes(), err
		}
	})
}

// sight is all that an application sees of its vault: what it sends in and gets out, in calls, OCALLs, and on its line.
type sight struct {
	mu   sync.Mutex
	seen bytes.Buffer
}

func (s *sight) see(bs ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range bs {
		s.seen.Write(b)
		s.seen.WriteByte(0)
	}
}

// has says whether a secret, or any 8 bytes of it, was seen: as it is, in hex, or in base64.
func (s *sight) has(secret []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range len(secret) - 8 {
		w := secret[i : i+8]
		for _, form := range [][]byte{w, []byte(hex.EncodeToString(w)), []byte(base64.StdEncoding.EncodeToString(w[:6])), []byte(base64.RawURLEncoding.EncodeToString(w[:6]))} {
			if bytes.Contains(s.seen.Bytes(), form) {
				return true
			}
		}
	}
	return false
}

// watched is a running enclave whose application is being watched.
type watched struct {
	monitor.Running
	*sight
}

func (w watched) Enter(ctx context.Context, entry string, in []byte) ([]byte, error) {
	w.see([]byte(entry), in)
	out, err := w.Running.Enter(ctx, entry, in)
	w.see(out)
	return out, err
}

func (w watched) host(o monitor.Options) monitor.Options {
	for name, f := range o.Host {
		o.Host[name] = func(ctx context.Context, in, out []byte) (int, error) {
			w.see([]byte(name), in)
			n, err := f(ctx, in, out)
			if n > 0 {
				w.see(out[:n])
			}
			return n, err
		}
	}
	return o
}

// provisioned starts an edition of the vault that trusts a server, watched.
func provisioned(t testing.TB, m *monitor.Monitor, e edition, server [32]byte) (*untrusted.Vault, *sight) {
	t.Helper()
	image, sig := signed(t, e)
	w := watched{sight: new(sight)}
	v, err := untrusted.StartBy(func(o monitor.Options) (monitor.Running, error) {
		copy(o.Start.ConfigID[:], server[:])
		i, err := m.Load(bg, image, sig, w.host(o))
		w.Running = i
		return w, err
	}, filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Destroy() })
	v.Completes(attesters.Complete(attesters.Deps{}, sig, nil))
	return v, w.sight
}

// signed builds and signs an edition.
func signed(t testing.TB, e edition) (image, sigstruct []byte) {
	t.Helper()
	code, err := module()
	if err != nil {
		t.Fatal(err)
	}
	o := enclave.Options{Heap: e.heap, Buffer: 128 << 10, ProductID: e.product, SVN: e.svn}
	i, err := enclave.New(code, o)
	if err != nil {
		t.Fatal(err)
	}
	key, err := enclave.TestKey()
	if e.stranger {
		key, err = strangerKey()
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := enclave.Sign(i.Measure(), options(o, e.flags|abi.FlagKSS), key)
	if err != nil {
		t.Fatal(err)
	}
	return i.Encode(), s.Bytes()
}

// filler is a provisioner that gives a secret to vaults of product 5, version 2 and later, of the published test key.
func filler(t testing.TB) *provisioner.Server {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := provisioner.New(provisioner.Config{Key: k, Rand: rand.Reader, Now: time.Now, Policy: fmt.Appendf(nil, `apiVersion: assay/v1
kind: Policy
metadata: {name: vaults}
selector: 'true'
allow: [simulated, test-key]
formats:
  enclave:
    signers: [{mrsigner: "sha256:%x", product_id: 5, min_svn: 2}]
    modes: [inline, process]
    launches: [userspace]
    roots: [simulated]
    accept_same_os: true
`, abi.TestMRSIGNER)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// line connects a vault's application with a server over a connection, watched; change may alter what goes over it.
func line(t testing.TB, s *provisioner.Server, w *sight, secret []byte, change func(step int, b []byte) []byte) (untrusted.Line, func() (vault.Left, error)) {
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	type result struct {
		left vault.Left
		err  error
	}
	done := make(chan result, 1)
	go func() {
		left, err := s.Serve(bg, there, vault.Contents{Secret: bytes.Clone(secret), Times: 2})
		there.Close()
		done <- result{left, err}
	}()
	step := 0
	pass := func(b []byte) []byte {
		w.see(b)
		if change != nil {
			b = change(step, b)
		}
		step++
		return b
	}
	return func(_ context.Context, b []byte) ([]byte, error) {
			if err := provisioner.Send(here, pass(b)); err != nil {
				return nil, err
			}
			b, err := provisioner.Receive(here)
			return pass(b), err
		}, func() (vault.Left, error) {
			here.Close()
			r := <-done
			return r.left, r.err
		}
}

// R091, R110: a secret reaches a vault on a machine that the server has never seen, and the application that carries every
// byte of it sees none of it: not in calls, OCALLs, messages, or the state it keeps.
func TestSecretReachesTheVaultUnseen(t *testing.T) {
	s := filler(t)
	v, seen := provisioned(t, platform{machine: 1, svn: 1}.quoting(t), edition{heap: 64 << 20, product: 5, svn: 2}, s.KeyID())
	secret := make([]byte, 48)
	rand.Read(secret)
	l, done := line(t, s, seen, secret, nil)
	if err := v.Provision(bg, l); err != nil {
		t.Fatal(err)
	}
	if left, err := done(); err != nil || left.Times != 2 {
		t.Errorf("the server was told %+v, %v", left, err)
	}
	if n := seen.seen.Len(); n < 4000 {
		t.Errorf("the application saw %d bytes only: the test looks at nothing", n)
	}
	if seen.has(secret) {
		t.Error("the application saw the secret")
	}
	shown, err := v.Show(bg)
	if err != nil || !bytes.Equal(shown.Secret, secret) {
		t.Errorf("the vault holds %x, %v", shown.Secret, err)
	}
	if !seen.has(secret) {
		t.Error("the test doesn't find what is there")
	}
	if _, err = monitor.Call[vault.Paper, vault.Paper](bg, v, vault.Receive, vault.Paper{}); err == nil {
		t.Error("the channel was used twice")
	}
	wantCode(t, "the channel again", err, vault.CodeNoChannel)
	_, err = monitor.Call[vault.Paper, vault.Paper](bg, v, vault.Prove, vault.Paper{})
	wantCode(t, "an exchange that wasn't begun", err, vault.CodeNoChannel)
}

// R110, R091: who gets no secret, and which server gets no quote.
func TestNoSecretForAnybodyElse(t *testing.T) {
	good := edition{heap: 64 << 20, product: 5, svn: 2}
	with := func(change func(*edition)) edition { e := good; change(&e); return e }
	flip := func(at int) func(int, []byte) []byte {
		return func(step int, b []byte) []byte {
			if step == at {
				b[len(b)-1] ^= 1
			}
			return b
		}
	}
	s, m := filler(t), platform{machine: 1, svn: 1}.quoting(t)
	for what, c := range map[string]struct {
		as      edition
		trusts  *[32]byte                // another server
		change  func(int, []byte) []byte // on the line
		swap    func(v *untrusted.Vault) // what the application completes
		atVault string                   // code
		atHome  string                   // code, at the server
	}{
		"an older version":                   {as: with(func(e *edition) { e.svn = 1 }), atHome: string(evidence.CodeSVN.Code)},
		"another product":                    {as: with(func(e *edition) { e.product = 6 }), atHome: string(evidence.CodeIdentity.Code)},
		"re-signed by a stranger":            {as: with(func(e *edition) { e.stranger = true }), atHome: string(evidence.CodeIdentity.Code)},
		"a vault that trusts another server": {as: good, trusts: &[32]byte{1}, atVault: string(sigma.CodeServer.Code)},
		"a vault that trusts nobody":         {as: good, trusts: &[32]byte{}, atVault: string(sigma.CodeServer.Code)},
		"message 1 altered":                  {as: good, change: flip(0), atVault: string(sigma.CodeSealed.Code)},
		"message 2 altered":                  {as: good, change: flip(1), atVault: string(sigma.CodeSealed.Code)},
		"message 3 altered":                  {as: good, change: flip(2), atHome: string(sigma.CodeSealed.Code)},
		"the contents altered":               {as: good, change: flip(3), atVault: string(sigma.CodeRecord.Code)},
		"no evidence": {as: good, atHome: string(provisioner.CodeEvidence.Code), swap: func(v *untrusted.Vault) {
			v.Completes(func(context.Context, []byte) ([]rats.Evidence, error) { return []rats.Evidence{}, nil })
		}},
		"the quote of another exchange": {as: good, atHome: string(evidence.CodeReportData.Code), swap: func(v *untrusted.Vault) {
			v.Completes(func(context.Context, []byte) ([]rats.Evidence, error) { return oldQuote(t, m, good) })
		}},
	} {
		t.Run(what, func(t *testing.T) {
			trusts := s.KeyID()
			if c.trusts != nil {
				trusts = *c.trusts
			}
			v, seen := provisioned(t, m, c.as, trusts)
			if c.swap != nil {
				c.swap(v)
			}
			l, done := line(t, s, seen, bytes.Repeat([]byte("gold"), 12), c.change)
			err := v.Provision(bg, l)
			_, home := done()
			if c.atVault != "" && !refusedAs(err, c.atVault) {
				t.Errorf("at the vault: %v, want %s", err, c.atVault)
			}
			if c.atHome != "" && !refusedAs(home, c.atHome) {
				t.Errorf("at the server: %v, want %s", home, c.atHome)
			}
			if err == nil {
				t.Error("the vault was filled")
			}
			_, err = v.Show(bg)
			wantCode(t, "the vault", err, vault.CodeEmpty)
			// A server that the vault doesn't trust sees no quote, the application no more than what it carried.
			if c.trusts != nil && strings.Contains(seen.seen.String(), vault.Complete) {
				t.Error("a quote was made for a server that isn't trusted")
			}
		})
	}
}

func refusedAs(err error, code string) bool {
	r, ok := rats.ReasonOf(err)
	return ok && string(r.Code) == code
}

// oldQuote is a good quote of a good vault, made for another exchange.
func oldQuote(t testing.TB, m *monitor.Monitor, e edition) (old []rats.Evidence, err error) {
	s := filler(t)
	v, seen := provisioned(t, m, e, s.KeyID())
	_, sig := signed(t, e)
	v.Completes(func(ctx context.Context, quote []byte) ([]rats.Evidence, error) {
		old, err = attesters.Complete(attesters.Deps{}, sig, nil)(ctx, quote)
		return old, err
	})
	l, done := line(t, s, seen, []byte("gold"), nil)
	err = v.Provision(bg, l)
	_, home := done()
	return old, errors.Join(err, home)
}

// A frame that claims to be huge is refused before memory is taken for it.
func TestHugeFrameIsRefused(t *testing.T) {
	if _, err := provisioner.Receive(bytes.NewReader([]byte{255, 255, 255, 255})); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
}
