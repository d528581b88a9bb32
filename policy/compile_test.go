package policy_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

func TestGoodPolicyCompilesToWhatItSays(t *testing.T) {
	p := compile(t, good)
	if p.Name() != "lab" || p.Priority() != 10 || p.Every() != 30*time.Second || p.ValidFor() != 5*time.Minute || p.MaxEvidenceAge() != time.Minute {
		t.Errorf("got %q %d %s %s %s", p.Name(), p.Priority(), p.Every(), p.ValidFor(), p.MaxEvidenceAge())
	}
	if !slices.Equal(p.Formats(), []rats.Format{formatBox, formatRun}) {
		t.Errorf("formats %q: needs come first", p.Formats())
	}
	if !slices.Equal(p.Planned(), []rats.Format{formatRun}) {
		t.Errorf("planned %q", p.Planned())
	}
	if a := p.Asks(); len(a) != 1 || a[0].Format != formatBox || string(a[0].Params) != `{"pcrs":[7]}` {
		t.Errorf("asks %+v", a)
	}
	if !slices.Equal(p.Allow(), []string{"simulated"}) || !p.Digest().Equal(rats.SHA256([]byte(good))) || !strings.Contains(p.Selector(), "node.kind") {
		t.Errorf("allow %q, digest %s, selector %q", p.Allow(), p.Digest(), p.Selector())
	}
	if has(p.Warnings(), policy.CodeAllowDanger) == nil {
		t.Errorf("no warning of the allow list: %v", p.Warnings())
	}
}

// R072: unknown field, bad hex, duplicate PCR, unknown algorithm are errors with line and column.
func TestBadDocumentIsRefusedWithCodeAndPlace(t *testing.T) {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	tests := []struct {
		name, doc string
		code      rats.CodeInfo
		path      string // prefix
	}{
		{"too large", minimal() + "#" + strings.Repeat("x", 1<<20), policy.CodeDocumentSize, "document"},
		{"no YAML", "apiVersion: [", policy.CodeDocumentSyntax, "line 1"},
		{"empty", "", policy.CodeDocumentSyntax, "line 1, column 1"},
		{"a list", "- a", policy.CodeDocumentSyntax, "line 1, column 1"},
		{"broken second document", minimal() + "\n---\n[", policy.CodeDocumentSyntax, "line"},
		{"anchor", minimal("allow: &a [x]"), policy.CodeDocumentAlias, "line 7, column 8 (allow)"},
		{"alias", minimal("every: &a 60s", "valid_for: *a"), policy.CodeDocumentAlias, "line 7, column 8 (every)"},
		{"merge key", minimal("links: [{<<: {from: box}}]"), policy.CodeDocumentAlias, "line 7, column 10"},
		{"tag", minimal("priority: !!str 5"), policy.CodeDocumentAlias, "line 7, column 11 (priority)"},
		{"two documents", minimal() + "\n---\na: b\n", policy.CodeDocumentMultiple, "line 8"},
		{"too deep", minimal("allow: " + deep), policy.CodeDocumentDepth, "line 7, column"},
		{"other version", strings.Replace(minimal(), "assay/v1", "assay/v2", 1), policy.CodeDocumentKind, "line 1, column 13 (apiVersion)"},
		{"other kind", strings.Replace(minimal(), "kind: Policy", "kind: Secret", 1), policy.CodeDocumentKind, "line 2, column 7 (kind)"},
		{"unknown field", minimal("prioritee: 3"), policy.CodeFieldUnknown, "line 7, column 1 (prioritee)"},
		{"unknown field of a section", strings.Replace(good, "    pcrs:", "    prcs:", 1), policy.CodeFieldUnknown, "line 12, column 5 (formats.box.prcs)"},
		{"duplicate field", minimal("every: 60s", "every: 61s"), policy.CodeFieldDuplicate, "line 8, column 1 (every)"},
		{"duplicate PCR in a section", strings.Replace(good, "rules:\n", "      7: []\nrules:\n", 1), policy.CodeFieldDuplicate, "line 14, column 7 (formats.box.pcrs.7)"},
		{"PCR not decimal", strings.Replace(good, "      7:", "      07:", 1), policy.CodeFieldType, "line 13, column 7 (formats.box.pcrs.07)"},
		{"duplicate section", strings.Replace(good, "  box:", "  run: {}\n  box:", 1), policy.CodeFieldDuplicate, "line 10, column 3 (formats.run)"},
		{"no name", strings.Replace(minimal(), "metadata: {name: min}", "metadata: {}", 1), policy.CodeFieldMissing, "line 3, column 11 (metadata.name)"},
		{"no selector", strings.Replace(minimal(), "selector:", "#selector:", 1), policy.CodeFieldMissing, "line 1, column 1 (selector)"},
		{"no formats", strings.Replace(minimal(), "  box: {judges: [hardware]}", "  {}", 1), policy.CodeFieldMissing, "line 6, column 3 (formats)"},
		{"formats a list", strings.Replace(minimal(), "  box: {judges: [hardware]}", "  []", 1), policy.CodeFieldType, "line 6, column 3 (formats)"},
		{"empty demand", minimal("demand: []"), policy.CodeFieldMissing, "line 7, column 9 (demand)"},
		{"null section", strings.Replace(minimal(), "{judges: [hardware]}", "", 1), policy.CodeFieldType, "line 6"},
		{"text for a number", minimal("priority: high"), policy.CodeFieldType, "line 7, column 11 (priority)"},
		{"octal number", minimal("priority: 010"), policy.CodeFieldType, "line 7, column 11 (priority)"},
		{"number out of bounds", strings.Replace(minimal(), "[hardware]", "[hardware], count: 256", 1), policy.CodeFieldType, "line 6"},
		{"text for a bool", strings.Replace(minimal(), "[hardware]", "[hardware], flag: yes", 1), policy.CodeFieldType, "line 6, column 35 (formats.box.flag)"},
		{"bool for text", minimal("allow: [true]"), policy.CodeFieldType, "line 7, column 9 (allow[0])"},
		{"text for a list", minimal("allow: simulated"), policy.CodeFieldType, "line 7, column 8 (allow)"},
		{"list for text", strings.Replace(minimal(), "name: min", "name: [min]", 1), policy.CodeFieldType, "line 3, column 18 (metadata.name)"},
		{"list for a mapping", strings.Replace(minimal(), "{judges: [hardware]}", "[judges]", 1), policy.CodeFieldType, "line 6, column 8 (formats.box)"},
		{"mapping as key", minimal("{a: b}: c"), policy.CodeFieldType, "line 7, column 1"},
		{"bad hex", strings.Replace(good, "sha256:ba", "sha256:bg", 1), policy.CodeFieldValue, "line 13, column 11 (formats.box.pcrs.7[0])"},
		{"upper-case hex", strings.Replace(minimal(), "[hardware]", "[hardware], hex: AB", 1), policy.CodeFieldValue, "line 6, column 34 (formats.box.hex)"},
		{"unknown algorithm", strings.Replace(good, "sha256:ba", "md5:ba", 1), policy.CodeFieldValue, "line 13, column 11"},
		{"bad name", strings.Replace(minimal(), "name: min", "name: Min", 1), policy.CodeNameBad, "line 3, column 18 (metadata.name)"},
		{"bad mark", minimal("allow: ['*']"), policy.CodeNameBad, "line 7, column 9 (allow[0])"},
		{"doubled mark", minimal("allow: [debug, debug]"), policy.CodeFieldDuplicate, "line 7, column 16 (allow[1])"},
		{"duration without unit", minimal("every: 60"), policy.CodeDurationBad, "line 7, column 8 (every)"},
		{"duration too short", minimal("every: 10ms"), policy.CodeDurationRange, "line 7, column 8 (every)"},
		{"duration too long", minimal("valid_for: 25h"), policy.CodeDurationRange, "line 7, column 12 (valid_for)"},
		{"evidence too old", minimal("max_evidence_age: 61s"), policy.CodeDurationRange, "line 7, column 19 (max_evidence_age)"},
		{"valid no longer than the period", minimal("every: 5m"), policy.CodeDurationRange, "line 1, column 1 (valid_for)"},
		{"unknown slot", minimal("demand: [hardwear]"), policy.CodeSlotUnknown, "line 7, column 10 (demand[0])"},
		{"slot nobody judges", minimal("demand: [file-system]"), policy.CodeSlotUnjudged, "line 7, column 10 (demand[0])"},
		{"doubled slot", minimal("demand: [hardware, hardware]"), policy.CodeFieldDuplicate, "line 7, column 20 (demand[1])"},
		{"unknown format", strings.Replace(minimal(), "  box:", "  tmp: {}\n  box:", 1), policy.CodeFormatUnknown, "line 6, column 3 (formats.tmp)"},
		{"link to a format without section", minimal("links: [{from: run, to: box, kind: enrolled}]"), policy.CodeFormatUnknown, "line 7, column 16 (links[0].from)"},
		{"unknown link", minimal("links: [{from: box, to: box, kind: none}]"), policy.CodeLinkUnknown, "line 7, column 36 (links[0].kind)"},
		{"lint of the section", strings.Replace(minimal(), "[hardware]", "[hardware], bad_lint: true", 1), codeBoxPCR, "line 6, column 39 (formats.box.bad_lint)"},
		{"lint of the section, with the format in its path", strings.Replace(minimal(), "[hardware]", "[hardware], bad_lint: true, digest: ''", 1), codeBoxSection, "line 6, column 53 (formats.box.digest)"},
		{"wrong type inside a type that reads itself", strings.Replace(minimal(), "[hardware]", "[hardware], texts: [a, true]", 1), policy.CodeFieldType, "line 6, column 40 (formats.box.texts[1])"},
		{"rule without condition", minimal("rules: [{name: a}]"), policy.CodeFieldMissing, "line 7, column 9 (rules[0].require)"},
		{"rule without name", minimal("rules: [{require: 'box.secure'}]"), policy.CodeNameBad, "line 7, column 9 (rules[0].name)"},
		{"two rules of one name", minimal("rules:", "- {name: a, require: box.secure}", "- {name: a, require: box.secure}"), policy.CodeFieldDuplicate, "line 9, column 10 (rules[1].name)"},
		{"too many rules", minimal("rules: [" + strings.Repeat("{},", 300) + "]"), policy.CodeFieldValue, "line 7, column 8 (rules)"},
		{"unknown severity", minimal("rules: [{name: a, require: box.secure, severity: fatal}]"), policy.CodeSeverityUnknown, "line 7, column 50 (rules[0].severity)"},
		{"unknown slot of a rule", minimal("rules: [{name: a, require: box.secure, slot: x}]"), policy.CodeSlotUnknown, "line 7, column 46 (rules[0].slot)"},
		{"misspelt claim", minimal("rules: [{name: a, require: 'box.secured'}]"), policy.CodeConditionSyntax, "line 7, column 32 (rules[0].require)"},
		{"misspelt claim, second line", minimal("rules:", "- name: a", "  require: |", "    box.secure &&", "    box.secured"), policy.CodeConditionSyntax, "line 11, column 4"},
		{"misspelt format", minimal("rules: [{name: a, require: 'bax.secure'}]"), policy.CodeConditionSyntax, "line 7, column 29 (rules[0].require)"},
		{"claim of the wrong type", minimal("rules: [{name: a, require: 'box.restart_count == 0'}]"), policy.CodeConditionSyntax, "line 7, column 47"},
		{"misspelt format in present()", minimal("rules: [{name: a, require: 'present(\"bax\")'}]"), policy.CodeConditionSyntax, "line 7"},
		{"a rule over the result", minimal("rules: [{name: a, require: 'result.tier == \"affirming\"'}]"), policy.CodeConditionSyntax, "line 7"},
		{"selector over claims", strings.Replace(minimal(), `node.kind == "host"`, "box.secure", 1), policy.CodeConditionSyntax, "line 4, column 12 (selector)"},
		{"selector over an unknown fact", strings.Replace(minimal(), `node.kind`, "node.kin", 1), policy.CodeConditionSyntax, "line 4, column 16 (selector)"},
		{"bad regular expression", minimal("rules: [{name: a, require: 'box.name.matches(\"[\")'}]"), policy.CodeConditionSyntax, "line 7"},
		{"map()", minimal("rules: [{name: a, require: 'size(box.events.map(e, e)) == 0'}]"), policy.CodeConditionSyntax, "line 7"},
		{"loops in loops", minimal("rules: [{name: a, require: 'box.events.all(a, box.events.all(b, box.events.all(c, true)))'}]"), policy.CodeConditionSyntax, "line 7"},
		{"condition that is a number", minimal("rules: [{name: a, require: 'box.level + 1'}]"), policy.CodeConditionType, "line 7, column 29"},
		{"empty condition", minimal("rules: [{name: a, require: ' '}]"), policy.CodeConditionSize, "line 7, column 28"},
		{"long condition", minimal("rules: [{name: a, require: '" + strings.Repeat("true||", 1000) + "true'}]"), policy.CodeConditionSize, "line 7, column 28"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, reasons := policy.Compile([]byte(test.doc), descriptors())
			if p != nil {
				t.Fatal("the policy compiled")
			}
			r := has(reasons, test.code)
			if r == nil {
				t.Fatalf("expected %s, got %v", test.code.Code, reasons)
			}
			if !strings.HasPrefix(r.Path, test.path) {
				t.Errorf("expected it at %q, got %q (%s)", test.path, r.Path, r.Seen)
			}
			if r.Tier != rats.Contraindicated {
				t.Errorf("tier %s", r.Tier)
			}
		})
	}
}

func TestAllErrorsOfADocumentAreReported(t *testing.T) {
	doc := minimal("everi: 3s", "priority: x", "allow: [1, true]", "demand: [hardwear]", "rules: [{name: A, require: 'box.x'}]")
	_, reasons := policy.Compile([]byte(doc), descriptors())
	for _, c := range []rats.CodeInfo{policy.CodeFieldUnknown, policy.CodeFieldType, policy.CodeNameBad, policy.CodeConditionSyntax} {
		if has(reasons, c) == nil {
			t.Errorf("%s is missing from %v", c.Code, reasons)
		}
	}
}

func TestLintWarnsAndDoesNotStopCompiling(t *testing.T) {
	tests := []struct {
		name, doc string
		code      rats.CodeInfo
	}{
		{"selector true", strings.Replace(minimal(), `'node.kind == "host"'`, "'true'", 1), policy.CodeSelectorBroad},
		{"selector false", strings.Replace(minimal(), `'node.kind == "host"'`, "'false'", 1), policy.CodeSelectorNever},
		{"constant rule", minimal("rules: [{name: a, require: 'true'}]"), policy.CodeRuleConstant},
		{"long validity", minimal("every: 1s", "valid_for: 11s"), policy.CodeValidLong},
		{"allowed mark", minimal("allow: [software-tpm]"), policy.CodeAllowDanger},
		{"unknown mark", minimal("allow: [softwaretpm]"), policy.CodeMarkUnknown},
		{"optional format", strings.Replace(minimal(), "[hardware]", "[hardware], optional: true", 1), policy.CodeFormatOptional},
		{"nothing judged", strings.Replace(minimal(), "[hardware]", "[]", 1), policy.CodeSlotsNone},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, warnings := policy.Compile([]byte(test.doc), descriptors())
			r := has(warnings, test.code)
			if p == nil || len(warnings) != len(p.Warnings()) {
				t.Fatalf("policy %v with %v", p, warnings)
			}
			if r == nil || r.Tier != rats.Warning || !strings.HasPrefix(r.Path, "line ") {
				t.Errorf("got %+v", r)
			}
		})
	}
	if w := compile(t, minimal()).Warnings(); len(w) > 0 {
		t.Errorf("the plain policy has warnings: %v", w)
	}
}

func TestSelectorSaysForWhichNodesAPolicyIs(t *testing.T) {
	tests := []struct {
		selector string
		want     bool
		code     rats.CodeInfo
	}{
		{`true`, true, rats.CodeInfo{}},
		{`node.kind == "host"`, true, rats.CodeInfo{}},
		{`node.name in ["h1", "h2"] && node.labels["env"] == "lab"`, true, rats.CodeInfo{}},
		{`node.kind == "vm"`, false, rats.CodeInfo{}},
		{`"zone" in node.labels && node.labels["zone"] == "a"`, false, rats.CodeInfo{}},
		{`node.labels["zone"] != "a"`, false, policy.CodeSelectorUnevaluable},
	}
	for _, test := range tests {
		p := compile(t, strings.Replace(minimal(), `'node.kind == "host"'`, "'"+test.selector+"'", 1))
		ok, reasons := p.Selects(host)
		if ok != test.want || (test.code.Code == "") != (len(reasons) == 0) || test.code.Code != "" && has(reasons, test.code) == nil {
			t.Errorf("%s: got %v, %v", test.selector, ok, reasons)
		}
	}
}

func TestCodesAreListedOnceWithTitleAndHint(t *testing.T) {
	seen := make(map[rats.Code]bool)
	for _, c := range policy.Codes {
		if seen[c.Code] || c.Title == "" || c.Hint == "" || strings.Count(string(c.Code), ".") != 2 {
			t.Errorf("code %+v", c)
		}
		seen[c.Code] = true
	}
}

func FuzzCompile(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(minimal("rules: [{name: a, require: 'box.events.all(e, e.kind == \"boot\")'}]")))
	f.Add([]byte(minimal("links: [{from: box, to: box, kind: enrolled}]", "demand: [hardware]", "allow: [debug]")))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("formats: {box: {pcrs: {7: [x]}}}"))
	ds := descriptors()
	f.Fuzz(func(t *testing.T, doc []byte) {
		p, reasons := policy.Compile(doc, ds)
		if p == nil && len(reasons) == 0 || p != nil && rats.Worst(reasons) != rats.Affirming && rats.Worst(reasons) != rats.Warning {
			t.Fatalf("policy %v with reasons %v", p, reasons)
		}
		if p == nil {
			return
		}
		if r := p.Appraise(policy.In{Now: now, Challenged: now}); r.Tier == rats.Affirming {
			t.Fatal("a node without evidence is trusted")
		}
	})
}
