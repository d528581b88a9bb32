package identity

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Why the second step of joining is refused, or ends with a pending node.
var (
	CodeActivationWrong = rats.CodeInfo{
		Code:  "join.activation.wrong",
		Title: "the TPM did not open the credential",
		Hint:  "EK and AK must be of the same TPM; begin joining again",
		Slot:  rats.InstanceIdentity,
	}
	CodeCertifyKey = rats.CodeInfo{
		Code:  "join.certify.key",
		Title: "the AK certified another key than the TLS key",
		Hint:  "TLS key and AK must be of the same TPM; let the agent make both",
		Slot:  rats.InstanceIdentity,
	}
	CodeEnrolmentUnvouched = rats.CodeInfo{
		Code:  "join.enrolment.unvouched",
		Title: "nobody vouches for this TPM yet",
		Hint:  "compare its EK with what assay doctor prints on the machine, then approve it (assay node approve NAME); or create tokens with --ek",
		Slot:  rats.InstanceIdentity,
	}
)

// Finish is the second step: it checks that the TPM opened the credential and that the AK certified the TLS key over
// this exchange's nonce, and then, in one transaction, uses up the token and makes the node. The node is approved if
// the token named this EK or the policy vouches for its enrolment record, else pending.
func (j *Joiner) Finish(ctx context.Context, namespace string, space store.Space, f api.JoinFinish) (api.Joined, error) {
	if err := checkFinishSizes(f); err != nil {
		return api.Joined{}, err
	}
	c, err := j.examine(namespace, f.Request)
	if err != nil {
		return api.Joined{}, err
	}
	defer clear(c.text.Secret)
	s, err := j.openStep(namespace, f.Continue, f.Request)
	if err != nil {
		return api.Joined{}, err
	}
	if subtle.ConstantTimeCompare(rats.SHA256(f.Activated).Sum, s.Secret.Sum) != 1 {
		return api.Joined{}, CodeActivationWrong.Bad("activated", "the secret inside the credential", "other bytes")
	}
	spki, err := tpm.VerifyCertify(f.Request.AK, f.Request.TLSTPM, s.Nonce, f.CertifyInfo, f.CertifySig)
	if err != nil {
		return api.Joined{}, fmt.Errorf("verifying the TLS key's certification: %w", err)
	}
	if !bytes.Equal(spki, f.Request.TLSKey) {
		return api.Joined{}, CodeCertifyKey.Bad("tls_key", rats.SHA256(spki).String(), rats.SHA256(f.Request.TLSKey).String())
	}
	id, err := newID(j.cfg.Rand, prefixNode)
	if err != nil {
		return api.Joined{}, err
	}
	der, serial, err := j.cfg.CA.NodeCertificate(namespace, id, spki)
	if err != nil {
		return api.Joined{}, err
	}
	n := store.Node{
		ID: id, Endorsements: []rats.Endorsement{c.enrol.Endorsement()},
		TLSKey: rats.SHA256(spki), Serial: serial, CreatedAt: j.cfg.Now().UTC(),
	}
	n, reasons, err := j.enter(ctx, namespace, space, c, f.Request, n)
	if err != nil {
		return api.Joined{}, err
	}
	return api.Joined{
		Node: n.ID, Name: n.Name, Namespace: namespace, Enrolment: n.Enrolment,
		Certificate: der, CAs: j.cfg.Pins.DER(), Verifier: j.cfg.VerifierID, PlanSigner: bytes.Clone(j.cfg.PlanSigner),
		Reasons: told(reasons),
	}, nil
}

func checkFinishSizes(f api.JoinFinish) error {
	for _, p := range []struct {
		path string
		n    int
		max  int
	}{
		{"continue", len(f.Continue), 2048},
		{"activated", len(f.Activated), 64},
		{"certify_info", len(f.CertifyInfo), 2048},
		{"certify_sig", len(f.CertifySig), 1024},
	} {
		if p.n < 1 || p.n > p.max {
			return CodeRequestSize.Bad(p.path, fmt.Sprintf("1 to %d bytes", p.max), fmt.Sprintf("%d bytes", p.n))
		}
	}
	return nil
}

// epochTries bounds how often a judgement on enrolment is made again because policies changed meanwhile.
const epochTries = 4

// enter has the enrolment judged and stores the node under the epoch it was judged under (S40).
func (j *Joiner) enter(ctx context.Context, namespace string, space store.Space, c candidate, r api.JoinRequest, n store.Node) (store.Node, []rats.Reason, error) {
	for try := 1; ; try++ {
		var t store.JoinToken
		var epoch int64
		err := space.View(ctx, func(tx store.Tx) (err error) {
			if epoch, err = tx.Epochs().Get(); err != nil {
				return fmt.Errorf("reading the epoch: %w", err)
			}
			if t, err = j.checkToken(tx, c.text, c.enrol.EKDigest); err != nil {
				return err
			}
			n.Name, err = j.room(tx, namespace, t, r, c.enrol, true)
			return err
		})
		if err != nil {
			return store.Node{}, nil, err
		}
		n.Kind, n.Parent, n.Labels = t.Kind, t.Parent, t.Labels
		reasons := j.vouch(ctx, namespace, t, c, n)
		n.Enrolment = store.EnrolmentApproved
		if len(reasons) > 0 {
			n.Enrolment = store.EnrolmentPending
		}
		err = space.Update(ctx, func(tx store.Tx) error { return j.put(tx, namespace, epoch, t, c, r, n, reasons) })
		if errors.Is(err, store.ErrEpoch) && try < epochTries {
			continue
		}
		return n, reasons, err
	}
}

// vouch returns why the node must wait for approval, nothing if it need not.
func (j *Joiner) vouch(ctx context.Context, namespace string, t store.JoinToken, c candidate, n store.Node) []rats.Reason {
	if t.EK.Equal(c.enrol.EKDigest) {
		return nil
	}
	if j.cfg.Vouch == nil {
		return []rats.Reason{CodeEnrolmentUnvouched.At(rats.None, "ek", "an EK named by the token, or a policy that vouches", c.enrol.EKDigest.String())}
	}
	return j.cfg.Vouch(ctx, namespace, n, n.Endorsements[0])
}

// put is the transaction that makes a node.
func (j *Joiner) put(tx store.Tx, namespace string, epoch int64, t store.JoinToken, c candidate, r api.JoinRequest, n store.Node, reasons []rats.Reason) error {
	if err := tx.Epochs().Hold(epoch); err != nil {
		return fmt.Errorf("holding the epoch: %w", err)
	}
	// Everything read before is looked at again: another join, or an administrator, may have come first.
	if _, err := j.checkToken(tx, c.text, c.enrol.EKDigest); err != nil {
		return err
	}
	if _, err := freeName(tx, t, r, c.enrol); err != nil {
		return err
	}
	others, err := j.alone(tx, namespace, t, c.enrol.EKDigest, false)
	if err != nil {
		return err
	}
	if err := j.replace(tx, others, n, t.ID); err != nil {
		return err
	}
	if t.Parent != "" {
		if _, err := tx.Nodes().Get(t.Parent); errors.Is(err, store.ErrNotFound) {
			return CodeTokenParent.Bad("parent", "a node that still exists", clip(t.Parent))
		} else if err != nil {
			return fmt.Errorf("looking up the parent node: %w", err)
		}
	}
	err = tx.Tokens().Use(t.ID, n.ID, n.CreatedAt)
	if errors.Is(err, store.ErrSpent) {
		return CodeTokenUsed.Bad("token", "an unused token", "a used one")
	}
	if err != nil {
		return fmt.Errorf("using up the join token: %w", err)
	}
	err = tx.Nodes().Put(n)
	if errors.Is(err, store.ErrConflict) {
		return CodeNameTaken.Bad("name", "a free name", clip(n.Name))
	}
	if err != nil {
		return fmt.Errorf("storing the node: %w", err)
	}
	detail := map[string]any{
		"name": n.Name, "kind": n.Kind, "token": t.ID, "enrolment": n.Enrolment,
		"ek": inNamespace(namespace, c.enrol.EKDigest), "tls_key": n.TLSKey, "serial": n.Serial, "reasons": codesOf(reasons),
	}
	if err := audit(tx, n.CreatedAt, "node:"+n.ID, "node.join", rats.Subject(rats.SubjectNode, n.ID), detail); err != nil {
		return err
	}
	return event(tx, n, n.CreatedAt, eventJoined)
}

// eventJoined is the kind of the event of a new node.
const eventJoined = "node.joined"

// event appends to the outbox what others learn of a change of a node's enrolment.
func event(tx store.Tx, n store.Node, at time.Time, kind string) error {
	data, err := json.Marshal(map[string]string{"name": n.Name, "enrolment": n.Enrolment})
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	e := store.Event{At: at, Kind: kind, Subject: rats.Subject(rats.SubjectNode, n.ID), Data: data}
	if _, err := tx.Events().Append(e); err != nil {
		return fmt.Errorf("appending an event: %w", err)
	}
	return nil
}

func codesOf(reasons []rats.Reason) []rats.Code {
	var codes []rats.Code
	for _, r := range reasons {
		codes = append(codes, r.Code)
	}
	return codes
}

// told is what a node learns of why it is pending: what and what to do, not what would be accepted (S45).
func told(reasons []rats.Reason) []rats.Reason {
	var out []rats.Reason
	for _, r := range reasons {
		out = append(out, rats.Reason{Code: r.Code, Title: r.Title, Format: r.Format, Slot: r.Slot, Tier: r.Tier, Hint: r.Hint})
	}
	return out
}
