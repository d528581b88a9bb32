package tpm

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/assay-attest/assay/rats"
)

// What is the same in every quote of a node is worked out once: its enrolment record, what the makers' certificates and
// lists hold, and the chain of its EK. Everything here is found by a digest of all it depends on; only what was found good
// is kept.

// maxMemory bounds the entries of a memory; when it is full it starts anew.
const maxMemory = 20_000

// memory remembers values by the digest of what they were made of. Its zero value is ready; it is safe for concurrent use.
type memory[V any] struct {
	mu  sync.RWMutex
	all map[[32]byte]V
}

func (m *memory[V]) get(k [32]byte) (V, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, ok := m.all[k]
	return v, ok
}

func (m *memory[V]) put(k [32]byte, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil || len(m.all) >= maxMemory {
		m.all = map[[32]byte]V{}
	}
	m.all[k] = v
}

// keyOf digests parts, each with its length before it.
func keyOf(parts ...[]byte) [32]byte {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// verified is what a verifier remembers.
type verified struct {
	records    memory[Enrolment]
	collateral memory[*collateral]
	eks        memory[ekClaims]
}

// ekClaims is what the chain of an EK adds to the claims.
type ekClaims struct {
	chain      [][]byte
	vendor     string
	revocation *Revocation
	virtual    bool
}

// record reads an enrolment record.
func (v *verified) record(b []byte) (Enrolment, error) {
	k := keyOf(b)
	if r, ok := v.records.get(k); ok {
		return r, nil
	}
	r, err := ParseEnrolment(b)
	if err == nil {
		v.records.put(k, r)
	}
	return r, err
}

// maxRemembered bounds the collateral that is remembered; hashing more would take longer than it saves.
const maxRemembered = 1 << 20

// gather reads what endorsements hold; k stands for it.
func (v *verified) gather(endorsements []rats.Endorsement) (have *collateral, k [32]byte) {
	var parts [][]byte
	n := 0
	for _, e := range endorsements {
		if e.MediaType != EnrolmentMediaType {
			parts = append(parts, []byte(e.MediaType), e.Body)
			n += len(e.Body)
		}
	}
	k = keyOf(parts...)
	if c, ok := v.collateral.get(k); ok {
		return c, k
	}
	have = gather(endorsements)
	if n <= maxRemembered {
		v.collateral.put(k, have)
	}
	return have, k
}

// vouched is a chain that was found good, and from when to when its certificates are valid.
type vouched struct {
	judged
	from, until time.Time
}

func vouchedBy(j judged) vouched {
	v := vouched{judged: j, from: j.chain[0].NotBefore, until: j.chain[0].NotAfter}
	for _, c := range j.chain[1:] {
		if c.NotBefore.After(v.from) {
			v.from = c.NotBefore
		}
		if c.NotAfter.Before(v.until) {
			v.until = c.NotAfter
		}
	}
	return v
}

// chains remembers the chains a section of policy found good. Its anchors, issuers and lists don't change.
type chains struct{ memory[vouched] }

// of returns the chain of a certificate (DER) that holds now.
func (m *chains) of(der []byte, chain [][]byte, now time.Time, build func(*x509.Certificate) (judged, error)) (judged, error) {
	k := keyOf(slices.Concat([][]byte{der}, chain)...)
	if v, ok := m.get(k); ok && !now.Before(v.from) && !now.After(v.until) {
		return v.judged, nil
	}
	cert, err := parseEKCert(der)
	if err != nil {
		return judged{}, err
	}
	j, err := build(cert)
	if err == nil {
		m.put(k, vouchedBy(j))
	}
	return j, err
}
