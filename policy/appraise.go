package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/rats"
)

// maxReasons bounds the reasons that one section puts into a result; all of them count.
const maxReasons = 1000

// In is what an appraisal depends on.
type In struct {
	Set        rats.Set    // of package appraise
	Lookup     rats.Lookup // reference values; nil: none
	Now        time.Time
	Node       NodeFacts
	Ref        rats.Ref  // the policy's stored version, for the result
	Challenged time.Time // when the challenge was issued; zero: nobody knows, and nothing is affirmed
	Received   time.Time // when the evidence arrived; zero: Now

	// Carried into the result.
	ID, Namespace, Subject string
	Collection             rats.Digest

	// ClaimsDigest are the digests of the claims by format, for the result's parts. Equal digests must mean equal
	// claims.
	ClaimsDigest map[rats.Format]rats.Digest
}

// Appraise judges a verified set. The tier of the result is the worst of: every demanded slot, and every reason's own
// tier. A slot is affirmed only if a section judges it, evidence of its format was verified, and no reason lowers it.
//
// The result holds until the earliest of now + valid_for, the end of any verification it rests on, and the expiry of any
// reference set it used.
func (p *Policy) Appraise(in In) rats.Result {
	if in.Received.IsZero() {
		in.Received = in.Now
	}
	r := rats.Result{
		ID: in.ID, Namespace: in.Namespace, Subject: in.Subject, Policy: in.Ref, Collection: in.Collection,
		Challenged: in.Challenged, At: in.Now, Expires: in.Now.Add(p.validFor), Parts: make(map[rats.Format]rats.PartResult),
	}
	var whole board
	demanded := slices.Clone(p.demand)
	for _, s := range p.sections {
		reasons, slots := p.part(s, in, &r)
		if _, ok := in.Set.Verified[s.desc.ID]; ok {
			var part board
			part.judge(slots)
			part.lower(reasons)
			of := rats.PartResult{Vector: part.vector(), Claims: in.ClaimsDigest[s.desc.ID]}
			if h, ok := in.Set.Verified[s.desc.ID].Claims.(rats.Highlighter); ok {
				of.Highlights = h.Highlights()
			}
			r.Parts[s.desc.ID] = of
			whole.judge(slots)
		}
		if len(p.demand) == 0 {
			demanded = append(demanded, slots...)
		}
		whole.lower(reasons)
		r.Reasons = append(r.Reasons, shorten(reasons, s.desc.ID)...)
	}
	others := p.across(in, &r)
	whole.lower(others)
	r.Reasons = append(r.Reasons, others...)
	slices.Sort(demanded)
	r.Demanded = slices.Compact(demanded)
	r.Vector = whole.vector()
	r.Tier = rats.Worse(r.Vector.Overall(r.Demanded), whole.worst())
	return r
}

// part judges one format. Its slots are those that the section demands: none if the format is optional and absent.
func (p *Policy) part(s section, in In, r *rats.Result) ([]rats.Reason, []rats.Slot) {
	f := s.desc.ID
	reasons := refusals(in.Set, f)
	v, ok := in.Set.Verified[f]
	if !ok {
		if s.optional && len(reasons) == 0 {
			return nil, nil
		}
		missing := CodeFormatMissing.At(rats.None, string(f), "verified evidence", "none")
		missing.Format = f
		return append(reasons, missing), s.rules.Slots()
	}
	reasons = append(reasons, p.marks(f, v)...)
	for _, m := range v.Marks {
		if !slices.Contains(r.Marks, m) {
			r.Marks = append(r.Marks, m)
			slices.Sort(r.Marks)
		}
	}
	if !v.Until.IsZero() {
		r.Expires = earlier(r.Expires, v.Until)
		if !in.Now.Before(v.Until) {
			old := CodeEvidenceExpired.At(rats.None, string(f), "a verification that holds", "it ended "+v.Until.UTC().Format(time.RFC3339))
			old.Format = f
			reasons = append(reasons, old)
		}
	}
	c := p.check(s, v.Claims, in.Lookup, in.Now, in.ClaimsDigest[f])
	r.Expires = earlier(r.Expires, c.expires)
	for _, ref := range c.refs {
		if !slices.ContainsFunc(r.Sets, func(o rats.Ref) bool { return o.Name == ref.Name && o.Version == ref.Version }) {
			r.Sets = append(r.Sets, ref)
		}
	}
	return append(reasons, c.reasons...), s.rules.Slots()
}

// refusals returns what verification refused of a format. That it is missing is judged here, not there: an optional
// format may be.
func refusals(set rats.Set, f rats.Format) []rats.Reason {
	var out []rats.Reason
	for _, r := range set.Refused {
		if r.Format == f && r.Code != appraise.CodeFormatMissing.Code {
			out = append(out, r)
		}
	}
	return out
}

func (p *Policy) marks(f rats.Format, v rats.Verified) []rats.Reason {
	var out []rats.Reason
	for _, m := range v.Marks {
		if !slices.Contains(p.allow, m) {
			r := CodeMarkRefused.Refuse(string(f), fmt.Sprintf("no mark but %q", p.allow), m)
			r.Format = f
			out = append(out, r)
		}
	}
	return out
}

// check runs a section's rules, or remembers what they said of equal claims.
func (p *Policy) check(s section, claims rats.Claims, l rats.Lookup, now time.Time, digest rats.Digest) checked {
	rec := record(l, now)
	t, ok := s.rules.(Timeless)
	remember := ok && t.Timeless() && !digest.IsZero()
	key := memoKey{format: s.desc.ID, claims: digest.String()}
	if remember {
		if c, ok := p.memo.get(key, rec.lookup, now); ok {
			return c
		}
	}
	reasons := rec.merge(slices.Clone(s.rules.Check(claims, rec, now)))
	for i := range reasons {
		if reasons[i].Format == "" {
			reasons[i].Format = s.desc.ID
		}
	}
	c := checked{reasons: reasons, refs: rec.refs, names: rec.names, expires: rec.expires()}
	if remember && len(rec.reasons) == 0 {
		p.memo.put(key, c)
	}
	return c
}

// across judges what concerns no single section, or all of them: refusals of the whole collection, age, links, keys and
// custom rules.
func (p *Policy) across(in In, r *rats.Result) []rats.Reason {
	var out []rats.Reason
	mine := p.Formats()
	for _, x := range in.Set.Refused {
		if !slices.Contains(mine, x.Format) {
			out = append(out, x)
		}
	}
	out = append(out, p.age(in)...)
	links := linksOf(in.Set)
	for _, want := range p.links {
		if p.Optional(want.From) && !verified(in.Set, want.From) || p.Optional(want.To) && !verified(in.Set, want.To) {
			continue
		}
		if !slices.Contains(links, want) {
			out = append(out, CodeLinkMissing.Refuse(fmt.Sprintf("%s to %s", want.From, want.To), want.Kind, kindsOf(links, want)))
		}
	}
	r.Links = links
	keys, conflicts := p.keys(in.Set)
	r.Keys, out = keys, append(out, conflicts...)
	for _, f := range mine {
		for _, b := range in.Set.Verified[f].Facts.Boots {
			if !slices.ContainsFunc(r.Boots, func(o rats.Boot) bool { return o.By == b.By && o.ID.Equal(b.ID) }) {
				r.Boots = append(r.Boots, b)
			}
		}
	}
	return append(out, p.custom(in)...)
}

func verified(set rats.Set, f rats.Format) bool {
	_, ok := set.Verified[f]
	return ok
}

func (p *Policy) age(in In) []rats.Reason {
	if in.Challenged.IsZero() {
		return []rats.Reason{CodeEvidenceUndated.At(rats.None, "challenged", "the time of a challenge", "none")}
	}
	if age := in.Received.Sub(in.Challenged); age < 0 || age > p.maxEvidenceAge {
		return []rats.Reason{CodeEvidenceOld.Refuse("evidence age", "0s to "+p.maxEvidenceAge.String(), age.String())}
	}
	return nil
}

// linksOf returns the checked links of a set.
func linksOf(set rats.Set) []rats.Link {
	var out []rats.Link
	add := func(ls []rats.Link) {
		for _, l := range ls {
			if l.Kind != "" && !slices.Contains(out, l) {
				out = append(out, l)
			}
		}
	}
	add(set.Links)
	for _, f := range slices.Sorted(maps.Keys(set.Verified)) {
		add(set.Verified[f].Links)
	}
	return out
}

func kindsOf(links []rats.Link, want rats.Link) string {
	for _, l := range links {
		if l.From == want.From && l.To == want.To {
			return l.Kind
		}
	}
	return rats.LinkNone
}

// keys returns the keys the policy's formats vouch for, one per use. Different keys for one use are refused: which one
// a secret is sealed to must not be the sender's choice.
func (p *Policy) keys(set rats.Set) ([]rats.BoundKey, []rats.Reason) {
	var facts rats.Facts
	uses := make(map[string]bool)
	for _, s := range p.sections {
		facts = facts.Merge(set.Verified[s.desc.ID].Facts)
	}
	for _, k := range facts.Keys {
		uses[k.Use] = true
	}
	var keys []rats.BoundKey
	var out []rats.Reason
	for _, use := range slices.Sorted(maps.Keys(uses)) {
		k, ok := facts.Key(use)
		if !ok {
			out = append(out, CodeKeyConflict.Refuse("keys."+use, "one key", "several that differ"))
			continue
		}
		keys = append(keys, k)
	}
	return keys, out
}

// custom evaluates the policy's own rules. A rule that only warns refuses too if it can't be evaluated: leaving a claim
// out must not be the cheaper way.
func (p *Policy) custom(in In) []rats.Reason {
	if len(p.rules) == 0 {
		return nil
	}
	vars := p.env.vars(Env{Node: in.Node, Set: in.Set, Now: in.Now})
	var out []rats.Reason
	for _, r := range p.rules {
		ok, err := holds(r.program, vars)
		if ok && err == nil {
			continue
		}
		info, tier, seen := CodeRuleFailed, rats.Contraindicated, "false"
		switch {
		case err != nil && r.warning:
			info, tier, seen = CodeRuleUnevaluable, rats.None, clip(err.Error())
		case err != nil:
			info, seen = CodeRuleUnevaluable, clip(err.Error())
		case r.warning:
			tier = rats.Warning
		}
		reason := info.At(tier, "rules."+r.name, r.text, seen)
		reason.Rule, reason.Slot = r.name, r.slot
		if r.message != "" {
			reason.Hint = r.message
		}
		out = append(out, reason)
	}
	return out
}

// Gate judges the platform part alone: what must be known to be good before a plan leaves. It returns what speaks
// against it; warnings don't. Custom rules and links, which may name planned formats, wait for the whole.
func (p *Policy) Gate(set rats.Set, l rats.Lookup, now time.Time) []rats.Reason {
	planned := p.Planned()
	var out []rats.Reason
	some := false
	var scratch rats.Result
	for _, s := range p.sections {
		if s.planned() {
			continue
		}
		reasons, _ := p.part(s, In{Set: set, Lookup: l, Now: now}, &scratch)
		out = append(out, shorten(reasons, s.desc.ID)...)
		some = some || verified(set, s.desc.ID)
	}
	mine := p.Formats()
	for _, r := range set.Refused {
		late := slices.Contains(planned, r.Format) && r.Code == appraise.CodeFormatMissing.Code
		if !late && (slices.Contains(planned, r.Format) || !slices.Contains(mine, r.Format)) {
			out = append(out, r)
		}
	}
	if _, conflicts := p.keys(set); len(conflicts) > 0 {
		out = append(out, conflicts...)
	}
	if !some {
		out = append(out, CodeGateEmpty.At(rats.None, "formats", "verified evidence of the platform", "none"))
	}
	return slices.DeleteFunc(out, func(r rats.Reason) bool { return r.Tier == rats.Warning || r.Tier == rats.Affirming })
}

// shorten keeps the first reasons of many, and says that there are more.
func shorten(reasons []rats.Reason, f rats.Format) []rats.Reason {
	if len(reasons) <= maxReasons {
		return reasons
	}
	more := CodeReasonsMore.At(rats.Worst(reasons[maxReasons:]), string(f), fmt.Sprintf("at most %d", maxReasons), fmt.Sprint(len(reasons)))
	more.Format = f
	return append(slices.Clip(reasons[:maxReasons:maxReasons]), more)
}

// board gathers what was judged and what lowers it. rats.Vector alone can't: in it "nobody judged" and "lowered to none"
// look alike.
type board struct {
	judged  [rats.SlotCount]bool
	reasons [rats.SlotCount]tierOf
	any     tierOf
}

// tierOf is the worst tier so far; its zero value is affirming.
type tierOf struct {
	set  bool
	tier rats.Tier
}

func (t *tierOf) add(o rats.Tier) {
	if !t.set {
		t.set, t.tier = true, rats.Affirming
	}
	t.tier = rats.Worse(t.tier, o)
}

func (t tierOf) get() rats.Tier {
	if !t.set {
		return rats.Affirming
	}
	return t.tier
}

func (b *board) judge(slots []rats.Slot) {
	for _, s := range slots {
		if int(s) < len(b.judged) {
			b.judged[s] = true
		}
	}
}

func (b *board) lower(reasons []rats.Reason) {
	for _, r := range reasons {
		b.any.add(r.Tier)
		if int(r.Slot) < len(b.reasons) {
			b.reasons[r.Slot].add(r.Tier)
		}
	}
}

// worst returns the worst tier of all reasons.
func (b *board) worst() rats.Tier { return b.any.get() }

// vector returns the tiers: a slot that nobody judged is none at best.
func (b *board) vector() rats.Vector {
	var v rats.Vector
	for s := range v {
		start := rats.None
		if b.judged[s] {
			start = rats.Affirming
		}
		v[s] = rats.Worse(start, b.reasons[s].get())
	}
	return v
}
