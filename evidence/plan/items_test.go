package plan_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"slices"
	"strings"
	"testing"

	evidence "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

const itemSection = `
tests:
  - {name: doors, check: listening-sockets, options: [udp, owners], allow: ["tcp 127.0.0.1:*", "udp *"], deny: ["tcp *:23"], reference: lab}
  - {name: params, check: sysctls, names: [kernel.kptr_restrict], expect: {kernel.kptr_restrict: ["1", "2"]}}
  - {name: patches, check: code, severity: warning}
  - {name: release, command: [/usr/bin/uname, -r], reference: lab}
  - {name: enforcing, command: [/usr/sbin/getenforce], match: "^Enforcing"}
  - {name: quiet, command: [/usr/bin/dmesg], no_match: "(?i)taint"}
  - {name: tools, dir: /opt, attributes: [owner, mode], reference: lab}
`

func value(s string) rats.Digest {
	d := sha256.Sum256([]byte(s))
	return rats.Digest{Alg: "sha256", Sum: d[:]}
}

// itemMachine is claims that itemSection finds nothing against.
func itemMachine(t testing.TB) (*evidence.Claims, *refs) {
	t.Helper()
	r := newRun(t)
	r.plan.Tests, _, _ = rules(t, itemSection).Tests(nil, [32]byte{})
	o := func(test uint32, name, v string, disclosed bool) plan.Outcome {
		out := plan.Outcome{Test: test, Name: []byte(name), Digest: value(v).Sum}
		if disclosed {
			out.Value = []byte(v)
		}
		return out
	}
	r.ids = []uint32{1, 2, 3, 4, 5, 6, 7}
	r.outcomes = []plan.Outcome{
		o(1, "listening-sockets:tcp 0.0.0.0:22", "uid 0", false), o(1, "listening-sockets:tcp 127.0.0.1:6010", "uid 7", false), o(1, "listening-sockets:udp 0.0.0.0:68", "uid 0", false),
		o(2, "sysctls:kernel.kptr_restrict", "2", false),
		o(4, "command:/usr/bin/uname -r", "6.1\n", false),
		o(5, "command:/usr/sbin/getenforce", "match", true),
		o(6, "command:/usr/bin/dmesg", "no match", true),
		o(7, "/opt\x00attributes", "type directory\nmode 0755\n", false), o(7, "/opt/x", "X", false), o(7, "/opt/x\x00attributes", "type file\nmode 0644\n", false),
	}
	r.report.Plan = r.plan.Digest()
	r.params(t, evidence.Params{Plan: r.plan.Encode(), PlanSigner: r.planSigner})
	r.sign(t)
	v, err := r.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	return v.Claims.(*evidence.Claims), &refs{sets: map[string]map[string][]rats.Digest{"lab": {
		"listening-sockets:tcp 0.0.0.0:22": {value("uid 0")}, "command:/usr/bin/uname -r": {value("6.1\n")}, "/opt/x": {value("X")},
		"/opt/x%00attributes": {value("type file\nmode 0644\n")}, "/opt%00attributes": {value("type directory\nmode 0755\n")},
	}}}
}

func find(t testing.TB, c *evidence.Claims, name string) *evidence.Measurement {
	t.Helper()
	for i := range c.Measurements {
		if c.Measurements[i].Name == name {
			return &c.Measurements[i]
		}
	}
	t.Fatalf("no measurement of %s", name)
	return nil
}

// R026, R039: items of checks, outputs of commands and attributes are judged by sets, lists, values and patterns; whatever
// nothing permits is refused by name.
func TestItemsAreJudged(t *testing.T) {
	if rs := rules(t, itemSection).Lint(); len(rs) != 0 {
		t.Fatalf("%v", rs)
	}
	claims, l := itemMachine(t)
	if rs := rules(t, itemSection).Check(claims, l, start); len(rs) != 0 {
		t.Fatalf("%v", rs)
	}
	add := func(test uint32, name string) func(*evidence.Claims, *refs) {
		return func(c *evidence.Claims, _ *refs) {
			c.Measurements = append(c.Measurements, evidence.Measurement{Test: test, Name: name, Digest: value("x")})
		}
	}
	set := func(name, v string) func(*evidence.Claims, *refs) {
		return func(c *evidence.Claims, _ *refs) { find(t, c, name).Digest = value(v) }
	}
	for _, c := range []struct {
		name   string
		change func(*evidence.Claims, *refs)
		code   rats.CodeInfo
		want   string
	}{
		{"new door", add(1, "listening-sockets:tcp 0.0.0.0:4444"), evidence.CodeItem, "listening-sockets:tcp 0.0.0.0:4444 doors contraindicated"},
		{"denied door", add(1, "listening-sockets:tcp 127.0.0.1:23"), evidence.CodeDenied, "listening-sockets:tcp 127.0.0.1:23 doors contraindicated"},
		{"door of another user", set("listening-sockets:tcp 0.0.0.0:22", "uid 1"), evidence.CodeValue, "listening-sockets:tcp 0.0.0.0:22 doors contraindicated"},
		{"allowed whatever its value", set("listening-sockets:udp 0.0.0.0:68", "uid 9"), rats.CodeInfo{}, ""},
		{"closed door", func(c *evidence.Claims, _ *refs) { c.Measurements = c.Measurements[1:] }, evidence.CodeAbsent, "listening-sockets:tcp 0.0.0.0:22 doors contraindicated"},
		{"parameter, other accepted value", set("sysctls:kernel.kptr_restrict", "1"), rats.CodeInfo{}, ""},
		{"parameter", set("sysctls:kernel.kptr_restrict", "0"), evidence.CodeValue, "sysctls:kernel.kptr_restrict params contraindicated"},
		{"parameter not there", func(c *evidence.Claims, _ *refs) {
			*find(t, c, "sysctls:kernel.kptr_restrict") = evidence.Measurement{Test: 9}
		}, evidence.CodeAbsent, "sysctls:kernel.kptr_restrict params contraindicated"},
		{"parameter unreadable", func(c *evidence.Claims, _ *refs) {
			m := find(t, c, "sysctls:kernel.kptr_restrict")
			m.Digest, m.Err = rats.Digest{}, "measure.path.refused"
		}, evidence.CodeUnmeasured, "sysctls:kernel.kptr_restrict params contraindicated"},
		{"patched code, a warning", add(3, "code:patched /usr/sbin/sshd"), evidence.CodeItem, "code:patched /usr/sbin/sshd patches warning"},
		{"check failed as a whole", func(c *evidence.Claims, _ *refs) {
			c.Measurements = append(c.Measurements, evidence.Measurement{Test: 3, Err: "measure.limit.time"})
		}, evidence.CodeUnmeasured, "code: patches warning"},
		{"output", set("command:/usr/bin/uname -r", "6.2\n"), evidence.CodeValue, "command:/usr/bin/uname -r release contraindicated"},
		{"pattern not found", set("command:/usr/sbin/getenforce", "no match"), evidence.CodePattern, "command:/usr/sbin/getenforce enforcing contraindicated"},
		{"pattern found", set("command:/usr/bin/dmesg", "match"), evidence.CodePattern, "command:/usr/bin/dmesg quiet contraindicated"},
		{"mode", set("/opt/x%00attributes", "type file\nmode 4755\n"), evidence.CodeChanged, "/opt/x%00attributes tools contraindicated"},
		{"new link", add(7, "/opt/l%00attributes"), evidence.CodeUnknown, "/opt/l%00attributes tools contraindicated"},
		{"attributes not measured", func(c *evidence.Claims, _ *refs) { c.Tests[6].Args = "" }, evidence.CodeUntested, "/opt tools none"},
	} {
		claims, l := itemMachine(t)
		c.change(claims, l)
		got := check(t, rules(t, itemSection), claims, l)
		if c.want == "" && len(got) != 0 || c.want != "" && !slices.Equal(got, []string{string(c.code.Code) + " " + c.want}) {
			t.Errorf("%s: %q, want %s %s", c.name, got, c.code.Code, c.want)
		}
	}
}

// R127: without a list or a set nothing is permitted, and a set that is empty in a check's scope permits nothing either.
func TestEmptyListsDeny(t *testing.T) {
	c, l := itemMachine(t)
	for doc, want := range map[string]rats.CodeInfo{
		`tests: [{name: doors, check: listening-sockets, options: [owners, udp]}]`:                   evidence.CodeItem,
		`tests: [{name: doors, check: listening-sockets, options: [owners, udp], reference: empty}]`: evidence.CodeSet,
		`tests: [{name: doors, check: listening-sockets, options: [owners, udp], reference: none}]`:  evidence.CodeSet,
	} {
		l.sets["empty"] = map[string][]rats.Digest{"/elsewhere": {value("x")}}
		if rs := rules(t, doc).Check(c, l, start); !slices.ContainsFunc(rs, func(r rats.Reason) bool { return r.Code == want.Code }) {
			t.Errorf("%s: %v", doc, rs)
		}
	}
}

func TestReasonsShowDisclosedValues(t *testing.T) {
	r := rules(t, `tests: [{name: params, check: sysctls, names: [a.b], disclose: true, expect: {a.b: ["1", "2", "3", "4", "5"]}}]`)
	c := &evidence.Claims{
		Tests:        []evidence.Test{{ID: 1, Kind: "check", Alg: "sha256", Path: "sysctls:", Args: `{"check":"sysctls","names":["a.b"],"disclose":true}`}},
		Measurements: []evidence.Measurement{{Test: 1, Name: "sysctls:a.b", Digest: value("7"), Value: "7"}},
	}
	rs := r.Check(c, nil, start)
	if len(rs) != 2 || rs[1].Seen != "7" || rs[1].Expected != "1 or 2 or 3 or 4 or 1 others" {
		t.Errorf("%+v", rs)
	}
	c.Measurements[0].Value = strings.Repeat("v", 4000)
	if rs = r.Check(c, nil, start); len(rs[1].Seen) > 600 {
		t.Errorf("seen has %d bytes", len(rs[1].Seen))
	}
}

func TestValuesAreBoundToTheirDigests(t *testing.T) {
	for name, c := range map[string]struct {
		section string
		name    string
		value   string
		sum     []byte
		ok      bool
	}{
		"disclosed":       {`{name: a, check: mounts, disclose: true}`, "mounts:/", "v", value("v").Sum, true},
		"by sha384":       {`{name: a, check: mounts, disclose: true, alg: sha384}`, "mounts:/", "v", func() []byte { s := sha512.Sum384([]byte("v")); return s[:] }(), true},
		"by sha512":       {`{name: a, check: mounts, disclose: true, alg: sha512}`, "mounts:/", "v", func() []byte { s := sha512.Sum512([]byte("v")); return s[:] }(), true},
		"another digest":  {`{name: a, check: mounts, disclose: true}`, "mounts:/", "v", value("w").Sum, false},
		"not asked for":   {`{name: a, check: mounts}`, "mounts:/", "v", value("v").Sum, false},
		"of a file":       {`{name: a, file: /x, reference: r}`, "/x", "v", value("v").Sum, false},
		"another check's": {`{name: a, check: mounts}`, "modules:x", "", value("v").Sum, false},
		"no item":         {`{name: a, check: mounts}`, "mounts:", "", value("v").Sum, false},
		"no attributes":   {`{name: a, file: /x, reference: r}`, "/x\x00attributes", "", value("v").Sum, false},
		"other command":   {`{name: a, command: [/bin/a], reference: r}`, "command:/bin/b", "", value("v").Sum, false},
	} {
		r := newRun(t)
		r.plan.Tests, _, _ = rules(t, "tests: ["+c.section+"]").Tests(nil, [32]byte{})
		r.ids = []uint32{1}
		r.outcomes = []plan.Outcome{{Test: 1, Name: []byte(c.name), Digest: c.sum, Value: []byte(c.value)}}
		r.report.Plan = r.plan.Digest()
		r.params(t, evidence.Params{Plan: r.plan.Encode(), PlanSigner: r.planSigner})
		r.sign(t)
		if _, err := r.verify(t); c.ok && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !c.ok {
			wantCode(t, name, err, evidence.CodeStray)
		}
	}
	// A command that has no outcome was left out.
	r := newRun(t)
	r.plan.Tests, _, _ = rules(t, "tests: [{name: a, command: [/bin/a], reference: r}]").Tests(nil, [32]byte{})
	r.ids, r.outcomes = []uint32{1}, nil
	r.report.Plan = r.plan.Digest()
	r.params(t, evidence.Params{Plan: r.plan.Encode(), PlanSigner: r.planSigner})
	r.sign(t)
	_, err := r.verify(t)
	wantCode(t, "command left out", err, evidence.CodeTests)
}

func TestLintRefusesJudgesThatDoNotFit(t *testing.T) {
	for _, c := range []struct {
		doc  string
		want rats.CodeInfo
	}{
		{`{name: a, check: telepathy}`, evidence.CodeScope},
		{`{name: a, check: modules, paths: [/x]}`, evidence.CodeScope},
		{`{name: a, check: mounts, paths: [x]}`, evidence.CodeScope},
		{`{name: a, check: mounts, exclude: [x]}`, evidence.CodeScope},
		{`{name: a, check: sysctls}`, evidence.CodeScope},
		{`{name: a, check: modules, names: [x]}`, evidence.CodeScope},
		{`{name: a, check: sysctls, names: ["../x"]}`, evidence.CodeScope},
		{`{name: a, check: code, options: [udp]}`, evidence.CodeScope},
		{`{name: a, check: code, options: [disk, disk]}`, evidence.CodeScope},
		{`{name: a, check: code, file: /x}`, evidence.CodeScope},
		{`{name: a, check: code, attributes: [mode]}`, evidence.CodeScope},
		{`{name: a, check: code, env: [TZ=UTC]}`, evidence.CodeScope},
		{`{name: a, file: /x, reference: r, attributes: [colour]}`, evidence.CodeScope},
		{`{name: a, file: /x, reference: r, attributes: [mode, mode]}`, evidence.CodeScope},
		{`{name: a, file: /x, reference: r, names: [x]}`, evidence.CodeScope},
		{`{name: a, file: /x, reference: r, disclose: true}`, evidence.CodeScope},
		{`{name: a, command: [uname], reference: r}`, evidence.CodeScope},
		{`{name: a, command: [/bin/../bin/uname], reference: r}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x], reference: r, env: [LD_PRELOAD=/x]}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x], reference: r, env: [TZ=a, TZ=b]}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x], reference: r, bytes: 99999999999}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x], reference: r, time: -1s}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x], reference: r, direct: true}`, evidence.CodeScope},
		{`{name: a, command: ["/bin/x", "a\0b"], reference: r}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x], match: "("}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x], match: "` + strings.Repeat("a", plan.MaxPattern+1) + `"}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x, "` + strings.Repeat("a", plan.MaxArgvBytes) + `"], match: a}`, evidence.CodeScope},
		{`{name: a, command: [/bin/x]}`, evidence.CodeJudge},
		{`{name: a, command: [/bin/x], match: a, no_match: b}`, evidence.CodeJudge},
		{`{name: a, command: [/bin/x], match: a, status: true}`, evidence.CodeJudge},
		{`{name: a, command: [/bin/x], match: a, allow: [x]}`, evidence.CodeJudge},
		{`{name: a, check: code, match: a}`, evidence.CodeJudge},
		{`{name: a, file: /x, reference: r, match: a}`, evidence.CodeJudge},
		{`{name: a, file: /x, reference: r, deny: [a]}`, evidence.CodeJudge},
		{`{name: a, check: code, expect: {a: []}}`, evidence.CodeJudge},
		{`{name: a, check: code, reference: r}, {name: b, check: code, options: [disk], reference: r}`, evidence.CodeJudge},
	} {
		rs := rules(t, "tests: ["+c.doc+"]").Lint()
		if len(rs) != 1 || rs[0].Code != c.want.Code {
			t.Errorf("%s: %v", c.doc, rs)
		}
	}
}

func TestWildcards(t *testing.T) {
	for _, c := range []struct {
		pattern, in, out string
	}{
		{"a", "a", "b"}, {"*", "", ""}, {"tcp *:22", "tcp [::]:22", "tcp x:222"}, {"a*b*c", "aXbYc", "aXcYb"}, {"a*", "a/b/c", "b"},
		{"*a*", "bab", "b"}, {"a*a", "aa", "a"}, {"[ab]", "[ab]", "a"},
	} {
		r := &evidence.Rules{List: []evidence.TestRule{{Name: "a", Check: "mounts", Allow: []string{c.pattern}}}}
		for i, name := range []string{c.in, c.out} {
			m := &evidence.Claims{
				Tests:        []evidence.Test{{ID: 1, Kind: "check", Alg: "sha256", Path: "mounts:", Args: `{"check":"mounts"}`}},
				Measurements: []evidence.Measurement{{Test: 1, Name: "mounts:" + name, Digest: value("x")}},
			}
			if got := len(r.Check(m, nil, start)) == 0; got != (i == 0) && c.pattern != "*" {
				t.Errorf("%q allows %q: %v", c.pattern, name, got)
			}
		}
	}
}
