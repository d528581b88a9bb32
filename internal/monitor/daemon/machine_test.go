package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/examples/vault"
	"github.com/assay-attest/assay/examples/vault/untrusted"
	"github.com/assay-attest/assay/internal/keeper"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// programs are the real assay-keeper and assay-monitor, built once for all tests of a run, where other users may run them.
var programs = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "programs-"); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "github.com/assay-attest/assay/cmd/assay-keeper", "github.com/assay-attest/assay/cmd/assay-monitor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, os.Chmod(dir, 0o755)
})

var vaultModule = built("../../../examples/vault/enclave")

// strangerKey is a signer that isn't the test key; Go makes no keys with exponent 3.
var strangerKey = sync.OnceValues(func() (*rsa.PrivateKey, error) {
	out, err := exec.Command("openssl", "genrsa", "-traditional", "-3", "3072").Output()
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(out)
	return x509.ParsePKCS1PrivateKey(block.Bytes)
})

// machine is a computer with a software TPM, a root keeper and a monitor, the two as real processes. If the tests are root's,
// the monitor runs under another user, as it should.
type machine struct {
	t        *testing.T
	sw       *swtpm.TPM
	dir      string // with the state that survives a reboot
	run      string // of this boot
	owner    *ecdsa.PrivateKey
	launch   keeper.Launch
	bin      string
	uid      uint32 // of the monitor
	svn      uint16 // of the monitor
	keeper   *program
	monitor  *program
	boots    int
	stranger [32]byte // MRSIGNER of strangerKey
}

// program is a process that was started.
type program struct {
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan struct{}
}

func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func newMachine(t *testing.T, launch keeper.Launch) *machine {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, sw: swtpm.StartUncertified(t), dir: shortDir(t), launch: launch, bin: bin, uid: uint32(os.Geteuid()), svn: 3}
	if m.uid == 0 {
		m.uid = 65534
		if err := os.Chmod(m.dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if m.owner, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	k, err := strangerKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := enclave.Sign([32]byte{}, enclave.SignOptions{Date: time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC), Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64, XFRM: enclave.DefaultXFRM}}, k)
	if err != nil {
		t.Fatal(err)
	}
	m.stranger = s.MRSIGNER()
	t.Cleanup(m.off)
	return m
}

// off ends both processes without warning.
func (m *machine) off() {
	for _, p := range []*program{m.monitor, m.keeper} {
		if p != nil {
			p.kill()
		}
	}
	m.monitor, m.keeper = nil, nil
}

func (m *machine) write(name string, v any) string {
	m.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		m.t.Fatal(err)
	}
	file := filepath.Join(m.dir, name)
	if err := os.WriteFile(file, b, 0o644); err != nil {
		m.t.Fatal(err)
	}
	return file
}

// start starts a program and returns when its socket answers or it has ended.
func (m *machine) start(uid uint32, socket, name string, args ...string) *program {
	m.t.Helper()
	p := &program{cmd: exec.Command(filepath.Join(m.bin, name), args...), out: new(bytes.Buffer), done: make(chan struct{})}
	p.cmd.Stderr, p.cmd.Dir = p.out, "/"
	if uid != uint32(os.Geteuid()) {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if err := p.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() { // Wait alone ends the copying of what it prints
		_ = p.cmd.Wait()
		close(p.done)
	}()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if c, err := Dial(bg, socket); err == nil {
			_ = c.Close()
			return p
		}
		select {
		case <-p.done:
			return p
		case <-time.After(10 * time.Millisecond):
		}
	}
	p.kill()
	m.t.Fatalf("%s doesn't answer:\n%s", name, p.out)
	return nil
}

func (m *machine) extend(pcr int, text string) {
	m.t.Helper()
	dev, err := tpm.Open(bg, m.sw.Path())
	if err == nil {
		err = dev.ExtendPCR(bg, pcr, []byte(text))
		_ = dev.Close()
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// boot resets the machine and goes as far as the root keeper; kernel is what the firmware measures.
func (m *machine) boot(kernel string) {
	m.t.Helper()
	m.off()
	if err := m.sw.Reset(); err != nil {
		m.t.Fatal(err)
	}
	m.boots++
	m.run = filepath.Join(m.dir, fmt.Sprint("run", m.boots)) // a tmpfs
	for _, e := range []struct {
		pcr  int
		text string
	}{{0, "firmware"}, {2, "option ROMs"}, {4, kernel}, {7, "secure boot"}, {9, "initrd"}, {11, "enter-initrd"}, {12, "command line"}} {
		m.extend(e.pcr, e.text)
	}
	m.keeper = m.startKeeper("k")
	m.extend(11, "leave-initrd")
	m.extend(11, "sysinit")
}

func (m *machine) socket(name string) string { return filepath.Join(m.run, name, keeper.SocketName) }

func (m *machine) startKeeper(name string) *program {
	m.t.Helper()
	if err := os.MkdirAll(m.run, 0o755); err != nil {
		m.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&m.owner.PublicKey)
	if err != nil {
		m.t.Fatal(err)
	}
	image, err := keeper.MeasureFile(filepath.Join(m.bin, "assay-monitor"))
	if err != nil {
		m.t.Fatal(err)
	}
	config := m.write(name+".json", keeper.Config{
		Version: 1, Launch: m.launch, TPM: m.sw.Path(), State: filepath.Join(m.dir, "state"), Runtime: filepath.Join(m.run, name),
		Owner: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), UID: &m.uid,
		Clients: []keeper.Client{{Name: keeper.ClientMonitor, Image: image, SVN: m.svn}},
	})
	return m.start(uint32(os.Geteuid()), m.socket(name), "assay-keeper", "run", "--config", config)
}

func (m *machine) withKeeper(name string, f func(*keeper.Conn) error) error {
	c, err := keeper.Dial(bg, m.socket(name))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return f(c)
}

// install makes the root of this machine and has the owner authorise what is running.
func (m *machine) install() {
	m.t.Helper()
	if err := keeper.WriteOrder(filepath.Join(m.dir, "state"), nil); err != nil {
		m.t.Fatal(err)
	}
	m.boot("linux")
	err := m.withKeeper("k", func(c *keeper.Conn) error {
		st, err := c.Status(bg)
		if err != nil {
			return err
		}
		plan, err := st.Plan(nil)
		if err != nil {
			return err
		}
		set, err := keeper.Authorise(plan, m.owner, rand.Reader)
		if err != nil {
			return err
		}
		b, err := set.Encode()
		if err != nil {
			return err
		}
		return c.Install(bg, b)
	})
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.keeper.out)
	}
}

// startMonitor starts the monitor, which may end at once: for want of its key.
func (m *machine) startMonitor() {
	m.t.Helper()
	dir := filepath.Join(m.run, "m")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	cache := filepath.Join(m.dir, "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		m.t.Fatal(err)
	}
	for _, d := range []string{dir, cache} {
		if err := os.Chown(d, int(m.uid), -1); err != nil {
			m.t.Fatal(err)
		}
	}
	config := m.write("monitor.json", Config{
		Version: 1, Socket: filepath.Join(dir, "s"), UIDs: []uint32{uint32(os.Geteuid())}, Root: Root{Keeper: m.socket("k")}, SVN: m.svn,
		Own:   []rats.Digest{{Alg: "sha256", Sum: abi.TestMRSIGNER[:]}, {Alg: "sha256", Sum: m.stranger[:]}},
		Modes: []string{"inline", "process"}, Cache: cache,
	})
	m.monitor = m.start(m.uid, filepath.Join(dir, "s"), "assay-monitor", "run", "--config", config)
}

func (m *machine) client() *Client {
	m.t.Helper()
	c, err := Dial(bg, filepath.Join(m.run, "m", "s"))
	if err != nil {
		m.t.Fatalf("%v\nmonitor: %s\nkeeper: %s", err, m.monitor.out, m.keeper.out)
	}
	m.t.Cleanup(func() { _ = c.Close() })
	return c
}

// edition is one way to sign the vault.
type edition struct {
	svn      uint16
	stranger bool
}

// vault starts the counter vault over the socket, its state kept in file.
func (m *machine) vault(e edition, file string, mode abi.Mode) (*Client, *untrusted.Vault) {
	m.t.Helper()
	module, err := vaultModule()
	if err != nil {
		m.t.Fatal(err)
	}
	i, err := enclave.New(module, enclave.Options{Heap: 64 << 20, Buffer: 64 << 10, ProductID: 5, SVN: e.svn})
	if err != nil {
		m.t.Fatal(err)
	}
	key, err := enclave.TestKey()
	if e.stranger {
		key, err = strangerKey()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	so := i.Defaults()
	so.Date = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	s, err := enclave.Sign(i.Measure(), so, key)
	if err != nil {
		m.t.Fatal(err)
	}
	c := m.client()
	v, err := untrusted.StartBy(func(o monitor.Options) (monitor.Running, error) {
		o.Mode = mode
		return c.Load(bg, i.Encode(), s.Bytes(), o)
	}, file)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.monitor.out)
	}
	return c, v
}

// open opens what was sealed, in a new vault.
func (m *machine) open(e edition, file string, mode abi.Mode) (uint32, error) {
	m.t.Helper()
	c, v := m.vault(e, file, mode)
	defer func() { _ = c.Close() }()
	return v.Open(bg)
}

// R082, R087, R097, R112, R166, R168: the example enclave seals a secret with a key that follows from the machine's root. It
// opens after the monitor was killed and after a reboot; not for an older version, a re-signed edition, in another mode, under
// another kernel, on another machine.
func TestSealedSecretSurvivesRestartAndRebootAndNothingElse(t *testing.T) {
	m := newMachine(t, keeper.LaunchInitrd)
	m.install()
	m.startMonitor()
	file := filepath.Join(m.dir, "secret")
	now := edition{svn: 2}
	_, v := m.vault(now, file, abi.ModeProcess)
	if err := v.Fill(bg, vault.Contents{Secret: []byte("gold"), Times: 9, ToSigner: true}); err != nil {
		t.Fatal(err)
	}
	if p := v.Platform(); p.Launch != abi.LaunchInitrd || p.Root != abi.RootInitrdSealed || p.Mode != abi.ModeProcess || p.SVN != 3 {
		t.Errorf("platform %+v", p)
	}
	if p := v.Platform(); m.uid != uint32(os.Geteuid()) && p.Isolation&abi.IsolationOwnUser == 0 {
		t.Errorf("it runs under another user and doesn't say so: %+v", p)
	}

	m.monitor.kill()
	_, err := v.Show(bg)
	wantCode(t, "a call after the monitor was killed", err, CodeGone)
	m.startMonitor()
	if n, err := m.open(now, file, abi.ModeProcess); err != nil || n != 9 {
		t.Errorf("after a restart of the monitor: %d left, %v", n, err)
	}
	audit, err := os.ReadFile(filepath.Join(m.dir, "state", "audit.log"))
	if n := bytes.Count(audit, []byte(`"monitor-started"`)); err != nil || n < 2 {
		t.Errorf("the keeper noted %d starts of the monitor, %v", n, err)
	}

	m.boot("linux")
	m.startMonitor()
	if n, err := m.open(now, file, abi.ModeProcess); err != nil || n != 9 {
		t.Errorf("after a reboot: %d left, %v", n, err)
	}
	if n, err := m.open(edition{svn: 3}, file, abi.ModeProcess); err != nil || n != 9 {
		t.Errorf("a newer version: %d left, %v", n, err)
	}
	_, err = m.open(edition{svn: 1}, file, abi.ModeProcess)
	wantCode(t, "an older version", err, enclave.CodeKeySVN)
	_, err = m.open(edition{svn: 2, stranger: true}, file, abi.ModeProcess)
	wantCode(t, "re-signed by another", err, monitor.CodeCipher)
	_, err = m.open(now, file, abi.ModeInline)
	wantCode(t, "in another mode", err, enclave.CodeKeyPlatform)

	// The monitor's own version: an older edition of it gets none of the newer one's keys.
	m.svn--
	m.monitor.kill()
	m.startMonitor()
	_, err = m.open(now, file, abi.ModeProcess)
	wantCode(t, "an older monitor", err, enclave.CodeKeySVN)
	m.svn++

	m.boot("another linux")
	m.startMonitor()
	if out := m.monitor.out.String(); !strings.Contains(out, string(keeper.CodeNotAuthorised.Code)) {
		t.Errorf("under another kernel the monitor says %q", out)
	}

	// Another machine: with a root of its own, and with this machine's disk.
	other := newMachine(t, keeper.LaunchInitrd)
	other.install()
	other.startMonitor()
	_, err = other.open(now, file, abi.ModeProcess)
	wantCode(t, "on another machine", err, monitor.CodeCipher)
	m.off()
	if err := os.CopyFS(filepath.Join(other.dir, "disk"), os.DirFS(filepath.Join(m.dir, "state"))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(other.dir, "state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(other.dir, "disk"), filepath.Join(other.dir, "state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(other.dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	other.owner = m.owner
	other.boot("linux")
	other.startMonitor()
	if out := other.monitor.out.String(); !strings.Contains(out, string(keeper.CodeOtherTPM.Code)) {
		t.Errorf("with the disk in another machine the monitor says %q", out)
	}
}

// R084, R097, R163, S11: after the cap a second keeper gets nothing, and so does its monitor; the first goes on. Once it is
// gone the monitor says so and goes on with what it has; a monitor that is started then has no key until the machine is.
func TestRootIsLockedOnceTheKeeperIsGone(t *testing.T) {
	m := newMachine(t, keeper.LaunchInitrd)
	m.install()
	m.boot("linux")
	m.startMonitor()
	file := filepath.Join(m.dir, "secret")
	_, v := m.vault(edition{svn: 2}, file, abi.ModeInline)
	if err := v.Fill(bg, vault.Contents{Secret: []byte("gold"), Times: 9}); err != nil {
		t.Fatal(err)
	}
	info, err := m.client().Info(bg)
	if err != nil || !info.Measured() || info.Condition != "" || info.Events[len(info.Events)-1] != abi.EventCap {
		t.Errorf("%+v, %v", info, err)
	}

	second := m.startKeeper("second")
	defer second.kill()
	err = m.withKeeper("second", func(c *keeper.Conn) error {
		st, err := c.Status(bg)
		if err == nil && (st.State != keeper.StateLocked || st.Reason == nil || st.Reason.Code != keeper.CodeLocked.Code) {
			t.Errorf("a second keeper after the cap: %+v", st)
		}
		return err
	})
	if err != nil {
		t.Errorf("%v\n%s", err, second.out)
	}
	first := m.run
	m.run = filepath.Join(m.run, "elsewhere")
	if err := os.MkdirAll(m.run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(first, "second"), filepath.Join(m.run, "k")); err != nil {
		t.Fatal(err)
	}
	running := m.monitor
	m.startMonitor()
	if out := m.monitor.out.String(); !strings.Contains(out, string(keeper.CodeLocked.Code)) {
		t.Errorf("a monitor of the second keeper says %q", out)
	}
	m.monitor, m.run = running, first

	m.keeper.kill()
	info, err = m.client().Info(bg)
	if err != nil || info.Condition != ConditionLocked {
		t.Errorf("without a keeper: %+v, %v", info, err)
	}
	if _, err := v.Show(bg); err != nil {
		t.Errorf("the monitor that has its key: %v", err)
	}
	m.monitor.kill()
	m.startMonitor()
	if out := m.monitor.out.String(); !strings.Contains(out, string(keeper.CodeLocked.Code)) {
		t.Errorf("a monitor without a keeper says %q", out)
	}
	m.boot("linux")
	m.startMonitor()
	if n, err := m.open(edition{svn: 2}, file, abi.ModeInline); err != nil || n != 8 {
		t.Errorf("after a reboot: %d left, %v", n, err)
	}
}

// S17, R023: the monitor's process can't be dumped, and another user can't read its memory.
func TestMonitorIsHardened(t *testing.T) {
	m := newMachine(t, keeper.LaunchInitrd)
	m.install()
	m.startMonitor()
	at := fmt.Sprintf("/proc/%d/", m.monitor.cmd.Process.Pid)
	limits, err := os.ReadFile(at + "limits")
	if err != nil {
		t.Fatal(err)
	}
	if core := strings.Fields(strings.SplitN(string(limits), "Max core file size", 2)[1]); core[0] != "0" || core[1] != "0" {
		t.Errorf("core files of %s", core)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(at+"mem", &st); err != nil || st.Uid != 0 { // of what is undumpable the kernel makes root the owner
		t.Errorf("/proc/PID/mem belongs to user %d, %v", st.Uid, err)
	}
	status, err := os.ReadFile(at + "status")
	if err != nil || !bytes.Contains(status, []byte("NoNewPrivs:\t1")) {
		t.Errorf("new privileges: %v", err)
	}
	ctx, cancel := context.WithTimeout(bg, time.Minute)
	defer cancel()
	c := m.client()
	if _, err := c.Info(ctx); err != nil {
		t.Error(err)
	}
}
