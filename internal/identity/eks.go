package identity

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// CodeEKTaken refuses a second live node of one TPM in one namespace.
var CodeEKTaken = rats.CodeInfo{
	Code:  "join.ek.taken",
	Title: "this TPM is a node of the namespace already, under another name",
	Hint:  "delete or revoke that node first, or create the token with --replace",
	Slot:  rats.InstanceIdentity,
}

// How much an index may have to catch up on before the nodes are read anew, and how old it may be: events don't live for ever.
const (
	maxCatchUp  = 5000
	maxIndexAge = time.Hour
	scanPage    = 500
)

// eks finds the nodes of an EK without reading all nodes at every join: it reads them once, and then what the events say has
// joined. What it finds is looked up, so an entry that is no longer true does no harm; and it is moved on only by what was
// read as committed, so none is missed.
type eks struct {
	mu sync.Mutex
	by map[string]*ekIndex // namespace
}

type ekIndex struct {
	at    int64 // the event up to which it knows
	made  time.Time
	nodes map[string][]string // EK → ids
}

func (x *ekIndex) add(n store.Node) {
	ek := EKOf(n).String()
	if !slices.Contains(x.nodes[ek], n.ID) {
		x.nodes[ek] = append(x.nodes[ek], n.ID)
	}
}

// live returns the nodes with an EK that are not revoked. committed says that tx reads nothing of its own writing.
func (e *eks) live(tx store.Tx, namespace string, ek rats.Digest, now time.Time, committed bool) ([]store.Node, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	last, err := tx.Events().Last()
	if err != nil {
		return nil, fmt.Errorf("reading the last event: %w", err)
	}
	x := e.by[namespace]
	if x == nil || last < x.at || last-x.at > maxCatchUp || now.Sub(x.made) > maxIndexAge || now.Before(x.made) {
		if x, err = scan(tx, last, now); err != nil {
			return nil, err
		}
		if committed {
			if e.by == nil {
				e.by = make(map[string]*ekIndex)
			}
			e.by[namespace] = x
		}
	} else if err := x.catchUp(tx, committed); err != nil {
		return nil, err
	}
	var out []store.Node
	for _, id := range x.nodes[ek.String()] {
		n, err := tx.Nodes().Get(id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking up a node: %w", err)
		}
		if n.Enrolment != store.EnrolmentRevoked && EKOf(n).Equal(ek) {
			out = append(out, n)
		}
	}
	return out, nil
}

func scan(tx store.Tx, last int64, now time.Time) (*ekIndex, error) {
	x := &ekIndex{at: last, made: now, nodes: make(map[string][]string)}
	for after := ""; ; {
		page, err := tx.Nodes().List(after, scanPage)
		if err != nil {
			return nil, fmt.Errorf("reading nodes: %w", err)
		}
		for _, n := range page {
			x.add(n)
		}
		if len(page) < scanPage {
			return x, nil
		}
		after = page[len(page)-1].Name
	}
}

func (x *ekIndex) catchUp(tx store.Tx, committed bool) error {
	for at := x.at; ; {
		events, err := tx.Events().After(at, scanPage)
		if err != nil {
			return fmt.Errorf("reading events: %w", err)
		}
		for _, e := range events {
			at = e.Seq
			kind, id, err := rats.ParseSubject(e.Subject)
			if err != nil || kind != rats.SubjectNode || e.Kind != eventJoined {
				continue
			}
			switch n, err := tx.Nodes().Get(id); {
			case err == nil:
				x.add(n)
			case !errors.Is(err, store.ErrNotFound):
				return fmt.Errorf("looking up a node: %w", err)
			}
		}
		if committed {
			x.at = at
		}
		if len(events) < scanPage {
			return nil
		}
	}
}

// alone makes sure that the EK has no live node: it refuses, or, if the token says so, deletes them.
func (j *Joiner) alone(tx store.Tx, namespace string, t store.JoinToken, ek rats.Digest, committed bool) ([]store.Node, error) {
	others, err := j.eks.live(tx, namespace, ek, j.cfg.Now(), committed)
	if err != nil || len(others) == 0 || t.Replace {
		return others, err
	}
	return nil, CodeEKTaken.Bad("ek", "a TPM that isn't a node of this namespace", fmt.Sprintf("%d nodes of it", len(others)))
}

// replace deletes the nodes that a new one of the same TPM stands for.
func (j *Joiner) replace(tx store.Tx, others []store.Node, by store.Node, token string) error {
	for _, n := range others {
		if err := j.revokeAKs(tx, n, by.CreatedAt, "replaced"); err != nil {
			return err
		}
		if err := tx.Nodes().Delete(n.ID); err != nil {
			return fmt.Errorf("deleting a replaced node: %w", err)
		}
		subject := rats.Subject(rats.SubjectNode, n.ID)
		detail := map[string]any{"name": n.Name, "by": by.ID, "token": token}
		if err := audit(tx, by.CreatedAt, "node:"+by.ID, "node.replace", subject, detail); err != nil {
			return err
		}
		if err := event(tx, n, by.CreatedAt, "node.deleted"); err != nil {
			return err
		}
	}
	return nil
}
