package measure

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

func attributesTest(t testing.TB, kind, path string, o plan.FileOptions, exclude ...string) plan.Test {
	t.Helper()
	p, err := plan.NewFilesTest(1, kind, "sha256", path, exclude, o)
	must(t, err)
	return p
}

var allAttributes = plan.FileOptions{Attributes: []string{plan.AttrMode, plan.AttrOwner, plan.AttrXattrs, plan.AttrLinks}}

// R026: owner, mode, extended attributes and targets of links are measured, of everything in a tree.
func TestAttributesAreMeasured(t *testing.T) {
	dir := tree(t, map[string]string{"a": "A", "skip/x": "X"})
	must(t, os.Symlink("a", dir+"/link"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	must(t, os.Chmod(dir, 0o750))
	must(t, os.Chmod(dir+"/a", 0o640))
	must(t, os.Chmod(dir+"/fifo", 0o600))
	owner := fmt.Sprintf("owner %d %d\n", os.Getuid(), os.Getgid())
	p := attributesTest(t, plan.KindDir, dir, allAttributes, dir+"/skip")
	at := "%00attributes="
	clean := []string{
		dir + at + sum("type directory\nmode 0750\n"+owner), dir + "/a=" + sum("A"), dir + "/a" + at + sum("type file\nmode 0640\n"+owner),
		dir + "/fifo" + at + sum("type other\nmode 0600\n"+owner), dir + "/link" + at + sum("type link\n"+owner+"target a\n"),
	}
	want(t, run1(t, Local(), plan.Limits{}, p), clean...)
	must(t, os.Chmod(dir+"/a", 0o640|os.ModeSetuid))
	clean[2] = dir + "/a" + at + sum("type file\nmode 4640\n"+owner)
	want(t, run1(t, Local(), plan.Limits{}, p), clean...)
	must(t, os.Remove(dir+"/link"))
	must(t, os.Symlink("/etc/shadow", dir+"/link"))
	clean[4] = dir + "/link" + at + sum("type link\n"+owner+"target /etc/shadow\n")
	want(t, run1(t, Local(), plan.Limits{}, p), clean...)
	if err := unix.Setxattr(dir+"/a", "user.note", []byte{1, 2}, 0); err == nil {
		clean[2] = dir + "/a" + at + sum("type file\nmode 4640\n"+owner+"xattr user.note 0102\n")
		want(t, run1(t, Local(), plan.Limits{}, p), clean...)
	} else {
		t.Logf("no extended attributes here: %v", err)
	}
	// A link that a file test names is measured by its target where targets are asked for, and else an error.
	want(t, run1(t, Local(), plan.Limits{}, attributesTest(t, plan.KindFile, dir+"/link", plan.FileOptions{Attributes: []string{"links"}})),
		dir+"/link"+at+sum("type link\ntarget /etc/shadow\n"))
	want(t, run1(t, Local(), plan.Limits{}, attributesTest(t, plan.KindFile, dir+"/link", plan.FileOptions{Attributes: []string{"mode"}})),
		dir+"/link!file.symlink", dir+"/link"+at+sum("type link\n"))
	want(t, run1(t, Local(), plan.Limits{}, attributesTest(t, plan.KindGlob, dir+"/l*", plan.FileOptions{Attributes: []string{"links"}})),
		dir+"/link"+at+sum("type link\ntarget /etc/shadow\n"))
	// What leads out of the roots isn't told either.
	s := Restrict(Local(), []string{dir + "/skip"}, nil)
	if _, code := s.Open([]byte(dir+"/link"), OpenLink); code != CodePath.Code {
		t.Errorf("a link outside of the roots: %q", code)
	}
	if _, code := Local().Open([]byte(dir+"/a"), OpenLink); code != CodeIrregular.Code {
		t.Errorf("the target of a file: %q", code)
	}
	if _, code := Local().Open([]byte("/a\x00b"), OpenLink); code != CodePath.Code {
		t.Errorf("a zero byte: %q", code)
	}
}

func TestHostileAttributesAreRefused(t *testing.T) {
	for name, told := range map[string]string{
		"cut off": "\x01", "no name": "\x00\x00\x00\x00\x00\x00", "long value": "\x01\x00a\xff\xff\xff\xff", "twice": "\x01\x00a\x00\x00\x00\x00\x01\x00a\x00\x00\x00\x00",
	} {
		f := newFake(map[string]string{"/x": told})
		r := &run{system: f, ctx: t.Context()}
		r.left.Store(1 << 20)
		if _, code := r.xattrs([]byte("/x")); code != CodeContent.Code {
			t.Errorf("%s: %q", name, code)
		}
	}
}

func TestFilesAreReadPastThePageCache(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, chunk, chunk + 1, 3*chunk + 4097} {
		data := strings.Repeat("d", size)
		dir := tree(t, map[string]string{"x": data})
		got := run1(t, Local(), plan.Limits{}, attributesTest(t, plan.KindFile, dir+"/x", plan.FileOptions{Direct: true}))
		if got[0] == dir+"/x!"+strings.TrimPrefix(string(CodeDirect.Code), "measure.") {
			t.Skip("the file system of the temporary directory can't be read past the page cache")
		}
		want(t, got, dir+"/x="+sum(data))
	}
	if _, err := os.Stat("/dev/shm"); err == nil {
		p, err := os.CreateTemp("/dev/shm", "assay-test-")
		must(t, err)
		defer os.Remove(p.Name())
		p.Close()
		got := run1(t, Local(), plan.Limits{}, attributesTest(t, plan.KindFile, p.Name(), plan.FileOptions{Direct: true}))
		t.Logf("on tmpfs: %s", got[0]) // kernels from 6.6 on read tmpfs so, older ones refuse
	}
}

func command(t testing.TB, a plan.CommandArgs) plan.Test {
	t.Helper()
	p, err := plan.NewCommand(1, "sha256", a)
	must(t, err)
	return p
}

// R026: what a program prints, without a shell, in a bounded environment.
func TestCommandsAreMeasured(t *testing.T) {
	t.Setenv("SECRET", "x")
	sh := func(script string, o plan.CommandArgs) string {
		o.Argv = []string{"/bin/sh", "-c", script}
		return strings.TrimPrefix(run1(t, Local(), plan.Limits{}, command(t, o))[0], "command:")
	}
	got := run1(t, Local(), plan.Limits{}, command(t, plan.CommandArgs{Argv: []string{"/usr/bin/echo", "a b", "$HOME", "*"}}))
	want(t, got, `command:/usr/bin/echo "a b" $HOME *=`+sum("a b $HOME *\n"))
	for script, c := range map[string]struct {
		a    plan.CommandArgs
		want string
	}{
		"env | sort | grep -v -e ^PWD= -e ^_=": {plan.CommandArgs{Env: []string{"LANG=de_DE.UTF-8"}}, "=" + sum("LANG=de_DE.UTF-8\nLC_ALL=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nTZ=UTC\n")},
		"echo one; exit 3":                     {plan.CommandArgs{}, "!exec.status"},
		"echo two; exit 3":                     {plan.CommandArgs{Status: true}, "=" + sum("status 3\ntwo\n")},
		"kill -9 $$":                           {plan.CommandArgs{Status: true}, "=" + sum("status 137\n")},
		"echo err >&2":                         {plan.CommandArgs{}, "=" + sum("")},
		"cat":                                  {plan.CommandArgs{}, "=" + sum("")},
		"echo state: enforcing":                {plan.CommandArgs{Match: "^state: enforc"}, "=" + sum("match")},
		"echo one; echo two":                   {plan.CommandArgs{Match: "^two$"}, "=" + sum("match")},
		"echo state: permissive":               {plan.CommandArgs{Match: "^state: enforc"}, "=" + sum("no match")},
	} {
		if got := sh(script, c.a); !strings.HasSuffix(got, c.want) {
			t.Errorf("%s: %s, want …%s", script, got, c.want)
		}
	}
	want(t, run1(t, Local(), plan.Limits{}, command(t, plan.CommandArgs{Argv: []string{"/no/such"}})), "command:/no/such!file.missing")
	want(t, run1(t, Local(), plan.Limits{}, command(t, plan.CommandArgs{Argv: []string{"/etc/passwd"}})), "command:/etc/passwd!file.unreadable")
	// The node's own list decides, whatever environment comes along.
	s := Restrict(Local(), nil, [][]string{{"/usr/bin/echo", "yes"}})
	want(t, run1(t, s, plan.Limits{}, command(t, plan.CommandArgs{Argv: []string{"/usr/bin/echo", "yes"}, Env: []string{"TZ=x"}})), "command:TZ=x /usr/bin/echo yes="+sum("yes\n"))
	want(t, run1(t, s, plan.Limits{}, command(t, plan.CommandArgs{Argv: []string{"/usr/bin/echo", "no"}})), "command:/usr/bin/echo no!"+strings.TrimPrefix(string(CodeExec.Code), "measure."))
	if CodeStatus.Code == "" || CodeOutput.Code == "" || CodeExecTime.Code == "" {
		t.Error("commands without codes")
	}
}

// A command that never ends, prints for ever, leaves children behind, or holds the pipe and goes.
func TestCommandsAreBounded(t *testing.T) {
	cases := map[string]struct {
		argv []string
		o    plan.CommandArgs
		code rats.CodeInfo
	}{
		"never ends":        {[]string{"/usr/bin/sleep", "1000"}, plan.CommandArgs{Time: 50 * time.Millisecond}, CodeExecTime},
		"ignores signals":   {[]string{"/bin/sh", "-c", "trap '' TERM INT HUP; while :; do :; done"}, plan.CommandArgs{Time: 50 * time.Millisecond}, CodeExecTime},
		"prints 10 GB":      {[]string{"/bin/sh", "-c", "yes | head -c 10000000000"}, plan.CommandArgs{}, CodeOutput},
		"prints for ever":   {[]string{"/usr/bin/yes"}, plan.CommandArgs{Bytes: 100}, CodeOutput},
		"closes its output": {[]string{"/bin/sh", "-c", "exec >/dev/null; sleep 1000"}, plan.CommandArgs{Time: 50 * time.Millisecond}, CodeExecTime},
		"leaves a child":    {[]string{"/bin/sh", "-c", "sleep 1000 & exit 0"}, plan.CommandArgs{Time: 100 * time.Millisecond}, CodeExecTime},
		"leaves a daemon":   {[]string{"/bin/sh", "-c", "setsid sleep 3 & exit 0"}, plan.CommandArgs{Time: 100 * time.Millisecond}, CodeExecTime},
	}
	for name, c := range cases {
		c.o.Argv = c.argv
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		got := run1(t, Local(), plan.Limits{}, command(t, c.o))
		runtime.ReadMemStats(&after)
		if !strings.HasSuffix(got[0], "!"+strings.TrimPrefix(string(c.code.Code), "measure.")) {
			t.Errorf("%s: %q", name, got)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("%s took %s", name, d)
		}
		if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 32<<20 {
			t.Errorf("%s cost %d bytes", name, grown)
		}
	}
	// The run's own time is the command's too.
	now := time.Unix(1, 0)
	r := Runner{System: Local(), Now: func() time.Time { return now }, Limits: plan.Limits{Time: 50 * time.Millisecond}}
	out, err := r.Run(t.Context(), []plan.Test{command(t, plan.CommandArgs{Argv: []string{"/usr/bin/sleep", "1000"}})}, plan.Limits{})
	if err != nil || out[0].Err != CodeExecTime.Code {
		t.Errorf("%+v %v", out, err)
	}
}

// Bad input of every kind in one directory: each has its own outcome.
func TestHostileFilesHaveDefinedOutcomes(t *testing.T) {
	dir := tree(t, map[string]string{"new\nline": "N", "bytes\xff\xfe": "B", "d/plain": "P"})
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	l, err := net.Listen("unix", dir+"/s")
	must(t, err)
	defer l.Close()
	must(t, os.Symlink("loop", dir+"/loop"))
	must(t, os.Symlink("..", dir+"/d/up"))
	must(t, os.Symlink("b", dir+"/a"))
	must(t, os.Symlink("a", dir+"/b"))
	want(t, run1(t, Local(), plan.Limits{}, test(t, plan.KindDir, dir)),
		dir+"/bytes%FF%FE="+sum("B"), dir+"/d/plain="+sum("P"), dir+"/new%0Aline="+sum("N"))
	for path, code := range map[string]string{"loop": "file.symlink", "a": "file.symlink", "loop/x": "file.symlink", "d/up/fifo": "file.irregular", "s": "file.irregular"} {
		want(t, run1(t, Local(), plan.Limits{}, test(t, plan.KindFile, dir+"/"+path)), dir+"/"+path+"!"+code)
	}
	for _, device := range []string{"/dev/zero", "/dev/random", "/dev/tty"} {
		if _, err := os.Stat(device); err == nil {
			want(t, run1(t, Local(), plan.Limits{}, test(t, plan.KindFile, device)), device+"!file.irregular")
		}
	}
}

func TestSparseTerabyteIsBounded(t *testing.T) {
	dir := tree(t, map[string]string{"small": "S"})
	huge := dir + "/huge"
	must(t, os.WriteFile(huge, nil, 0o600))
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Skipf("the file system of the temporary directory has no files of 1 TiB: %v", err)
	}
	want(t, run1(t, Local(), plan.Limits{Bytes: 1 << 30}, test(t, plan.KindFile, huge), test(t, plan.KindFile, dir+"/small")), huge+"!limit.bytes", dir+"/small="+sum("S"))
	now := time.Unix(1, 0)
	var reads atomic.Int64
	r := Runner{
		System: counting{Local(), &reads}, Workers: 1, Limits: plan.Limits{Time: time.Second},
		Now: func() time.Time { return now.Add(time.Duration(reads.Load()) * 10 * time.Millisecond) },
	}
	out, err := r.Run(t.Context(), []plan.Test{test(t, plan.KindFile, huge)}, plan.Limits{})
	if err != nil || out[0].Err != CodeTime.Code || reads.Load() > 200 {
		t.Errorf("%+v %v after %d reads", out, err, reads.Load())
	}
}

type counting struct {
	System
	reads *atomic.Int64
}

func (c counting) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	c.reads.Add(1)
	return c.System.ReadAt(fd, p, off)
}

// A file that grows, or is cut off, while it is hashed.
func TestFileThatGrowsOrIsTruncatedWhileHashed(t *testing.T) {
	dir := tree(t, map[string]string{"x": strings.Repeat("x", 4*chunk)})
	for name, change := range map[string]func() error{
		"grows": func() error {
			f, err := os.OpenFile(dir+"/x", os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Write([]byte("more"))
			return err
		},
		"is truncated": func() error { return os.Truncate(dir+"/x", chunk) },
		"is replaced":  func() error { return os.Rename(dir+"/other", dir+"/x") },
	} {
		must(t, os.WriteFile(dir+"/x", []byte(strings.Repeat("x", 4*chunk)), 0o644))
		must(t, os.WriteFile(dir+"/other", []byte(strings.Repeat("y", 4*chunk)), 0o644))
		var once sync.Once
		s := meddling{Local(), func() { once.Do(func() { must(t, change()) }) }}
		if got := run1(t, s, plan.Limits{}, test(t, plan.KindFile, dir+"/x")); got[0] != dir+"/x!file.changed-while-read" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

type meddling struct {
	System
	change func()
}

func (m meddling) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	n, code := m.System.ReadAt(fd, p, off)
	if off > 0 {
		m.change()
	}
	return n, code
}

// endless is a directory of very many files that exist as names only.
type endless struct {
	closed
	files uint64
	setid uint64 // the one file with rights of its own
	peak  *atomic.Uint64
	calls *atomic.Uint64
}

func (e endless) Open([]byte, uint32) (int32, rats.Code) { return 1, "" }

func (e endless) List(_ int32, cookie uint64, buf []byte) (int, rats.Code) {
	if e.calls.Add(1)%64 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapInuse > e.peak.Load() {
			e.peak.Store(m.HeapInuse)
		}
	}
	out := buf[:0]
	var name [24]byte
	for cookie < e.files && len(out)+40 < len(buf) {
		n := fmt.Appendf(name[:0], "file-%012d", cookie)
		cookie++
		out = Entry{Next: cookie, Type: EntryFile, Name: n}.append(out)
	}
	return len(out), ""
}

func (e endless) Stat(p []byte, _ bool) (Stat, rats.Code) {
	st := Stat{Mode: ModeRegular | 0o755}
	if strings.HasSuffix(string(p), fmt.Sprintf("-%012d", e.setid)) {
		st.Mode |= 0o4000
	}
	return st, ""
}

// Ten million files: a test of their contents ends at its limit, a check that looks at each keeps what it found only. The
// heap stays far below the 100 MB an agent may have.
func TestTenMillionFilesDoNotFillTheMemory(t *testing.T) {
	files := uint64(manyFiles)
	var peak, calls atomic.Uint64
	s := endless{files: files, setid: files - 7, peak: &peak, calls: &calls}
	want(t, run1(t, s, plan.Limits{}, test(t, plan.KindDir, "/d")), "!limit.files")
	same(t, items(t, s, plan.CheckArgs{Check: "setuid-files", Paths: []string{"/d"}}), fmt.Sprintf("/d/file-%012d", files-7), "mode 4755 owner 0 0")
	if got := peak.Load(); got > 80<<20 {
		t.Errorf("the heap grew to %d MB", got>>20)
	}
	t.Logf("heap at most %d MB in %d lists", peak.Load()>>20, calls.Load())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Capture(ctx, s, []plan.Test{test(t, plan.KindDir, "/d")}, plan.Limits{}); err == nil {
		t.Error("a cancelled run has outcomes")
	}
}
