package measure

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

func test(t testing.TB, kind, path string, exclude ...string) plan.Test {
	t.Helper()
	p, err := plan.NewTest(1, kind, "sha256", path, exclude)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// short is "name=first digits of the digest" or "name!code" per outcome.
func short(outcomes []plan.Outcome) []string {
	var out []string
	for _, o := range outcomes {
		if o.Err != "" {
			out = append(out, fmt.Sprintf("%s!%s", rats.EscapePath(o.Name), strings.TrimPrefix(string(o.Err), "measure.")))
		} else {
			out = append(out, fmt.Sprintf("%s=%s", rats.EscapePath(o.Name), hex.EncodeToString(o.Digest[:3])))
		}
	}
	return out
}

func sum(data string) string {
	s := sha256.Sum256([]byte(data))
	return hex.EncodeToString(s[:3])
}

func run1(t testing.TB, s System, limits plan.Limits, tests ...plan.Test) []string {
	t.Helper()
	out, err := Capture(t.Context(), s, tests, limits)
	if err != nil {
		t.Fatal(err)
	}
	return short(out)
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// R026: files, globs and directories are measured; what is excluded by an anchored path is not.
func TestScopesAreMeasured(t *testing.T) {
	f := newFake(map[string]string{
		"/etc/passwd": "root", "/usr/bin/a": "A", "/usr/bin/b.sh": "B", "/usr/bin/.h": "H", "/usr/lib/x/y/z.so": "Z",
		"/usr/tmp/t": "T", "/usr/tmpevil/t": "E", "/usr/new\nline": "N", "/usr/\xff": "F", "/usrevil/x": "X",
	})
	f.add("/usr/bin/link", &node{mode: ModeSymlink})
	f.add("/usr/bin/fifo", &node{mode: 0o010000})
	for _, plain := range []bool{false, true} {
		f.plain = plain
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindFile, "/etc/passwd")), "/etc/passwd="+sum("root"))
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindGlob, "/usr/bin/*")),
			"/usr/bin/.h="+sum("H"), "/usr/bin/a="+sum("A"), "/usr/bin/b.sh="+sum("B"))
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindGlob, "/usr/*/?.sh")), "/usr/bin/b.sh="+sum("B"))
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindGlob, `/u[r-t]r/bin/\a`)), "/usr/bin/a="+sum("A"))
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/usr", "/usr/tmp", "/usr/bin")),
			"/usr/lib/x/y/z.so="+sum("Z"), "/usr/new%0Aline="+sum("N"), "/usr/tmpevil/t="+sum("E"), "/usr/%FF="+sum("F"))
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/usr", "/usr")))
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/", "/usr", "/etc")), "/usrevil/x="+sum("X"))
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindGlob, "/opt/*")))
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindGlob, "/usr/bin/a/*")), "/usr/bin/a!file.irregular")
	}
	if len(f.open) != 0 {
		t.Errorf("%d descriptors left open", len(f.open))
	}
}

func TestEveryAlgorithmIsItself(t *testing.T) {
	f := newFake(map[string]string{"/x": "data"})
	d := []byte("data")
	s256, s384, s512 := sha256.Sum256(d), sha512.Sum384(d), sha512.Sum512(d)
	for alg, want := range map[string][]byte{"sha256": s256[:], "sha384": s384[:], "sha512": s512[:]} {
		p := test(t, plan.KindFile, "/x")
		p.Alg = alg
		out, err := Capture(t.Context(), f, []plan.Test{p}, plan.Limits{})
		if err != nil || !reflect.DeepEqual(out[0].Digest, want) || out[0].Size != 4 {
			t.Errorf("%s: %+v, %v", alg, out, err)
		}
	}
	p := test(t, plan.KindFile, "/x")
	p.Alg = "md5"
	want(t, run1(t, f, plan.Limits{}, p), "!"+strings.TrimPrefix(string(CodeKind.Code), "measure."))
	p = test(t, plan.KindFile, "/x")
	p.Kind = "command"
	want(t, run1(t, f, plan.Limits{}, p), "!test.unsupported")
}

// R034: what fails or is refused is an outcome, never left out.
func TestEveryFailureIsAnOutcome(t *testing.T) {
	f := newFake(map[string]string{"/d/a": "A", "/d/gone": "", "/d/locked": "L", "/d/sub/x": "X", "/d/torn": "T", "/d/liar": "", "/d/z": "Z"})
	f.add("/link", &node{mode: ModeSymlink})
	f.add("/fifo", &node{mode: 0o010000})
	f.add("/negative", &node{mode: ModeRegular, size: -1})
	f.fail["/d/locked"] = CodeUnreadable.Code
	f.fail["/d/gone"] = CodeMissing.Code // vanished between list and open
	f.fail["/d/sub"] = CodeUnreadable.Code
	f.failAt["/d/torn"] = CodeUnreadable.Code
	f.failAt["/d/liar"] = "lie"
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/d")),
		"/d/a="+sum("A"), "/d/gone!file.missing", "/d/liar!system.failed", "/d/locked!file.unreadable", "/d/sub!file.unreadable", "/d/torn!file.unreadable", "/d/z="+sum("Z"))
	for path, code := range map[string]string{
		"/nowhere": "file.missing", "/link": "file.symlink", "/fifo": "file.irregular", "/d": "file.irregular", "/negative": "system.failed",
	} {
		want(t, run1(t, f, plan.Limits{}, test(t, plan.KindFile, path)), path+"!"+code)
	}
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/nowhere")), "/nowhere!file.missing")
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindGlob, "/d/sub/*")), "/d/sub!file.unreadable")
	want(t, run1(t, Restrict(f, nil, nil), plan.Limits{}, test(t, plan.KindFile, "/d/a"), test(t, plan.KindDir, "/d"), test(t, plan.KindGlob, "/d/*"), test(t, plan.KindGlob, "/d/a")),
		"/d/a!path.refused", "/d!path.refused", "/d!path.refused", "/d/a!path.refused")
	want(t, run1(t, closed{}, plan.Limits{}, test(t, plan.KindFile, "/x"), test(t, plan.KindDir, "/x")), "/x!system.unsupported", "/x!system.unsupported")
	if c := closed(struct{}{}); CodePlatform.Code == "" || func() bool { _, code := c.Exec(nil, plan.Limits{}); return code == "" }() {
		t.Error("a closed system runs commands")
	}
}

func TestFileThatChangesWhileReadIsRefused(t *testing.T) {
	for name, change := range map[string]func(n *node){
		"grows":     func(n *node) { n.data = append(n.data, 'x') },
		"shrinks":   func(n *node) { n.data = n.data[:1] },
		"rewritten": func(n *node) { n.data[0], n.time = 'y', 1 },
		"swapped":   func(n *node) { n.mode |= 0o4000 },
	} {
		f := newFake(map[string]string{"/x": strings.Repeat("d", 3*chunk)})
		f.onRead = func(p string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if n := f.files[p]; n.time == 0 && len(n.data) == 3*chunk {
				change(n)
			}
		}
		if got := run1(t, f, plan.Limits{}, test(t, plan.KindFile, "/x")); got[0] != "/x!"+strings.TrimPrefix(string(CodeChanged.Code), "measure.") {
			t.Errorf("%s: %q", name, got)
		}
	}
	f := newFake(map[string]string{"/x": "data"})
	f.onRead = func(string) { f.mu.Lock(); defer f.mu.Unlock(); delete(f.files, "/x") }
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindFile, "/x")), "/x!file.missing")
}

func TestFilesThatSayTheyAreEmptyAreReadToTheirEnd(t *testing.T) {
	f := newFake(map[string]string{"/proc/version": "Linux", "/proc/endless": strings.Repeat("x", unsized+1), "/empty": ""})
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/proc")), "/proc/endless!file.changed-while-read", "/proc/version="+sum("Linux"))
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindFile, "/empty")), "/empty="+sum(""))
	want(t, run1(t, f, plan.Limits{Bytes: 4}, test(t, plan.KindFile, "/proc/version")), "/proc/version!limit.bytes")
}

func TestLimitsHaveTheirOwnCodes(t *testing.T) {
	f := newFake(map[string]string{"/d/a": "AAAA", "/d/b": "BBBB", "/d/c": "CCCC", "/e/x": "X"})
	want(t, run1(t, f, plan.Limits{Files: 2}, test(t, plan.KindDir, "/d"), test(t, plan.KindDir, "/e")), "!limit.files", "/e/x="+sum("X"))
	want(t, run1(t, f, plan.Limits{Files: 3}, test(t, plan.KindDir, "/d"), test(t, plan.KindFile, "/e/x")),
		"/d/a="+sum("AAAA"), "/d/b="+sum("BBBB"), "/d/c="+sum("CCCC"), "!limit.files")
	f.fail["/d"] = CodeUnreadable.Code
	want(t, run1(t, f, plan.Limits{Files: 1}, test(t, plan.KindFile, "/e/x"), test(t, plan.KindDir, "/d")), "/e/x="+sum("X"), "!limit.files")
	delete(f.fail, "/d")
	out, err := Runner{System: f, Workers: 1}.Run(t.Context(), []plan.Test{test(t, plan.KindDir, "/d")}, plan.Limits{Bytes: 8})
	if err != nil {
		t.Fatal(err)
	}
	want(t, short(out), "/d/a="+sum("AAAA"), "/d/b="+sum("BBBB"), "/d/c!limit.bytes")

	now := time.Unix(1, 0)
	f.onOpen = func(p string) {
		if p == "/d/b" {
			now = now.Add(time.Minute)
		}
	}
	r := Runner{System: f, Workers: 1, Now: func() time.Time { return now }, Limits: plan.Limits{Time: time.Second}}
	out, err = r.Run(t.Context(), []plan.Test{test(t, plan.KindDir, "/d")}, plan.Limits{Time: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	want(t, short(out), "/d/a="+sum("AAAA"), "/d/b!limit.time", "/d/c!limit.time")
	if out[1].Nanos != int64(time.Minute) {
		t.Errorf("took %d ns", out[1].Nanos)
	}
	f.onOpen = func(p string) {
		if p == "/d" {
			now = now.Add(time.Minute)
		}
	}
	out, _ = r.Run(t.Context(), []plan.Test{test(t, plan.KindDir, "/d")}, plan.Limits{})
	want(t, short(out), "!limit.time")
	if CodeFiles.Code == "" || CodeBytes.Code == "" || CodeTime.Code == "" {
		t.Error("limits without codes")
	}
}

func TestBrokenOffRunIsNoRun(t *testing.T) {
	f := newFake(map[string]string{"/a": "A"})
	ctx, cancel := context.WithCancel(t.Context())
	f.onOpen = func(string) { cancel() }
	if _, err := Capture(ctx, f, []plan.Test{test(t, plan.KindFile, "/a")}, plan.Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestOrderDoesNotDependOnWorkers(t *testing.T) {
	files := map[string]string{}
	for i := range 300 {
		files[fmt.Sprintf("/d/%d/%d", i%7, i)] = fmt.Sprint(i)
	}
	f := newFake(files)
	tests := []plan.Test{test(t, plan.KindDir, "/d"), test(t, plan.KindGlob, "/d/*/1*")}
	tests[1].ID = 2
	var first []string
	for _, workers := range []int{1, 3, 16} {
		out, err := Runner{System: f, Workers: workers}.Run(t.Context(), tests, plan.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := plan.EncodeOutcomes([]uint32{1, 2}, out, nil); err != nil {
			t.Errorf("%d workers: %v", workers, err)
		}
		if got := short(out); first == nil {
			first = got
		} else if !reflect.DeepEqual(got, first) {
			t.Errorf("%d workers: another order", workers)
		}
	}
}

func TestHostileListingsFail(t *testing.T) {
	entry := func(next uint64, name string) []byte {
		return Entry{Next: next, Type: EntryFile, Name: []byte(name)}.append(nil)
	}
	for name, page := range map[string][]byte{
		"cut off": entry(1, "abc")[:12], "empty name": entry(1, ""), "slash": entry(1, "../etc/shadow"), "zero": entry(1, "a\x00b"), "same cookie": entry(0, "a"),
	} {
		f := newFake(map[string]string{"/d/a": "A"})
		f.list = func(buf []byte, _ uint64) (int, rats.Code) { return copy(buf, page), "" }
		if got := run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/d")); got[0] != "/d!"+strings.TrimPrefix(string(CodeSystem.Code), "measure.") {
			t.Errorf("%s: %q", name, got)
		}
	}
	f := newFake(map[string]string{"/d/a": "A"})
	f.list = func(buf []byte, _ uint64) (int, rats.Code) { return len(buf) + 1, "" }
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/d")), "/d!system.failed")
	f.list = func([]byte, uint64) (int, rats.Code) { return 0, CodeUnreadable.Code }
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/d")), "/d!file.unreadable")
	// A name shown twice is measured once.
	f.list = func(buf []byte, cookie uint64) (int, rats.Code) {
		if cookie > 1 {
			return 0, ""
		}
		return copy(buf, entry(cookie+1, "a")), ""
	}
	want(t, run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/d")), "/d/a="+sum("A"))
}

func TestLongPathsFailOnce(t *testing.T) {
	dir := "/" + strings.Repeat("d", 4000)
	f := newFake(map[string]string{dir + "/" + strings.Repeat("n", 200): "x"})
	got := run1(t, f, plan.Limits{}, test(t, plan.KindDir, dir))
	if len(got) != 1 || !strings.HasSuffix(got[0], strings.TrimPrefix(string(CodeName.Code), "measure.")) {
		t.Errorf("%q", got)
	}
	// A host that makes up directories for ever.
	f = newFake(map[string]string{"/d/a": "A"})
	f.onOpen = func(p string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.files[p] == nil {
			f.files[p] = &node{name: p, mode: ModeDir}
		}
	}
	f.list = func(buf []byte, cookie uint64) (int, rats.Code) {
		if cookie > 0 {
			return 0, ""
		}
		return copy(buf, Entry{Next: 1, Type: EntryDir, Name: []byte("d")}.append(nil)), ""
	}
	got = run1(t, f, plan.Limits{}, test(t, plan.KindDir, "/d"))
	if len(got) != 1 || !strings.HasSuffix(got[0], "path.too-long") {
		t.Errorf("%d outcomes", len(got))
	}
}

func TestRestrictionIsAnchored(t *testing.T) {
	f := newFake(map[string]string{"/usr/x": "X", "/usrevil/x": "E", "/etc/y": "Y"})
	r := Restrict(f, []string{"/usr", "etc", "/etc/../etc", ""}, [][]string{{"true"}, {"ls", "-l"}, {}})
	for path, ok := range map[string]bool{
		"/usr/x": true, "/usr": true, "/usrevil/x": false, "/etc/y": false, "/usr/../etc/y": false, "/usr//x": false, "usr/x": false, "": false, "/": false, "/usr/x\x00": false,
	} {
		_, code := r.Stat([]byte(path), true)
		if (code == "") != ok || !ok && code != CodePath.Code {
			t.Errorf("stat %q: %s", path, code)
		}
		if _, code := r.Open([]byte(path), OpenFile); !ok && code != CodePath.Code {
			t.Errorf("open %q: %s", path, code)
		}
	}
	argv := func(s ...string) (out [][]byte) {
		for _, a := range s {
			out = append(out, []byte(a))
		}
		return out
	}
	for _, c := range []struct {
		argv [][]byte
		ok   bool
	}{{argv("true"), true}, {argv("ls", "-l"), true}, {argv("ls"), false}, {argv("true", "x"), false}, {argv("TZ=x", "true"), true}, {argv("LD_PRELOAD=/x", "true"), false}, {argv("TZ=x"), false}, {nil, false}, {argv("rm"), false}} {
		if _, code := r.Exec(c.argv, plan.Limits{}); (code == "") != c.ok || !c.ok && code != CodeExec.Code {
			t.Errorf("%q: %s", c.argv, code)
		}
	}
	all := Restrict(f, []string{"/"}, nil)
	if _, code := all.Stat([]byte("/etc/y"), true); code != "" {
		t.Errorf("root /: %s", code)
	}
}

func FuzzNextEntry(f *testing.F) {
	f.Add(Entry{Next: 1, Name: []byte("x")}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			e, rest, ok := nextEntry(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) || strings.ContainsAny(string(e.Name), "/\x00") {
				t.Fatalf("%q", e.Name)
			}
			b = rest
		}
	})
}
