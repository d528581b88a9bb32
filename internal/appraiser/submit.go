package appraiser

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// What is wrong with a submission as a whole.
var (
	CodeSealedMalformed = rats.CodeInfo{
		Code: "evidence.sealed.malformed", Title: "sealed evidence can't be opened", Slot: rats.InstanceIdentity,
		Hint: "the enclave must seal its report to the key in the signed plan",
	}
	CodeSealedRequired = rats.CodeInfo{
		Code: "evidence.sealed.required", Title: "a plan's report came unsealed", Slot: rats.InstanceIdentity,
		Hint: "reports are accepted only as the enclave sealed them",
	}
	CodeNodeUnknown = rats.CodeInfo{
		Code: "node.id.unknown", Title: "there is no such node", Slot: rats.InstanceIdentity,
		Hint: "list the nodes: assay node list",
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeTokenForged, CodeTokenExpired, CodeTokenOther, CodeTokenSpent, CodePolicyChanged, CodeStepOrder,
	CodeManifestMalformed, CodeManifestField, CodeManifestNonce, CodeManifestPeer, CodeManifestFormats,
	CodeManifestSigner, CodeManifestKey, CodeManifestExtra, CodeSealedMalformed, CodeSealedRequired, CodeNodeUnknown,
	CodeNotConnected, CodeWishRate, CodeWishUnwanted, CodeSuperseded, CodeCutOff, CodeMalfunction,
}

// judgement is one submission on its way through verification.
type judgement struct {
	namespace string
	node      store.Node
	ch        challenge
	view      *refs.View
	active    refs.Active
	manifest  rats.Manifest
	coll      rats.Collection
	asked     []rats.Format // formats this step must hold, no more and no less
	received  time.Time
	set       rats.Set
	params    map[rats.Format][]byte
	endorsed  []rats.Endorsement // the node's enrolment records, then collateral
}

// Submit takes a node's answer to a challenge over the connection whose client certificate has the SubjectPublicKeyInfo
// peer. The node is as the caller just read it; whether it is still approved is looked up again in the transaction that
// accepts. Errors that are *rats.BadEvidence or *rats.MissingInput changed no state of the node (S07).
func (a *Appraiser) Submit(ctx context.Context, namespace string, n store.Node, peer []byte, sub api.Submission) (api.Answer, error) {
	nodeID := n.ID
	answer, err := a.submit(ctx, namespace, n, peer, sub)
	if err != nil {
		reason, evidence := rats.ReasonOf(err)
		if evidence {
			a.alert(ctx, namespace, nodeID, reason)
		} else {
			a.cfg.Log.Error("judging a submission", "namespace", namespace, "node", nodeID, "error", err)
		}
		a.hub.done(namespace, nodeID, outcome{err: err, asked: a.askedAt(sub.Token)})
		if evidence && (reason.Code == CodePolicyChanged.Code || reason.Code == CodeTokenExpired.Code) {
			a.hub.kick(namespace, nodeID, "retry")
		}
	}
	return answer, err
}

// askedAt is when the exchange of a token began; zero if the token isn't ours.
func (a *Appraiser) askedAt(token []byte) time.Time {
	var c challenge
	if b, err := a.cfg.Tokens.Open(tokenAAD, token); err != nil || json.Unmarshal(b, &c) != nil {
		return time.Time{}
	}
	return c.Asked
}

func (a *Appraiser) submit(ctx context.Context, namespace string, n store.Node, peer []byte, sub api.Submission) (api.Answer, error) {
	received := a.cfg.Now()
	c, err := a.open(sub.Token, namespace, n.ID)
	if err != nil {
		return api.Answer{}, err
	}
	if len(n.ResumeBlob) > 0 {
		err := a.cfg.Store.In(namespace).View(ctx, func(tx store.Tx) error { return getResume(tx, &n) })
		if err != nil {
			return api.Answer{}, err
		}
	}
	if n.Enrolment != store.EnrolmentApproved {
		return api.Answer{}, &rats.BadEvidence{Reason: node.StatusOf(n, nil, received).Why[0]}
	}
	j := &judgement{namespace: namespace, node: n, ch: c, received: received}
	if j.view, j.active, err = a.inForce(ctx, j); err != nil {
		return api.Answer{}, err
	}
	planned := j.active.Planned()
	if j.manifest, err = a.checkManifest(c, sub.Manifest, peer, len(planned) > 0); err != nil {
		return api.Answer{}, err
	}
	evidence, err := a.unseal(sub, planned)
	if err != nil {
		return api.Answer{}, err
	}
	if err := a.collect(ctx, j, sub.Manifest, evidence, planned); err != nil {
		return api.Answer{}, err
	}
	if err := a.verify(ctx, j); err != nil {
		return api.Answer{}, err
	}
	if len(planned) > 0 && len(j.asked) < len(c.Formats) {
		return a.afterPlatform(ctx, j)
	}
	return a.conclude(ctx, j)
}

func (a *Appraiser) node(ctx context.Context, namespace, id string) (store.Node, error) {
	var n store.Node
	err := a.cfg.Store.In(namespace).View(ctx, func(tx store.Tx) (err error) {
		if n, err = tx.Nodes().Get(id); err != nil {
			return err
		}
		return getResume(tx, &n)
	})
	if errors.Is(err, store.ErrNotFound) {
		return n, CodeNodeUnknown.Bad("node", "a node of namespace "+namespace, id)
	}
	return n, err
}

// inForce returns the view and policy the challenge was issued under; another epoch or policy means judging anew.
func (a *Appraiser) inForce(ctx context.Context, j *judgement) (*refs.View, refs.Active, error) {
	space := a.cfg.Store.In(j.namespace)
	view, err := a.cfg.Refs.View(ctx, space, j.namespace)
	if err == nil && view.Epoch != j.ch.Epoch {
		view, err = a.cfg.Refs.Fresh(ctx, space, j.namespace)
	}
	if err != nil {
		return nil, refs.Active{}, err
	}
	if view.Epoch != j.ch.Epoch {
		return nil, refs.Active{}, changed(j.ch.Epoch, view.Epoch)
	}
	active, reasons := view.Active(NodeFacts(j.node))
	if len(reasons) > 0 {
		return nil, refs.Active{}, &rats.BadEvidence{Reason: reasons[0]}
	}
	if active.Ref.Version != j.ch.Policy.Version || active.Ref.Name != j.ch.Policy.Name {
		return nil, refs.Active{}, changed(j.ch.Epoch, view.Epoch)
	}
	return view, active, nil
}

func changed(was, is int64) error {
	return CodePolicyChanged.Bad("policy", fmt.Sprintf("epoch %d", was), fmt.Sprintf("epoch %d", is))
}

// unseal opens what enclaves sealed to the verifier and joins it to the rest. The opened form is what is verified,
// stored and bundled (S04).
func (a *Appraiser) unseal(sub api.Submission, planned []rats.Format) ([]rats.Evidence, error) {
	for _, e := range sub.Evidence {
		if slices.Contains(planned, e.Format) {
			return nil, CodeSealedRequired.Bad("evidence."+string(e.Format), "sealed evidence", "evidence in clear")
		}
	}
	all := slices.Clone(sub.Evidence)
	for _, s := range sub.Sealed {
		e, err := plan.OpenEvidence(a.cfg.Results, s.Data)
		if err != nil {
			return nil, CodeSealedMalformed.Bad("sealed."+string(s.Format), "evidence sealed to this verifier", err.Error())
		}
		if e.Format != s.Format {
			return nil, CodeSealedMalformed.Bad("sealed."+string(s.Format), string(s.Format), string(e.Format))
		}
		all = append(all, e)
	}
	return all, nil
}

// collect puts together what this step judges: the platform's evidence alone (a cold start, or a steady answer whose
// enclave is no longer the one the plan was sealed to), or everything.
func (a *Appraiser) collect(ctx context.Context, j *judgement, manifest []byte, evidence []rats.Evidence, planned []rats.Format) error {
	binding := rats.Binding{Profile: rats.ProfileAssay, Manifest: manifest, UserData: rats.SHA256(manifest).Sum}
	var platform []rats.Format
	for _, f := range j.ch.Formats {
		if !slices.Contains(planned, f) {
			platform = append(platform, f)
		}
	}
	hasPlanned := slices.ContainsFunc(evidence, func(e rats.Evidence) bool { return slices.Contains(planned, e.Format) })
	switch {
	case j.ch.Step == stepOutcome:
		if !rats.SHA256(manifest).Equal(j.ch.Manifest) {
			return CodeStepOrder.Bad("manifest", j.ch.Manifest.String(), rats.SHA256(manifest).String())
		}
		pending, err := a.pending(ctx, j)
		if err != nil {
			return err
		}
		j.coll, j.asked = rats.Collection{Binding: binding, Evidence: append(pending.Evidence, evidence...)}, j.ch.Formats
	case hasPlanned && !j.ch.Steady:
		return CodeStepOrder.Bad("evidence", fmt.Sprint(platform), "the outcome of a plan that was not handed out")
	case hasPlanned && a.sameEnclave(ctx, j):
		j.coll, j.asked = rats.Collection{Binding: binding, Evidence: evidence}, j.ch.Formats
	default:
		evidence = slices.DeleteFunc(evidence, func(e rats.Evidence) bool { return slices.Contains(planned, e.Format) })
		j.coll, j.asked = rats.Collection{Binding: binding, Evidence: evidence}, platform
	}
	if len(planned) == 0 {
		j.asked = j.ch.Formats
	}
	return nil
}

// sameEnclave says whether the manifest's enclave keys are those of the node's last accepted result.
func (a *Appraiser) sameEnclave(ctx context.Context, j *judgement) bool {
	last, ok := a.lastOf(ctx, j.namespace, j.node)
	return ok && plan.KeysDigest(last.keys).Equal(plan.KeysDigest(j.manifest.Keys))
}

func (a *Appraiser) pending(ctx context.Context, j *judgement) (rats.Collection, error) {
	var raw []byte
	err := a.cfg.Store.In(j.namespace).View(ctx, func(tx store.Tx) (err error) {
		raw, err = tx.Blobs().Get(j.ch.Pending)
		return err
	})
	if err != nil {
		return rats.Collection{}, fmt.Errorf("reading the pending platform evidence: %w", err)
	}
	var c rats.Collection
	if err := json.Unmarshal(raw, &c); err != nil {
		return rats.Collection{}, fmt.Errorf("decoding the pending platform evidence: %w", err)
	}
	return c, nil
}

// verify runs the formats' verifiers. Evidence that is not authentic is the error.
func (a *Appraiser) verify(ctx context.Context, j *judgement) error {
	j.params, j.endorsed = map[rats.Format][]byte{}, slices.Clone(j.node.Endorsements)
	if a.cfg.Collateral != nil {
		j.endorsed = append(j.endorsed, a.cfg.Collateral.Endorsements(ctx, j.coll.Evidence)...)
	}
	for _, k := range j.active.Asks() {
		j.params[k.Format] = k.Params
		if p, ok := j.ch.Params[k.Format]; ok {
			j.params[k.Format] = p
		}
	}
	for _, f := range j.active.Planned() {
		p, err := a.planOf(j.ch, j.view, j.active)
		if err != nil {
			return err
		}
		if j.params[f], err = json.Marshal(planned{Plan: p.Encode(), PlanSigner: a.cfg.PlanSPKI}); err != nil {
			return err
		}
	}
	set, err := a.cfg.Engine.Verify(ctx, j.coll, j.asked, func(f rats.Format) rats.Inputs {
		return rats.Inputs{
			Binding: j.coll.Binding, Now: j.received, Endorsements: j.endorsed,
			Params: j.params[f], Resume: j.node.Resume[f],
		}
	})
	if err != nil {
		return fmt.Errorf("verifying evidence: %w", err)
	}
	for _, r := range set.Refused {
		missing := r.Code == appraise.CodeFormatMissing.Code && !j.active.Optional(r.Format)
		if r.Tier == rats.Contraindicated || missing {
			return &rats.BadEvidence{Reason: r}
		}
	}
	j.set = set
	return nil
}

// planned is what a planned format's verifier is told of the order, as JSON in Inputs.Params.
type planned struct {
	Plan       []byte `json:"plan"`        // canonical bytes
	PlanSigner []byte `json:"plan_signer"` // SubjectPublicKeyInfo
}

// afterPlatform is the end of a cold first step: with nothing against the platform the plan leaves, sealed to the key
// just verified; otherwise the result is final.
func (a *Appraiser) afterPlatform(ctx context.Context, j *judgement) (api.Answer, error) {
	if reasons := j.active.Gate(j.set, j.view.Index, j.received); len(reasons) > 0 {
		return a.conclude(ctx, j)
	}
	raw, err := json.Marshal(j.coll)
	if err != nil {
		return api.Answer{}, fmt.Errorf("encoding the pending platform evidence: %w", err)
	}
	next := j.ch
	id, err := a.random(16)
	if err != nil {
		return api.Answer{}, err
	}
	next.ID, next.Step, next.Steady = [16]byte(id), stepOutcome, false
	next.Manifest = rats.SHA256(j.coll.Binding.Manifest)
	next.Pending = rats.SHA256(raw)
	next.Age = j.received.Sub(j.ch.Issued)
	next.Issued = a.cfg.Now()
	next.Expires = next.Issued.Add(a.cfg.StepTTL)
	orders, err := a.orders(next, j.view, j.active, j.manifest.Keys)
	if err != nil {
		return api.Answer{}, err
	}
	err = a.cfg.Store.In(j.namespace).Update(ctx, func(tx store.Tx) error {
		if err := tx.Epochs().Hold(j.ch.Epoch); err != nil {
			return err
		}
		if err := tx.Records().Spend(j.ch.ID, j.ch.Expires, j.received); err != nil {
			return err
		}
		_, err := tx.Blobs().Put(raw)
		return err
	})
	if err != nil {
		return api.Answer{}, a.commitError(j, err)
	}
	msg, err := a.message(next, orders, "outcome", a.cfg.StepTTL)
	if err != nil {
		return api.Answer{}, err
	}
	return api.Answer{Next: &msg}, nil
}

// commitError names what a transaction refused in words for the node; other errors are malfunctions.
func (a *Appraiser) commitError(j *judgement, err error) error {
	switch {
	case errors.Is(err, store.ErrEpoch):
		return changed(j.ch.Epoch, j.ch.Epoch+1)
	case errors.Is(err, store.ErrSpent):
		return CodeTokenSpent.Bad("token", "an unused challenge", "one that was answered before")
	case errors.Is(err, store.ErrTooOld):
		return CodeTokenExpired.Bad("token", "a challenge newer than the last purge", "an older one")
	default:
		return err
	}
}

// conclude appraises what was verified and commits the result.
func (a *Appraiser) conclude(ctx context.Context, j *judgement) (api.Answer, error) {
	age := max(j.ch.Age, j.received.Sub(j.ch.Issued))
	claims, digests, err := encodeClaims(j.set)
	if err != nil {
		return api.Answer{}, err
	}
	r := j.active.Appraise(policy.In{
		Set: j.set, Lookup: j.view.Index, Now: j.received, Node: NodeFacts(j.node), Ref: j.active.Ref,
		Challenged: j.received.Add(-age), ClaimsDigest: digests,
	})
	if r.ID, err = a.newID("at_"); err != nil {
		return api.Answer{}, err
	}
	r.Namespace, r.Subject = j.namespace, rats.Subject(rats.SubjectNode, j.node.ID)
	r.Collection = j.coll.Digest()
	told, err := a.commit(ctx, j, r, claims)
	if err != nil {
		return api.Answer{}, a.commitError(j, err)
	}
	a.hub.accepted(j.namespace, j.node.ID, lastResult{
		id: r.ID, keys: r.Keys, boots: bootID(r.Boots), instance: bytes.Clone(j.manifest.Instance),
		steady: rats.VerdictOf(r.Tier, false).Secrets, epoch: j.ch.Epoch, at: r.At, every: j.active.Every(),
	})
	a.hub.done(j.namespace, j.node.ID, outcome{result: r.ID, asked: j.ch.Asked})
	return api.Answer{Result: &told}, nil
}

// encodeClaims returns the JSON of each format's claims and its digest.
func encodeClaims(s rats.Set) (map[rats.Format][]byte, map[rats.Format]rats.Digest, error) {
	claims, digests := map[rats.Format][]byte{}, map[rats.Format]rats.Digest{}
	for f, v := range s.Verified {
		b, err := json.Marshal(v.Claims)
		if err != nil {
			return nil, nil, fmt.Errorf("encoding the claims of %s: %w", f, err)
		}
		claims[f], digests[f] = b, rats.SHA256(b)
	}
	return claims, digests, nil
}

// bootID is the digest that stands for the boots a result proved; zero if no format vouches for one.
func bootID(boots []rats.Boot) rats.Digest {
	if len(boots) == 0 {
		return rats.Digest{}
	}
	return boots[0].ID
}
