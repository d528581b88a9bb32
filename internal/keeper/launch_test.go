package keeper

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// R082: made at the first start, recovered at the next boot; same key, same derived keys.
func TestRootSurvivesReboots(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	first := m.created("linux 1")
	want := derive(t, first)
	for range 2 {
		m.boot("linux 1")
		k := m.start()
		mustHold(t, k)
		if !bytes.Equal(derive(t, k), want) {
			t.Error("another key after a reboot")
		}
		st, err := k.Status(t.Context())
		if err != nil || st.State != StateReady || st.Created || st.Class != RootInitrdSealed || !slices.Contains(st.Marks, rats.MarkSoftwareTPM) {
			t.Errorf("status %+v, %v", st, err)
		}
	}
	if st, _ := first.Status(t.Context()); !st.Created {
		t.Error("a root made in this boot isn't said to be")
	}
}

// R083: the state directory opens nothing elsewhere.
func TestRootDoesNotOpenOnAnotherTPM(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	m.created("linux 1")
	m.sw = swtpm.StartUncertified(t)
	m.cfg.TPM = m.sw.Path()
	m.boot("linux 1")
	mustBeLocked(t, m.start(), CodeOtherTPM)
}

// R083: what was started counts, PCR by PCR.
func TestRootDoesNotOpenForOtherPCRs(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	m.created("linux 1")
	m.boot("linux 2")
	mustBeLocked(t, m.start(), CodeNotAuthorised)
	for _, p := range m.cfg.PCRs {
		m.boot("linux 1")
		m.extend(p, "something else")
		mustBeLocked(t, m.start(), CodeNotAuthorised)
	}
	// The monitor is measured too.
	m.boot("linux 1")
	m.cfg.Clients = []Client{{Name: "monitor", Image: rats.SHA256([]byte("another")), SVN: 3}}
	mustBeLocked(t, m.start(), CodeNotAuthorised)
}

// R083, R084, R163: after the cap nothing unseals until the machine is reset, whoever asks and however.
func TestNothingUnsealsAfterTheCap(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	set := m.authorise(m.created("linux 1"), nil)
	m.boot("linux 1")
	k := m.start()
	mustHold(t, k)
	want := derive(t, k)

	mustBeLocked(t, m.start(), CodeLocked) // a second keeper, by the record
	forgetful := m.cfg.Runtime
	m.cfg.Runtime = filepath.Join(t.TempDir(), "run")
	mustBeLocked(t, m.start(), CodeLocked) // and by the PCRs, where the record was deleted
	m.cfg.Runtime = forgetful

	// Root in user space goes to the TPM directly, with every file of the machine and the owner's signature.
	b, err := os.ReadFile(filepath.Join(m.cfg.State, rootFileName))
	if err != nil {
		t.Fatal(err)
	}
	var r rootFile
	if err := strictJSON(b, &r); err != nil {
		t.Fatal(err)
	}
	m.withTPM(func(dev *tpm.Device) {
		_, err := dev.Unseal(t.Context(), tpm.Sealed{Public: r.Public, Private: r.Private}, authority(m.cfg.owner, r.Root, r.Launch, r.Epoch), set.approval(), set.Signature)
		if err == nil {
			t.Error("unsealed after the cap")
		}
	})
	if !bytes.Equal(derive(t, k), want) {
		t.Error("the first keeper lost its root")
	}
	m.boot("linux 1")
	mustHold(t, m.start())
}

// R084: a verifier replays what the keeper recorded.
func TestRecordedEventsExplainThePCRs(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	m.cfg.GRUB = true
	m.configure()
	k := m.created("linux 1")
	m.withTPM(func(dev *tpm.Device) {
		now, err := dev.PCRs(t.Context(), "sha256", m.cfg.PCRs)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte("assay:cap:1")) // as documented
		for _, p := range []int{0, 2, 4, 7, 8, 9, 11, 12, 14} {
			before := k.boot.Before[p]
			if p == abi.KeyPCR {
				before = Extend(before, k.boot.Events[2].Text)
			}
			want := sha256.Sum256(append(bytes.Clone(before.Sum), sum[:]...))
			if !bytes.Equal(now[p], want[:]) {
				t.Errorf("PCR %d isn't capped", p)
			}
		}
	})
	if e := k.boot.Events[0]; e.PCR != 11 || e.Text != "assay:keeper:"+rats.SHA256([]byte("keeper")).String() {
		t.Errorf("first event %+v", e)
	}
	// The key by which the monitor will attest stands before the cap: what user space extends is not taken for it.
	if e := k.boot.Events[2]; e.PCR != abi.KeyPCR || e.Text != monitorKeyEvent(t, k) {
		t.Errorf("third event %+v", e)
	}
	if !k.boot.Capped {
		t.Error("the cap isn't recorded")
	}
}

// R178, S10: what opened a simpler design: the keeper didn't run, and root extends every public constant by hand.
func TestRootInUserSpaceCannotExtendHisWayToTheSeal(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	k := m.created("linux 1")
	events := k.boot.Events
	attack := func() {
		t.Helper()
		var text [][2]any
		for _, e := range events {
			if e.Text != CapEvent {
				text = append(text, [2]any{e.PCR, e.Text})
			}
		}
		for _, e := range text {
			m.extend(e[0].(int), e[1].(string)) // the measurements of keeper and monitor, as public as their files
		}
		values, err := readSeal(t, m)
		if err != nil {
			t.Fatal(err)
		}
		sets, err := k.sets(k.root)
		if err != nil || len(sets) == 0 {
			t.Fatal(err)
		}
		m.withTPM(func(dev *tpm.Device) {
			for _, s := range sets {
				if s.matches(values) {
					t.Error("root reached the values of the seal")
				}
				r := k.root
				if _, err := dev.Unseal(t.Context(), tpm.Sealed{Public: r.Public, Private: r.Private}, authority(m.cfg.owner, r.Root, r.Launch, r.Epoch), s.approval(), s.Signature); err == nil {
					t.Error("root opened the seal")
				}
			}
		})
	}
	// The keeper is kept from starting; the initramfs caps on every path.
	m.boot("linux 1")
	if err := Cap(t.Context(), m.cfg.TPM, nil); err != nil {
		t.Fatal(err)
	}
	attack()
	mustBeLocked(t, m.start(), CodeLocked)
	// The initramfs itself lacks the step: then it is another initramfs.
	m.boot("linux 1 without the hook")
	attack()
	mustBeLocked(t, m.start(), CodeNotAuthorised)
	// A command line that masks it is another command line.
	m.boot("linux 1")
	m.extend(12, "systemd.mask=assay-keeper.service")
	attack()
}

func readSeal(t *testing.T, m *machine) (map[int][]byte, error) {
	dev, err := tpm.Open(t.Context(), m.cfg.TPM)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	return dev.PCRs(t.Context(), "sha256", m.cfg.PCRs)
}

// R085: an authorised update keeps the root; after its commit the earlier set is refused.
func TestUpdateKeepsTheRootAndCommitRefusesTheOldKernel(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	k := m.created("linux 1")
	want := derive(t, k)
	_, err := k.Commit(t.Context())
	wantCode(t, err, CodeCommit) // a root made in this boot proves no set good

	m.boot("linux 1")
	k = m.start()
	mustHold(t, k)
	if _, err := k.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.authorise(k, m.predict("linux 2"))

	// Before the commit both open: an update that doesn't boot can be taken back.
	m.boot("linux 1")
	mustHold(t, m.start())
	m.boot("linux 2")
	k = m.start()
	mustHold(t, k)
	if !bytes.Equal(derive(t, k), want) {
		t.Error("the update changed the root")
	}
	st, err := k.Status(t.Context())
	if err != nil || !st.Uncommitted {
		t.Errorf("status %+v, %v", st, err)
	}
	kept := m.files(setsDir)
	first, err := k.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := k.Commit(t.Context()); err != nil || again != first {
		t.Errorf("a second commit: %d, %v", again, err)
	}
	// Old signatures put back don't open: the TPM itself refuses them.
	m.restore(kept)
	m.boot("linux 1")
	mustBeLocked(t, m.start(), CodeRevoked)
	m.boot("linux 2")
	k = m.start()
	mustHold(t, k)
	if !bytes.Equal(derive(t, k), want) {
		t.Error("another root after the commit")
	}
}

// predict computes the values that a kernel leads to, by booting it on a spare TPM.
func (m *machine) predict(kernel string) map[int]rats.Digest {
	m.t.Helper()
	spare := *m
	spare.sw = swtpm.StartUncertified(m.t)
	spare.cfg.TPM, spare.cfg.State, spare.step = spare.sw.Path(), filepath.Join(m.t.TempDir(), "state"), nil
	spare.boot(kernel)
	return spare.start().boot.Before
}

func (m *machine) files(dir string) map[string][]byte {
	m.t.Helper()
	out := make(map[string][]byte)
	entries, err := os.ReadDir(filepath.Join(m.cfg.State, dir))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		name := filepath.Join(m.cfg.State, dir, e.Name())
		b, err := os.ReadFile(name)
		if err != nil {
			m.t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

func (m *machine) restore(files map[string][]byte) {
	m.t.Helper()
	for name, b := range files {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
}

// R085: a failed unseal makes nothing, and says what an operator can do.
func TestFailedUnsealNeverMakesARoot(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	m.boot("linux 1")
	mustBeLocked(t, m.start(), CodeNoRoot)
	m.boot("linux 1")
	m.order(&rats.Digest{Alg: "sha256", Sum: make([]byte, 32)})
	mustBeLocked(t, m.start(), CodeCreate)
	if err := os.Remove(filepath.Join(m.cfg.State, orderFileName)); err != nil {
		t.Fatal(err)
	}
	k := m.created("linux 1")
	id, want := k.root.Root, derive(t, k)

	before := m.files("")
	m.boot("linux 2")
	k = m.start()
	mustBeLocked(t, k, CodeNotAuthorised)
	if r, _ := rats.ReasonOf(k.reason); r.Hint == "" {
		t.Error("no hint")
	}
	// An order that came late, for a machine without a root, makes none either.
	m.boot("linux 2")
	m.order(nil)
	mustBeLocked(t, m.start(), CodeNotAuthorised)
	if !bytes.Equal(m.files("")[filepath.Join(m.cfg.State, rootFileName)], before[filepath.Join(m.cfg.State, rootFileName)]) {
		t.Error("the root's file changed")
	}
	m.boot("linux 1")
	k = m.start()
	mustHold(t, k)
	if !bytes.Equal(derive(t, k), want) {
		t.Error("another root")
	}
	// Only an operator who names what is to be lost gets a new one, and the log says so.
	m.boot("linux 2")
	m.order(&id)
	k = m.start()
	mustHold(t, k)
	if k.root.Root.Equal(id) || bytes.Equal(derive(t, k), want) {
		t.Error("the old root again")
	}
	if got := auditEvents(t, m); !slices.Contains(got, "root-ordered") || !slices.Contains(got, "order-ignored") || !slices.Contains(got, "locked") {
		t.Errorf("audit log: %v", got)
	}
}

// S10: root can put anything into the state directory.
func TestRootThatTheOwnerDidNotAuthoriseIsRefused(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	set := m.authorise(m.created("linux 1"), nil)
	path := filepath.Join(m.cfg.State, rootFileName)
	genuine, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r rootFile
	if err := strictJSON(genuine, &r); err != nil {
		t.Fatal(err)
	}
	replace := func(change func(*rootFile)) {
		t.Helper()
		forged := r
		change(&forged)
		b, err := forged.encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	evil := bytes.Repeat([]byte{0x66}, seedSize)
	sealEvil := func(a tpm.Authority) (out tpm.Sealed) {
		m.withTPM(func(dev *tpm.Device) {
			var err error
			if out, err = dev.Seal(t.Context(), evil, a); err != nil {
				t.Fatal(err)
			}
		})
		return out
	}
	genuineAuthority := authority(m.cfg.owner, r.Root, r.Launch, r.Epoch)
	for _, c := range []struct {
		name string
		do   func(*rootFile)
		want rats.CodeInfo
	}{
		{"a root of his own under the owner's authority", func(f *rootFile) {
			o := sealEvil(genuineAuthority)
			f.Public, f.Private = o.Public, o.Private
		}, CodeSubstituted},
		{"a root of his own with its own id", func(f *rootFile) {
			f.Root = rootID(evil)
			o := sealEvil(authority(m.cfg.owner, f.Root, f.Launch, f.Epoch))
			f.Public, f.Private = o.Public, o.Private
		}, CodeNotAuthorised},
		{"a root under his own policy key", func(f *rootFile) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			o := sealEvil(authority(&key.PublicKey, f.Root, f.Launch, f.Epoch))
			f.Public, f.Private = o.Public, o.Private
		}, CodeSubstituted},
		{"another sealing", func(f *rootFile) { f.Epoch = make([]byte, epochSize) }, CodeNotAuthorised},
		{"another class", func(f *rootFile) { f.Class = RootSimulated; f.Seed = evil }, CodeState},
		{"another counter", func(f *rootFile) { f.NVIndex++ }, CodeState},
		{"another parent", func(f *rootFile) { f.Parent = evil }, CodeOtherTPM},
	} {
		t.Run(c.name, func(t *testing.T) {
			replace(c.do)
			m.boot("linux 1")
			mustBeLocked(t, m.start(), c.want)
		})
	}
	t.Run("not JSON", func(t *testing.T) {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		m.boot("linux 1")
		m.order(nil)
		mustBeLocked(t, m.start(), CodeState)
	})
	if err := os.WriteFile(path, genuine, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("the counter deleted and made anew", func(t *testing.T) {
		m.withTPM(func(dev *tpm.Device) {
			for range 3 { // at most what the sets allow, then beyond
				if _, err := dev.DefineCounter(t.Context(), DefaultNVIndex, nil); err != nil {
					t.Fatal(err)
				}
			}
		})
		m.boot("linux 1")
		mustBeLocked(t, m.start(), CodeRevoked)
	})
	_ = set
}

// S14: an unclean stop costs nothing.
func TestUncleanStopsLoseNothing(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	want := derive(t, m.created("linux 1"))
	for range 5 {
		dev, err := tpm.Open(t.Context(), m.cfg.TPM) // holds the connection: no TPM2_Shutdown reaches the TPM
		if err != nil {
			t.Fatal(err)
		}
		if err := m.sw.Reset(); err != nil {
			t.Fatal(err)
		}
		_ = dev.Close()
		m.cfg.Runtime = filepath.Join(t.TempDir(), "run")
		m.bootChain("linux 1")
		k := m.start()
		mustHold(t, k)
		if !bytes.Equal(derive(t, k), want) {
			t.Fatal("another root")
		}
	}
}

// A crash between any two steps of making a root leaves none and the order, or the root.
func TestCrashWhileMakingARootLosesNothing(t *testing.T) {
	for _, at := range []string{"sealed", "counter", "written"} {
		t.Run(at, func(t *testing.T) {
			m := newMachine(t, LaunchInitrd)
			m.step = func(s string) error {
				if s == at {
					return errCrash
				}
				return nil
			}
			m.boot("linux 1")
			m.order(nil)
			if k := m.start(); k.seed != nil {
				t.Fatal("the keeper went on")
			}
			made, _ := os.ReadFile(filepath.Join(m.cfg.State, rootFileName))
			m.step = nil
			m.boot("linux 1")
			k := m.start()
			if at != "written" {
				mustHold(t, k)
				return
			}
			// The root was there: it stays, and waits for the owner's signature.
			mustBeLocked(t, k, CodeNotAuthorised)
			if now, _ := os.ReadFile(filepath.Join(m.cfg.State, rootFileName)); !bytes.Equal(made, now) {
				t.Error("another root")
			}
			want := k.root.Root
			m.authorise(k, nil)
			m.boot("linux 1")
			k = m.start()
			mustHold(t, k)
			if !k.root.Root.Equal(want) {
				t.Error("another root")
			}
		})
	}
}

// S10: the cap is on every path, and without it there is no root.
func TestEveryPathOfTheInitrdEndsCapped(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*machine)
	}{
		{"no root", func(*machine) {}},
		{"a malformed root", func(m *machine) {
			m.order(nil)
			_ = os.WriteFile(filepath.Join(m.cfg.State, rootFileName), []byte("x"), 0o600)
		}},
		{"a crash", func(m *machine) {
			m.order(nil)
			m.step = func(string) error { return errCrash }
		}},
		{"a panic", func(m *machine) {
			m.order(nil)
			m.step = func(string) error { panic("a fault") }
		}},
		{"a state directory open to others", func(m *machine) {
			m.order(nil)
			_ = os.Chmod(m.cfg.State, 0o777)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, LaunchInitrd)
			m.boot("linux 1")
			c.do(m)
			before, err := readSeal(t, m)
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() { _ = recover() }()
				if k, err := Start(t.Context(), m.options()); err == nil && k.seed != nil {
					t.Error("a root")
				}
			}()
			after, err := readSeal(t, m)
			if err != nil {
				t.Fatal(err)
			}
			for p := range before {
				want := sha256.Sum256(append(bytes.Clone(before[p]), capDigest()...))
				if p != measuredPCR && !bytes.Equal(after[p], want[:]) || bytes.Equal(after[p], before[p]) {
					t.Errorf("PCR %d isn't capped", p)
				}
			}
		})
	}
}

func TestWithoutATPMThereIsNoRootAndNoWayOn(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	m.cfg.TPM = "unix:" + filepath.Join(t.TempDir(), "none")
	_, err := Start(t.Context(), m.options())
	wantCode(t, err, CodeNoTPM)
	wantCode(t, Cap(t.Context(), m.cfg.TPM, nil), CodeCap)
}

func TestUserspaceRootSaysWhatItIsAndOpensAgain(t *testing.T) {
	m := newMachine(t, LaunchUserspace)
	m.signer = true
	m.order(nil)
	k := m.start()
	mustHold(t, k)
	want := derive(t, k)
	// R097: here a new keeper opens the root again: nothing was capped.
	k = m.start()
	mustHold(t, k)
	if !bytes.Equal(derive(t, k), want) {
		t.Error("another root")
	}
	st, err := k.Status(t.Context())
	if err != nil || st.Class != RootOSProtected || st.Launch != LaunchUserspace || st.Boot.Capped {
		t.Errorf("status %+v, %v", st, err)
	}
	// The monitor's key is measured once in a boot, however often the keeper is started.
	if len(st.Boot.Events) != 1 || st.Boot.Events[0] != (Event{PCR: abi.KeyPCR, Text: monitorKeyEvent(t, k)}) {
		t.Errorf("events %+v", st.Boot.Events)
	}
	m.withTPM(func(dev *tpm.Device) {
		now, err := dev.PCRs(t.Context(), "sha256", []int{abi.KeyPCR})
		want := Extend(rats.Digest{Alg: "sha256", Sum: make([]byte, 32)}, monitorKeyEvent(t, k))
		if err != nil || !bytes.Equal(now[abi.KeyPCR], want.Sum) {
			t.Errorf("PCR %d is %x, %v", abi.KeyPCR, now[abi.KeyPCR], err)
		}
	})
}

// monitorKeyEvent derives the monitor's key as the monitor does and returns the event that measures it.
func monitorKeyEvent(t *testing.T, k *Keeper) string {
	t.Helper()
	key, err := enclave.KeptMonitorKey(monitor.SVN, func(svn uint16) ([]byte, error) {
		return k.Derive(monitor, Request{Label: labelMonitor, SVN: svn, Size: enclave.RootSize})
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.platform(monitor.SVN)
	if err != nil {
		t.Fatal(err)
	}
	signing, err := key.AttestationKey(p, "")
	if err != nil {
		t.Fatal(err)
	}
	public, err := enclave.AttestationPublic(&signing.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return abi.KeyEvent(public).Text
}

// While the monitor is being updated two editions of it are clients: the newer one's key is measured, and no other.
func TestOneMonitorKeyIsMeasuredForABoot(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	older := Client{Name: monitor.Name, Image: rats.SHA256([]byte("monitor 2")), SVN: monitor.SVN - 1}
	m.cfg.Clients = []Client{older, monitor, {Name: "other", Image: rats.SHA256([]byte("other")), SVN: 9}}
	k := m.created("linux 1")
	var keys []string
	for _, e := range k.boot.Events {
		if strings.HasPrefix(e.Text, abi.EventKey) {
			keys = append(keys, e.Text)
		}
	}
	if len(keys) != 1 || keys[0] != monitorKeyEvent(t, k) {
		t.Errorf("measured %v", keys)
	}
	m.cfg.Clients = m.cfg.Clients[2:]
	m.boot("linux 2")
	m.order(&k.root.Root)
	if k := m.start(); k.reason != nil || slices.ContainsFunc(k.boot.Events, func(e Event) bool { return strings.HasPrefix(e.Text, abi.EventKey) }) {
		t.Errorf("without a monitor: %v, %+v", k.reason, k.boot.Events)
	}
}

// R096: without a TPM the root is a file, and says so.
func TestSimulatedRootIsMarked(t *testing.T) {
	m := newMachine(t, LaunchUserspace)
	m.cfg.TPM = NoTPM
	mustBeLocked(t, m.start(), CodeNoRoot)
	m.order(nil)
	k := m.start()
	mustHold(t, k)
	want := derive(t, k)
	k = m.start()
	mustHold(t, k)
	st, err := k.Status(t.Context())
	if err != nil || st.Class != RootSimulated || !slices.Contains(st.Marks, rats.MarkSimulated) {
		t.Errorf("status %+v, %v", st, err)
	}
	if !bytes.Equal(derive(t, k), want) {
		t.Error("another root")
	}
	if _, err := k.Plan(t.Context(), nil); err == nil {
		t.Error("a set was planned for a simulated root")
	}
}
