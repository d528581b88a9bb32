package appraiser

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// hub knows the streams that are open on this server and what the last accepted result of each node said. It holds no
// truth: losing it means a cold attestation, never a wrong verdict.
type hub struct {
	mu    sync.Mutex
	nodes map[nodeKey]*nodeHub
}

type nodeKey struct{ namespace, node string }

type nodeHub struct {
	sessions []*session
	waiters  []waiter
	alerted  map[rats.Code]time.Time
	last     lastResult
	wished   time.Time // when an agent's wish was last granted
}

// lastResult is what decides whether the next challenge can carry the plan.
type lastResult struct {
	id       string
	keys     []rats.BoundKey
	boots    rats.Digest
	instance []byte
	steady   bool // the result was trusted
	epoch    int64
	at       time.Time
	every    time.Duration
}

// outcome is how an exchange ended: a result's id, or why there is none.
type outcome struct {
	result string
	err    error
	asked  time.Time // when its challenge was issued; zero if nobody knows
}

// waiter wants the outcome of a challenge issued after it began to wait: an exchange under way says nothing about now.
type waiter struct {
	ch    chan outcome
	since time.Time
}

// session is one open stream.
type session struct {
	key      nodeKey
	instance []byte
	boot     rats.Digest
	wake     chan string   // why a challenge is wanted now; holds one
	told     chan any      // messages to pass on; a full channel drops the session
	cut      chan struct{} // closed when the stream must end
	cutOnce  sync.Once
	noted    store.Stream // as the other servers see it
	cutWhy   rats.Reason
}

func newHub() *hub { return &hub{nodes: map[nodeKey]*nodeHub{}} }

func (h *hub) get(k nodeKey) *nodeHub {
	n := h.nodes[k]
	if n == nil {
		n = &nodeHub{}
		h.nodes[k] = n
	}
	return n
}

// open registers a stream and returns the other live streams of the node.
func (h *hub) open(k nodeKey, instance []byte, boot rats.Digest) (*session, int) {
	s := &session{
		key: k, instance: bytes.Clone(instance), boot: boot,
		wake: make(chan string, 1), told: make(chan any, 4), cut: make(chan struct{}),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.get(k)
	others := 0
	for _, o := range n.sessions {
		if bytes.Equal(o.instance, instance) {
			o.end(CodeSuperseded.Refuse("stream", "one stream of an instance", "a newer one of the same instance"))
			continue
		}
		others++
		o.kick("doubled")
	}
	n.sessions = append(n.sessions, s)
	return s, others
}

func (h *hub) close(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.get(s.key)
	for i, o := range n.sessions {
		if o == s {
			n.sessions = append(n.sessions[:i:i], n.sessions[i+1:]...)
			break
		}
	}
}

func (h *hub) connected(namespace, node string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[nodeKey{namespace, node}]
	return n != nil && len(n.sessions) > 0
}

func (h *hub) streams() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	total := 0
	for _, n := range h.nodes {
		total += len(n.sessions)
	}
	return total
}

// kick asks every stream of a node for an attestation now. It is false if there is none.
func (h *hub) kick(namespace, node, why string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[nodeKey{namespace, node}]
	if n == nil || len(n.sessions) == 0 {
		return false
	}
	for _, s := range n.sessions {
		s.kick(why)
	}
	return true
}

// kickAll asks every stream of a namespace for an attestation.
func (h *hub) kickAll(namespace, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, n := range h.nodes {
		if k.namespace != namespace {
			continue
		}
		for _, s := range n.sessions {
			s.kick(why)
		}
	}
}

// drop ends every stream of a node and forgets its last result.
func (h *hub) drop(namespace, node string, why rats.Reason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[nodeKey{namespace, node}]
	if n == nil {
		return
	}
	n.last = lastResult{}
	for _, s := range n.sessions {
		s.end(why)
	}
}

// endAll ends every stream and forgets every last result: what this server knows may be old when it is back.
func (h *hub) endAll(why rats.Reason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.nodes {
		n.last = lastResult{}
		for _, s := range n.sessions {
			s.end(why)
		}
	}
}

// remember notes a result that was accepted elsewhere, or before a restart.
func (h *hub) remember(namespace, node string, r lastResult) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.get(nodeKey{namespace, node}).last = r
}

// acceptedElsewhere cuts the node's streams of other instances than the one that proved itself, as accepted does.
func (h *hub) acceptedElsewhere(namespace, node string, instance rats.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[nodeKey{namespace, node}]
	if n == nil {
		return
	}
	for _, s := range n.sessions {
		if !rats.SHA256(s.instance).Equal(instance) {
			s.end(CodeSuperseded.Refuse("stream", "the instance that attested", "another instance of the same node"))
		}
	}
}

func (s *session) kick(why string) {
	select {
	case s.wake <- why:
	default:
	}
}

func (s *session) end(why rats.Reason) {
	s.cutOnce.Do(func() {
		s.cutWhy = why
		close(s.cut)
	})
}

// wait returns a channel that gets the outcome of the node's next challenge, and a function that gives it up.
func (h *hub) wait(namespace, node string, now time.Time) (<-chan outcome, func()) {
	ch := make(chan outcome, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.get(nodeKey{namespace, node})
	n.waiters = append(n.waiters, waiter{ch, now})
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for i, w := range n.waiters {
			if w.ch == ch {
				n.waiters = append(n.waiters[:i:i], n.waiters[i+1:]...)
				return
			}
		}
	}
}

func (h *hub) done(namespace, node string, o outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[nodeKey{namespace, node}]
	if n == nil {
		return
	}
	n.waiters = slices.DeleteFunc(n.waiters, func(w waiter) bool {
		if o.asked.Before(w.since) {
			return false
		}
		w.ch <- o // holds one, and each waiter is told once
		return true
	})
}

// alertEvery is how often one problem of one node is written down; in between it is only logged.
const alertEvery = 10 * time.Second

// alert says whether a problem of a node is to be written down now.
func (h *hub) alert(namespace, node string, code rats.Code, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.get(nodeKey{namespace, node})
	if last, ok := n.alerted[code]; ok && now.Sub(last) < alertEvery && !now.Before(last) {
		return false
	}
	if n.alerted == nil || len(n.alerted) > 256 {
		n.alerted = map[rats.Code]time.Time{}
	}
	n.alerted[code] = now
	return true
}

func (h *hub) last(namespace, node string) (lastResult, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[nodeKey{namespace, node}]
	if n == nil || n.last.id == "" {
		return lastResult{}, false
	}
	return n.last, true
}

// accepted notes a result. Of several live streams of one node the instance that proved itself stays; the others are
// cut: whoever holds a copy of the credential but not the machine loses (S07).
func (h *hub) accepted(namespace, node string, r lastResult) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.get(nodeKey{namespace, node})
	n.last = r
	for _, s := range n.sessions {
		if bytes.Equal(s.instance, r.instance) {
			s.kickResult()
			continue
		}
		s.end(CodeSuperseded.Refuse("stream", "the instance that attested", "another instance of the same node"))
	}
}

// kickResult wakes the stream's loop so that it schedules its next challenge from the result.
func (s *session) kickResult() {
	select {
	case s.told <- nil:
	default:
	}
}
