package attacks

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/assay-attest/assay/api"
	evplan "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// checksPolicy measures a small machine in the directory of files: what package measure attacks piece by piece goes its whole
// way here.
func (r *rig) checksPolicy(port string) string {
	section := strings.ReplaceAll(`    tests:
      - {name: tree, dir: DIR/tree, attributes: [mode, links], reference: lab}
      - {name: units, check: systemd-units, paths: [DIR/units], reference: lab}
      - {name: admins, check: uid-0-users, paths: [DIR/passwd], expect: {user root: ["group 0 home /root shell /bin/sh"]}}
      - {name: keys, check: authorized-keys, paths: [DIR/keys], reference: lab}
      - {name: doors, check: listening-sockets, allow: ["*"], deny: ["tcp 127.0.0.1:PORT"]}
      - {name: kernel, check: sysctls, names: [kernel.ostype], expect: {kernel.ostype: [Linux]}}
      - {name: state, command: [/usr/bin/cat, DIR/state], match: '^enforcing$'}
`, "DIR", r.files)
	before, _, _ := strings.Cut(r.defaultPolicy(), "    tests:")
	return before + strings.ReplaceAll(section, "PORT", port)
}

// captureChecks puts in force what the policy's tests find now.
func (r *rig) captureChecks(s measure.System) {
	r.t.Helper()
	var entries []refvalue.Entry
	tree, err := plan.NewFilesTest(1, plan.KindDir, "sha256", r.files+"/tree", nil, plan.FileOptions{Attributes: []string{"mode", "links"}})
	if err != nil {
		r.t.Fatal(err)
	}
	tests := []plan.Test{tree}
	for i, a := range []plan.CheckArgs{{Check: "systemd-units", Paths: []string{r.files + "/units"}}, {Check: "authorized-keys", Paths: []string{r.files + "/keys"}}} {
		c, err := plan.NewCheck(uint32(i+2), "sha256", a)
		if err != nil {
			r.t.Fatal(err)
		}
		tests = append(tests, c)
	}
	outcomes, err := measure.Capture(r.t.Context(), s, tests, plan.Limits{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, o := range outcomes {
		if o.Err != "" {
			r.t.Fatalf("%s: %s", o.Name, o.Err)
		}
		entries = append(entries, refvalue.Entry{Name: rats.EscapePath(o.Name), Digests: []rats.Digest{{Alg: "sha256", Sum: o.Digest}}})
	}
	set, err := refvalue.New(refvalue.Header{Name: "lab", Source: "test", Created: r.now()}, entries)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.admin.PutRefSet(r.t.Context(), "lab", set.Encode()); err != nil {
		r.t.Fatal(err)
	}
}

// R026, R039: what checks, commands and attributes find against a machine refuses it, by name.
func TestWhatChecksFindRefusesTheMachine(t *testing.T) {
	r := newRig(t)
	for _, dir := range []string{"tree", "units/a.service.d", "units/multi-user.target.wants"} {
		if err := os.MkdirAll(filepath.Join(r.files, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const passwd, keys = "root:x:0:0::/root:/bin/sh\n", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAabc me\n"
	r.write("tree/tool", "tool")
	r.write("units/a.service", "[Service]\n")
	r.write("passwd", passwd)
	r.write("keys", keys)
	r.write("state", "enforcing\n")
	system := measure.Restrict(measure.Local(), []string{r.files, "/proc"}, [][]string{{"/usr/bin/cat", r.files + "/state"}})
	r.captureChecks(system)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	r.apply(r.checksPolicy(port))
	o := r.options("checked")
	o.System = system
	m, err := wire.Join(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r.trusted(m)

	at := func(name string) string { return filepath.Join(r.files, name) }
	for _, c := range []struct {
		attack, path string
		code         rats.CodeInfo
		do           func() error
		undo         func() error
	}{
		{"setuid bit", at("tree/tool") + "%00attributes", evplan.CodeChanged,
			func() error { return os.Chmod(at("tree/tool"), 0o755|os.ModeSetuid) }, func() error { return os.Chmod(at("tree/tool"), 0o644) }},
		{"link in a directory", at("tree/link") + "%00attributes", evplan.CodeUnknown,
			func() error { return os.Symlink("/etc/shadow", at("tree/link")) }, func() error { return os.Remove(at("tree/link")) }},
		{"drop-in", "systemd-units:" + at("units/a.service.d/x.conf"), evplan.CodeItem,
			func() error { return os.WriteFile(at("units/a.service.d/x.conf"), []byte("x"), 0o644) }, func() error { return os.Remove(at("units/a.service.d/x.conf")) }},
		{"account", "uid-0-users:user toor", evplan.CodeItem,
			func() error { return os.WriteFile(at("passwd"), []byte(passwd+"toor:x:0:0::/:/bin/sh\n"), 0o644) }, func() error { return os.WriteFile(at("passwd"), []byte(passwd), 0o644) }},
		{"shell of root", "uid-0-users:user root", evplan.CodeValue,
			func() error { return os.WriteFile(at("passwd"), []byte("root:x:0:0::/root:/tmp/sh\n"), 0o644) }, func() error { return os.WriteFile(at("passwd"), []byte(passwd), 0o644) }},
		{"no key file", "authorized-keys:" + at("keys"), evplan.CodeUnmeasured,
			func() error { return os.Remove(at("keys")) }, func() error { return os.WriteFile(at("keys"), []byte(keys), 0o644) }},
		{"open door", "listening-sockets:tcp " + addr, evplan.CodeDenied,
			func() (err error) { l, err = net.Listen("tcp4", addr); return err }, func() error { return l.Close() }},
		{"state", "command:/usr/bin/cat " + at("state"), evplan.CodePattern,
			func() error { return os.WriteFile(at("state"), []byte("permissive\n"), 0o644) }, func() error { return os.WriteFile(at("state"), []byte("enforcing\n"), 0o644) }},
	} {
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.attack, err)
		}
		told, err := m.Attest(t.Context(), r.again(m))
		if err != nil {
			t.Fatalf("%s: %v", c.attack, err)
		}
		view, err := r.admin.Result(t.Context(), told.ID)
		if err != nil || told.State != rats.StateContraindicated || !found(view, c.code, c.path) {
			t.Errorf("%s: verdict %s, %v; want %s of %s; %v", c.attack, told.Verdict, err, c.code.Code, c.path, view.Reasons)
		}
		if err := c.undo(); err != nil {
			t.Fatalf("%s: %v", c.attack, err)
		}
	}
	if told, err := m.Attest(t.Context(), r.again(m)); err != nil || told.State != rats.StateTrusted {
		t.Errorf("after all was undone: %v %v", told, err)
	}
}

func found(view api.ResultView, code rats.CodeInfo, path string) bool {
	return slices.ContainsFunc(view.Reasons, func(r rats.Reason) bool { return r.Code == code.Code && r.Path == path })
}
