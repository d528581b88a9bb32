package keeper

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"encoding/json"
)

// TestMain makes this test binary the program that one test starts and kills.
func TestMain(m *testing.M) {
	if os.Getenv("KEEPER_TEST_PROCESS") == "" {
		os.Exit(m.Run())
	}
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	os.Exit(Main(context.Background(), Env{Args: os.Args[1:], Name: os.Args[0], Executable: exe, Err: os.Stderr, Now: time.Now, Rand: rand.Reader}))
}

// self is this test binary as a client.
func self(t *testing.T) Client {
	t.Helper()
	image, err := MeasureFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return Client{Name: "monitor", Image: image, SVN: 3}
}

// served runs a keeper on its socket.
func (m *machine) served(k *Keeper) string {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := k.Listen(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- k.Serve(ctx, ln) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("serving: %v", err)
		}
	})
	return ln.Addr().String()
}

func dial(t *testing.T, socket string) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// simulated is a machine whose keeper needs no TPM.
func simulated(t *testing.T, clients ...Client) *machine {
	m := &machine{t: t}
	owner := newMachineKeys(t, m)
	m.cfg = Config{Version: 1, Launch: LaunchUserspace, TPM: NoTPM, State: filepath.Join(shortDir(t), "state"), Owner: owner, Clients: clients}
	m.configure()
	m.cfg.Runtime = filepath.Join(shortDir(t), "run")
	m.order(nil)
	return m
}

// shortDir is a directory whose sockets have names short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keeper-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// S11: derivations for a measured client, never the root; status for whoever may connect.
func TestClientsGetDerivationsByTheirMeasurement(t *testing.T) {
	m := simulated(t, self(t))
	k := m.start()
	mustHold(t, k)
	socket := m.served(k)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info.Mode(), err)
	}
	c := dial(t, socket)
	key, err := c.Derive(t.Context(), Request{Label: "seal", SVN: 3, Size: 32})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key, derive(t, k)) || bytes.Equal(key, k.seed.key()) {
		t.Error("another key over the socket, or the root")
	}
	_, err = c.Derive(t.Context(), Request{Label: "seal", SVN: 4, Size: 32})
	wantCode(t, err, CodeSVN)
	st, err := c.Status(t.Context())
	if err != nil || st.State != StateReady || !st.Root.Equal(k.root.Root) {
		t.Errorf("status %+v, %v", st, err)
	}
	_, err = c.Commit(t.Context())
	wantCode(t, err, CodeCommit)
	_, err = c.RequestRecovery(t.Context())
	wantCode(t, err, CodeRecovery)
	wantCode(t, c.FinishRecovery(t.Context(), []byte(`{}`)), CodeRecovery)
	wantCode(t, c.Install(t.Context(), []byte(`{}`)), CodeSet)
	if _, err := c.Derive(t.Context(), Request{Label: "seal", SVN: 3, Size: 32}); err != nil {
		t.Errorf("the connection didn't outlive refusals: %v", err)
	}
}

// The clients' own user may connect and derive, and manage nothing.
func TestClientsUserMayConnectAndNotManage(t *testing.T) {
	m := simulated(t, self(t))
	uid := uint32(12345)
	m.cfg.UID = &uid
	k := m.start()
	if os.Geteuid() == 0 { // only root gives a socket away
		info, err := os.Stat(m.served(k))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != uid {
			t.Errorf("socket %+v, %v", info, err)
		}
	}
	if !k.mayConnect(uid) || k.mayManage(uid) || k.mayConnect(uid+1) || !k.mayManage(0) {
		t.Error("users are not told apart")
	}
	for _, op := range []string{opInstall, opCommit, opRequest, opFinish} {
		b, err := json.Marshal(message{Op: op, Set: []byte("{}"), Answer: []byte("{}")})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = k.answer(t.Context(), &session{peer: Peer{UID: uid}}, b)
		wantCode(t, err, CodeClient)
	}
	mustHold(t, m.start()) // the runtime directory's mode doesn't keep the next keeper out
}

// S11: another program gets nothing, whoever runs it.
func TestProgramThatWasNotNamedGetsNothing(t *testing.T) {
	m := simulated(t, monitor)
	c := dial(t, m.served(m.start()))
	_, err := c.Derive(t.Context(), Request{Label: "seal", SVN: 3, Size: 32})
	wantCode(t, err, CodeClient)
	m = simulated(t)
	c = dial(t, m.served(m.start()))
	_, err = c.Derive(t.Context(), Request{Label: "seal", SVN: 0, Size: 32})
	wantCode(t, err, CodeClient)
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	m := simulated(t, self(t))
	socket := m.served(m.start())
	for _, text := range []string{"", "{", `{"op":"root"}`, `{"op":"derive"}`, `{"op":"status","more":1}`, `{"op":"status"}{}`} {
		raw, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		c := &Conn{socket: socket, c: raw}
		if err := writePart(raw, []byte(text)); err != nil {
			t.Fatal(err)
		}
		head, err := readPart(raw)
		if err != nil {
			t.Fatal(err)
		}
		var r reply
		if err := json.Unmarshal(head, &r); err != nil || r.Reason == nil || r.Reason.Code != CodeRequest.Code {
			t.Errorf("%q: got %s", text, head)
		}
		_ = c.Close()
	}
	raw, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if head, err := readPart(raw); err != nil || !bytes.Contains(head, []byte(CodeRequest.Code)) {
		t.Errorf("an endless message: %s, %v", head, err)
	}
}

// R097, S11: a keeper that is killed leaves a stated condition; a client that restarts goes on.
func TestKilledKeeperLeavesTheRootLockedUntilReboot(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	m.cfg.Clients = []Client{self(t)}
	m.cfg.Runtime = filepath.Join(shortDir(t), "run")
	m.bootChain("linux 1")
	m.order(nil)
	file := filepath.Join(t.TempDir(), "keeper.json")
	b, err := json.Marshal(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "run", "--config", file)
	cmd.Env = append(os.Environ(), "KEEPER_TEST_PROCESS=1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	socket := filepath.Join(m.cfg.Runtime, SocketName)
	c := awaitKeeper(t, socket, ended)
	want, err := c.Derive(t.Context(), Request{Label: "seal", SVN: 3, Size: 32})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(m.cfg.Runtime, CappedName)); err != nil {
		t.Errorf("the scripts aren't told of the cap: %v", err)
	}
	// The client restarts: the same keys.
	again := dial(t, socket)
	if got, err := again.Derive(t.Context(), Request{Label: "seal", SVN: 3, Size: 32}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after a restart of the client: %v", err)
	}
	if st, err := again.Status(t.Context()); err != nil || !st.Hardened.Undumpable {
		t.Errorf("status %+v, %v", st, err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-ended
	_, err = again.Derive(t.Context(), Request{Label: "seal", SVN: 3, Size: 32})
	wantCode(t, err, CodeLocked)
	_, err = Dial(t.Context(), socket)
	wantCode(t, err, CodeLocked)
	mustBeLocked(t, m.start(), CodeLocked) // and no new root from a new keeper
}

func awaitKeeper(t *testing.T, socket string, ended <-chan struct{}) *Conn {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	for {
		select {
		case <-ended:
			t.Fatal("the keeper ended")
		case <-limit.C:
			t.Fatal("no keeper")
		case <-tick.C:
			if c, err := Dial(t.Context(), socket); err == nil {
				t.Cleanup(func() { _ = c.Close() })
				return c
			}
		}
	}
}

// S11: no WebAssembly, no network, no TLS, no command line in the process that holds the root.
func TestKeeperDependsOnLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/assay-attest/assay/cmd/assay-keeper").Output()
	if err != nil {
		t.Skipf("go list isn't at hand: %v", err)
	}
	deps := strings.Fields(string(out))
	for _, bad := range []string{"net/http", "crypto/tls", "github.com/spf13/cobra", "go.yaml.in/yaml/v3", "os/exec"} {
		if slices.Contains(deps, bad) {
			t.Errorf("the keeper depends on %s", bad)
		}
	}
	for _, d := range deps {
		if strings.Contains(d, "wazero") || strings.Contains(d, "sqlite") {
			t.Errorf("the keeper depends on %s", d)
		}
	}
}

func TestVaultKeepsAndWipes(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	v, err := newVault(key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key, make([]byte, 32)) {
		t.Error("the original wasn't wiped")
	}
	if !bytes.Equal(v.key(), bytes.Repeat([]byte{7}, 32)) {
		t.Error("another key")
	}
	v.wipe()
	v.wipe()
}
