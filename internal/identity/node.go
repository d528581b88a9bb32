package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// CodeApproveRevoked refuses to bring a revoked node back: who was revoked joins anew.
var CodeApproveRevoked = rats.CodeInfo{
	Code:  "join.approve.revoked",
	Title: "a revoked node can't be approved",
	Hint:  "delete the node and let the machine join again",
	Slot:  rats.InstanceIdentity,
}

// Renew issues a new certificate for a node (id), for the key it joined with and no other; the caller has established
// that the request comes over the node's own connection (Admit).
func (j *Joiner) Renew(ctx context.Context, namespace string, space store.Space, node string, r api.CertificateRequest) (api.Certificate, error) {
	if len(r.TLSKey) > 512 {
		return api.Certificate{}, CodeRequestSize.Bad("tls_key", "at most 512 bytes", fmt.Sprintf("%d bytes", len(r.TLSKey)))
	}
	der, serial, err := j.cfg.CA.NodeCertificate(namespace, node, r.TLSKey)
	if err != nil {
		return api.Certificate{}, err
	}
	key := rats.SHA256(r.TLSKey)
	err = j.change(ctx, space, node, func(tx store.Tx, n *store.Node, at time.Time) error {
		if err := Admit(namespace, *n, Peer{Namespace: namespace, Node: node, TLSKey: key}); err != nil {
			return err
		}
		n.Serial = serial
		return audit(tx, at, "node:"+n.ID, "node.renew", rats.Subject(rats.SubjectNode, n.ID), map[string]any{"serial": serial})
	})
	if err != nil {
		return api.Certificate{}, err
	}
	return api.Certificate{Certificate: der, CAs: j.cfg.Pins.DER()}, nil
}

// Approve takes a pending node (id) in: actor vouches for its TPM. Approving an approved node changes nothing.
func (j *Joiner) Approve(ctx context.Context, space store.Space, actor, node string) error {
	return j.enrolment(ctx, space, actor, node, "node.approve", store.EnrolmentApproved)
}

// Revoke shuts a node (id) out: its certificate no longer admits it and its last result no longer counts. Revoking a
// revoked node changes nothing.
func (j *Joiner) Revoke(ctx context.Context, space store.Space, actor, node string) error {
	return j.enrolment(ctx, space, actor, node, "node.revoke", store.EnrolmentRevoked)
}

func (j *Joiner) enrolment(ctx context.Context, space store.Space, actor, node, verb, to string) error {
	return j.change(ctx, space, node, func(tx store.Tx, n *store.Node, at time.Time) error {
		switch {
		case n.Enrolment == to:
			return nil
		case n.Enrolment == store.EnrolmentRevoked:
			return CodeApproveRevoked.Bad("enrolment", store.EnrolmentPending, n.Enrolment)
		}
		from := n.Enrolment
		n.Enrolment = to
		if to == store.EnrolmentRevoked {
			n.Withdrawn = string(CodePeerRevoked.Code)
			if err := j.revokeAKs(tx, *n, at, "revoked"); err != nil {
				return err
			}
			n.AKCerts = nil
		}
		detail := map[string]any{"name": n.Name, "from": from}
		if err := audit(tx, at, actor, verb, rats.Subject(rats.SubjectNode, n.ID), detail); err != nil {
			return err
		}
		return event(tx, *n, at, "node.enrolment")
	})
}

// change reads a node, lets f change it, and writes it back, in one transaction.
func (j *Joiner) change(ctx context.Context, space store.Space, node string, f func(store.Tx, *store.Node, time.Time) error) error {
	return space.Update(ctx, func(tx store.Tx) error {
		n, err := tx.Nodes().Get(node)
		if err != nil {
			return fmt.Errorf("looking up node %s: %w", clip(node), err)
		}
		if err := f(tx, &n, j.cfg.Now().UTC()); err != nil {
			return err
		}
		if err := tx.Nodes().Put(n); err != nil {
			return fmt.Errorf("storing node %s: %w", clip(node), err)
		}
		return nil
	})
}
