package appraiser

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// What can be wrong with a stream, or with asking for an attestation.
var (
	CodeNotConnected = rats.CodeInfo{
		Code: "node.stream.absent", Title: "the node's agent is not connected", Slot: rats.InstanceIdentity,
		Hint: "on the node, see whether the agent runs (systemctl status assay-agent) and reaches the server (assay doctor)",
	}
	CodeSuperseded = rats.CodeInfo{
		Code: "node.stream.superseded", Title: "another stream of this node took its place", Slot: rats.InstanceIdentity,
		Hint: "if this machine was not restarted, its identity may have been copied: look for node.stream events",
	}
	CodeMalfunction = rats.CodeInfo{
		Code: "verifier.malfunction", Title: "the verifier could not judge", Slot: rats.InstanceIdentity,
		Hint: "nothing was decided; the server's log has the cause",
	}
)

// Sender passes one event to the agent; name is one of the api.Stream constants.
type Sender func(name string, data any) error

// Serve holds a node's stream: it sends a challenge when one is due, asked for, or called for by a boot, until ctx ends
// or the stream is cut.
func (a *Appraiser) Serve(ctx context.Context, namespace, nodeID string, instance []byte, boot rats.Digest, send Sender) error {
	n, err := a.node(ctx, namespace, nodeID)
	if err != nil {
		return err
	}
	s, err := a.begin(ctx, namespace, n, instance, boot)
	if err != nil {
		return err
	}
	defer a.end(ctx, s)
	delay, why := a.firstDue(ctx, n, s)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.cut:
			_ = send(api.StreamBye, s.cutWhy)
			return &rats.BadEvidence{Reason: s.cutWhy}
		case msg := <-s.told:
			if msg != nil {
				if err := send(api.StreamResult, msg); err != nil {
					return err
				}
			}
			timer.Reset(a.nextDue(s))
			why = "due"
			continue
		case why = <-s.wake:
		case <-timer.C:
		}
		next, err := a.challenge(ctx, s, why, send)
		if err != nil {
			return err
		}
		timer.Reset(next)
		why = "due"
	}
}

// begin registers a stream here, and where other servers see it if there are any.
func (a *Appraiser) begin(ctx context.Context, namespace string, n store.Node, instance []byte, boot rats.Digest) (*session, error) {
	if a.cfg.Cluster == nil {
		if err := a.noteBoot(ctx, namespace, n, boot); err != nil {
			return nil, err
		}
	}
	s, others := a.hub.open(nodeKey{namespace, n.ID}, instance, boot)
	if a.cfg.Cluster != nil {
		var err error
		if s.noted, err = a.register(ctx, namespace, n, instance, boot); err != nil {
			a.hub.close(s)
			return nil, err
		}
	} else if others > 0 {
		a.noteDoubled(ctx, namespace, n.ID, others)
	}
	return s, nil
}

func (a *Appraiser) end(ctx context.Context, s *session) {
	a.hub.close(s)
	if a.cfg.Cluster != nil {
		a.unregister(ctx, s.key.namespace, s.noted)
	}
}

// firstDue says when a new stream gets its first challenge: at once, unless this very instance has a result in force.
func (a *Appraiser) firstDue(ctx context.Context, n store.Node, s *session) (time.Duration, string) {
	if n.Last == "" {
		return 0, "joined"
	}
	if node.Rebooted(n) {
		return 0, "boot"
	}
	if last, ok := a.lastOf(ctx, s.key.namespace, n); !ok || !bytes.Equal(last.instance, s.instance) {
		return 0, "connected"
	}
	return a.nextDue(s), "due"
}

// nextDue is the time to the next regular challenge: the policy's period after the last result, 10 % earlier at most, and
// early enough for another server to take over.
func (a *Appraiser) nextDue(s *session) time.Duration {
	last, ok := a.hub.last(s.key.namespace, s.key.node)
	if !ok || last.every <= 0 {
		return a.cfg.TTL
	}
	due := last.every - min(a.cfg.Takeover, last.every/4) - time.Duration(float64(last.every)*0.1*a.fraction())
	return max(0, due-a.cfg.Now().Sub(last.at))
}

// fraction returns a number in [0,1) for jitter; without randomness it is 0.
func (a *Appraiser) fraction() float64 {
	b, err := a.random(4)
	if err != nil {
		return 0
	}
	return float64(binary.BigEndian.Uint32(b)) / (1 << 32)
}

// challenge sends one challenge and returns after how long to try again if nothing comes back.
func (a *Appraiser) challenge(ctx context.Context, s *session, why string, send Sender) (time.Duration, error) {
	n, err := a.node(ctx, s.key.namespace, s.key.node)
	if err != nil {
		return 0, err
	}
	if n.Enrolment != store.EnrolmentApproved {
		why := node.StatusOf(n, nil, a.cfg.Now()).Why
		a.hub.done(s.key.namespace, s.key.node, outcome{err: &rats.BadEvidence{Reason: why[0]}, asked: a.cfg.Now()})
		return a.cfg.TTL, nil // approval kicks the stream
	}
	var steady *lastResult
	if last, ok := a.lastOf(ctx, s.key.namespace, n); ok && last.steady &&
		bytes.Equal(last.instance, s.instance) && last.boots.Equal(s.boot) && n.Withdrawn == "" && !node.Rebooted(n) {
		steady = &last
	}
	c, err := a.issue(ctx, n, s.key.namespace, why, steady)
	if err != nil {
		reason, known := rats.ReasonOf(err)
		if !known {
			return 0, err
		}
		a.hub.done(s.key.namespace, s.key.node, outcome{err: err, asked: a.cfg.Now()})
		return a.cfg.TTL, a.withdraw(ctx, s.key.namespace, n.ID, reason)
	}
	return a.cfg.TTL + a.cfg.TTL/2, send(api.StreamChallenge, c)
}

// Attest challenges a node now and waits for its result's id, whichever server holds the node's stream.
func (a *Appraiser) Attest(ctx context.Context, namespace, nodeID, why string) (string, error) {
	if !a.hub.connected(namespace, nodeID) && a.elsewhere(ctx, namespace, nodeID) {
		return a.attestElsewhere(ctx, namespace, nodeID, why)
	}
	return a.attestHere(ctx, namespace, nodeID, why)
}

func (a *Appraiser) attestHere(ctx context.Context, namespace, nodeID, why string) (string, error) {
	done, forget := a.hub.wait(namespace, nodeID, a.cfg.Now())
	defer forget()
	if !a.hub.kick(namespace, nodeID, why) {
		return "", CodeNotConnected.Missing("node", "an open stream", "none")
	}
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return "", CodeNotConnected.Missing("node", "an answer in time", "none yet")
	}
}

// Kick asks a node's agent for an attestation without waiting; false if it is not connected.
func (a *Appraiser) Kick(ctx context.Context, namespace, nodeID, why string) bool {
	if a.hub.kick(namespace, nodeID, why) {
		return true
	}
	if !a.elsewhere(ctx, namespace, nodeID) {
		return false
	}
	a.publish(ctx, namespace, EventWanted, note{Node: nodeID, Why: why})
	return true
}

// KickAll asks all agents of a namespace for an attestation, after its policy or reference values changed. Where there are
// several servers each does so for its own streams when it reads of the change.
func (a *Appraiser) KickAll(namespace, why string) {
	if a.cfg.Cluster == nil {
		a.hub.kickAll(namespace, why)
	}
}

// Drop ends a node's streams, when it was revoked or deleted.
func (a *Appraiser) Drop(namespace, nodeID string, why rats.Reason) {
	a.hub.drop(namespace, nodeID, why)
}

// Connected says whether the node has a stream open, on this server or another.
func (a *Appraiser) Connected(tx store.Tx, namespace, nodeID string) (bool, error) {
	if a.hub.connected(namespace, nodeID) || a.cfg.Cluster == nil {
		return a.hub.connected(namespace, nodeID), nil
	}
	return open(tx, nodeID)
}

// Streams is the number of streams open on this server.
func (a *Appraiser) Streams() int { return a.hub.streams() }

// noteBoot stores the boot the agent claims, if it is news. It can only lower trust (R032).
func (a *Appraiser) noteBoot(ctx context.Context, namespace string, n store.Node, boot rats.Digest) error {
	if boot.IsZero() || n.Boot.Equal(boot) && n.LastBoot.Equal(boot) {
		return nil // without a transaction
	}
	return a.cfg.Store.In(namespace).Update(ctx, func(tx store.Tx) error { return a.claimBoot(tx, n, boot) })
}

func (a *Appraiser) claimBoot(tx store.Tx, n store.Node, boot rats.Digest) error {
	if boot.IsZero() || n.Boot.Equal(boot) && n.LastBoot.Equal(boot) {
		return nil
	}
	cur, err := tx.Nodes().Get(n.ID)
	if err != nil {
		return err
	}
	now := a.cfg.Now()
	before := node.StatusOf(cur, nil, now).State
	cur.Boot, cur.BootSeen = boot, now
	if err := tx.Nodes().Put(cur); err != nil {
		return err
	}
	after := node.StatusOf(cur, nil, now).State
	if before == after {
		return nil
	}
	data := map[string]any{"node": n.ID, "name": n.Name, "before": before, "state": after, "codes": []rats.Code{node.CodeBootChanged.Code}}
	if err := a.event(tx, EventBoot, rats.Subject(rats.SubjectNode, n.ID), data); err != nil {
		return err
	}
	return a.event(tx, EventState, rats.Subject(rats.SubjectNode, n.ID), data)
}

// noteDoubled raises the alert of a second live stream (S07).
func (a *Appraiser) noteDoubled(ctx context.Context, namespace, nodeID string, others int) {
	err := a.cfg.Store.In(namespace).Update(ctx, func(tx store.Tx) error { return a.doubled(tx, nodeID, others) })
	if err != nil {
		a.cfg.Log.Error("recording a doubled stream", "namespace", namespace, "node", nodeID, "error", err)
	}
}

func (a *Appraiser) doubled(tx store.Tx, nodeID string, others int) error {
	subject := rats.Subject(rats.SubjectNode, nodeID)
	data := map[string]any{"node": nodeID, "streams": others + 1}
	if a.cfg.Cluster != nil {
		data["server"] = a.cfg.Cluster.Server()
	}
	if err := a.event(tx, EventDoubled, subject, data); err != nil {
		return err
	}
	_, err := a.audit(tx, "node:"+nodeID, "stream.double", subject, map[string]any{"streams": others + 1})
	return err
}

// withdraw marks the node's last result as no longer counting: no policy is in force for it any more.
func (a *Appraiser) withdraw(ctx context.Context, namespace, nodeID string, why rats.Reason) error {
	return a.cfg.Store.In(namespace).Update(ctx, func(tx store.Tx) error {
		n, err := tx.Nodes().Get(nodeID)
		if errors.Is(err, store.ErrNotFound) || err == nil && n.Withdrawn == string(why.Code) {
			return nil
		}
		if err != nil {
			return err
		}
		now := a.cfg.Now()
		before := node.StatusOf(n, nil, now).State
		n.Withdrawn, n.Since = string(why.Code), now
		if err := tx.Nodes().Put(n); err != nil {
			return err
		}
		subject := rats.Subject(rats.SubjectNode, nodeID)
		data := map[string]any{"node": n.ID, "name": n.Name, "before": before, "state": node.StatusOf(n, nil, now).State, "reason": why}
		if err := a.event(tx, EventWithdraw, subject, data); err != nil {
			return err
		}
		_, err = a.audit(tx, "server", "result.withdraw", subject, map[string]any{"code": why.Code, "result": n.Last})
		return err
	})
}
