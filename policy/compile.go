package policy

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/rats"
)

// Defaults and bounds of the document's durations.
const (
	DefaultEvery          = time.Minute
	DefaultValidFor       = 5 * time.Minute
	DefaultMaxEvidenceAge = time.Minute
	minDuration           = time.Second
	maxDuration           = 24 * time.Hour
	maxAge                = time.Minute // S02
	maxRules              = 256
	longValidity          = 10 // periods that valid_for may span before lint says so
)

type document struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Selector       string        `yaml:"selector"`
	Priority       int           `yaml:"priority"`
	Every          time.Duration `yaml:"every"`
	ValidFor       time.Duration `yaml:"valid_for"`
	MaxEvidenceAge time.Duration `yaml:"max_evidence_age"`
	Allow          []string      `yaml:"allow"`
	Demand         []string      `yaml:"demand"`
	Links          []struct {
		From rats.Format `yaml:"from"`
		To   rats.Format `yaml:"to"`
		Kind string      `yaml:"kind"`
	} `yaml:"links"`
	Formats yaml.Node `yaml:"formats"`
	Rules   []struct {
		Name     string `yaml:"name"`
		Require  string `yaml:"require"`
		Slot     string `yaml:"slot"`
		Severity string `yaml:"severity"`
		Message  string `yaml:"message"`
	} `yaml:"rules"`
	On      []string    `yaml:"on"`
	Actions []actionDoc `yaml:"actions"`
}

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Compile reads a policy document against the formats that exist. Either there is no policy and every error that was
// found, or there is a policy and what lint warns of: reasons of tier warning only, none for most policies. The path of
// each reason is "line L, column C (field)".
func Compile(doc []byte, ds []*rats.Descriptor) (*Policy, []rats.Reason) {
	src, root := parse(doc)
	if root == nil {
		return nil, src.errors
	}
	c := &compiler{source: src, ds: ds, p: &Policy{digest: rats.SHA256(doc), memo: newMemo(memoSize)}}
	src.fill(root, reflect.ValueOf(&c.doc).Elem(), "")
	c.header()
	c.durations()
	c.marks()
	c.formats()
	c.links()
	c.demand()
	c.conditions()
	c.actions()
	if len(src.errors) > 0 {
		return nil, src.errors
	}
	c.lint()
	return c.p, c.p.Warnings()
}

// compiler turns a document into a policy.
type compiler struct {
	*source
	doc document
	ds  []*rats.Descriptor
	p   *Policy
}

func (c *compiler) descriptor(f rats.Format) *rats.Descriptor {
	i := slices.IndexFunc(c.ds, func(d *rats.Descriptor) bool { return d.ID == f })
	if i < 0 {
		return nil
	}
	return c.ds[i]
}

func (c *compiler) header() {
	for _, f := range []string{"apiVersion", "kind", "metadata.name", "selector", "formats"} {
		if !c.has(f) {
			c.refuseAt(CodeFieldMissing, f, "the field "+f, "none")
		}
	}
	if c.has("apiVersion") && c.doc.APIVersion != APIVersion {
		c.refuseAt(CodeDocumentKind, "apiVersion", APIVersion, clip(c.doc.APIVersion))
	}
	if c.has("kind") && c.doc.Kind != Kind {
		c.refuseAt(CodeDocumentKind, "kind", Kind, clip(c.doc.Kind))
	}
	if c.has("metadata.name") && !namePattern.MatchString(c.doc.Metadata.Name) {
		c.refuseAt(CodeNameBad, "metadata.name", "letters, digits and hyphens", clip(c.doc.Metadata.Name))
	}
	c.p.name, c.p.priority, c.p.selector = c.doc.Metadata.Name, c.doc.Priority, c.doc.Selector
}

func (c *compiler) durations() {
	get := func(path string, v, def, low, high time.Duration) time.Duration {
		if !c.has(path) {
			return def
		}
		if v < low || v > high {
			c.refuseAt(CodeDurationRange, path, fmt.Sprintf("%s to %s", low, high), v.String())
		}
		return v
	}
	p := c.p
	before := len(c.errors)
	p.every = get("every", c.doc.Every, DefaultEvery, minDuration, maxDuration)
	p.validFor = get("valid_for", c.doc.ValidFor, DefaultValidFor, minDuration, maxDuration)
	p.maxEvidenceAge = get("max_evidence_age", c.doc.MaxEvidenceAge, DefaultMaxEvidenceAge, minDuration, maxAge)
	if len(c.errors) == before && p.validFor <= p.every {
		c.refuseAt(CodeDurationRange, "valid_for", "more than every ("+p.every.String()+")", p.validFor.String())
	}
}

func (c *compiler) marks() {
	for i, m := range c.doc.Allow {
		at := fmt.Sprintf("allow[%d]", i)
		switch {
		case !namePattern.MatchString(m):
			c.refuseAt(CodeNameBad, at, "a mark", clip(m))
		case slices.Contains(c.doc.Allow[:i], m):
			c.refuseAt(CodeFieldDuplicate, at, "the mark once", clip(m))
		}
	}
	c.p.allow = c.doc.Allow
}

// formats decodes the sections, in the order of needs.
func (c *compiler) formats() {
	n := c.nodes["formats"]
	if n == nil || n.Kind != yaml.MappingNode {
		if n != nil {
			c.refuse(CodeFieldType, n, "formats", "a mapping of formats", kindOf(n))
		}
		return
	}
	if len(n.Content) == 0 {
		c.refuse(CodeFieldMissing, n, "formats", "at least one format", "none")
	}
	var used []*rats.Descriptor
	made := make(map[rats.Format]section)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, f := n.Content[i], rats.Format(n.Content[i].Value)
		d := c.descriptor(f)
		if d == nil {
			c.refuse(CodeFormatUnknown, k, "formats."+string(f), fmt.Sprintf("one of %q", ids(c.ds)), clip(string(f)))
			continue
		}
		if _, twice := made[f]; twice {
			continue // refused by walk
		}
		made[f] = c.section(d, n.Content[i+1])
		used = append(used, d)
	}
	order, err := appraise.Order(used)
	if err != nil {
		c.refuse(CodeFormatUnknown, n, "formats", "formats that can be ordered", err.Error())
	}
	for _, d := range order {
		c.p.sections = append(c.p.sections, made[d.ID])
	}
}

func ids(ds []*rats.Descriptor) []rats.Format {
	var out []rats.Format
	for _, d := range ds {
		out = append(out, d.ID)
	}
	return out
}

// section decodes one section into the format's rules and lints it.
func (c *compiler) section(d *rats.Descriptor, n *yaml.Node) section {
	path := "formats." + string(d.ID)
	s := section{desc: d, rules: d.NewRules()}
	if n.Kind != yaml.MappingNode {
		c.refuse(CodeFieldType, n, path, "a mapping ({} if there is nothing to say)", kindOf(n))
		return s
	}
	rest := *n
	rest.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "optional" {
			c.fill(n.Content[i+1], reflect.ValueOf(&s.optional).Elem(), path+".optional")
			continue
		}
		rest.Content = append(rest.Content, n.Content[i], n.Content[i+1])
	}
	before := len(c.errors)
	c.fill(&rest, reflect.ValueOf(s.rules).Elem(), path)
	if len(c.errors) > before {
		return s // lint would complain of what could not be read
	}
	for _, r := range s.rules.Lint() {
		r.Format = d.ID
		r.Path = c.placeOf(sectionPath(d.ID, r.Path))
		if r.Tier == rats.Warning {
			c.p.warnings = append(c.p.warnings, r)
			continue
		}
		c.errors = append(c.errors, r)
	}
	return s
}

// sectionPath returns the path in the document of a path that a section's lint gave, with or without the format before
// it: "pcrs.7" and "tpm.pcrs.7" are one place.
func sectionPath(f rats.Format, path string) string {
	if rest, ok := strings.CutPrefix(path, string(f)); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
		path = strings.TrimPrefix(rest, ".")
	}
	if path == "" || path[0] == '[' {
		return "formats." + string(f) + path
	}
	return "formats." + string(f) + "." + path
}

func (c *compiler) links() {
	kinds := []string{rats.LinkAKInReport, rats.LinkPCRHoldsKey, rats.LinkSealedSecret, rats.LinkEnrolled, rats.LinkKeyInReport}
	for i, l := range c.doc.Links {
		at := fmt.Sprintf("links[%d]", i)
		for side, f := range map[string]rats.Format{"from": l.From, "to": l.To} {
			if !c.has("formats." + string(f)) {
				c.refuseAt(CodeFormatUnknown, at+"."+side, "a format that has a section", clip(string(f)))
			}
		}
		if !slices.Contains(kinds, l.Kind) {
			c.refuseAt(CodeLinkUnknown, at+".kind", strings.Join(kinds, ", "), clip(l.Kind))
		}
		link := rats.Link{From: l.From, To: l.To, Kind: l.Kind}
		if slices.Contains(c.p.links, link) {
			c.refuseAt(CodeFieldDuplicate, at, "the link once", "twice")
		}
		c.p.links = append(c.p.links, link)
	}
}

func (c *compiler) slot(text, path string) rats.Slot {
	var s rats.Slot
	if err := s.UnmarshalText([]byte(text)); err != nil {
		c.refuseAt(CodeSlotUnknown, path, "a slot of the trustworthiness vector", err.Error())
	}
	return s
}

func (c *compiler) demand() {
	if c.has("demand") && len(c.doc.Demand) == 0 {
		c.refuseAt(CodeFieldMissing, "demand", "at least one slot, or no such field", "none")
	}
	if len(c.errors) > 0 {
		return // which slots are judged isn't known
	}
	var judged []rats.Slot
	for _, s := range c.p.sections {
		judged = append(judged, s.rules.Slots()...)
	}
	for i, t := range c.doc.Demand {
		at := fmt.Sprintf("demand[%d]", i)
		s := c.slot(t, at)
		switch {
		case slices.Contains(c.p.demand, s):
			c.refuseAt(CodeFieldDuplicate, at, "the slot once", clip(t))
		case !slices.Contains(judged, s):
			c.refuseAt(CodeSlotUnjudged, at, "a slot that a section judges", clip(t))
		}
		c.p.demand = append(c.p.demand, s)
	}
	if len(judged) == 0 {
		c.warn(CodeSlotsNone, "formats", "at least one slot that is judged", "none")
	}
}

// conditions compiles the selector and the custom rules.
func (c *compiler) conditions() {
	sel, err := newEnvironment(c.ds, scopeSelector)
	if err == nil {
		c.p.env, err = newEnvironment(c.ds, scopeRule)
	}
	if err != nil {
		c.refuseAt(CodeConditionSyntax, "rules", "claims that CEL can name", err.Error())
		return
	}
	c.p.selectorEnv = sel
	if c.has("selector") {
		c.p.selects = c.condition(sel, c.doc.Selector, "selector")
	}
	if len(c.doc.Rules) > maxRules {
		c.refuseAt(CodeFieldValue, "rules", fmt.Sprintf("at most %d rules", maxRules), fmt.Sprint(len(c.doc.Rules)))
		return
	}
	names := make(map[string]bool)
	for i, r := range c.doc.Rules {
		at := fmt.Sprintf("rules[%d]", i)
		out := rule{name: r.Name, text: r.Require, message: r.Message, slot: rats.Configuration, warning: r.Severity == "warning"}
		if !namePattern.MatchString(r.Name) {
			c.refuseAt(CodeNameBad, at+".name", "letters, digits and hyphens", clip(r.Name))
		}
		if names[r.Name] {
			c.refuseAt(CodeFieldDuplicate, at+".name", "a name of its own", clip(r.Name))
		}
		names[r.Name] = true
		if c.has(at + ".slot") {
			out.slot = c.slot(r.Slot, at+".slot")
		}
		if c.has(at+".severity") && r.Severity != "fail" && r.Severity != "warning" {
			c.refuseAt(CodeSeverityUnknown, at+".severity", "fail or warning", clip(r.Severity))
		}
		out.program = c.condition(c.p.env, r.Require, at+".require")
		c.p.rules = append(c.p.rules, out)
	}
}

// condition compiles one expression and puts its errors where it stands in the document.
func (c *compiler) condition(e *environment, expr, path string) cel.Program {
	if !c.has(path) {
		c.refuseAt(CodeFieldMissing, path, "a condition", "none")
		return nil
	}
	n := c.nodes[path]
	p, constant, faults := e.compile(expr)
	for _, f := range faults {
		line, column := n.Line, n.Column
		if f.line > 0 && !strings.Contains(n.Value, "\n") && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
			column += f.column - 1
			if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
				column++
			}
		} else if f.line > 0 && n.Style&yaml.LiteralStyle != 0 {
			line += f.line
			column = f.column
		}
		place := fmt.Sprintf("line %d, column %d (%s)", line, column, path)
		c.errors = append(c.errors, f.code.Refuse(place, "a CEL condition", f.text))
	}
	if constant != nil {
		c.constant(path, *constant)
	}
	return p
}

func (c *compiler) constant(path string, value bool) {
	switch {
	case path != "selector":
		c.warn(CodeRuleConstant, path, "a condition over claims", fmt.Sprint(value))
	case value:
		c.warn(CodeSelectorBroad, path, "a condition over the node", "true")
	default:
		c.warn(CodeSelectorNever, path, "a condition over the node", "false")
	}
}

func (c *compiler) warn(code rats.CodeInfo, path, expected, seen string) {
	c.p.warnings = append(c.p.warnings, code.At(rats.Warning, c.placeOf(path), expected, seen))
}

// dangers says what a policy gives up by allowing a mark.
var dangers = map[string]string{
	rats.MarkSimulated:   "the enclave isn't isolated: whoever is root on the machine can make it say anything",
	rats.MarkSoftwareTPM: "the TPM is software: whoever runs it can make it say anything, and can copy it",
	rats.MarkTestKey:     "the enclave is signed with a key that everybody has",
	rats.MarkDebug:       "a debugger can read and change the enclave or guest",
}

// lint warns of what is legal and probably not meant.
func (c *compiler) lint() {
	p := c.p
	if p.validFor > longValidity*p.every {
		c.warn(CodeValidLong, "valid_for", fmt.Sprintf("at most %s (%d periods)", longValidity*p.every, longValidity), p.validFor.String())
	}
	for i, m := range p.allow {
		at := fmt.Sprintf("allow[%d]", i)
		danger, known := dangers[m]
		if !known {
			c.warn(CodeMarkUnknown, at, strings.Join(keysOf(dangers), ", "), m)
			continue
		}
		c.warn(CodeAllowDanger, at, "nothing allowed", m+": "+danger)
	}
	for _, s := range p.sections {
		if s.optional {
			c.warn(CodeFormatOptional, "formats."+string(s.desc.ID)+".optional", "a required format", "optional")
		}
	}
}
