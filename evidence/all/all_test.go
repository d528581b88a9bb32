package all_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

func descriptors(t *testing.T) []*rats.Descriptor {
	t.Helper()
	return appraise.New(all.Verifiers()...).Descriptors()
}

func TestFormatsAreInTheOrderOfTheirNeeds(t *testing.T) {
	var got []rats.Format
	for _, d := range descriptors(t) {
		got = append(got, d.ID)
		if c := d.NewClaims(); c.ClaimsOf() != d.ID {
			t.Errorf("claims of %s say %s", d.ID, c.ClaimsOf())
		}
	}
	for i, d := range descriptors(t) {
		for _, need := range d.Needs {
			if slices.Contains(got[i+1:], need) {
				t.Errorf("%s stands before %s, which it needs: %q", d.ID, need, got)
			}
		}
	}
	if got[len(got)-1] != plan.Format {
		t.Errorf("%s, which needs all others, is not the last: %q", plan.Format, got)
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

func documented(t *testing.T) []string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range yamlBlock.FindAllStringSubmatch(string(doc), -1) {
		if strings.HasPrefix(m[1], "apiVersion:") {
			out = append(out, m[1])
		}
	}
	return out
}

// R072: what the reference says is what the compiler accepts.
func TestPoliciesOfTheDocumentationCompile(t *testing.T) {
	docs := documented(t)
	if len(docs) < 2 {
		t.Fatalf("%d examples", len(docs))
	}
	for i, doc := range docs {
		p, reasons := policy.Compile([]byte(doc), descriptors(t))
		if p == nil {
			t.Errorf("example %d: %v", i, reasons)
		}
	}
}

// fleet makes what a good machine yields under the first example of the documentation.
func fleet(t *testing.T) (*policy.Policy, policy.In) {
	t.Helper()
	p, reasons := policy.Compile([]byte(documented(t)[0]), descriptors(t))
	if p == nil {
		t.Fatal(reasons)
	}
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	ek, err := rats.ParseDigest("sha256:" + strings.Repeat("5f", 32))
	if err != nil {
		t.Fatal(err)
	}
	sum := rats.SHA256([]byte("ls"))
	set, err := refvalue.New(refvalue.Header{Name: "debian-12", Created: now}, []refvalue.Entry{{Name: "/usr/bin/ls", Digests: []rats.Digest{sum}}})
	if err != nil {
		t.Fatal(err)
	}
	return p, policy.In{
		Now: now, Challenged: now.Add(-time.Second), Node: policy.NodeFacts{Name: "h1", Kind: "host", Labels: map[string]string{"env": "lab"}},
		Lookup: refvalue.NewIndex(map[string]refvalue.Versioned{"debian-12": {Set: set, Ref: rats.Ref{Name: "debian-12", Version: 1}}}),
		Set: rats.Set{Verified: map[rats.Format]rats.Verified{
			tpm.Format: {
				Claims: &tpm.Claims{EK: ek, PCRs: map[string]map[string]string{"sha256": {"7": strings.Repeat("00", 31) + "07"}}},
				Marks:  []string{rats.MarkSoftwareTPM},
			},
			plan.Format: {
				Claims: &plan.Claims{
					Backend: "native", Simulated: true,
					Tests:        []plan.Test{{ID: 1, Kind: "dir", Alg: "sha256", Path: "/usr/bin"}},
					Measurements: []plan.Measurement{{Test: 1, Name: "/usr/bin/ls", Digest: sum, Size: 2}},
				},
				Marks: []string{rats.MarkSimulated},
			},
		}},
	}
}

func TestRealFormatsAreJudgedByADocumentedPolicy(t *testing.T) {
	p, in := fleet(t)
	if r := p.Appraise(in); r.Tier != rats.Affirming || len(r.Sets) != 1 {
		t.Fatalf("tier %s: %v", r.Tier, r.Reasons)
	}
	if made, err := p.Plan(in.Lookup, [32]byte{}); err != nil || len(made.Tests) != 1 {
		t.Errorf("plan %+v, %v", made, err)
	}
	tests := []struct {
		name   string
		change func(*tpm.Claims, *plan.Claims)
		code   rats.Code
	}{
		{"another PCR value", func(c *tpm.Claims, _ *plan.Claims) { c.PCRs["sha256"]["7"] = strings.Repeat("00", 32) }, tpm.CodePCRMismatch.Code},
		{"another EK", func(c *tpm.Claims, _ *plan.Claims) { c.EK = rats.SHA256() }, tpm.CodeEKUntrusted.Code},
		{"restarted", func(c *tpm.Claims, _ *plan.Claims) { c.RestartCount = 1 }, policy.CodeRuleFailed.Code},
		{"another file", func(_ *tpm.Claims, c *plan.Claims) { c.Measurements[0].Digest = rats.SHA256() }, plan.CodeChanged.Code},
		{"unknown file", func(_ *tpm.Claims, c *plan.Claims) {
			c.Measurements = append(c.Measurements, plan.Measurement{Test: 1, Name: "/usr/bin/evil", Digest: rats.SHA256()})
		}, plan.CodeUnknown.Code},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, in := fleet(t)
			test.change(in.Set.Verified[tpm.Format].Claims.(*tpm.Claims), in.Set.Verified[plan.Format].Claims.(*plan.Claims))
			r := p.Appraise(in)
			if r.Tier != rats.Contraindicated || !slices.ContainsFunc(r.Reasons, func(x rats.Reason) bool { return x.Code == test.code }) {
				t.Errorf("tier %s: %v", r.Tier, r.Reasons)
			}
		})
	}
}

func TestMistakesInRealSectionsHaveTheirPlace(t *testing.T) {
	doc := documented(t)[0]
	tests := []struct{ from, to, code, line string }{
		{`"7":`, `"77":`, string(tpm.CodeRulePCR.Code), "formats.tpm.pcrs.77)"},
		{"reference: debian-12", "refrence: debian-12", string(policy.CodeFieldUnknown.Code), "formats.plan.tests[0].refrence)"},
		{"sha256:5f", "sha256:5F", string(tpm.CodeRulePin.Code), "formats.tpm.ek_pins[0])"},
		{"tpm.restart_count", "tpm.restarts", string(policy.CodeConditionSyntax.Code), "rules[0].require)"},
	}
	for _, test := range tests {
		broken := strings.Replace(doc, test.from, test.to, 1)
		p, reasons := policy.Compile([]byte(broken), descriptors(t))
		i := slices.IndexFunc(reasons, func(r rats.Reason) bool { return string(r.Code) == test.code })
		if p != nil || i < 0 || !strings.HasPrefix(reasons[i].Path, "line ") || !strings.HasSuffix(reasons[i].Path, test.line) {
			t.Errorf("%s: %v", test.to, reasons)
		}
	}
}
