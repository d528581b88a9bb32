package appraiser

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/assay-attest/assay/internal/node"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// What several servers tell each other stands in the outbox, which all of them read: nothing is lost when a server dies,
// and a server that was cut off reads on where it stopped.
const (
	EventWanted   = "node.wanted"   // an attestation is wanted of a node whose stream is on another server
	EventAnswered = "node.answered" // how one that was asked for ended
)

// CodeCutOff ends the streams of a server that can't vouch for anything any more.
var CodeCutOff = rats.CodeInfo{
	Code: "node.stream.cut-off", Title: "this server has lost its database", Slot: rats.InstanceIdentity,
	Hint: "the agent goes to the next server of its list by itself; see whether the server reaches its database",
}

const (
	lookEvery   = 250 * time.Millisecond // how soon a server that lost its lease ends its streams
	spacesEvery = 5 * time.Second        // how soon a new namespace is watched
	askedTime   = time.Minute            // how long an attestation asked for on another server may take
	maxAsked    = 64                     // of those at a time
	closingTime = 5 * time.Second
)

// note is what events of the outbox say to other servers. Unknown fields are the readers' own.
type note struct {
	Node     string       `json:"node"`
	Server   string       `json:"server,omitempty"` // that wrote it
	Instance rats.Digest  `json:"instance,omitzero"`
	Ask      string       `json:"ask,omitempty"`
	Why      string       `json:"why,omitempty"`
	Result   string       `json:"result,omitempty"`
	Reason   *rats.Reason `json:"reason,omitempty"`
}

// asks are the attestations this server wants of others.
type asks struct {
	mu      sync.Mutex
	waiting map[string]chan outcome
	places  chan struct{} // for those others want of this one
}

func newAsks() *asks {
	return &asks{waiting: map[string]chan outcome{}, places: make(chan struct{}, maxAsked)}
}

func (a *asks) add(id string) <-chan outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	ch := make(chan outcome, 1)
	a.waiting[id] = ch
	return ch
}

func (a *asks) done(id string, o outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ch, ok := a.waiting[id]; ok {
		ch <- o // holds one, and is told once
		delete(a.waiting, id)
	}
}

func (a *asks) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, id)
}

// Watch follows what other servers do, until ctx ends: it ends streams whose node proved itself elsewhere or was revoked,
// passes on who is asked for an attestation, and ends every stream when this server loses its database. Without a cluster
// it does nothing.
func (a *Appraiser) Watch(ctx context.Context) {
	if a.cfg.Cluster == nil {
		return
	}
	var watched sync.WaitGroup
	defer watched.Wait()
	watched.Go(func() { a.followAll(ctx, &watched) })
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if err := a.cfg.Cluster.Alive(); err != nil && a.hub.streams() > 0 {
			a.cfg.Log.Error("cut off from the database: ending all streams", "streams", a.hub.streams(), "error", err)
			a.hub.endAll(CodeCutOff.At(rats.None, "stream", "a server with a database", "one without"))
		}
	}
}

// followAll follows every namespace, also those that are made later.
func (a *Appraiser) followAll(ctx context.Context, watched *sync.WaitGroup) {
	tick := time.NewTicker(spacesEvery)
	defer tick.Stop()
	known := map[string]bool{}
	for {
		names, _ := a.cfg.Store.Namespaces(ctx) // that it failed is said by whoever needs them
		for _, ns := range names {
			if !known[ns] {
				known[ns] = true
				watched.Go(func() { a.follow(ctx, ns) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follow reads a namespace's events from now on, also across an outage.
func (a *Appraiser) follow(ctx context.Context, namespace string) {
	space := a.cfg.Store.In(namespace)
	after, epoch := int64(-1), int64(-1)
	position := func(tx store.Tx) (err error) {
		if epoch, err = tx.Epochs().Get(); err != nil {
			return err
		}
		after, err = tx.Events().Last()
		return err
	}
	for ctx.Err() == nil {
		var err error
		if after < 0 {
			err = space.View(ctx, position)
		}
		if err == nil {
			for e, terr := range space.Tail(ctx, after) {
				if err = terr; err != nil {
					break
				}
				a.heard(ctx, namespace, e, &epoch)
				after = e.Seq
			}
		}
		if err != nil && ctx.Err() == nil {
			a.cfg.Log.Debug("following the events of other servers", "namespace", namespace, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
}

// heard does what an event means for this server's streams. All of it may be done twice.
func (a *Appraiser) heard(ctx context.Context, namespace string, e store.Event, epoch *int64) {
	var n note
	if len(e.Data) > 0 && e.Data[0] == '{' {
		_ = json.Unmarshal(e.Data, &n) // of others' events the fields may have other types: they say nothing to us
	}
	if kind, id, err := rats.ParseSubject(e.Subject); n.Node == "" && err == nil && kind == rats.SubjectNode {
		n.Node = id
	}
	switch e.Kind {
	case EventResult:
		if !n.Instance.IsZero() {
			a.hub.acceptedElsewhere(namespace, n.Node, n.Instance)
		}
	case EventDoubled:
		if n.Server != a.cfg.Cluster.Server() {
			a.hub.kick(namespace, n.Node, "doubled")
		}
	case EventWanted:
		a.wanted(ctx, namespace, n)
	case EventAnswered:
		o := outcome{result: n.Result}
		if n.Reason != nil {
			o.err = &rats.BadEvidence{Reason: *n.Reason}
		} else if n.Result == "" {
			o.err = errors.New("the server that holds the node's stream could not judge")
		}
		a.asks.done(n.Ask, o)
	case EventState, EventRefused, EventBoot, EventWithdraw:
	default:
		if !strings.HasPrefix(e.Kind, "node.") {
			a.moved(ctx, namespace, epoch)
		} else if a.hub.connected(namespace, n.Node) {
			a.standing(ctx, namespace, n.Node)
		}
	}
}

// standing ends the streams of a node that another server revoked or deleted.
func (a *Appraiser) standing(ctx context.Context, namespace, nodeID string) {
	n, err := a.node(ctx, namespace, nodeID)
	var gone *rats.BadEvidence
	switch {
	case errors.As(err, &gone):
		a.hub.drop(namespace, nodeID, gone.Reason)
	case err == nil && n.Enrolment == store.EnrolmentRevoked:
		a.hub.drop(namespace, nodeID, node.StatusOf(n, nil, a.cfg.Now()).Why[0])
	}
}

// moved asks all agents for an attestation when policy or reference values have changed.
func (a *Appraiser) moved(ctx context.Context, namespace string, epoch *int64) {
	var now int64
	err := a.cfg.Store.In(namespace).View(ctx, func(tx store.Tx) (err error) {
		now, err = tx.Epochs().Get()
		return err
	})
	if err != nil || now == *epoch {
		return
	}
	*epoch = now
	a.hub.kickAll(namespace, "policy")
}

// wanted has a node on this server attest for somebody on another.
func (a *Appraiser) wanted(ctx context.Context, namespace string, n note) {
	if !a.hub.connected(namespace, n.Node) {
		return
	}
	if n.Ask == "" {
		a.hub.kick(namespace, n.Node, n.Why)
		return
	}
	select {
	case a.asks.places <- struct{}{}:
	default:
		return // whoever asked waits in vain, and asks again
	}
	go func() {
		defer func() { <-a.asks.places }()
		ctx, cancel := context.WithTimeout(ctx, askedTime)
		defer cancel()
		result, err := a.attestHere(ctx, namespace, n.Node, n.Why)
		answer := note{Node: n.Node, Ask: n.Ask, Result: result}
		if r, ok := rats.ReasonOf(err); ok {
			answer.Reason = &r
		}
		a.publish(ctx, namespace, EventAnswered, answer)
	}()
}

// publish tells the other servers something.
func (a *Appraiser) publish(ctx context.Context, namespace, kind string, n note) {
	n.Server = a.cfg.Cluster.Server()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closingTime)
	defer cancel()
	err := a.cfg.Store.In(namespace).Update(ctx, func(tx store.Tx) error {
		return a.event(tx, kind, rats.Subject(rats.SubjectNode, n.Node), n)
	})
	if err != nil {
		a.cfg.Log.Error("telling the other servers", "kind", kind, "namespace", namespace, "node", n.Node, "error", err)
	}
}

// elsewhere says whether another server holds a stream of the node.
func (a *Appraiser) elsewhere(ctx context.Context, namespace, nodeID string) bool {
	if a.cfg.Cluster == nil {
		return false
	}
	held := false
	err := a.cfg.Store.In(namespace).View(ctx, func(tx store.Tx) (err error) {
		held, err = open(tx, nodeID)
		return err
	})
	return err == nil && held
}

func open(tx store.Tx, nodeID string) (bool, error) {
	list, err := tx.Streams().Of(nodeID)
	return len(list) > 0, err
}

// attestElsewhere has the server that holds the node's stream challenge it, and waits for what comes of it.
func (a *Appraiser) attestElsewhere(ctx context.Context, namespace, nodeID, why string) (string, error) {
	id, err := a.newID("ask_")
	if err != nil {
		return "", err
	}
	done := a.asks.add(id)
	defer a.asks.forget(id)
	a.publish(ctx, namespace, EventWanted, note{Node: nodeID, Ask: id, Why: why})
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return "", CodeNotConnected.Missing("node", "an answer in time", "none yet")
	}
}

// register notes a stream where the other servers see it, with what it means: the boot it claims, and whether the node has
// another stream (S07).
func (a *Appraiser) register(ctx context.Context, namespace string, n store.Node, instance []byte, boot rats.Digest) (store.Stream, error) {
	var s store.Stream
	err := a.cfg.Store.In(namespace).Update(ctx, func(tx store.Tx) error {
		if err := a.claimBoot(tx, n, boot); err != nil {
			return err
		}
		var others []store.Stream
		var err error
		if s, others, err = tx.Streams().Open(n.ID, rats.SHA256(instance)); err != nil || len(others) == 0 {
			return err
		}
		return a.doubled(tx, n.ID, len(others))
	})
	return s, err
}

// unregister forgets a stream; should that fail, its fence and the server's lease make it void.
func (a *Appraiser) unregister(ctx context.Context, namespace string, s store.Stream) {
	if a.cfg.Cluster.Alive() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closingTime)
	defer cancel()
	err := a.cfg.Store.In(namespace).Update(ctx, func(tx store.Tx) error { return tx.Streams().Close(s) })
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		a.cfg.Log.Warn("noting the end of a stream", "namespace", namespace, "node", s.Node, "error", err)
	}
}

// lastOf is the node's newest result as the next challenge needs it: remembered, or read from the record that another
// server, or this one before a restart, wrote.
func (a *Appraiser) lastOf(ctx context.Context, namespace string, n store.Node) (lastResult, bool) {
	last, ok := a.hub.last(namespace, n.ID)
	if n.Last == "" || ok && (last.id == n.Last || last.at.After(n.LastAt)) {
		return last, ok
	}
	if n.Enrolment != store.EnrolmentApproved || n.Withdrawn != "" || !a.cfg.Now().Before(n.Expires) {
		return lastResult{}, false
	}
	last, err := a.recall(ctx, namespace, n)
	if err != nil {
		a.cfg.Log.Warn("reading a node's last result", "namespace", namespace, "node", n.ID, "error", err)
		return lastResult{}, false
	}
	a.hub.remember(namespace, n.ID, last)
	return last, true
}

func (a *Appraiser) recall(ctx context.Context, namespace string, n store.Node) (lastResult, error) {
	space := a.cfg.Store.In(namespace)
	view, err := a.cfg.Refs.Fresh(ctx, space, namespace)
	if err != nil {
		return lastResult{}, err
	}
	active, why := view.Active(NodeFacts(n))
	if len(why) > 0 {
		return lastResult{}, fmt.Errorf("finding its policy: %s", why[0].Code)
	}
	var rec store.Record
	err = space.View(ctx, func(tx store.Tx) (err error) {
		rec, err = tx.Records().Get(n.Last)
		return err
	})
	if err != nil {
		return lastResult{}, err
	}
	m, err := rats.DecodeManifest(rec.Binding.Manifest)
	if err != nil {
		return lastResult{}, err
	}
	r := rec.Result
	return lastResult{
		id: r.ID, keys: r.Keys, boots: bootID(r.Boots), instance: bytes.Clone(m.Instance),
		steady: rats.VerdictOf(r.Tier, false).Secrets, epoch: rec.Epoch, at: r.At, every: active.Every(),
	}, nil
}
