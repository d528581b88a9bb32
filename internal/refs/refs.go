// Package refs keeps, per namespace, everything a judgement is made by: the compiled policies and the reference values in
// memory, as of one epoch. A View is immutable; judging with an old one is harmless, because its epoch no longer commits
// (S40).
//
// A look-up goes through three levels (R037, R040): the judgements of equal claims that a policy remembers, the reference
// sets in memory, and the database, from which a set is read again that had to make room. What is in memory is bounded.
package refs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// Why no policy is in force for a node.
var (
	CodeSelectorNone = rats.CodeInfo{
		Code: "policy.selector.none", Title: "no policy selects this node", Slot: rats.Configuration,
		Hint: "apply a policy whose selector is true for the node: assay policy apply FILE",
	}
	CodeSelectorAmbiguous = rats.CodeInfo{
		Code: "policy.selector.ambiguous", Title: "several policies of the same priority select this node",
		Slot: rats.Configuration,
		Hint: "give one of them a higher priority, or narrow their selectors",
	}
	CodeSelectorBroken = rats.CodeInfo{
		Code: "policy.selector.broken", Title: "a policy's selector can't be evaluated for this node",
		Slot: rats.Configuration,
		Hint: "guard labels that may be missing, e.g. \"env\" in node.labels && node.labels[\"env\"] == \"lab\"",
	}
	CodeDocumentBroken = rats.CodeInfo{
		Code: "policy.document.broken", Title: "a stored policy is not valid for this version of the server",
		Slot: rats.Configuration,
		Hint: "run assay policy lint on the document and apply a corrected one; until then nothing is trusted in its namespace",
	}
	CodeSetBroken = rats.CodeInfo{
		Code: "refvalue.set.broken", Title: "a stored reference set can't be read", Slot: rats.Executables,
		Hint: "capture or upload the set again",
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{CodeSelectorNone, CodeSelectorAmbiguous, CodeSelectorBroken, CodeDocumentBroken, CodeSetBroken}

// Active is a policy in force.
type Active struct {
	*policy.Policy
	Ref rats.Ref
}

// View is what a namespace judges by at one epoch.
type View struct {
	Epoch    int64
	Policies []Active
	Index    *Index
	Broken   []rats.Reason // documents that could not be used: nothing is judged affirming while there are any

	mu       sync.Mutex
	selected map[string]Active // by what selectors see of a node
}

// maxSelected bounds the nodes whose policy a View remembers.
const maxSelected = 20_000

// factsKey is what selectors see of a node, as text that no other facts have.
func factsKey(n policy.NodeFacts) string {
	b := make([]byte, 0, 128)
	add := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	add(n.Name)
	add(n.Kind)
	add(n.Parent)
	for _, k := range slices.Sorted(maps.Keys(n.Labels)) {
		add(k)
		add(n.Labels[k])
	}
	return string(b)
}

// Active returns the one policy in force for a node: the highest priority whose selector is true. Otherwise it says why
// there is none. Selectors see the node's facts alone, so what they chose is remembered.
func (v *View) Active(n policy.NodeFacts) (Active, []rats.Reason) {
	key := factsKey(n)
	v.mu.Lock()
	known, ok := v.selected[key]
	v.mu.Unlock()
	if ok {
		return known, nil
	}
	a, why := v.choose(n)
	if len(why) == 0 {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.selected == nil || len(v.selected) >= maxSelected {
			v.selected = map[string]Active{}
		}
		v.selected[key] = a
	}
	return a, why
}

func (v *View) choose(n policy.NodeFacts) (Active, []rats.Reason) {
	if len(v.Broken) > 0 {
		return Active{}, v.Broken
	}
	var best []Active
	for _, p := range v.Policies {
		ok, why := p.Selects(n)
		if len(why) > 0 {
			return Active{}, []rats.Reason{CodeSelectorBroken.Refuse(p.Name(), "true or false", why[0].String())}
		}
		switch {
		case !ok:
		case len(best) == 0 || p.Priority() > best[0].Priority():
			best = []Active{p}
		case p.Priority() == best[0].Priority():
			best = append(best, p)
		}
	}
	switch len(best) {
	case 0:
		return Active{}, []rats.Reason{CodeSelectorNone.At(rats.None, n.Name, "one policy", fmt.Sprintf("none of %d", len(v.Policies)))}
	case 1:
		return best[0], nil
	default:
		return Active{}, []rats.Reason{CodeSelectorAmbiguous.Refuse(n.Name, "one policy of the highest priority",
			fmt.Sprintf("%s and %s, both of priority %d", best[0].Name(), best[1].Name(), best[0].Priority()))}
	}
}

// Cache holds the newest View of each namespace. It is safe for concurrent use.
type Cache struct {
	descriptors []*rats.Descriptor

	mu       sync.Mutex
	views    map[string]*View
	loading  map[string]*sync.Mutex
	policies map[string]*policy.Policy // by digest

	sets  sets
	stats counters
}

// NewCache returns an empty cache for policies over the given formats. It holds reference sets of DefaultMemory in memory.
func NewCache(descriptors []*rats.Descriptor) *Cache {
	return &Cache{
		sets:        sets{limit: DefaultMemory, byDigest: map[string]*held{}},
		descriptors: descriptors,
		views:       map[string]*View{},
		loading:     map[string]*sync.Mutex{},
		policies:    map[string]*policy.Policy{},
	}
}

// View returns the namespace's view, loading it at first use. It may be older than the store; Fresh is not.
func (c *Cache) View(ctx context.Context, space store.Space, namespace string) (*View, error) {
	c.mu.Lock()
	v := c.views[namespace]
	c.mu.Unlock()
	if v != nil {
		return v, nil
	}
	return c.Fresh(ctx, space, namespace)
}

// At returns the namespace's view at an epoch that was just read; at a newer one if there is one by now.
func (c *Cache) At(ctx context.Context, space store.Space, namespace string, epoch int64) (*View, error) {
	c.mu.Lock()
	v := c.views[namespace]
	c.mu.Unlock()
	if v != nil && v.Epoch == epoch {
		return v, nil
	}
	return c.Fresh(ctx, space, namespace)
}

// Fresh returns the namespace's view at the store's present epoch.
func (c *Cache) Fresh(ctx context.Context, space store.Space, namespace string) (*View, error) {
	c.mu.Lock()
	l := c.loading[namespace]
	if l == nil {
		l = &sync.Mutex{}
		c.loading[namespace] = l
	}
	c.mu.Unlock()
	l.Lock()
	defer l.Unlock()

	var v *View
	err := space.View(ctx, func(tx store.Tx) error {
		epoch, err := tx.Epochs().Get()
		if err != nil {
			return err
		}
		c.mu.Lock()
		have := c.views[namespace]
		c.mu.Unlock()
		if have != nil && have.Epoch == epoch {
			v = have
			return nil
		}
		v, err = c.load(tx, space, epoch, have)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("loading policies and reference values of %s: %w", namespace, err)
	}
	c.mu.Lock()
	if c.views[namespace] != v {
		c.views[namespace] = v
		c.forget()
	}
	c.mu.Unlock()
	return v, nil
}

// forget drops the policies and sets that no view uses any more; the caller holds the lock. A judgement still under way
// keeps its policy, and reads a set again if it has to.
func (c *Cache) forget() {
	policies, sets := map[string]bool{}, map[string]bool{}
	for _, v := range c.views {
		for _, p := range v.Policies {
			policies[p.Ref.Digest.String()] = true
		}
		for _, e := range v.Index.sets {
			sets[e.key] = true
		}
	}
	maps.DeleteFunc(c.policies, func(d string, _ *policy.Policy) bool { return !policies[d] })
	c.sets.keep(sets)
}

func (c *Cache) load(tx store.Tx, space store.Space, epoch int64, before *View) (*View, error) {
	v := &View{Epoch: epoch}
	docs, err := tx.Documents().List(store.DocPolicy)
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		p, why, err := c.policy(tx, d)
		if err != nil {
			return nil, err
		}
		if p == nil {
			v.Broken = append(v.Broken, CodeDocumentBroken.Refuse(d.Name, "a valid policy", why))
			continue
		}
		v.Policies = append(v.Policies, Active{Policy: p, Ref: d.Ref()})
	}
	docs, err = tx.Documents().List(store.DocSet)
	if err != nil {
		return nil, err
	}
	v.Index = &Index{cache: c, space: space, sets: map[string]entry{}}
	for _, d := range docs {
		if before != nil {
			if e, ok := before.Index.sets[d.Name]; ok && e.ref.Digest.Equal(d.Digest) {
				e.ref = d.Ref()
				v.Index.sets[d.Name] = e
				continue
			}
		}
		s, err := c.sets.get(tx, d.Ref())
		if errors.Is(err, errBroken) {
			v.Broken = append(v.Broken, CodeSetBroken.Refuse(d.Name, "a valid reference set", "one that can't be parsed"))
			continue
		}
		if err != nil {
			return nil, err
		}
		v.Index.sets[d.Name] = entry{key: d.Digest.String(), ref: d.Ref(), expires: s.Header().Expires}
	}
	return v, nil
}

func (c *Cache) policy(tx store.Tx, d store.Document) (*policy.Policy, string, error) {
	key := d.Digest.String()
	c.mu.Lock()
	p := c.policies[key]
	c.mu.Unlock()
	if p != nil {
		return p, "", nil
	}
	full, err := tx.Documents().Get(d.Kind, d.Name, d.Version)
	if err != nil {
		return nil, "", err
	}
	p, reasons := policy.Compile(full.Body, c.descriptors)
	if p == nil {
		why := "no policy"
		if len(reasons) > 0 {
			why = reasons[0].String()
		}
		return nil, why, nil
	}
	c.mu.Lock()
	c.policies[key] = p
	c.mu.Unlock()
	return p, "", nil
}
