package measure

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// The tests of this file perform the attack that a check is for, on processes of their own.

const victimEnv = "ASSAY_TEST_VICTIM"

// TestMain is also the victim: this program, told to do something and then to wait.
func TestMain(m *testing.M) {
	if what := os.Getenv(victimEnv); what != "" {
		victim(what)
	}
	os.Exit(m.Run())
}

func victim(what string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	switch what {
	case "inject":
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		fail(err)
	case "memfd":
		fd, err := unix.MemfdCreate("payload", 0)
		fail(err)
		fail(unix.Ftruncate(fd, 4096))
		_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
		fail(err)
	case "self-patch", "self-writable":
		exe, err := os.Executable()
		fail(err)
		fd, err := unix.Open(exe, unix.O_RDONLY, 0)
		fail(err)
		b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE)
		fail(err)
		if what == "self-patch" {
			b[100]++
			fail(unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC))
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
	os.Exit(0)
}

// launch runs a program until the test ends, and waits for its first line if it is the victim.
func launch(t testing.TB, path, what string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(path)
	if what == "" {
		cmd.Args = append(cmd.Args, "1000")
	}
	cmd.Env = append([]string{victimEnv + "=" + what}, env...)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if what != "" {
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("victim: %q %v", line, err)
		}
	}
	return cmd
}

// copyOf copies a program into a directory of the test's.
func copyOf(t testing.TB, path, name string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	to := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(to, b, 0o755))
	return to
}

func self(t testing.TB) string {
	t.Helper()
	p, err := os.Executable()
	must(t, err)
	return p
}

// about returns the items that mention a path; the machine's other processes are none of the test's business.
func about(all map[string]string, path string) (out []string) {
	for k, v := range all {
		if strings.Contains(k+v, path) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func codeOfAll(t testing.TB, path string, switches ...string) []string {
	t.Helper()
	return about(items(t, Local(), plan.CheckArgs{Check: "code", Switches: switches}), path)
}

// poke changes one word of a process's memory as a debugger does.
func poke(t testing.TB, pid int, addr uintptr, change func(b []byte)) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	must(t, unix.PtraceAttach(pid))
	_, err := unix.Wait4(pid, nil, unix.WALL, nil)
	must(t, err)
	b := make([]byte, 8)
	_, err = unix.PtracePeekText(pid, addr, b)
	must(t, err)
	change(b)
	_, err = unix.PtracePokeText(pid, addr, b)
	must(t, err)
	must(t, unix.PtraceDetach(pid))
}

// text returns the first executable mapping of a process whose path has a suffix.
func text(t testing.TB, pid int, suffix string) mapping {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	for _, line := range strings.Split(string(b), "\n") {
		if m, ok := parseMapping([]byte(line)); ok && m.perms[2] == 'x' && strings.HasSuffix(m.path, suffix) {
			return m
		}
	}
	t.Fatalf("no code of %s", suffix)
	return mapping{}
}

// R026: a patched page of code in a live process, of its program and of a shared library.
func TestPatchedCodeOfALiveProcessIsFound(t *testing.T) {
	exe := copyOf(t, "/usr/bin/sleep", "victim")
	p := launch(t, exe, "")
	waitForText(t, p.Process.Pid, "/libc.so.6")
	if got := codeOfAll(t, exe); len(got) != 0 {
		t.Fatalf("before the attack: %q", got)
	}
	at := text(t, p.Process.Pid, "/victim")
	poke(t, p.Process.Pid, uintptr(at.start)+64, func(b []byte) { b[0] ^= 0x5a })
	all := items(t, Local(), plan.CheckArgs{Check: "code"})
	if got, want := all["patched "+exe], fmt.Sprintf("%s 0x%x", exe, at.off); got != want {
		t.Errorf("found %q, want %q", got, want)
	}
	poke(t, p.Process.Pid, uintptr(at.start)+64, func(b []byte) { b[0] ^= 0x5a })
	if got := codeOfAll(t, exe); len(got) != 0 {
		t.Errorf("after it was patched back (the page is private and equal): %q", got)
	}

	lib := text(t, p.Process.Pid, "/libc.so.6")
	poke(t, p.Process.Pid, uintptr(lib.start)+8192, func(b []byte) { b[3] ^= 1 })
	if got := codeOfAll(t, exe); !slices.Equal(got, []string{"patched " + lib.path}) {
		t.Errorf("a patched library: %q", got)
	}
}

// waitForText waits until the loader has mapped a library.
func waitForText(t testing.TB, pid int, suffix string) {
	t.Helper()
	for range 10_000 {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid)); strings.Contains(string(b), suffix) {
			return
		}
		runtime.Gosched()
	}
	t.Fatalf("process %d never mapped %s", pid, suffix)
}

func TestPatchedVDSOIsFound(t *testing.T) {
	exe := copyOf(t, "/usr/bin/sleep", "victim")
	p := launch(t, exe, "")
	waitForText(t, p.Process.Pid, "/libc.so.6")
	at := text(t, p.Process.Pid, "[vdso]")
	poke(t, p.Process.Pid, uintptr(at.end)-16, func(b []byte) { b[0] ^= 1 })
	if got := codeOfAll(t, exe); !slices.Equal(got, []string{"patched [vdso]"}) {
		t.Errorf("%q", got)
	}
}

// R026: code that came into a process without a file.
func TestInjectedCodeIsFound(t *testing.T) {
	for what, want := range map[string]string{
		"inject": "anonymous %s", "memfd": "memory /memfd:payload", "self-patch": "patched %s", "self-writable": "writable %s",
	} {
		exe := copyOf(t, self(t), "victim")
		launch(t, exe, what)
		if strings.Contains(want, "%s") {
			want = fmt.Sprintf(want, exe)
		}
		if got := codeOfAll(t, exe); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

// R026: a library that is loaded before all others.
func TestPreloadedLibraryIsFound(t *testing.T) {
	exe := copyOf(t, "/usr/bin/sleep", "victim")
	p := launch(t, exe, "")
	waitForText(t, p.Process.Pid, "/libc.so.6")
	libc := text(t, p.Process.Pid, "/libc.so.6").path
	evil := copyOf(t, filepath.Dir(libc)+"/libm.so.6", "evil.so")
	if got := codeOfAll(t, evil, "mapped"); len(got) != 0 {
		t.Fatalf("before the attack: %q", got)
	}
	q := launch(t, exe, "", "LD_PRELOAD="+evil)
	waitForText(t, q.Process.Pid, "/libc.so.6")
	if got := codeOfAll(t, evil, "mapped"); !slices.Equal(got, []string{"mapped " + evil}) {
		t.Errorf("%q", got)
	}
	got := items(t, Local(), plan.CheckArgs{Check: "preload"})
	if got["LD_PRELOAD "+exe] != evil {
		t.Errorf("%q", about(got, exe))
	}
	etc := t.TempDir()
	must(t, os.WriteFile(etc+"/ld.so.preload", []byte("/tmp/evil.so\n"), 0o644))
	fake := rooted{Local(), map[string]string{"/etc": etc, "/proc": t.TempDir()}}
	if got := items(t, fake, plan.CheckArgs{Check: "preload"}); got["ld.so.preload"] != "/tmp/evil.so" || got["process 1"] == "" {
		t.Errorf("%q", got)
	}
}

// R026: the file of a running program is deleted, or replaced by another.
func TestReplacedProgramIsFound(t *testing.T) {
	exe := copyOf(t, "/usr/bin/sleep", "victim")
	p := launch(t, exe, "")
	waitForText(t, p.Process.Pid, "/libc.so.6")
	look := func(switches ...string) []string {
		return about(items(t, Local(), plan.CheckArgs{Check: "executables", Switches: switches}), exe)
	}
	if got := look(); len(got) != 0 {
		t.Fatalf("before the attack: %q", got)
	}
	if got := look("list"); !slices.Equal(got, []string{"running " + exe}) {
		t.Fatalf("before the attack: %q", got)
	}
	must(t, os.Remove(exe))
	if got := look(); !slices.Equal(got, []string{"deleted " + exe}) {
		t.Errorf("deleted: %q", got)
	}
	must(t, os.WriteFile(exe, []byte("#!/bin/true"), 0o755))
	if got := look(); !slices.Equal(got, []string{"replaced " + exe}) {
		t.Errorf("replaced: %q", got)
	}
	if got := codeOfAll(t, exe); !slices.Equal(got, []string{"replaced " + exe}) {
		t.Errorf("its code: %q", got)
	}
	// A patch of code whose file is gone can't be compared, but shows.
	at := text(t, p.Process.Pid, "/victim (deleted)")
	poke(t, p.Process.Pid, uintptr(at.start)+64, func(b []byte) { b[0] ^= 1 })
	if got := codeOfAll(t, exe); !slices.Equal(got, []string{"patched " + exe, "replaced " + exe}) {
		t.Errorf("its patched code: %q", got)
	}
	// Renamed away and another file in its place.
	other := copyOf(t, "/usr/bin/sleep", "victim")
	q := launch(t, other, "")
	waitForText(t, q.Process.Pid, "/libc.so.6")
	must(t, os.Rename(other, other+".old"))
	must(t, os.WriteFile(other, []byte("x"), 0o755))
	exe = other
	if got := look(); len(got) != 0 {
		t.Errorf("a renamed program runs under its new name: %q", got)
	}
	if got := look("list"); !slices.Equal(got, []string{"running " + other + ".old"}) {
		t.Errorf("a renamed program: %q", got)
	}
}

// R026: a door that is opened.
func TestOpenedSocketsAreFound(t *testing.T) {
	look := func() map[string]string {
		return items(t, Local(), plan.CheckArgs{Check: "listening-sockets", Switches: []string{"owners", "raw", "udp", "unix"}})
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	tcp6, err := net.Listen("tcp6", "[::1]:0")
	must(t, err)
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	path := t.TempDir() + "/door with blank"
	ux, err := net.Listen("unix", path)
	must(t, err)
	keys := []string{"tcp " + tcp.Addr().String(), "tcp6 " + tcp6.Addr().String(), "udp " + udp.LocalAddr().String(), "unix " + path}
	var raw string
	if fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0x0608); err == nil { // ARP, in network order
		defer unix.Close(fd)
		raw = "packet type=2 protocol=0806"
		keys = append(keys, raw)
	}
	got := look()
	for _, k := range keys {
		if !strings.Contains(got[k], "program "+self(t)) {
			t.Errorf("%s: %q", k, got[k])
		}
	}
	if !strings.HasPrefix(got[keys[0]], "program ") || !strings.Contains(got[keys[0]], fmt.Sprintf("uid %d", os.Getuid())) {
		t.Errorf("%q", got[keys[0]])
	}
	for _, c := range []io.Closer{tcp, tcp6, udp, ux} {
		c.Close()
	}
	got = look()
	for _, k := range keys {
		if k != raw && got[k] != "" {
			t.Errorf("%s is still there", k)
		}
	}
}

// R026: a kernel parameter that is changed, in a network namespace of this thread's own.
func TestChangedSysctlIsFound(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs the right to make a network namespace (%v); TestSysctlsAreReadByName covers the reading", err)
	}
	args := plan.CheckArgs{Check: "sysctls", Names: []string{"net.ipv4.ip_forward"}}
	same(t, items(t, Local(), args), "net.ipv4.ip_forward", "0")
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/task/%d/net/../../../../sys/net/ipv4/ip_forward", os.Getpid(), unix.Gettid()), []byte("1"), 0o644))
	same(t, items(t, Local(), args), "net.ipv4.ip_forward", "1")
}

// R026: a program that is given the rights of root.
func TestCreatedSetuidFileIsFound(t *testing.T) {
	dir := tree(t, map[string]string{"a": "A", "sub/b": "B", "skip/c": "C", "cap": "D"})
	look := func() map[string]string {
		return items(t, Local(), plan.CheckArgs{Check: "setuid-files", Paths: []string{dir}, Exclude: []string{dir + "/skip"}, Switches: []string{"capabilities"}})
	}
	same(t, look())
	owner := fmt.Sprintf(" owner %d %d", os.Getuid(), os.Getgid())
	must(t, unix.Chmod(dir+"/sub/b", 0o4755))
	must(t, unix.Chmod(dir+"/skip/c", 0o4755))
	same(t, look(), dir+"/sub/b", "mode 4755"+owner)
	// cap_sys_admin=ep, version 2
	caps := []byte{1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(dir+"/cap", "security.capability", caps, 0); err == nil {
		same(t, look(), dir+"/sub/b", "mode 4755"+owner, dir+"/cap", fmt.Sprintf("capabilities %x", caps))
	} else if os.Getuid() == 0 {
		t.Logf("no capability could be set: %v", err)
	}
}

// R026: a unit that is changed by a drop-in, enabled, or masked.
func TestAddedUnitDropInIsFound(t *testing.T) {
	etc := tree(t, map[string]string{"systemd/system/a.service": "[Service]\nExecStart=/bin/a\n"})
	s := rooted{Local(), map[string]string{"/etc": etc, "/run": t.TempDir(), "/usr": t.TempDir()}}
	look := func() map[string]string { return items(t, s, plan.CheckArgs{Check: "systemd-units"}) }
	clean := look()
	if len(clean) != 1 || clean["/etc/systemd/system/a.service"] == "" {
		t.Fatalf("%q", clean)
	}
	must(t, os.MkdirAll(etc+"/systemd/system/a.service.d", 0o755))
	must(t, os.WriteFile(etc+"/systemd/system/a.service.d/x.conf", []byte("[Service]\nExecStartPre=/tmp/evil\n"), 0o644))
	must(t, os.MkdirAll(etc+"/systemd/system/multi-user.target.wants", 0o755))
	must(t, os.Symlink("/lib/systemd/system/evil.service", etc+"/systemd/system/multi-user.target.wants/evil.service"))
	must(t, os.Symlink("/dev/null", etc+"/systemd/system/auditd.service"))
	got := look()
	if len(got) != 4 || got["/etc/systemd/system/a.service.d/x.conf"] == "" ||
		got["/etc/systemd/system/auditd.service"] != "link to /dev/null" ||
		got["/etc/systemd/system/multi-user.target.wants/evil.service"] != "link to /lib/systemd/system/evil.service" {
		t.Errorf("%q", got)
	}
}

// R026: something is mounted over a directory.
func TestNewMountIsFound(t *testing.T) {
	dir := t.TempDir()
	args := plan.CheckArgs{Check: "mounts", Paths: []string{dir}}
	same(t, items(t, Local(), args))
	if err := unix.Mount("evil", dir, "tmpfs", unix.MS_NOSUID, "size=4k"); err != nil {
		t.Skipf("needs the right to mount (%v); TestMountsAreListedInOrder covers the reading", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	got := items(t, Local(), args)
	if !strings.HasPrefix(got[dir], "tmpfs evil root=/ rw,nosuid") {
		t.Errorf("%q", got)
	}
}

// R026: a BPF program that a process loads.
func TestLoadedBPFProgramIsFound(t *testing.T) {
	insns := []uint64{0xb7, 0x95} // r0 = 0; exit
	license := []byte("GPL\x00")
	attr := struct {
		kind, count    uint32
		insns, license uint64
		rest           [13]uint64
	}{kind: 1, count: 2, insns: uint64(uintptr(unsafe.Pointer(&insns[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, 5, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(insns)
	runtime.KeepAlive(license)
	if errno != 0 {
		t.Skipf("needs the right to load BPF programs (%v)", errno)
	}
	look := func() []string {
		return about(items(t, Local(), plan.CheckArgs{Check: "bpf", Paths: []string{t.TempDir()}}), self(t))
	}
	if got := look(); len(got) != 1 || !strings.HasPrefix(got[0], "program type=1 tag=") {
		t.Errorf("%q", got)
	}
	must(t, unix.Close(int(fd)))
	if got := look(); len(got) != 0 {
		t.Errorf("after it was closed: %q", got)
	}
	pins := tree(t, map[string]string{"evil": ""})
	same(t, items(t, rooted{Local(), map[string]string{"/proc": t.TempDir()}}, plan.CheckArgs{Check: "bpf", Paths: []string{pins}}),
		"pinned "+pins+"/evil", "pinned", "process 1", "!file.missing")
}

// Processes come and go while they are looked at; that is no error.
func TestProcessesThatVanishAreNoFindings(t *testing.T) {
	stop := make(chan struct{})
	done := make(chan struct{})
	exe := copyOf(t, "/usr/bin/true", "mayfly")
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = exec.Command(exe).Run()
			}
		}
	}()
	defer func() { close(stop); <-done }()
	for range 5 {
		for _, name := range []string{"code", "executables", "preload", "bpf", "listening-sockets"} {
			a := plan.CheckArgs{Check: name}
			if name == "listening-sockets" {
				a.Switches = []string{"owners"}
			}
			if got := about(items(t, Local(), a), "mayfly"); len(got) != 0 {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
}

// What the page cache holds of code is compared with the disk.
func TestCodeIsComparedWithTheDisk(t *testing.T) {
	exe := copyOf(t, "/usr/bin/sleep", "victim")
	if fd, code := Local().Open([]byte(exe), OpenDirect); code == CodeDirect.Code {
		t.Skip("the file system of the temporary directory can't be read past the page cache")
	} else {
		Local().Close(fd)
	}
	p := launch(t, exe, "")
	waitForText(t, p.Process.Pid, "/libc.so.6")
	syscall.Sync()
	if got := codeOfAll(t, exe, "disk"); len(got) != 0 {
		t.Errorf("%q", got)
	}
	// A page cache that differs is played: making one needs a hole in the kernel.
	lie := lyingCache{Local(), exe}
	if got := about(items(t, lie, plan.CheckArgs{Check: "code", Switches: []string{"disk"}}), exe); !slices.Equal(got, []string{"cached " + exe}) {
		t.Errorf("%q", got)
	}
}

// lyingCache shows another content of one file through the page cache.
type lyingCache struct {
	System
	path string
}

func (l lyingCache) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	n, c := l.System.ReadAt(fd, p, off)
	if target, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); target == l.path && n > 100 {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&unix.O_DIRECT == 0 {
			p[64] ^= 1
		}
	}
	return n, c
}

func BenchmarkChecks(b *testing.B) {
	for _, name := range plan.CheckNames() {
		a := plan.CheckArgs{Check: name}
		switch name {
		case "sysctls":
			a.Names = []string{"kernel.randomize_va_space", "net.ipv4.ip_forward"}
		case "setuid-files":
			a.Paths = []string{"/usr/bin"}
		case "modules":
			if _, err := os.Stat("/proc/modules"); err != nil {
				continue
			}
		}
		for i, switches := range [][]string{nil, plan.Checks[name].Switches} {
			if i > 0 && len(switches) == 0 {
				continue
			}
			a.Switches = switches
			p, err := plan.NewCheck(1, "sha256", a)
			must(b, err)
			b.Run(strings.Join(append([]string{name}, switches...), "+"), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Capture(b.Context(), Local(), []plan.Test{p}, plan.Limits{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
