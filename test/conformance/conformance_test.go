// Package conformance runs the recorded evidence of other projects, byte for byte what their machines made, through the
// command line, and compares with what its sources and independent tools say of it.
package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/cli"
)

// evidence finds the folder of recordings: named by the environment, or beside the project, or beside a folder of clones.
func evidence(t *testing.T) string {
	t.Helper()
	dirs := []string{os.Getenv("ASSAY_EVIDENCE")}
	for up := "../../.."; len(up) < 20; up += "/.." {
		dirs = append(dirs, filepath.Join(up, "shared", "evidence"))
	}
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "CASES.json")); d != "" && err == nil {
			return d
		}
	}
	t.Skip("the folder of recordings (shared/evidence beside the project, or $ASSAY_EVIDENCE) is not here")
	return ""
}

// one is a case of CASES.json.
type one struct {
	ID, Format, File           string
	At                         string
	Collateral, CA             []string
	PCRs, Nonce, Signature, AK string
	ReportData                 string `json:"report_data"`
	Options                    options
	Expect                     expect
	Why                        string
}

type options struct {
	Slice   *struct{ Offset, Length int }
	Extract *struct{ JSON, Encoding string }
	Mutate  *struct {
		File        string
		Offset, Xor int
	}
	RequireCRL    *bool    `json:"require_crl"`
	MaxAgeDays    int      `json:"max_collateral_age_days"`
	MinEvaluation int      `json:"min_tcb_evaluation_number"`
	FMSPCDeny     []string `json:"fmspc_deny"`
	PCKChain      any      `json:"pck_chain"`
}

type expect struct {
	Parse, Genuine *bool
	Accepted       *bool     `json:"accepted_by_default"`
	Status         *string   `json:"tcb_status"`
	Advisories     *[]string `json:"advisories"`
	Debug, Replays *bool
	Facts          map[string]any
}

// verdict is what the command prints.
type verdict struct {
	Format            string
	Genuine, Accepted bool
	Claims, Decoded   any
	TCB               struct {
		Status     string
		Advisories []string
	}
	Debug   *bool
	Reasons []struct{ Code, Path, Expected, Seen string }
	Inside  []verdict
}

type inspection struct {
	Parsed  bool
	Decoded any
	Problem any
}

// R103, R115, R116, R140, R141: genuine evidence is told from forged, and current from outdated, on recordings that
// were made by others.
func TestRecordedEvidenceOfOtherProjectsIsJudgedRight(t *testing.T) {
	dir := evidence(t)
	b, err := os.ReadFile(filepath.Join(dir, "CASES.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Cases []one }
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	disputed := disputes(t)
	ran, skipped, contested := map[string]int{}, map[string]int{}, 0
	formats := knownFormats(t)
	for _, c := range doc.Cases {
		if !formats[c.Format] {
			skipped[c.Format]++
			continue
		}
		ran[c.Format]++
		t.Run(c.ID, func(t *testing.T) {
			r := runner{t: t, dir: dir, c: c, disputed: disputed[c.ID]}
			r.run()
			contested += r.contested
		})
	}
	total := 0
	for _, f := range slices.Sorted(maps.Keys(ran)) {
		t.Logf("%-12s %d cases", f, ran[f])
		total += ran[f]
	}
	for _, f := range slices.Sorted(maps.Keys(skipped)) {
		t.Logf("%-12s %d cases left out: this build has no parser for them", f, skipped[f])
	}
	t.Logf("%d of %d cases run; %d expectations are contested in docs/evidence.md", total, len(doc.Cases), contested)
	for id := range disputed {
		if !slices.ContainsFunc(doc.Cases, func(c one) bool { return c.ID == id }) {
			t.Errorf("docs/evidence.md contests %s, which is no case", id)
		}
	}
}

// disputes reads the table of cases whose stated verdict is judged wrong: | `id` | `expectation` | reason |.
func disputes(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/evidence.md")
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]string)
	_, table, _ := strings.Cut(string(b), "<!-- contested -->")
	table, _, _ = strings.Cut(table, "<!-- end -->")
	for line := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		id := strings.Trim(cells[1], " `")
		out[id] = append(out[id], strings.Trim(cells[2], " `"))
		if len(strings.TrimSpace(cells[3])) < 20 {
			t.Errorf("docs/evidence.md contests %s without a reason", id)
		}
	}
	return out
}

func command(args ...string) (stdout, stderr []byte, code int) {
	var out, errs bytes.Buffer
	code = cli.Main(context.Background(), cli.Env{
		Args: args, In: strings.NewReader(""), Out: &out, Err: &errs, Rand: rand.Reader,
		Now:    func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) },
		Getenv: func(string) string { return "" },
	})
	return out.Bytes(), errs.Bytes(), code
}

func knownFormats(t *testing.T) map[string]bool {
	t.Helper()
	out, errs, code := command("evidence", "formats", "-o", "json")
	var list []struct {
		Format string
		Names  []string
	}
	if err := json.Unmarshal(out, &list); err != nil || code != 0 {
		t.Fatalf("%v, %s", err, errs)
	}
	known := make(map[string]bool)
	for _, f := range list {
		known[f.Format] = true
		for _, n := range f.Names {
			known[n] = true
		}
	}
	return known
}

// runner runs one case.
type runner struct {
	t         *testing.T
	dir       string
	c         one
	disputed  []string
	contested int
	n         int
}

// fail reports a mismatch unless docs/evidence.md contests the expectation.
func (r *runner) fail(expectation, format string, args ...any) {
	r.t.Helper()
	if slices.Contains(r.disputed, expectation) {
		r.contested++
		r.t.Logf("contested: "+expectation+": "+format, args...)
		return
	}
	r.t.Errorf(expectation+": "+format, args...)
}

// file returns the path of an input, a copy if the case changes it. Names say nothing to the command.
func (r *runner) file(name string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	m := r.c.Options.Mutate
	main := name == r.c.File
	if !main && (m == nil || m.File != name) {
		return path
	}
	b, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if main {
		b = r.cut(b)
	}
	if m != nil && (m.File == name || m.File == "" && main) {
		b = bytes.Clone(b)
		b[m.Offset] ^= byte(m.Xor)
	}
	r.n++
	out := filepath.Join(r.t.TempDir(), fmt.Sprintf("input-%d", r.n))
	if err := os.WriteFile(out, b, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return out
}

// cut applies slice and extract.
func (r *runner) cut(b []byte) []byte {
	r.t.Helper()
	if s := r.c.Options.Slice; s != nil {
		b = b[s.Offset : s.Offset+s.Length]
	}
	x := r.c.Options.Extract
	if x == nil {
		return b
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		r.t.Fatal(err)
	}
	for name := range strings.SplitSeq(x.JSON, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			r.t.Fatalf("no %s in %s", name, r.c.File)
		}
		v = m[name]
	}
	decode := map[string]func(string) ([]byte, error){"hex": hex.DecodeString, "base64": base64.StdEncoding.DecodeString}[x.Encoding]
	out, err := decode(v.(string))
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *runner) args() []string {
	c := r.c
	args := []string{"evidence", "verify", r.file(c.File), "--format", c.Format, "-o", "json"}
	add := func(flag, value string) {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	add("--at", c.At)
	add("--nonce", c.Nonce)
	add("--report-data", c.ReportData)
	for flag, name := range map[string]string{"--pcrs": c.PCRs, "--signature": c.Signature, "--ak": c.AK} {
		if name != "" {
			add(flag, r.file(name))
		}
	}
	for _, name := range slices.Concat(c.Collateral, texts(c.Options.PCKChain)) {
		add("--collateral", r.file(name))
	}
	for _, name := range c.CA {
		add("--ca", r.file(name))
	}
	if p := r.policy(); p != "" {
		path := filepath.Join(r.t.TempDir(), "policy")
		if err := os.WriteFile(path, []byte(p), 0o600); err != nil {
			r.t.Fatal(err)
		}
		add("--policy", path)
	}
	return args
}

func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			out = append(out, texts(e)...)
		}
		return out
	}
	return nil
}

// policy turns the case's options into fields of the format's section; everything else stays as it is by default.
func (r *runner) policy() string {
	o := r.c.Options
	var lines []string
	if o.RequireCRL != nil && !*o.RequireCRL {
		lines = append(lines, "insecure_without_crls_until: 2100-01-01T00:00:00Z")
	}
	if o.MaxAgeDays > 0 {
		lines = append(lines, fmt.Sprintf("max_collateral_age: %dh", 24*o.MaxAgeDays))
	}
	if o.MinEvaluation > 0 {
		lines = append(lines, fmt.Sprintf("min_tcb_evaluation_number: %d", o.MinEvaluation))
	}
	if len(o.FMSPCDeny) > 0 {
		lines = append(lines, fmt.Sprintf("fmspc_deny: [%q]", strings.ToLower(strings.Join(o.FMSPCDeny, `", "`))))
	}
	if len(lines) == 0 || r.c.Format != "sgx" && r.c.Format != "tdx" {
		return ""
	}
	return r.c.Format + ":\n  " + strings.Join(lines, "\n  ") + "\n"
}

func (r *runner) run() {
	t := r.t
	out, errs, code := command(r.args()...)
	var v verdict
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	if want := map[bool]int{true: 0, false: 2}[v.Accepted]; code != want {
		t.Errorf("exit code %d with accepted %t", code, v.Accepted)
	}
	if v.Accepted && !v.Genuine || !v.Accepted && len(v.Reasons) == 0 {
		t.Errorf("accepted %t, genuine %t, %d reasons", v.Accepted, v.Genuine, len(v.Reasons))
	}
	x := r.c.Expect
	if x.Genuine != nil && *x.Genuine != v.Genuine {
		r.fail("genuine", "%t, expected %t; %v", v.Genuine, *x.Genuine, v.Reasons)
	}
	if x.Accepted != nil && *x.Accepted != v.Accepted {
		r.fail("accepted_by_default", "%t, expected %t; %v", v.Accepted, *x.Accepted, v.Reasons)
	}
	if x.Status != nil && *x.Status != v.TCB.Status {
		r.fail("tcb_status", "%s, expected %s; %v", v.TCB.Status, *x.Status, v.Reasons)
	}
	if x.Advisories != nil && !slices.Equal(*x.Advisories, v.TCB.Advisories) {
		r.fail("advisories", "%v, expected %v", v.TCB.Advisories, *x.Advisories)
	}
	if x.Debug != nil && (v.Debug == nil || *x.Debug != *v.Debug) {
		r.fail("debug", "%v, expected %t", v.Debug, *x.Debug)
	}
	if x.Replays != nil && *x.Replays != v.replays() {
		r.fail("replays", "%t, expected %t; %v", v.replays(), *x.Replays, v.Reasons)
	}
	r.inspect(v)
}

// replays says whether the log, or the log inside, is what its registers hold.
func (v verdict) replays() bool {
	for _, in := range v.Inside {
		if in.Format == "eventlog" {
			return in.Genuine
		}
	}
	return v.Genuine
}

// inspect compares what can be decoded, and the facts, which are claims where the evidence is genuine.
func (r *runner) inspect(v verdict) {
	x := r.c.Expect
	out, errs, code := command("evidence", "inspect", r.file(r.c.File), "--format", r.c.Format, "-o", "json")
	var i inspection
	if err := json.Unmarshal(out, &i); err != nil || i.Parsed != (code == 0) {
		r.t.Fatalf("inspect: exit code %d, %v: %s%s", code, err, out, errs)
	}
	if x.Parse != nil && *x.Parse != i.Parsed {
		r.fail("parse", "%t, expected %t; %v", i.Parsed, *x.Parse, i.Problem)
	}
	if x.Parse != nil && !*x.Parse && v.Genuine {
		r.fail("parse", "what can't be read is genuine")
	}
	claims := v.Claims
	if !v.Genuine {
		claims = i.Decoded
	}
	for _, name := range slices.Sorted(maps.Keys(x.Facts)) {
		want := x.Facts[name]
		if got, compared := r.fact(name, claims, v); compared && !same(name, want, got) {
			r.fail("facts."+name, "%v, expected %v", got, want)
		}
	}
}
