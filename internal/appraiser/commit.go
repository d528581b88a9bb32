package appraiser

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/notify"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// The kinds of events this package writes.
const (
	EventResult   = "node.result"   // every accepted result
	EventState    = "node.state"    // the node's state changed
	EventRefused  = "node.evidence" // a node's credential sent evidence that was refused: an alert, no verdict (S07)
	EventDoubled  = "node.stream"   // a second stream of one node was opened
	EventBoot     = "node.boot"     // the agent claims another boot than the last result's
	EventWithdraw = "node.withdraw" // the last result no longer counts
)

// commit stores a result: one transaction that holds the epoch, spends the challenge, and writes record, node, events and
// audit leaf (S40, S41). It may run twice.
func (a *Appraiser) commit(ctx context.Context, j *judgement, r rats.Result, claims map[rats.Format][]byte) (api.Told, error) {
	var told api.Told
	err := a.cfg.Store.In(j.namespace).Update(ctx, func(tx store.Tx) error {
		if err := tx.Epochs().Hold(j.ch.Epoch); err != nil {
			return err
		}
		if err := tx.Records().Spend(j.ch.ID, j.ch.Expires, j.received); err != nil {
			return err
		}
		rec, err := a.record(tx, j, r, claims)
		if err != nil {
			return err
		}
		if err := tx.Records().Put(rec); err != nil {
			return err
		}
		if err := a.updateNode(tx, j, r); err != nil {
			return err
		}
		leaf, err := a.audit(tx, "node:"+j.node.ID, "result.accept", r.Subject, map[string]any{
			"result": r.ID, "tier": r.Tier, "policy": r.Policy, "collection": r.Collection,
		})
		if err != nil {
			return err
		}
		told = Told(r)
		told.Checkpoint = &api.Checkpoint{Seq: leaf.Seq, Hash: leaf.Hash}
		return nil
	})
	return told, err
}

// record returns the record of an attestation: evidence and claims in it where they are small, in blobs otherwise, and
// inputs, which many attestations share, in blobs.
func (a *Appraiser) record(tx store.Tx, j *judgement, r rats.Result, claims map[rats.Format][]byte) (store.Record, error) {
	rec := store.Record{
		Result: r, Binding: j.coll.Binding, Epoch: j.ch.Epoch, Params: j.params,
		Evidence: map[rats.Format][]rats.Digest{}, Claims: map[rats.Format]rats.Digest{}, ClaimsVersion: map[rats.Format]int{},
	}
	for _, e := range j.coll.Evidence {
		digests, err := putEvidence(tx, &rec.Pack, e)
		if err != nil {
			return rec, err
		}
		rec.Evidence[e.Format] = digests
	}
	for f, b := range claims {
		d, err := put(tx, &rec.Pack, b)
		if err != nil {
			return rec, err
		}
		rec.Claims[f] = d
	}
	for _, d := range a.cfg.Engine.Descriptors() {
		if _, ok := claims[d.ID]; ok {
			rec.ClaimsVersion[d.ID] = d.ClaimsVersion
		}
	}
	for _, e := range j.endorsed {
		b, err := json.Marshal(e)
		if err != nil {
			return rec, err
		}
		d, err := tx.Blobs().Put(b)
		if err != nil {
			return rec, err
		}
		rec.Inputs = append(rec.Inputs, d)
	}
	return rec, nil
}

func put(tx store.Tx, p *store.Pack, b []byte) (rats.Digest, error) {
	if len(b) <= store.Packed {
		return p.Add(b), nil
	}
	return tx.Blobs().Put(b)
}

// putEvidence stores body and parts each by its content, so that what is large and doesn't change between attestations is
// kept once.
func putEvidence(tx store.Tx, pack *store.Pack, e rats.Evidence) ([]rats.Digest, error) {
	body, err := put(tx, pack, e.Body)
	if err != nil {
		return nil, err
	}
	index := store.EvidenceIndex{MediaType: e.MediaType, Body: body}
	all := []rats.Digest{{}, body}
	for _, p := range e.Parts {
		d, err := put(tx, pack, p.Data)
		if err != nil {
			return nil, err
		}
		index.Parts = append(index.Parts, store.PartIndex{Name: p.Name, Offset: p.Offset, Data: d})
		all = append(all, d)
	}
	b, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	all[0], err = put(tx, pack, b)
	return all, err
}

// Evidence reads a record's evidence back as it was verified.
func Evidence(tx store.Tx, rec store.Record) ([]rats.Evidence, error) {
	var out []rats.Evidence
	for _, f := range slices.Sorted(maps.Keys(rec.Evidence)) {
		digests := rec.Evidence[f]
		if len(digests) == 0 {
			return nil, fmt.Errorf("record %s: no evidence index of %s", rec.Result.ID, f)
		}
		raw, err := rec.Piece(tx, digests[0])
		if err != nil {
			return nil, fmt.Errorf("record %s: reading the index of %s: %w", rec.Result.ID, f, err)
		}
		var index store.EvidenceIndex
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, fmt.Errorf("record %s: decoding the index of %s: %w", rec.Result.ID, f, err)
		}
		e := rats.Evidence{Format: f, MediaType: index.MediaType}
		if e.Body, err = rec.Piece(tx, index.Body); err != nil {
			return nil, err
		}
		for _, p := range index.Parts {
			data, err := rec.Piece(tx, p.Data)
			if err != nil {
				return nil, err
			}
			e.Parts = append(e.Parts, rats.Part{Name: p.Name, Offset: p.Offset, Data: data})
		}
		out = append(out, e)
	}
	return out, nil
}

// updateNode writes what the result means for the node. The node is read again inside the transaction: it may have been
// revoked, or judged by a later challenge, meanwhile.
func (a *Appraiser) updateNode(tx store.Tx, j *judgement, r rats.Result) error {
	n, err := tx.Nodes().Get(j.node.ID)
	if err != nil {
		return err
	}
	if n.Enrolment != store.EnrolmentApproved {
		return &rats.BadEvidence{Reason: node.StatusOf(n, nil, r.At).Why[0]}
	}
	if n.LastAt.After(r.At) {
		return nil // a later answer was committed first; the record stands, the state is the later one's
	}
	before := node.StatusOf(n, nil, r.At).State
	if n.Last == "" || n.LastTier != r.Tier || n.Withdrawn != "" {
		n.Since = r.At
	}
	n.Last, n.LastTier, n.LastAt, n.Expires, n.LastBoot, n.Marks, n.Withdrawn = r.ID, r.Tier, r.At, r.Expires, bootID(r.Boots), r.Marks, ""
	for f, v := range j.set.Verified {
		if v.Resume == nil {
			continue
		}
		if err := putResume(tx, &n, f, v.Resume); err != nil {
			return err
		}
	}
	// The result's own state, not the node's: a quarantine must not keep itself alive, nor hide that the cause is gone.
	_, err = notify.Judge(tx, j.active.Actions(), &n, notify.Observation{
		At: r.At, State: rats.VerdictOf(r.Tier, false).State, Reasons: r.Reasons, Result: r.ID, Policy: r.Policy,
	})
	if err != nil {
		return err
	}
	if err := tx.Nodes().Put(n); err != nil {
		return err
	}
	after := node.StatusOf(n, nil, r.At)
	data := map[string]any{
		"node": n.ID, "name": n.Name, "result": r.ID, "verdict": after.Verdict.Word, "state": after.State,
		"valid_until": n.Expires, "codes": codesOf(r.Reasons), "instance": rats.SHA256(j.manifest.Instance),
	}
	if len(r.Reasons) > 0 {
		data["findings"] = notify.Findings(r.Reasons) // R039: path and severity of what was found
	}
	if err := a.event(tx, EventResult, r.Subject, data); err != nil {
		return err
	}
	if before == after.State {
		return nil
	}
	data["before"] = before
	return a.event(tx, EventState, r.Subject, data)
}

// inlineResume is the size up to which resume state stands in the node's row, which is read and written every time.
const inlineResume = 1024

func putResume(tx store.Tx, n *store.Node, f rats.Format, resume []byte) error {
	delete(n.Resume, f)
	delete(n.ResumeBlob, f)
	if len(resume) <= inlineResume {
		if n.Resume == nil {
			n.Resume = map[rats.Format][]byte{}
		}
		n.Resume[f] = resume
		return nil
	}
	d, err := tx.Blobs().Put(resume)
	if err != nil {
		return err
	}
	if n.ResumeBlob == nil {
		n.ResumeBlob = map[rats.Format]rats.Digest{}
	}
	n.ResumeBlob[f] = d
	return nil
}

// getResume completes a node's resume state from its blobs.
func getResume(tx store.Tx, n *store.Node) error {
	for f, d := range n.ResumeBlob {
		b, err := tx.Blobs().Get(d)
		if err != nil {
			return fmt.Errorf("reading where %s is to resume: %w", f, err)
		}
		if n.Resume == nil {
			n.Resume = map[rats.Format][]byte{}
		}
		n.Resume[f] = b
	}
	return nil
}

func (a *Appraiser) event(tx store.Tx, kind, subject string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	_, err = tx.Events().Append(store.Event{At: a.cfg.Now(), Kind: kind, Subject: subject, Data: b})
	return err
}

func (a *Appraiser) audit(tx store.Tx, actor, verb, object string, detail any) (store.AuditEntry, error) {
	b, err := json.Marshal(detail)
	if err != nil {
		return store.AuditEntry{}, fmt.Errorf("encoding an audit entry: %w", err)
	}
	return tx.Audit().Append(store.AuditEntry{At: a.cfg.Now(), Actor: actor, Verb: verb, Object: object, Detail: b})
}

// alert records that a node's credential sent evidence that was refused. It never changes the node's verdict (S07).
func (a *Appraiser) alert(ctx context.Context, namespace, nodeID string, r rats.Reason) {
	a.cfg.Log.Warn("evidence refused", "namespace", namespace, "node", nodeID, "code", r.Code, "path", r.Path)
	if r.Code == CodePolicyChanged.Code || r.Code == CodeNodeUnknown.Code || !a.hub.alert(namespace, nodeID, r.Code, a.cfg.Now()) {
		return
	}
	err := a.cfg.Store.In(namespace).Update(ctx, func(tx store.Tx) error {
		subject := rats.Subject(rats.SubjectNode, nodeID)
		if err := a.event(tx, EventRefused, subject, map[string]any{"node": nodeID, "reason": r}); err != nil {
			return err
		}
		_, err := a.audit(tx, "node:"+nodeID, "evidence.refuse", subject, map[string]any{"code": r.Code})
		return err
	})
	if err != nil {
		a.cfg.Log.Error("recording an alert", "namespace", namespace, "node", nodeID, "error", err)
	}
}

// Told is what a node is told of a result: verdict and codes, no expected values (S45).
func Told(r rats.Result) api.Told {
	v := rats.VerdictOf(r.Tier, false)
	return api.Told{ID: r.ID, Verdict: v.Word, State: v.State, At: r.At, Expires: r.Expires, Codes: codesOf(r.Reasons)}
}

// codesOf returns the distinct codes of reasons in order of appearance.
func codesOf(reasons []rats.Reason) []rats.Code {
	var out []rats.Code
	for _, r := range reasons {
		if !slices.Contains(out, r.Code) {
			out = append(out, r.Code)
		}
	}
	return out
}
