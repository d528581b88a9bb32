package monitor_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

type ambient struct {
	Args, Env   []string
	Dir         string
	File        bool
	Time        int64
	Random      [16]byte
	SDKTime     int64
	Hash, Hash2 [32]byte
}

func TestEnclaveHasNothingOfTheOutsideByItself(t *testing.T) {
	inBothModes(t, enclaveHasNothingOfTheOutsideByItself)
}

func enclaveHasNothingOfTheOutsideByItself(t *testing.T, mode abi.Mode) {
	t.Setenv("TREASURE", "oak")
	at := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	printed := new(bytes.Buffer)
	m := newMonitor(t, func(c *monitor.Config) { c.Now, c.Debug = func() time.Time { return at }, printed })
	a := call[ambient](t, load(t, m, monitor.Options{Mode: mode}), "ambient", none{})
	if len(a.Args) != 0 || len(a.Env) != 0 || a.File || strings.Contains(a.Dir, "monitor") {
		t.Errorf("it sees arguments %q, variables %q, folder %q, a file: %t", a.Args, a.Env, a.Dir, a.File)
	}
	if mode == abi.ModeInline && (a.Time != at.UnixNano() || a.SDKTime != at.UnixNano()) { // a process has its own
		t.Errorf("its time is %d and %d, want the monitor's", a.Time, a.SDKTime)
	}
	if a.Random == [16]byte{} || a.Hash != a.Hash2 || a.Hash != sha256.Sum256(a.Random[:]) {
		t.Error("its randomness or hashes are wrong")
	}
	if printed.Len() != 0 {
		t.Errorf("what it prints leaves: %q", printed)
	}
}

// R105: what an enclave with DEBUG prints is shown, and DEBUG stands in its identity and its reports.
func TestDebugIsVisible(t *testing.T) { inBothModes(t, debugIsVisible) }

func debugIsVisible(t *testing.T, mode abi.Mode) {
	file, sig := image(t, small, func(o *enclave.SignOptions) { o.Attributes.Flags |= abi.FlagDebug })
	i, err := enclave.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	printed := new(bytes.Buffer)
	m := newMonitor(t, func(c *monitor.Config) { c.Policy.Debug, c.Debug = [][32]byte{i.Measure()}, printed })
	e, err := m.Load(bg, file, sig, monitor.Options{Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Destroy()
	call[ambient](t, e, "ambient", none{})
	wantCode(t, "a panic", try(e, "panics", none{}), monitor.CodeTrap)
	if s := printed.String(); !strings.Contains(s, "printed inside") || !strings.Contains(s, "4711") {
		t.Errorf("printed %q", s)
	}
	if !e.Identity().Attributes.Debug() {
		t.Error("DEBUG is not in the identity")
	}
}

func self(t testing.TB, e *monitor.Instance) abi.ReportBody {
	t.Helper()
	b, err := abi.ParseReportBody(call[[]byte](t, e, "self", none{}))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// R094: mode, launch, root class and what is true of the memory stand in every report.
func TestReportsSayWhatRunsWhere(t *testing.T) { inBothModes(t, reportsSayWhatRunsWhere) }

func reportsSayWhatRunsWhere(t *testing.T, mode abi.Mode) {
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: mode})
	b := self(t, e)
	p, err := abi.ParsePlatform(b.CPUSVN)
	if err != nil || p != e.Platform() || p.Mode != mode || p.Root != abi.RootSimulated || p.SVN != 3 {
		t.Errorf("platform %+v, %v", p, err)
	}
	if id := e.Identity(); b.MRENCLAVE != id.MRENCLAVE || b.MRSIGNER != abi.TestMRSIGNER || b.ISVProdID != 7 || b.ISVSVN != 2 {
		t.Errorf("body %+v", b)
	}
	call[none](t, e, "report", none{}) // for itself, verified
	if fmt.Sprintf("%v %+v %#v", e, e, e) != strings.TrimSpace(strings.Repeat(e.String()+" ", 3)) {
		t.Errorf("%#v", e)
	}
}

func TestQuoteIsTheHooks(t *testing.T) { inBothModes(t, quoteIsTheHooks) }

func quoteIsTheHooks(t *testing.T, mode abi.Mode) {
	var got abi.ReportBody
	m := newMonitor(t, func(c *monitor.Config) {
		c.Quote = func(_ context.Context, b abi.ReportBody) ([]byte, error) {
			got = b
			if b.ReportData[0] == 9 {
				return make([]byte, 1<<17), nil
			}
			return []byte("a quote"), nil
		}
	})
	e := load(t, m, monitor.Options{Mode: mode})
	if q := call[[]byte](t, e, "quote", [64]byte{1, 2}); string(q) != "a quote" || got.ReportData != [64]byte{1, 2} || got.MRENCLAVE != e.Identity().MRENCLAVE {
		t.Errorf("quote %q of %+v", q, got)
	}
	wantCode(t, "a quote larger than its room", try(e, "quote", [64]byte{9}), monitor.CodeArgument)
}

// R109: two instances of one enclave tell themselves apart.
func TestInstancesAreToldApart(t *testing.T) { inBothModes(t, instancesAreToldApart) }

func instancesAreToldApart(t *testing.T, mode abi.Mode) {
	m := newMonitor(t, nil)
	a, b := load(t, m, monitor.Options{Mode: mode}), load(t, m, monitor.Options{Mode: mode})
	x, y := call[[16]byte](t, a, "instance", none{}), call[[16]byte](t, b, "instance", none{})
	if x == y || x != call[[16]byte](t, a, "instance", none{}) || a.Identity() != b.Identity() {
		t.Errorf("instances %x and %x", x, y)
	}
}

// R036: what is put outside comes back authentic and newest, or not at all.
func TestShelfTakesBackOnlyTheNewest(t *testing.T) { inBothModes(t, shelfTakesBackOnlyTheNewest) }

func shelfTakesBackOnlyTheNewest(t *testing.T, mode abi.Mode) {
	type shelved struct {
		Name string
		Box  []byte
	}
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: mode})
	put := func(name, s string) []byte { return call[[]byte](t, e, "put", shelved{name, []byte(s)}) }
	old := put("a", "first")
	newest, other := put("a", "second"), put("b", "third")
	if got := call[[]byte](t, e, "fetch", shelved{"a", newest}); string(got) != "second" {
		t.Errorf("fetched %q", got)
	}
	for what, s := range map[string]shelved{
		"an older one": {"a", old}, "another's": {"a", other}, "an unknown name": {"c", newest}, "nothing": {"a", nil},
		"a changed one": {"a", append([]byte{newest[0] ^ 1}, newest[1:]...)},
	} {
		wantCode(t, what, try(e, "fetch", s), sdk.CodeShelf)
	}
}

// A goroutine that was left behind doesn't run between calls.
func TestNothingRunsBetweenCalls(t *testing.T) { inBothModes(t, nothingRunsBetweenCalls) }

func nothingRunsBetweenCalls(t *testing.T, mode abi.Mode) {
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: mode})
	first := call[int64](t, e, "between", none{})
	was := call[int64](t, e, "between", none{})
	time.Sleep(50 * time.Millisecond) // real time: a guest's threads know no other
	if now := call[int64](t, e, "between", none{}); now-was > max(10*(was-first), 100000) {
		t.Errorf("a goroutine counted from %d to %d while nothing was inside", was, now)
	}
	call[none](t, e, "nap", none{})
}

// R025 and S17: the six raw operations reach what the System lets them, and descriptors are the enclave's own.
func TestOutsideIsWhatTheSystemLets(t *testing.T) { inBothModes(t, outsideIsWhatTheSystemLets) }

func outsideIsWhatTheSystemLets(t *testing.T, mode abi.Mode) {
	type read struct {
		Code string
		Sum  [32]byte
		List []byte
		Stat measure.Stat
		Bad  []string
	}
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789"), 30_000) // several reads through the buffer
	for _, name := range []string{"in/file", "out/file"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, closed := monitor.Outside(measure.Restrict(measure.Local(), []string{dir + "/in"}, nil))
	e := load(t, newMonitor(t, nil), monitor.Options{Mode: mode, Host: host, Close: closed})
	r := call[read](t, e, "read", []byte(dir+"/in/file"))
	if r.Code != "" || r.Sum != sha256.Sum256(content) || r.Stat.Size != int64(len(content)) {
		t.Errorf("read %+v", r)
	}
	if len(r.Bad) < 6 || slices.ContainsFunc(r.Bad, func(c string) bool { return c != string(measure.CodeSystem.Code) }) {
		t.Errorf("other descriptors: %q", r.Bad)
	}
	if r = call[read](t, e, "read", []byte(dir+"/in")); r.Code != "" || !bytes.Contains(r.List, []byte("file")) {
		t.Errorf("list %+v", r)
	}
	for path, want := range map[string]rats.Code{
		dir + "/out/file": measure.CodePath.Code, dir + "/in/none": measure.CodeMissing.Code, strings.Repeat("x", 5000): measure.CodeName.Code,
	} {
		if r = call[read](t, e, "read", []byte(path)); r.Code != string(want) {
			t.Errorf("%.40s: %q, want %s", path, r.Code, want)
		}
	}
}

// R113: a secret that was used and wiped is nowhere in the enclave's memory, and no print shows it.
func TestSecretsAreGoneAfterUse(t *testing.T) {
	mark := make([]byte, 32)
	if _, err := rand.Read(mark); err != nil {
		t.Fatal(err)
	}
	e := load(t, newMonitor(t, nil), monitor.Options{})
	if s := call[string](t, e, "keep", mark); s != "sdk.Secret sdk.Secret sdk.Secret sdk.Secret" {
		t.Errorf("it prints as %q", s)
	}
	if !monitor.MemoryHolds(e, mark) {
		t.Error("the secret is not inside: the test looks in the wrong place")
	}
	if n := call[uint32](t, e, "wipe", none{}); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
	if monitor.MemoryHolds(e, mark) || monitor.MemoryHolds(e, mark[:16]) {
		t.Error("the secret is still in the enclave's memory or the buffer")
	}
}

// R177: entries of the compilation cache that were changed, exchanged, cut short, or made under another key are not run:
// they are removed, and the module is compiled anew.
func TestPoisonedCacheIsNotRun(t *testing.T) {
	dir := t.TempDir()
	var logged bytes.Buffer
	cacheKey, err := monitor.CacheKey(root(t, 1, 3))
	if err != nil {
		t.Fatal(err)
	}
	start := func(key [32]byte, module []byte) (*monitor.Compiler, error) {
		c, err := monitor.NewCompiler(bg, monitor.CompilerOptions{Dir: dir, Key: key, Log: slog.New(slog.NewTextHandler(&logged, nil))})
		if err != nil {
			t.Fatal(err)
		}
		i, err := enclave.Parse(module)
		if err != nil {
			t.Fatal(err)
		}
		m := newMonitor(t, func(mc *monitor.Config) {
			mc.Compiler, mc.Platform.Root = c, abi.RootOSProtected
		})
		e, err := m.Load(bg, module, sign(t, i, testKey(t), nil), monitor.Options{})
		if err == nil {
			_, err = e.Enter(bg, "nobody", nil)
			wantCode(t, "an entry that isn't there", err, monitor.CodeEntry)
			err = e.Destroy()
		}
		return c, err
	}
	module := handmade(t, "assay", "random", "ii", 0x01, 0x01)
	run := func(what string, key [32]byte, forged bool) {
		t.Helper()
		logged.Reset()
		c, err := start(key, module)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_ = c.Close(bg)
		if strings.Contains(logged.String(), string(monitor.CodeCache.Code)) != forged {
			t.Errorf("%s: logged %q, want a forged entry: %t", what, logged.String(), forged)
		}
	}
	run("an empty cache", cacheKey, false)
	if strings.Contains(logged.String(), "stay in memory") {
		t.Skip("no right to make a folder that one process alone reaches: compiled modules stay in memory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("entries %v, %v", entries, err)
	}
	file := filepath.Join(dir, entries[0].Name())
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	run("a good entry", cacheKey, false)
	for what, b := range map[string][]byte{
		"code changed": flipped(good, len(good)-20), "name changed": flipped(good, 40), "MAC changed": flipped(good, 0),
		"cut short": good[:len(good)-1], "nothing": {}, "longer": append(slices.Clone(good), 0),
	} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		run(what, cacheKey, true)
		if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, good) {
			t.Errorf("%s: not written anew: %v", what, err)
		}
	}
	otherKey, err := monitor.CacheKey(root(t, 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	run("another monitor's key", otherKey, true)
	run("and back", cacheKey, true)

	// The entry of another module under this one's name.
	second := handmade(t, "assay", "random", "ii", 0x01)
	moved := module
	module = second
	run("a second module", cacheKey, false)
	sum := func(image []byte) string { return filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256(image[128:]))) }
	b, err := os.ReadFile(sum(second))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sum(moved), b, 0o600); err != nil {
		t.Fatal(err)
	}
	module = moved
	run("another module's entry", cacheKey, true)

	c, err := monitor.NewCompiler(bg, monitor.CompilerOptions{Dir: dir, Key: cacheKey})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(bg)
	mc := config(t)
	mc.Compiler = c
	if _, err := monitor.New(bg, mc); err == nil {
		t.Error("a simulated root keeps compiled modules on disk")
	}
	if _, err := monitor.NewCompiler(bg, monitor.CompilerOptions{Dir: dir}); err == nil {
		t.Error("a cache without a key")
	}
}

func flipped(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[at] ^= 1
	return b
}

func TestMonitorNeedsWhatItNeeds(t *testing.T) {
	for what, change := range map[string]func(*monitor.Config){
		"no key":                   func(c *monitor.Config) { c.Key = nil },
		"no randomness":            func(c *monitor.Config) { c.Rand = nil },
		"empty randomness":         func(c *monitor.Config) { c.Rand = bytes.NewReader(nil) },
		"no clock":                 func(c *monitor.Config) { c.Now = nil },
		"no launch class":          func(c *monitor.Config) { c.Platform.Launch = 0 },
		"a key of another version": func(c *monitor.Config) { c.Platform.SVN = 2 },
	} {
		c := config(t)
		change(&c)
		if _, err := monitor.New(bg, c); err == nil {
			t.Errorf("%s: started", what)
		}
	}
	m := newMonitor(t, nil)
	if s := fmt.Sprintf("%v %#v", m, m); s != "monitor.Monitor monitor.Monitor" {
		t.Errorf("it prints as %q", s)
	}
}
