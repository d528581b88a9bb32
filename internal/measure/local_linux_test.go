package measure

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// tree makes files below a new directory and returns its real path.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for p, data := range files {
		p = filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestThisMachineIsMeasured(t *testing.T) {
	files := map[string]string{"bin/a": "A", "bin/new\nline": "N", "bin/\xff": "F", "tmp/t": "T", "tmpevil/t": "E", "deep/1/2/3/x": "X"}
	for i := range 2000 {
		files[fmt.Sprintf("many/%04d", i)] = fmt.Sprint(i)
	}
	root := tree(t, files)
	must(t, os.Symlink("a", filepath.Join(root, "bin/link")))
	must(t, unix.Mkfifo(filepath.Join(root, "bin/fifo"), 0o644))
	l, err := net.Listen("unix", filepath.Join(root, "bin/socket"))
	must(t, err)
	defer l.Close()
	s := Restrict(Local(), []string{root}, nil)
	for i, got := range run1(t, s, plan.Limits{}, test(t, plan.KindDir, root, root+"/tmp", root+"/many")) {
		want := []string{"bin/a=" + sum("A"), "bin/new%0Aline=" + sum("N"), "bin/%FF=" + sum("F"), "deep/1/2/3/x=" + sum("X"), "tmpevil/t=" + sum("E")}
		if i >= len(want) || got != root+"/"+want[i] {
			t.Errorf("%d: %s", i, got)
		}
	}
	if got := run1(t, s, plan.Limits{}, test(t, plan.KindGlob, root+"/many/1*")); len(got) != 1000 {
		t.Errorf("%d of 1000 files", len(got))
	}
	for name, code := range map[string]rats.CodeInfo{
		"bin/link": CodeSymlink, "bin/fifo": CodeIrregular, "bin/socket": CodeIrregular, "bin": CodeIrregular, "bin/none": CodeMissing, "bin/a/x": CodeMissing,
	} {
		want(t, run1(t, s, plan.Limits{}, test(t, plan.KindFile, root+"/"+name)), root+"/"+name+"!"+strings.TrimPrefix(string(code.Code), "measure."))
		if fd, got := Local().Open([]byte(root+"/"+name), OpenFile); got != code.Code {
			t.Errorf("%s opened: %d %q", name, fd, got)
		}
	}
	if _, code := Local().Open([]byte(root+"/bin/a"), OpenDir); code != CodeIrregular.Code {
		t.Errorf("a file as directory: %q", code)
	}
	if _, code := Local().Open([]byte("/dev/null"), OpenFile); code != CodeIrregular.Code {
		t.Errorf("a device: %q", code)
	}
	if _, code := Local().Open(append([]byte("/"), bytes.Repeat([]byte("x"), 300)...), OpenFile); code != CodeName.Code {
		t.Errorf("a long name: %q", code)
	}
	if _, code := Local().Stat([]byte("/a\x00b"), true); code != CodePath.Code {
		t.Errorf("a zero byte: %q", code)
	}
	if _, code := Local().Exec([][]byte{[]byte("true")}, plan.Limits{}); code != CodeExec.Code {
		t.Errorf("a command: %q", code)
	}
	if _, code := Local().ReadAt(-1, make([]byte, 1), 0); code != CodeSystem.Code {
		t.Errorf("a bad descriptor: %q", code)
	}
	if _, code := Local().List(-1, 0, make([]byte, ListBuffer)); code != CodeSystem.Code {
		t.Errorf("a bad descriptor: %q", code)
	}
}

func TestSymbolicLinksDoNotLeadOutOfTheRoots(t *testing.T) {
	root := tree(t, map[string]string{"in/x": "X", "out/secret": "S", "in/sub/y": "Y"})
	in := root + "/in"
	must(t, os.Symlink("../out", in+"/dir"))
	must(t, os.Symlink("sub", in+"/inside"))
	must(t, os.Symlink("../out/secret", in+"/file"))
	s := Restrict(Local(), []string{in}, nil)
	want(t, run1(t, s, plan.Limits{}, test(t, plan.KindFile, in+"/inside/y")), in+"/inside/y="+sum("Y"))
	want(t, run1(t, s, plan.Limits{}, test(t, plan.KindFile, in+"/dir/secret")), in+"/dir/secret!path.refused")
	want(t, run1(t, s, plan.Limits{}, test(t, plan.KindFile, in+"/file")), in+"/file!file.symlink")
	want(t, run1(t, s, plan.Limits{}, test(t, plan.KindGlob, in+"/dir/s*")), in+"/dir!file.symlink")
	want(t, run1(t, s, plan.Limits{}, test(t, plan.KindGlob, in+"/dir/secret")), in+"/dir/secret!path.refused")
	want(t, run1(t, s, plan.Limits{}, test(t, plan.KindDir, in)), in+"/sub/y="+sum("Y"), in+"/x="+sum("X"))
	if _, code := s.Stat([]byte(in+"/file"), true); code != CodePath.Code {
		t.Errorf("following stat: %q", code)
	}
	// What is opened is judged, not what was looked at before.
	if fd, code := s.Open([]byte(in+"/dir/secret"), OpenFile); code != CodePath.Code {
		t.Errorf("opened %d, %q", fd, code)
	}
	if _, code := Local().Open(fmt.Appendf(nil, "/proc/self/cwd/%s", "x"), OpenFile); code != CodeSymlink.Code {
		t.Logf("magic link: %q (openat2 is not available here)", code)
	}
}

// R034: a file the agent may not read is a failed test.
func TestUnreadableFileIsAnOutcome(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads every file; TestEveryFailureIsAnOutcome covers the runner's side")
	}
	root := tree(t, map[string]string{"d/x": "X", "d/locked/y": "Y"})
	must(t, os.Chmod(root+"/d/x", 0))
	must(t, os.Chmod(root+"/d/locked", 0))
	defer os.Chmod(root+"/d/locked", 0o755)
	want(t, run1(t, Local(), plan.Limits{}, test(t, plan.KindDir, root+"/d")), root+"/d/locked!file.unreadable", root+"/d/x!file.unreadable")
}

func TestSystemErrorsHaveCodes(t *testing.T) {
	for err, code := range map[error]rats.CodeInfo{
		unix.ENOENT: CodeMissing, unix.EACCES: CodeUnreadable, unix.EPERM: CodeUnreadable, unix.EIO: CodeUnreadable, unix.ELOOP: CodeSymlink,
		unix.ENAMETOOLONG: CodeName, unix.ENXIO: CodeIrregular, unix.EMFILE: CodeSystem, unix.EAGAIN: CodeSystem,
	} {
		if got := codeOf(err); got != code.Code {
			t.Errorf("%v: %s", err, got)
		}
	}
}

func TestWhatIsNotPermittedIsRefused(t *testing.T) {
	l := local{permit: func([]byte) bool { return false }}
	if _, code := l.Stat([]byte("/"), true); code != CodePath.Code {
		t.Errorf("%q", code)
	}
}

func BenchmarkRun2000Files(b *testing.B) {
	files := map[string]string{}
	for i := range 2000 {
		files[fmt.Sprintf("d%d/%d", i%20, i)] = strings.Repeat("x", 4096)
	}
	root := tree(b, files)
	s := Restrict(Local(), []string{root}, nil)
	p := test(b, plan.KindDir, root)
	for b.Loop() {
		if out, err := Capture(b.Context(), s, []plan.Test{p}, plan.Limits{}); err != nil || len(out) != 2000 {
			b.Fatal(len(out), err)
		}
	}
}
