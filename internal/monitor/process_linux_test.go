package monitor_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/monitor"
)

// child returns the process of an enclave: the youngest of this process's children.
func child(t testing.TB) int {
	t.Helper()
	var all []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range tasks {
		if b, err := os.ReadFile(f); err == nil {
			all = append(all, strings.Fields(string(b))...)
		}
	}
	youngest := 0
	for _, s := range all {
		if n, err := strconv.Atoi(s); err == nil {
			youngest = max(youngest, n)
		}
	}
	if youngest == 0 {
		t.Fatal("no child")
	}
	return youngest
}

// R094, S17: what is true of a process is claimed, and nothing else.
func TestProcessIsClosedOff(t *testing.T) {
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: abi.ModeProcess})
	p := e.Platform()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child(t)))
	if err != nil {
		t.Fatal(err)
	}
	for fact, line := range map[abi.Isolation]string{abi.IsolationNoNewPrivs: "NoNewPrivs:\t1", abi.IsolationSeccomp: "Seccomp:\t2"} {
		if p.Isolation&fact == 0 || !strings.Contains(string(b), line) {
			t.Errorf("isolation 0x%x, and of %q the process says\n%s", p.Isolation, line, b)
		}
	}
	t.Logf("isolation 0x%x; Landlock: %t (a program with cgo, as tests mostly are, has none)", p.Isolation, p.Isolation&abi.IsolationLandlock != 0)
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", child(t)))
	if err != nil || len(env) != 0 {
		t.Errorf("its variables: %q, %v", env, err)
	}
}

// The same image and MRENCLAVE in both modes, and nothing that was sealed in one opens in the other (S15).
func TestSecretsNeverCrossModes(t *testing.T) {
	m := newMonitor(t, nil)
	in, out := load(t, m, monitor.Options{}), load(t, m, monitor.Options{Mode: abi.ModeProcess})
	if in.Identity() != out.Identity() {
		t.Errorf("identities %+v and %+v", in.Identity(), out.Identity())
	}
	for _, policy := range []uint16{abi.PolicyMRENCLAVE, abi.PolicyMRSIGNER} {
		for _, c := range [][2]*monitor.Instance{{in, out}, {out, in}} {
			box := call[[]byte](t, c[0], "seal", sealing{Policy: policy, Box: []byte("gold")})
			if got := call[[]byte](t, c[0], "unseal", sealing{Box: box}); string(got) != "gold" {
				t.Errorf("unsealed %q", got)
			}
			wantCode(t, "the other mode", try(c[1], "unseal", sealing{Box: box}), enclave.CodeKeyPlatform)
		}
	}
}

// A signer that isn't the operator's own may start enclaves in mode process, if policy lists it.
func TestForeignSignersGetAProcess(t *testing.T) {
	m := newMonitor(t, func(c *monitor.Config) { c.Policy = monitor.Policy{Foreign: [][32]byte{abi.TestMRSIGNER}} })
	e := load(t, m, monitor.Options{Mode: abi.ModeProcess})
	call[none](t, e, "empty", none{})
	wantMode := newMonitor(t, func(c *monitor.Config) { c.Program = "" })
	file, sig := image(t, small, nil)
	_, err := wantMode.Load(bg, file, sig, monitor.Options{Mode: abi.ModeProcess})
	wantCode(t, "a monitor without the mode", err, monitor.CodeMode)
}

// A process that is killed is the end of its enclave and of nothing else.
func TestKilledProcessIsAFault(t *testing.T) {
	m := newMonitor(t, nil)
	e := load(t, m, monitor.Options{Mode: abi.ModeProcess})
	p, err := os.FindProcess(child(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a call", try(e, "empty", none{}), monitor.CodeTrap)
	wantCode(t, "another", try(e, "empty", none{}), monitor.CodePoisoned)
	call[none](t, load(t, m, monitor.Options{Mode: abi.ModeProcess}), "empty", none{})
}

// R047: with switchless OCALLs an enclave does the same, is stopped by the same budgets, and its end is seen.
func TestSwitchlessOCALLsChangeNothingButTheirTime(t *testing.T) {
	m := newMonitor(t, func(c *monitor.Config) { c.Budget.Time = 5 * time.Second })
	calls := 0
	o := monitor.Options{Mode: abi.ModeProcess, Switchless: true, Host: map[string]monitor.HostCall{
		"ping": func(_ context.Context, in, out []byte) (int, error) {
			if calls++; calls%100 == 0 {
				time.Sleep(time.Millisecond) // longer than anybody looks
			}
			return copy(out, in), nil
		},
	}}
	e := load(t, m, o)
	for range 20 {
		if got := call[[]byte](t, e, "ocall", outcall{Name: "ping", In: []byte("pong"), Room: 100, Many: 50}); string(got) != "pong" {
			t.Fatalf("answer %q", got)
		}
	}
	if calls != 1000 {
		t.Errorf("%d OCALLs arrived", calls)
	}
	wantCode(t, "an OCALL nobody offers", try(e, "ocall", outcall{Name: "nobody"}), monitor.CodeHost)
	wantCode(t, "a call without end", try(e, "hang", none{}), monitor.CodeTime)

	e = load(t, m, o)
	p, err := os.FindProcess(child(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a call after its process was killed", try(e, "empty", none{}), monitor.CodeTrap)
}

// An enclave that nobody calls doesn't look for a call, switchless or not.
func TestEnclaveThatIsNotCalledSleeps(t *testing.T) {
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: abi.ModeProcess, Switchless: true})
	for range 100 {
		call[none](t, e, "empty", none{})
	}
	pid := child(t)
	ticks := func() (n int) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')'):])) // after the name: state is field 3
		for _, s := range f[12:14] {
			v, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			n += v
		}
		return n
	}
	time.Sleep(50 * time.Millisecond)
	before := ticks()
	time.Sleep(time.Second) // real time: what another process does with it is asked
	if n := ticks() - before; n > 20 {
		t.Errorf("it worked for %d hundredths of a second while nobody called", n)
	}
}

// R023, R025: root, who reads every mapping of the enclave's process that can be read, doesn't find a secret that is inside,
// where its memory is secret memory.
func TestRootDoesNotReadAnEnclavesMemory(t *testing.T) {
	mark := make([]byte, 32)
	if _, err := rand.Read(mark); err != nil {
		t.Fatal(err)
	}
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: abi.ModeProcess})
	if e.Platform().Isolation&abi.IsolationSecretMemory == 0 {
		t.Skip("this kernel, or the limit of locked memory, gives no secret memory; the report says so")
	}
	call[string](t, e, "keep", mark)
	pid := child(t)
	found, read := search(t, pid, mark)
	if found != "" {
		t.Errorf("the secret is readable in %s", found)
	}
	if read < 1<<20 {
		t.Errorf("only %d bytes were read: the test looks at nothing", read)
	}
	if err := exec.Command("grep", "-q", "x", fmt.Sprintf("/proc/%d/mem", pid)).Run(); err == nil {
		t.Error("the process's memory reads as a file")
	}
}

// search reads every mapping of a process for b.
func search(t testing.TB, pid int, b []byte) (found string, read int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	buf := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x ", &from, &to); err != nil || !strings.Contains(line, " r") {
			continue
		}
		for at := from; at < to; at += uint64(len(buf)) - uint64(len(b)) {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), to-at)], int64(at))
			read += n
			if bytes.Contains(buf[:n], b) {
				found += line
			}
			if err != nil {
				break
			}
		}
	}
	return found, read
}
