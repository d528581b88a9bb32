package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Packed records begin with this byte, which no JSON does.
const recordPacked = 1

// EncodeRecord returns a record as databases keep it: a byte 1, the length of its JSON (32 bits, big endian), the JSON
// without Pack, and the bytes of Pack, which base64 would make a third longer.
func EncodeRecord(r Record) ([]byte, error) {
	pack := r.Pack
	r.Pack = nil
	head, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, 5+len(head)+len(pack)), recordPacked)
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)))
	return append(append(b, head...), pack...), nil
}

// DecodeRecord reads what EncodeRecord wrote, and the JSON that earlier releases kept. Pack lies within b.
func DecodeRecord(b []byte) (Record, error) {
	var r Record
	if len(b) == 0 || b[0] != recordPacked {
		return r, json.Unmarshal(b, &r)
	}
	if len(b) < 5 || int64(binary.BigEndian.Uint32(b[1:])) > int64(len(b)-5) {
		return r, errors.New("it is truncated")
	}
	n := 5 + int(binary.BigEndian.Uint32(b[1:]))
	if err := json.Unmarshal(b[5:n], &r); err != nil {
		return Record{}, err
	}
	if n < len(b) {
		r.Pack = b[n:len(b):len(b)]
	}
	return r, nil
}

// maxNodeDocs bounds the documents that NodeDocs remembers, in bytes.
const maxNodeDocs = 32 << 20

// NodeDocs reads and writes nodes' documents (JSON), and remembers the newest of each id with what it says: a node is read
// three times for each result and changes once. It is right whoever writes the database, because a document is looked up by
// all of its bytes. Its zero value is ready; it is safe for concurrent use.
type NodeDocs struct {
	mu   sync.Mutex
	size int
	byID map[string]nodeDoc
}

type nodeDoc struct {
	doc  []byte
	node Node
}

// Encode returns a node's document.
func (c *NodeDocs) Encode(n Node) ([]byte, error) {
	n = asRead(n)
	doc, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	c.remember(doc, n)
	return doc, nil
}

// Decode reads the document of the node with this id.
func (c *NodeDocs) Decode(id string, doc []byte) (Node, error) {
	c.mu.Lock()
	known := c.byID[id]
	c.mu.Unlock()
	if known.doc != nil && bytes.Equal(known.doc, doc) {
		return known.node.clone(), nil
	}
	var n Node
	if err := json.Unmarshal(doc, &n); err != nil {
		return Node{}, err
	}
	if n.ID == id {
		c.remember(bytes.Clone(doc), n.clone())
	}
	return n, nil
}

func (c *NodeDocs) remember(doc []byte, n Node) {
	if len(doc) > maxNodeDocs/64 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID == nil {
		c.byID = map[string]nodeDoc{}
	}
	c.size += len(doc) - len(c.byID[n.ID].doc)
	c.byID[n.ID] = nodeDoc{doc: doc, node: n}
	for id, d := range c.byID {
		if c.size <= maxNodeDocs {
			return
		}
		c.size -= len(d.doc)
		delete(c.byID, id)
	}
}

// Size is how many bytes of documents are remembered.
func (c *NodeDocs) Size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// clone copies what a caller may change in place. Bodies and byte strings are never changed.
func (n Node) clone() Node {
	n.Labels, n.Resume, n.ResumeBlob = maps.Clone(n.Labels), maps.Clone(n.Resume), maps.Clone(n.ResumeBlob)
	n.Endorsements, n.Marks = slices.Clone(n.Endorsements), slices.Clone(n.Marks)
	return n
}

// asRead returns a node as it will be read again from its document.
func asRead(n Node) Node {
	n = n.clone()
	for _, t := range []*time.Time{&n.CreatedAt, &n.BootSeen, &n.LastAt, &n.Expires, &n.Since} {
		*t = t.Round(0).UTC()
	}
	for i := range n.Endorsements {
		n.Endorsements[i].Fetched = n.Endorsements[i].Fetched.Round(0).UTC()
	}
	if len(n.Labels) == 0 {
		n.Labels = nil
	}
	if len(n.Resume) == 0 {
		n.Resume = nil
	}
	if len(n.ResumeBlob) == 0 {
		n.ResumeBlob = nil
	}
	if len(n.Endorsements) == 0 {
		n.Endorsements = nil
	}
	if len(n.Marks) == 0 {
		n.Marks = nil
	}
	return n
}

// BlobTimes remembers which blobs are in the database and when they were last put, so that what comes with every
// attestation isn't sent to the database every time. Its zero value is ready; it is safe for concurrent use.
type BlobTimes struct {
	mu sync.Mutex
	at map[blobKey]time.Time
}

type blobKey struct {
	namespace string
	sum       [32]byte
}

// maxBlobTimes bounds what BlobTimes remembers, blobFresh for how long: far below BlobTouch, on which purging counts.
const (
	maxBlobTimes = 100_000
	blobFresh    = time.Hour
)

// Fresh says whether putting the blob would change nothing: it was put a short while ago.
func (c *BlobTimes) Fresh(namespace string, d rats.Digest, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.at[blobKey{namespace, [32]byte(d.Sum)}]
	return ok && now.Sub(at) < blobFresh && !now.Before(at)
}

// Committed notes blobs of a transaction that is durable now, put at a time.
func (c *BlobTimes) Committed(namespace string, at time.Time, sums [][32]byte) {
	if len(sums) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil || len(c.at)+len(sums) > maxBlobTimes {
		c.at = map[blobKey]time.Time{}
	}
	for _, s := range sums {
		c.at[blobKey{namespace, s}] = at
	}
}

// Forget makes every blob be sent again: blobs were deleted.
func (c *BlobTimes) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = nil
}
