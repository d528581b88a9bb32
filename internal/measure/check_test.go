package measure

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// rooted is a System in which some paths lie elsewhere: the machine with a part of it replaced.
type rooted struct {
	System
	moved map[string]string
}

func (r rooted) at(p []byte) []byte {
	best := ""
	for from := range r.moved {
		if plan.Within(p, []byte(from)) && len(from) > len(best) {
			best = from
		}
	}
	if best == "" {
		return p
	}
	return []byte(path.Clean(r.moved[best] + string(p[len(best):])))
}

func (r rooted) Open(p []byte, flags uint32) (int32, rats.Code) {
	return r.System.Open(r.at(p), flags)
}
func (r rooted) Stat(p []byte, follow bool) (Stat, rats.Code) { return r.System.Stat(r.at(p), follow) }

// items runs one check with its values disclosed and returns item → value, or "!code".
func items(t testing.TB, s System, a plan.CheckArgs) map[string]string {
	t.Helper()
	a.Disclose = true
	p, err := plan.NewCheck(1, "sha256", a)
	if err != nil {
		t.Fatal(err)
	}
	return outcomesOf(t, s, p)
}

func outcomesOf(t testing.TB, s System, p plan.Test) map[string]string {
	t.Helper()
	list, err := Capture(t.Context(), s, []plan.Test{p}, plan.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := plan.EncodeOutcomes([]uint32{1}, list, nil); err != nil {
		t.Error(err)
	}
	scope, err := p.Scope()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, o := range list {
		name := strings.TrimPrefix(string(o.Name), string(scope.Path))
		switch {
		case o.Err != "":
			out[name] = "!" + strings.TrimPrefix(string(o.Err), "measure.")
		case len(o.Value) > 0:
			if sum := sha256.Sum256(o.Value); !bytes.Equal(sum[:], o.Digest) {
				t.Errorf("%s: digest is not of its value", name)
			}
			out[name] = string(o.Value)
		default:
			out[name] = fmt.Sprintf("%x", o.Digest[:3])
		}
	}
	return out
}

// same compares items.
func same(t *testing.T, got map[string]string, want ...string) {
	t.Helper()
	w := make(map[string]string)
	for i := 0; i < len(want); i += 2 {
		w[want[i]] = want[i+1]
	}
	if !maps.Equal(got, w) {
		t.Errorf("got  %q\nwant %q", got, w)
	}
}

func TestEveryNamedCheckHasItsCode(t *testing.T) {
	have := slices.Sorted(maps.Keys(checks))
	if !slices.Equal(have, plan.CheckNames()) {
		t.Errorf("package plan describes %q, here are %q", plan.CheckNames(), have)
	}
	// R034: on a machine that shows nothing, no check finds nothing.
	for _, name := range have {
		a := plan.CheckArgs{Check: name}
		if plan.Checks[name].Names {
			a.Names = []string{"kernel.tainted"}
		}
		for s, code := range map[System]rats.CodeInfo{closed{}: CodePlatform, Restrict(Local(), nil, nil): CodePath} {
			if got := items(t, s, a); len(got) == 0 || !slices.Contains(slices.Collect(maps.Values(got)), "!"+strings.TrimPrefix(string(code.Code), "measure.")) {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
	p := plan.Test{ID: 1, Kind: plan.KindCheck, Alg: "sha256", Args: []byte(`{"check":"telepathy"}`)}
	want(t, run1(t, newFake(nil), plan.Limits{}, p), "!"+strings.TrimPrefix(string(CodeKind.Code), "measure."))
}

func kernel() *fake {
	f := newFake(map[string]string{
		"/proc/modules":                                 "dm_crypt 65536 1 - Live 0xffffffffc0000000\nvendor 16384 0 dm_crypt, Live 0xffffffffc0100000 (POE)\n",
		"/proc/version":                                 "Linux version 6.1",
		"/proc/cmdline":                                 "BOOT_IMAGE=/vmlinuz root=\"LABEL=a b\" ro console=tty0 console=ttyS0 quiet\n",
		"/proc/sys/kernel/tainted":                      "12289\n",
		"/proc/sys/kernel/modules_disabled":             "0\n",
		"/proc/sys/net/ipv4/conf/all/rp_filter":         "1\n",
		"/proc/sys/net/ipv4/ip_local_port_range":        "32768\t60999\n",
		"/sys/module/dm_crypt/srcversion":               "AAAA\n",
		"/sys/module/dm_crypt/initstate":                "live\n",
		"/sys/module/dm_crypt/notes/.note.gnu.build-id": "\x01\x02",
		"/sys/module/vendor/initstate":                  "live\n",
		"/sys/module/printk/parameters/time":            "Y\n",
		"/sys/module/module/parameters/sig_enforce":     "N\n",
		"/proc/1/mountinfo":                             "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n23 22 0:5 /sub /my\\040data ro - tmpfs tmpfs rw,size=1k\n24 22 0:6 / /my\\040data rw - ext4 /dev/sdb rw\n",
		"/proc/1/stat":                                  "1 (init) S 0",
	})
	return f
}

// R026: kernel modules, their taint, and those that hide.
func TestModulesAreListedWithTaintAndIdentity(t *testing.T) {
	f := kernel()
	id := fmt.Sprintf("%x", sha256.Sum256([]byte("\x01\x02")))
	clean := []string{
		"module dm_crypt", "taint -\nsrcversion AAAA\nbuild-id " + id, "module vendor", "taint POE\nsrcversion -\nbuild-id -",
		"kernel tainted", "12289", "kernel sig_enforce", "N", "kernel lockdown", "absent", "kernel modules_disabled", "0",
	}
	same(t, items(t, f, plan.CheckArgs{Check: "modules"}), clean...)
	f.add("/sys/module/rootkit/initstate", &node{mode: ModeRegular, data: []byte("live\n")})
	same(t, items(t, f, plan.CheckArgs{Check: "modules"}), append(clean, "hidden rootkit", "live")...)
	f.files["/proc/modules"].data = []byte("garbage\n")
	if got := items(t, f, plan.CheckArgs{Check: "modules"}); got["list"] != "!"+strings.TrimPrefix(string(CodeContent.Code), "measure.") {
		t.Errorf("%q", got)
	}
	delete(f.files, "/proc/modules") // a kernel without modules
	if got := items(t, f, plan.CheckArgs{Check: "modules"}); got["list"] != "" {
		t.Errorf("%q", got)
	}
	delete(f.files, "/proc/version") // a /proc that is none
	if got := items(t, f, plan.CheckArgs{Check: "modules"}); got["list"] == "" {
		t.Errorf("%q", got)
	}
}

func TestKernelCommandLineIsCutIntoParameters(t *testing.T) {
	same(t, items(t, kernel(), plan.CheckArgs{Check: "command-line"}),
		"BOOT_IMAGE", "/vmlinuz", "root", `"LABEL=a b"`, "ro", "e3b0c4", "console", "tty0\nttyS0",
		"quiet", "e3b0c4")
}

func TestSysctlsAreReadByName(t *testing.T) {
	f := kernel()
	names := []string{"net.ipv4.conf.all.rp_filter", "net/ipv4/ip_local_port_range", "kernel.no_such"}
	same(t, items(t, f, plan.CheckArgs{Check: "sysctls", Names: names}),
		names[0], "1", names[1], "32768 60999", names[2], "!file.missing")
	for _, bad := range []string{"../../etc/shadow", "a..b", "x/../../version", ""} {
		if _, err := plan.NewCheck(1, "sha256", plan.CheckArgs{Check: "sysctls", Names: []string{bad}}); err == nil {
			t.Errorf("name %q", bad)
		}
	}
}

func TestMountsAreListedInOrder(t *testing.T) {
	same(t, items(t, kernel(), plan.CheckArgs{Check: "mounts"}),
		"/", "ext4 /dev/sda1 root=/ rw,relatime rw", "/my data", "tmpfs tmpfs root=/sub ro rw,size=1k\next4 /dev/sdb root=/ rw rw")
	same(t, items(t, kernel(), plan.CheckArgs{Check: "mounts", Paths: []string{"/"}, Exclude: []string{"/my data"}}),
		"/", "ext4 /dev/sda1 root=/ rw,relatime rw")
}

// R026: a new account with all rights.
func TestNewUserWithUID0IsFound(t *testing.T) {
	f := newFake(map[string]string{"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nmail:x:8:8::/var/mail:/usr/sbin/nologin\n"})
	clean := []string{"user root", "group 0 home /root shell /bin/bash"}
	same(t, items(t, f, plan.CheckArgs{Check: "uid-0-users"}), clean...)
	for _, uid := range []string{"0", "00", "+0", " 0", "-0", ""} {
		n := f.files["/etc/passwd"]
		before := n.data
		n.data = append(bytes.Clone(before), "toor:x:"+uid+":100::/tmp:/bin/sh\n"...)
		same(t, items(t, f, plan.CheckArgs{Check: "uid-0-users"}), append(clean, "user toor", "group 100 home /tmp shell /bin/sh")...)
		n.data = before
	}
	f.files["/etc/passwd"].data = append(f.files["/etc/passwd"].data, "+::::::\nnot a line\n"...)
	if got := items(t, f, plan.CheckArgs{Check: "uid-0-users"}); len(got) != 3 {
		t.Errorf("%q", got)
	}
}

// R026: a key that is added to what may log in.
func TestAddedAuthorizedKeyIsFound(t *testing.T) {
	const one = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAabc me@home"
	f := newFake(map[string]string{
		"/etc/passwd":                "root:x:0:0:root:/root:/bin/bash\nmail:x:8:8::/var/mail:/usr/sbin/nologin\nsync:x:4:65534::/:/bin/sync\n",
		"/root/.ssh/authorized_keys": "# keys\n\n" + one + "\n",
	})
	before := items(t, f, plan.CheckArgs{Check: "authorized-keys"})
	if len(before) != 1 {
		t.Fatalf("%q", before)
	}
	for name, line := range map[string]string{
		"key":     "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAxyz",
		"options": `command="echo \"ssh-rsa x\" y",no-pty ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAxyz evil`,
		"no key":  "ssh-ed25519 ???",
		"words":   "this is not a key",
	} {
		f.files["/root/.ssh/authorized_keys"].data = []byte(one + "\n" + line)
		got := items(t, f, plan.CheckArgs{Check: "authorized-keys"})
		if len(got) != 2 {
			t.Errorf("%s: %q", name, got)
		}
	}
	// The same key with other options is the same item with another value.
	f.files["/root/.ssh/authorized_keys"].data = []byte("no-pty " + one)
	if got := items(t, f, plan.CheckArgs{Check: "authorized-keys"}); len(got) != 1 || maps.Equal(got, before) {
		t.Errorf("%q", got)
	}
	f.add("/var/mail/.ssh/authorized_keys", &node{mode: ModeSymlink})
	f.add("/.ssh/authorized_keys2", &node{mode: ModeRegular, data: []byte(one)})
	got := items(t, f, plan.CheckArgs{Check: "authorized-keys"})
	if got["/var/mail/.ssh/authorized_keys"] != "!file.symlink" || len(got) != 3 {
		t.Errorf("%q", got)
	}
	if got := items(t, f, plan.CheckArgs{Check: "authorized-keys", Paths: []string{"/etc/keys"}}); got["/etc/keys"] != "!file.missing" {
		t.Errorf("a file that was asked for and is missing: %q", got)
	}
}

func TestHostileProcFilesAreContained(t *testing.T) {
	f := kernel()
	f.files["/proc/1/mountinfo"].data = bytes.Repeat([]byte("x"), 3*maxLine)
	same(t, items(t, f, plan.CheckArgs{Check: "mounts"}), "list", "!check.malformed")
	f.files["/proc/cmdline"].data = bytes.Repeat([]byte("x"), 2*maxFact)
	same(t, items(t, f, plan.CheckArgs{Check: "command-line"}), "list", "!limit.bytes")
	// More items than the limit: half a list would look like a whole one.
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "p%d=1 ", i)
	}
	f.files["/proc/cmdline"].data = []byte(b.String())
	p, err := plan.NewCheck(1, "sha256", plan.CheckArgs{Check: "command-line"})
	if err != nil {
		t.Fatal(err)
	}
	want(t, run1(t, f, plan.Limits{Files: 10}, p), "!limit.files")
	// A key that is longer than a name ends in a hash, so that two of them stay two.
	f.files["/proc/cmdline"].data = []byte(strings.Repeat("a", 5000) + " " + strings.Repeat("a", 5001))
	if got := items(t, f, plan.CheckArgs{Check: "command-line"}); len(got) != 2 {
		t.Errorf("%d items", len(got))
	}
	// Values that are too long leave as digests only.
	f.files["/proc/cmdline"].data = []byte("a=" + strings.Repeat("v", plan.MaxValue+1))
	if got := items(t, f, plan.CheckArgs{Check: "command-line"}); len(got["a"]) != 6 {
		t.Errorf("%q", got)
	}
}

func FuzzParsersOfProc(f *testing.F) {
	f.Add([]byte("55d0-55e0 r-xp 00001000 08:01 1234                       /usr/bin/x (deleted)"))
	f.Add([]byte(`command="a b" ssh-rsa AAAA c`))
	f.Add([]byte("0100007F:0016"))
	f.Add([]byte(`a="b c" d\040e \777`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, ok := parseMapping(b); ok && m.start >= m.end {
			t.Fatalf("%+v", m)
		}
		s := string(b)
		authorizedKey(s)
		address(s, false)
		address(s, true)
		splitCommandLine(s)
		unescapeMount(s)
		zero(s)
	})
}
