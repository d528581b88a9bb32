package appraise

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// The problems of judging files.
var (
	CodeFileUnrecognised = rats.CodeInfo{
		Code: "appraise.file.unrecognised", Title: "the file is evidence of no known format",
		Hint: "say which format it should be with --format; it may be raw, hex, base64, PEM, or inside JSON", Slot: rats.InstanceIdentity,
	}
	CodeFileMark = rats.CodeInfo{
		Code: "appraise.file.mark", Title: "the evidence proves less than its format could",
		Hint: "give a policy that allows the mark, if that is meant", Slot: rats.Hardware,
	}
	CodeFileUnjudged = rats.CodeInfo{
		Code: "appraise.file.unjudged", Title: "no rules say that this is acceptable",
		Hint: "give a policy", Slot: rats.Configuration,
	}
)

// Judgement is what can be said of evidence in files. Genuine is about what is true: signatures, chains and bindings
// hold at the given moment. Accepted is about what is good enough.
type Judgement struct {
	Format   rats.Format  `json:"format"`
	Genuine  bool         `json:"genuine"`
	Accepted bool         `json:"accepted"`
	Bound    bool         `json:"bound"` // to a nonce or report data that was given
	At       time.Time    `json:"at"`
	Claims   any          `json:"claims"`            // rats.Claims; an empty object if the evidence isn't genuine
	Decoded  any          `json:"decoded,omitempty"` // of evidence that isn't genuine: what it says, unproven
	TCB      TCB          `json:"tcb"`
	Debug    *bool        `json:"debug"`
	Marks    []string     `json:"marks,omitempty"`
	Reasons  []Finding    `json:"reasons"`
	Inside   []*Judgement `json:"inside,omitempty"` // of other evidence in the same file
}

// TCB is how current the platform is, in its maker's words.
type TCB struct {
	Status     string   `json:"status"`
	Advisories []string `json:"advisories"`
	Date       string   `json:"date"` // RFC 3339; empty: not known
}

// StatusUnknown is the status without the collateral that would tell.
const StatusUnknown = "unknown"

// Finding is a reason as the offline command shows it: every field is always there.
type Finding struct {
	Code     rats.Code   `json:"code"`
	Title    string      `json:"title"`
	Format   rats.Format `json:"format,omitempty"`
	Tier     rats.Tier   `json:"tier"`
	Path     string      `json:"path"`
	Expected string      `json:"expected"`
	Seen     string      `json:"seen"`
	Hint     string      `json:"hint"`
}

func finding(f rats.Format, r rats.Reason) Finding {
	if r.Format != "" {
		f = r.Format
	}
	return Finding{Code: r.Code, Title: r.Title, Format: f, Tier: r.Tier, Path: r.Path, Expected: r.Expected, Seen: r.Seen, Hint: r.Hint}
}

// Accepter says whether a verified set is good enough, and what speaks against it.
type Accepter func(o Offline, set rats.Set, now time.Time) (bool, []rats.Reason)

// Question is one piece of evidence to judge.
type Question struct {
	Given
	Format string   // id or name of the format; empty: the first that recognises the file
	Accept Accepter // nil: ByDefault
}

// Recognise returns the first format that recognises the file or something it wraps, and the outermost thing it
// recognised. With a name it asks that format only, and hands it the file itself if it recognises nothing: it can say best what is wrong.
func Recognise(formats []Offline, name string, file []byte) (Offline, []byte) {
	formats, named := byName(formats, name)
	all := Unwrap(file)
	for _, o := range formats {
		for _, b := range all {
			if o.Detect(b) {
				return o, b
			}
		}
	}
	if named && len(formats) > 0 {
		best := file
		if len(all) == 2 { // one thing in one wrapping
			best = all[1]
		}
		return formats[0], best
	}
	return nil, nil
}

func byName(formats []Offline, name string) ([]Offline, bool) {
	if name == "" {
		return formats, false
	}
	var out []Offline
	for _, o := range formats {
		n, ok := o.(Named)
		if string(o.Descriptor().ID) == name || ok && slices.Contains(n.Names(), name) {
			out = append(out, o)
		}
	}
	return out, true
}

// Judge verifies evidence from files and says whether it is acceptable. Its error is a malfunction of a verifier: what
// is wrong with the evidence stands in the judgement.
func Judge(ctx context.Context, formats []Offline, q Question) (*Judgement, error) {
	return judge(ctx, formats, q, 0)
}

// maxNesting bounds evidence inside evidence.
const maxNesting = 2

func judge(ctx context.Context, formats []Offline, q Question, depth int) (*Judgement, error) {
	j := &Judgement{At: q.Now.UTC(), Claims: struct{}{}, TCB: TCB{Status: StatusUnknown, Advisories: []string{}}, Reasons: []Finding{}}
	j.Bound = len(q.Binding.UserData) > 0
	o, body := Recognise(formats, q.Format, q.File)
	if o == nil {
		j.refuse("", CodeFileUnrecognised.Refuse("byte 0", "evidence", fmt.Sprintf("%d bytes beginning with %x", len(q.File), q.File[:min(len(q.File), 16)])))
		return j, nil
	}
	d := o.Descriptor()
	q.Body = body
	j.Format = d.ID
	facts, err := j.paired(ctx, formats, o, &q, depth)
	if err != nil {
		return nil, err
	}
	v, err := verifyFile(ctx, o, q.Given, facts)
	if r, ok := rats.ReasonOf(err); ok {
		j.refuse(d.ID, r)
		j.decode(o, body)
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("verifying %s: %w", d.ID, err)
	}
	j.Genuine = true
	j.describe(v)
	accept := q.Accept
	if accept == nil {
		accept = ByDefault
	}
	ok, reasons := accept(o, rats.Set{Verified: map[rats.Format]rats.Verified{d.ID: v}}, q.Now)
	j.Accepted = ok
	for _, r := range reasons {
		j.Reasons = append(j.Reasons, finding(d.ID, r))
	}
	if m, ok := o.(Remarking); ok {
		for _, r := range m.Remarks(v.Claims) {
			j.Reasons = append(j.Reasons, finding(d.ID, r))
		}
	}
	return j, j.inside(ctx, formats, o, q, v, depth)
}

func verifyFile(ctx context.Context, o Offline, g Given, facts rats.Facts) (rats.Verified, error) {
	e, in, err := o.Prepare(g)
	if err != nil {
		return rats.Verified{}, err
	}
	facts.Registers = nil // they are among the Given already
	in.Facts = in.Facts.Merge(facts)
	return o.Verify(ctx, e, in)
}

func (j *Judgement) refuse(f rats.Format, r rats.Reason) {
	j.Genuine, j.Accepted = false, false
	j.Reasons = append(j.Reasons, finding(f, r))
}

// decode adds what evidence says that could not be verified.
func (j *Judgement) decode(o Offline, body []byte) {
	i, ok := o.(Inspector)
	if !ok {
		return
	}
	if v, err := i.Inspect(body); err == nil && v != nil {
		j.Decoded = v
		j.status(v)
	}
}

func (j *Judgement) describe(v rats.Verified) {
	j.Claims, j.Marks = v.Claims, v.Marks
	j.status(v.Claims)
	if l, ok := v.Claims.(Leveled); ok {
		status, advisories, date := l.TCBStatus()
		if status != "" {
			j.TCB.Status = status
		}
		j.TCB.Advisories = append(j.TCB.Advisories, advisories...)
		slices.Sort(j.TCB.Advisories)
		if !date.IsZero() {
			j.TCB.Date = date.UTC().Format(time.RFC3339)
		}
	}
}

func (j *Judgement) status(claims any) {
	if c, ok := claims.(Debuggable); ok {
		debug := c.DebugEnabled()
		j.Debug = &debug
	}
}

// paired verifies evidence among the collateral that the format builds on, and adds its registers to what was given.
func (j *Judgement) paired(ctx context.Context, formats []Offline, o Offline, q *Question, depth int) (rats.Facts, error) {
	var facts rats.Facts
	needs := o.Descriptor().Needs
	if depth >= maxNesting || len(needs) == 0 {
		return facts, nil
	}
	var rest []File
	for _, c := range q.Collateral {
		n, body := Recognise(formats, "", c.Body)
		if n == nil || n.Descriptor().ID == o.Descriptor().ID || !slices.Contains(needs, n.Descriptor().ID) {
			rest = append(rest, c)
			continue
		}
		g := q.Given
		g.File, g.Body, g.Beside, g.Registers, g.Binding = c.Body, body, nil, nil, rats.Binding{Profile: rats.ProfileNone}
		v, err := verifyFile(ctx, n, g, rats.Facts{})
		if r, ok := rats.ReasonOf(err); ok {
			j.Reasons = append(j.Reasons, finding(n.Descriptor().ID, r))
			continue
		}
		if err != nil {
			return facts, fmt.Errorf("verifying %s: %w", n.Descriptor().ID, err)
		}
		facts = facts.Merge(v.Facts)
	}
	q.Collateral = rest
	if len(q.Registers) == 0 {
		q.Registers = facts.Registers
	}
	return facts, nil
}

// inside judges what else the file holds. A whole is never better than its parts.
func (j *Judgement) inside(ctx context.Context, formats []Offline, o Offline, q Question, v rats.Verified, depth int) error {
	c, ok := o.(Container)
	if !ok || depth >= maxNesting {
		return nil
	}
	for _, b := range c.Inside(q.Body) {
		sub := q
		sub.File, sub.Format, sub.Beside, sub.Registers = b, "", nil, v.Facts.Registers
		sub.Binding = rats.Binding{Profile: rats.ProfileNone}
		in, err := judge(ctx, formats, sub, depth+1)
		if err != nil {
			return err
		}
		j.Inside = append(j.Inside, in)
		j.Genuine = j.Genuine && in.Genuine
		j.Accepted = j.Accepted && in.Accepted
		j.Reasons = append(j.Reasons, in.Reasons...)
	}
	return nil
}

// ByDefault is the Accepter without a policy: the format's own rules accept, no mark is allowed, and a warning refuses.
func ByDefault(o Offline, set rats.Set, now time.Time) (bool, []rats.Reason) {
	def, has := o.(Defaulter)
	if !has {
		return false, []rats.Reason{CodeFileUnjudged.At(rats.None, "policy", "rules for "+string(o.Descriptor().ID), "none")}
	}
	ok, reasons := ByRules(def.DefaultRules(), nil)(o, set, now)
	return ok && rats.Worst(reasons) == rats.Affirming, reasons
}

// ByRules is an Accepter by one section of a policy and the marks it allows. A warning doesn't refuse: whoever wrote the
// section asked for it.
func ByRules(rules rats.Rules, allow []string) Accepter {
	return func(o Offline, set rats.Set, now time.Time) (bool, []rats.Reason) {
		v := set.Verified[o.Descriptor().ID]
		reasons := rules.Lint()
		if len(reasons) == 0 {
			reasons = slices.Clone(rules.Check(v.Claims, refvalue.NewIndex(nil), now))
		}
		for _, m := range v.Marks {
			if !slices.Contains(allow, m) {
				reasons = append(reasons, CodeFileMark.Refuse("marks", fmt.Sprintf("no mark but %q", allow), m))
			}
		}
		worst := rats.Worst(reasons)
		return worst == rats.Affirming || worst == rats.Warning, reasons
	}
}
