package keeper

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// monitor is the one client of the test machines.
var monitor = Client{Name: "monitor", Image: rats.SHA256([]byte("monitor 3")), SVN: 3}

// machine is a computer with a software TPM that can be booted with any kernel.
type machine struct {
	t        *testing.T
	sw       *swtpm.TPM
	owner    *ecdsa.PrivateKey
	recovery *sealed.Key
	cfg      Config
	step     func(string) error
	signer   bool
}

func newMachine(t *testing.T, launch Launch) *machine {
	t.Helper()
	m := &machine{t: t, sw: swtpm.StartUncertified(t)}
	var err error
	if m.owner, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if m.recovery, err = sealed.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	m.cfg = Config{
		Version: 1, Launch: launch, TPM: m.sw.Path(), State: filepath.Join(t.TempDir(), "state"),
		Owner: ownerPEM(t, &m.owner.PublicKey), Recovery: m.recovery.Public(), Clients: []Client{monitor},
	}
	m.configure()
	return m
}

func ownerPEM(t *testing.T, key *ecdsa.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// configure passes the configuration through its parser.
func (m *machine) configure() {
	m.t.Helper()
	m.cfg.Runtime = filepath.Join(m.t.TempDir(), "run")
	b, err := json.Marshal(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	if m.cfg, err = ParseConfig(b); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) withTPM(f func(*tpm.Device)) {
	m.t.Helper()
	dev, err := tpm.Open(m.t.Context(), m.cfg.TPM)
	if err != nil {
		m.t.Fatal(err)
	}
	f(dev)
	if err := dev.Close(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) extend(pcr int, event string) {
	m.t.Helper()
	m.withTPM(func(dev *tpm.Device) {
		if err := dev.ExtendPCR(m.t.Context(), pcr, []byte(event)); err != nil {
			m.t.Fatal(err)
		}
	})
}

// boot resets the machine and runs it up to the moment where the keeper is started in the initrd.
func (m *machine) boot(kernel string) {
	m.t.Helper()
	if err := m.sw.Reset(); err != nil {
		m.t.Fatal(err)
	}
	m.cfg.Runtime = filepath.Join(m.t.TempDir(), "run") // a tmpfs
	m.bootChain(kernel)
}

func (m *machine) bootChain(kernel string) {
	m.t.Helper()
	m.withTPM(func(dev *tpm.Device) {
		for _, e := range []struct {
			pcr  int
			text string
		}{{0, "firmware"}, {2, "option ROMs"}, {4, "loader"}, {4, kernel}, {7, "secure boot"}, {9, "initrd of " + kernel}, {12, "command line"}, {11, "enter-initrd"}} {
			if err := dev.ExtendPCR(m.t.Context(), e.pcr, []byte(e.text)); err != nil {
				m.t.Fatal(err)
			}
		}
	})
}

func (m *machine) options() Options {
	o := Options{
		Config: m.cfg, Rand: rand.Reader, Now: func() time.Time { return noon },
		Image: rats.SHA256([]byte("keeper")), step: m.step,
	}
	if m.signer {
		o.Signer = m.owner
	}
	return o
}

// start runs the keeper. It is closed when the test ends, if not before.
func (m *machine) start() *Keeper {
	m.t.Helper()
	k, err := Start(m.t.Context(), m.options())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { k.wipe() })
	return k
}

func (m *machine) order(replaces *rats.Digest) {
	m.t.Helper()
	if err := WriteOrder(m.cfg.State, replaces); err != nil {
		m.t.Fatal(err)
	}
}

// authorise plans for what is running, or for pcrs, has the owner sign, and installs.
func (m *machine) authorise(k *Keeper, pcrs map[int]rats.Digest) Set {
	m.t.Helper()
	plan, err := k.Plan(m.t.Context(), pcrs)
	if err != nil {
		m.t.Fatal(err)
	}
	set, err := Authorise(plan, m.owner, rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := k.Install(set); err != nil {
		m.t.Fatal(err)
	}
	return set
}

// values are the PCRs of the seal as the keeper saw them in this boot.
func (m *machine) created(kernel string) *Keeper {
	m.t.Helper()
	m.boot(kernel)
	m.order(nil)
	k := m.start()
	mustHold(m.t, k)
	m.authorise(k, nil)
	return k
}

func derive(t *testing.T, k *Keeper) []byte {
	t.Helper()
	key, err := k.Derive(monitor, Request{Label: "seal", SVN: 3, Size: 32})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustHold(t *testing.T, k *Keeper) {
	t.Helper()
	if k.reason != nil {
		t.Fatalf("locked: %v", k.reason)
	}
}

// mustBeLocked wants a keeper that has nothing, for this reason.
func mustBeLocked(t *testing.T, k *Keeper, want rats.CodeInfo) {
	t.Helper()
	if k.seed != nil {
		t.Fatalf("the keeper holds a root, want %s", want.Code)
	}
	wantCode(t, k.reason, want)
	if _, err := k.Derive(monitor, Request{Label: "seal", SVN: 3, Size: 32}); err == nil {
		t.Error("a locked keeper derived")
	} else {
		wantCode(t, err, want)
	}
	st, err := k.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.State != StateLocked || st.Reason == nil || st.Reason.Code != want.Code {
		t.Errorf("status %+v, want %s", st, want.Code)
	}
}

func wantCode(t *testing.T, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("got %v, want %s", err, want.Code)
	}
}

func auditEvents(t *testing.T, m *machine) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.cfg.State, auditFileName))
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	var prev rats.Digest
	for line := range bytes.Lines(b) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("audit log: %v: %s", err, line)
		}
		if !e.Prev.Equal(prev) && !(e.Prev.IsZero() && prev.IsZero()) {
			t.Errorf("audit log: entry %q names %s as the one before, want %s", e.Event, e.Prev, prev)
		}
		prev = rats.SHA256(line)
		events = append(events, e.Event)
	}
	return events
}

var errCrash = errors.New("the power went")
