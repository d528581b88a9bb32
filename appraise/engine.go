// Package appraise verifies a collection: every piece of evidence by the verifier of its format, one after another in
// the order of their needs, so that each format sees what the formats before it vouch for.
//
// It guarantees that exactly the formats that were asked for are verified, once each, and that whatever could not be
// verified stands in the set as a refusal. It does not judge whether what was verified is acceptable (package policy
// does) and doesn't check what a manifest says about nonce, node or keys (whoever issued the challenge does).
package appraise

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// NeedsAll in Descriptor.Needs means: after all other formats, with all their facts.
const NeedsAll rats.Format = "*"

// The problems of collections.
var (
	CodeFormatMissing = rats.CodeInfo{
		Code: "appraise.format.missing", Title: "evidence of a format that was asked for is missing",
		Hint: "look at the agent's log for why it could not collect it", Slot: rats.InstanceIdentity,
	}
	CodeFormatExtra = rats.CodeInfo{
		Code: "appraise.format.extra", Title: "evidence of a format that was not asked for",
		Hint: "the agent must send what the challenge asks and nothing else", Slot: rats.InstanceIdentity,
	}
	CodeFormatDoubled = rats.CodeInfo{
		Code: "appraise.format.doubled", Title: "evidence of one format twice",
		Hint: "the agent must send one piece of evidence per format", Slot: rats.InstanceIdentity,
	}
	CodeFormatUnknown = rats.CodeInfo{
		Code: "appraise.format.unknown", Title: "no verifier for this format",
		Hint: "this build has no verifier for the format; see the list of formats", Slot: rats.InstanceIdentity,
	}
	CodeFormatMedia = rats.CodeInfo{
		Code: "appraise.format.media", Title: "media type is not one of the format's",
		Hint: "agent and verifier must be of compatible versions", Slot: rats.InstanceIdentity,
	}
	CodeNeedUnverified = rats.CodeInfo{
		Code: "appraise.need.unverified", Title: "a format that this one builds on was not verified",
		Hint: "mend the other format first", Slot: rats.InstanceIdentity,
	}
	CodeBindingProfile = rats.CodeInfo{
		Code: "appraise.binding.profile", Title: "evidence is bound to nothing, or by an unknown profile",
		Hint: "such evidence can be inspected and never trusted; bind it to a challenge", Slot: rats.InstanceIdentity,
	}
	CodeBindingHash = rats.CodeInfo{
		Code: "appraise.binding.hash", Title: "user data is not the hash of the manifest",
		Hint: "the manifest was changed on its way, or belongs to other evidence", Slot: rats.InstanceIdentity,
	}
	CodeClaimsFormat = rats.CodeInfo{
		Code: "appraise.claims.format", Title: "verifier yielded no claims, or claims of another format",
		Hint: "this is a fault of the verifier; report it", Slot: rats.InstanceIdentity,
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeFormatMissing, CodeFormatExtra, CodeFormatDoubled, CodeFormatUnknown, CodeFormatMedia, CodeNeedUnverified,
	CodeBindingProfile, CodeBindingHash, CodeClaimsFormat, CodeFileUnrecognised, CodeFileMark, CodeFileUnjudged,
}

// Engine holds the verifiers of all formats. It is immutable and safe for concurrent use.
type Engine struct {
	verifiers map[rats.Format]rats.Verifier
	order     []*rats.Descriptor // needs first
}

// New returns an engine of verifiers. It panics if two of them have one format or needs form a circle: a mistake in the list of formats, not in any input.
func New(vs ...rats.Verifier) *Engine {
	e := &Engine{verifiers: make(map[rats.Format]rats.Verifier, len(vs))}
	var ds []*rats.Descriptor
	for _, v := range vs {
		d := v.Descriptor()
		if d.ID == "" || d.ID == NeedsAll || e.verifiers[d.ID] != nil {
			panic(fmt.Sprintf("appraise: format %q is empty or stands twice", d.ID))
		}
		e.verifiers[d.ID] = v
		ds = append(ds, d)
	}
	order, err := Order(ds)
	if err != nil {
		panic("appraise: " + err.Error())
	}
	e.order = order
	return e
}

// Descriptors returns the formats, those that others need first.
func (e *Engine) Descriptors() []*rats.Descriptor { return slices.Clone(e.order) }

// Continue returns the params by which only what is new since resume is asked of a format; params itself if the format
// doesn't grow or there is nothing to continue.
func (e *Engine) Continue(f rats.Format, params, resume []byte) []byte {
	c, ok := e.verifiers[f].(rats.Continuer)
	if !ok || len(resume) == 0 {
		return params
	}
	if p := c.Continue(params, resume); p != nil {
		return p
	}
	return params
}

// Order returns descriptors so that each stands after those it needs, otherwise in the given order. Needs that aren't
// among ds are passed over. Its error is a circle.
func Order(ds []*rats.Descriptor) ([]*rats.Descriptor, error) {
	var out []*rats.Descriptor
	done := make(map[rats.Format]bool)
	ready := func(d *rats.Descriptor) bool {
		for _, o := range ds {
			if o.ID == d.ID || done[o.ID] {
				continue
			}
			// Two formats that both come last don't wait for one another.
			all := slices.Contains(d.Needs, NeedsAll) && !slices.Contains(o.Needs, NeedsAll)
			if all || slices.Contains(d.Needs, o.ID) {
				return false
			}
		}
		return true
	}
	for len(out) < len(ds) {
		n := len(out)
		for _, d := range ds {
			if !done[d.ID] && ready(d) {
				done[d.ID] = true
				out = append(out, d)
				break
			}
		}
		if len(out) == n {
			return nil, fmt.Errorf("formats need one another in a circle")
		}
	}
	return out, nil
}

// Verify verifies a collection.
//
//	asked   the formats that were asked for; each must be there once, and no other
//	inputs  what each verification depends on; Facts are filled in here, and Binding too where it is left empty
//
// Evidence that is bad, and evidence for which an input is missing, becomes a reason in Set.Refused whose Format says
// which; the other formats are verified all the same, unless they need it. A need that wasn't asked for is left to the
// verifier, which finds no facts of it. Any other error is a malfunction of a
// verifier: then there is no set.
func (e *Engine) Verify(ctx context.Context, c rats.Collection, asked []rats.Format, inputs func(rats.Format) rats.Inputs) (rats.Set, error) {
	set := rats.Set{Verified: make(map[rats.Format]rats.Verified)}
	set.Refused = append(checkBinding(c.Binding), e.checkFormats(c, asked)...)
	if slices.ContainsFunc(set.Refused, func(r rats.Reason) bool {
		return r.Code == CodeFormatDoubled.Code || r.Code == CodeBindingHash.Code
	}) {
		return set, nil // which of two would be verified must not be the sender's choice
	}
	for _, d := range e.order {
		i := slices.IndexFunc(c.Evidence, func(ev rats.Evidence) bool { return ev.Format == d.ID })
		if i < 0 || !slices.Contains(asked, d.ID) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return rats.Set{}, fmt.Errorf("verifying %s: %w", d.ID, err)
		}
		if err := e.verifyOne(ctx, d, c.Evidence[i], c.Binding, asked, inputs, &set); err != nil {
			return rats.Set{}, err
		}
	}
	return set, nil
}

// verifyOne verifies the evidence of one format into the set.
func (e *Engine) verifyOne(ctx context.Context, d *rats.Descriptor, ev rats.Evidence, b rats.Binding, asked []rats.Format,
	inputs func(rats.Format) rats.Inputs, set *rats.Set,
) error {
	refuse := func(r rats.Reason) {
		r.Format = d.ID
		set.Refused = append(set.Refused, r)
	}
	if !slices.Contains(d.MediaTypes, ev.MediaType) {
		refuse(CodeFormatMedia.Refuse("media_type", fmt.Sprintf("one of %q", d.MediaTypes), clip(ev.MediaType)))
		return nil
	}
	in := inputs(d.ID)
	if in.Binding.Profile == "" {
		in.Binding = b
	}
	in.Facts = rats.Facts{}
	for _, n := range asked {
		named := slices.Contains(d.Needs, n)
		if n == d.ID || !named && !slices.Contains(d.Needs, NeedsAll) {
			continue
		}
		v, ok := set.Verified[n]
		if !ok && !named {
			continue // after all others, with the facts of those that could be verified
		}
		if !ok {
			refuse(CodeNeedUnverified.At(rats.None, string(d.ID), "verified evidence of "+string(n), "none"))
			return nil
		}
		in.Facts = in.Facts.Merge(v.Facts)
	}
	v, err := e.verifiers[d.ID].Verify(ctx, ev, in)
	if r, ok := rats.ReasonOf(err); ok {
		refuse(r)
		return nil
	}
	if err != nil {
		return fmt.Errorf("verifying %s: %w", d.ID, err)
	}
	if v.Claims == nil || v.Claims.ClaimsOf() != d.ID {
		refuse(CodeClaimsFormat.At(rats.None, string(d.ID), "claims of "+string(d.ID), "others"))
		return nil
	}
	set.Verified[d.ID] = v
	for _, l := range v.Links {
		if l.Kind != rats.LinkNone && l.Kind != "" && !slices.Contains(set.Links, l) {
			set.Links = append(set.Links, l)
		}
	}
	return nil
}

func (e *Engine) checkFormats(c rats.Collection, asked []rats.Format) []rats.Reason {
	var out []rats.Reason
	refuse := func(f rats.Format, r rats.Reason) {
		r.Format = f
		out = append(out, r)
	}
	have := make(map[rats.Format]int)
	for _, ev := range c.Evidence {
		have[ev.Format]++
		switch {
		case have[ev.Format] == 2:
			refuse(ev.Format, CodeFormatDoubled.Refuse("evidence", "one of "+clip(string(ev.Format)), "two or more"))
		case have[ev.Format] == 1 && !slices.Contains(asked, ev.Format):
			refuse(ev.Format, CodeFormatExtra.Refuse("evidence", fmt.Sprintf("only %q", asked), clip(string(ev.Format))))
		}
	}
	for _, f := range asked {
		switch {
		case e.verifiers[f] == nil:
			refuse(f, CodeFormatUnknown.At(rats.None, "evidence", "a format of this build", clip(string(f))))
		case have[f] == 0:
			refuse(f, CodeFormatMissing.At(rats.None, "evidence", clip(string(f)), "none"))
		}
	}
	return out
}

func checkBinding(b rats.Binding) []rats.Reason {
	var want []byte
	switch b.Profile {
	case rats.ProfileAssay:
		sum := sha256.Sum256(b.Manifest)
		want = sum[:]
	case rats.ProfileCoCo:
		sum := sha512.Sum384(b.Manifest)
		want = sum[:]
	case rats.ProfileRaw:
		if len(b.UserData) > 0 {
			return nil
		}
		return []rats.Reason{CodeBindingHash.Refuse("binding.user_data", "the caller's bytes", "none")}
	default:
		return []rats.Reason{CodeBindingProfile.At(rats.None, "binding.profile", "assay/1, coco/1 or raw", clip(b.Profile))}
	}
	if len(b.Manifest) == 0 || !bytes.Equal(want, b.UserData) {
		return []rats.Reason{CodeBindingHash.Refuse("binding.user_data", "the hash of the manifest", "another value")}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return fmt.Sprintf("%q", s)
}
