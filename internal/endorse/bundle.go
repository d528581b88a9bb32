package endorse

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/assay-attest/assay/rats"
)

// BundleType is the payload type of a bundle's DSSE envelope.
const BundleType = "application/vnd.assay.collateral-bundle+json"

// What can be wrong with a bundle.
var (
	CodeBundle = rats.CodeInfo{Code: "endorse.bundle.malformed", Title: "this is not a bundle of collateral",
		Hint: "bundles are made by `assay collateral export`; the file may be damaged: copy it again"}
	CodeBundleSignature = rats.CodeInfo{Code: "endorse.bundle.signature", Title: "the signature of the bundle is not valid",
		Hint: "the bundle was altered after it was signed: get it again from whoever made it"}
	CodeBundleSigner = rats.CodeInfo{Code: "endorse.bundle.signer", Title: "the bundle is signed by nobody who is trusted to",
		Hint: "give the public key of whoever makes your bundles (--signer); an old bundle from somebody else can hide revocations"}
)

// Bounds of a bundle.
const (
	maxBundle     = 96 << 20
	maxDocuments  = 8192
	maxSignatures = 8
	bundleVersion = 1
)

// Bundle is collateral for use without network: documents with their revocation lists, as of one moment.
type Bundle struct {
	Created   time.Time
	Documents []Document // in ascending order of their keys, none twice
}

// payload is the signed JSON. Digests and times stand in it for people and other tools; they are recomputed on reading.
type payload struct {
	Version   int       `json:"version"`
	Created   time.Time `json:"created"`
	From      time.Time `json:"from"`  // all documents are valid from here
	Until     time.Time `json:"until"` // up to here
	Digests   []string  `json:"digests"`
	Documents []listed  `json:"documents"`
}

type listed struct {
	Document
	Digest rats.Digest `json:"digest"`
}

// envelope is DSSE, version 1.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"` // digest of the signer's SubjectPublicKeyInfo: a hint, not trusted
	Sig   string `json:"sig"`   // ECDSA P-256 over SHA-256, ASN.1
}

// preAuth is DSSE's pre-authentication encoding.
func preAuth(kind string, body []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(kind), kind, len(body)), body...)
}

// NewBundle gathers documents of a cache: those of the given keys, or all. It fails if one of them isn't at hand.
func (c *Cache) NewBundle(keys ...Key) (*Bundle, error) {
	b := &Bundle{Created: c.cfg.Now().UTC().Truncate(time.Second)}
	if len(keys) == 0 {
		b.Documents = c.Documents()
		return b, nil
	}
	keys = slices.Clone(keys)
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		d, ok := c.Find(k)
		if !ok {
			return nil, CodeService.Missing(string(k), "a document in the cache", "none; fetch it first")
		}
		b.Documents = append(b.Documents, d)
	}
	return b, nil
}

// Validity returns the time in which every document is valid; until before from means that there is none.
func (b *Bundle) Validity() (from, until time.Time) {
	for i, d := range b.Documents {
		if d.From.After(from) {
			from = d.From
		}
		if i == 0 || d.Until.Before(until) {
			until = d.Until
		}
	}
	return from, until
}

// Endorsements implements Source: all documents, whatever the evidence is. It needs no network and no clock, so that the
// same bundle at the same time gives the same verdict (R115).
func (b *Bundle) Endorsements(context.Context, []rats.Evidence) []rats.Endorsement {
	var out []rats.Endorsement
	for _, d := range b.Documents {
		out = append(out, d.Endorsements()...)
	}
	return out
}

// Seal signs the bundle with a P-256 key. Equal bundles have equal payloads. Randomness nil makes the signature
// deterministic too (RFC 6979), with keys in memory.
func (b *Bundle) Seal(rand io.Reader, signer crypto.Signer) ([]byte, error) {
	p := payload{Version: bundleVersion, Created: b.Created, Digests: []string{}, Documents: []listed{}}
	p.From, p.Until = b.Validity()
	for _, d := range b.Documents {
		p.Documents = append(p.Documents, listed{d, d.Digest()})
		p.Digests = append(p.Digests, d.Digest().String())
	}
	body, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encoding the bundle: %w", err)
	}
	id, err := KeyID(signer.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(preAuth(BundleType, body))
	sig, err := signer.Sign(rand, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing the bundle: %w", err)
	}
	return json.Marshal(envelope{
		BundleType, base64.StdEncoding.EncodeToString(body), []signature{{id.String(), base64.StdEncoding.EncodeToString(sig)}},
	})
}

// KeyID names a signer: the SHA-256 of its SubjectPublicKeyInfo. Only keys on P-256 are taken.
func KeyID(public crypto.PublicKey) (rats.Digest, error) {
	if key, ok := public.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return rats.Digest{}, CodeBundleSigner.Bad("key", "ECDSA on P-256", fmt.Sprintf("%T", public))
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return rats.Digest{}, fmt.Errorf("encoding the signer's key: %w", err)
	}
	return rats.SHA256(der), nil
}

// IsBundle says cheaply whether b could be a bundle.
func IsBundle(b []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) && bytes.Contains(b, []byte(BundleType))
}

// OpenBundle reads a bundle that one of the signers signed. Without signers every bundle is refused.
func OpenBundle(b []byte, signers ...crypto.PublicKey) (*Bundle, error) {
	body, sigs, err := openEnvelope(b)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(preAuth(BundleType, body))
	known := false
	for _, s := range signers {
		id, err := KeyID(s)
		if err != nil {
			return nil, err
		}
		for _, sig := range sigs {
			der, err := base64.StdEncoding.DecodeString(sig.Sig)
			if err == nil && ecdsa.VerifyASN1(s.(*ecdsa.PublicKey), sum[:], der) {
				return readPayload(body)
			}
			known = known || sig.KeyID == id.String()
		}
	}
	seen := make([]string, len(sigs))
	for i, s := range sigs {
		seen[i] = clip(s.KeyID)
	}
	if known {
		return nil, CodeBundleSignature.Bad("bundle", "the signature of "+fmt.Sprint(seen), "another")
	}
	return nil, CodeBundleSigner.Bad("bundle", fmt.Sprintf("a signature by one of %d trusted keys", len(signers)), fmt.Sprint(seen))
}

// ReadBundle reads a bundle whoever signed it: its documents are then worth what the vendors' signatures on them are worth,
// and may be older than others that exist.
func ReadBundle(b []byte) (*Bundle, error) {
	body, _, err := openEnvelope(b)
	if err != nil {
		return nil, err
	}
	return readPayload(body)
}

func openEnvelope(b []byte) ([]byte, []signature, error) {
	if len(b) > maxBundle {
		return nil, nil, CodeBundle.Bad("bundle", fmt.Sprintf("at most %d bytes", maxBundle), "more")
	}
	var e envelope
	if err := strict(b, &e); err != nil {
		return nil, nil, CodeBundle.Bad("bundle", "a DSSE envelope", clip(err.Error()))
	}
	if e.PayloadType != BundleType {
		return nil, nil, CodeBundle.Bad("bundle payloadType", BundleType, clip(e.PayloadType))
	}
	if n := len(e.Signatures); n == 0 || n > maxSignatures {
		return nil, nil, CodeBundle.Bad("bundle signatures", fmt.Sprintf("1 to %d", maxSignatures), fmt.Sprint(n))
	}
	body, err := base64.StdEncoding.Strict().DecodeString(e.Payload)
	if err != nil {
		return nil, nil, CodeBundle.Bad("bundle payload", "base64", clip(err.Error()))
	}
	return body, e.Signatures, nil
}

// strict decodes JSON without unknown fields and without anything after it.
func strict(b []byte, out any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(out); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(b[dec.InputOffset():]); len(rest) > 0 {
		return fmt.Errorf("%d bytes after the JSON", len(rest))
	}
	return nil
}

// readPayload reads the signed JSON and checks every document as if it were just fetched.
func readPayload(body []byte) (*Bundle, error) {
	var p payload
	if err := strict(body, &p); err != nil {
		return nil, CodeBundle.Bad("bundle payload", "JSON of a bundle", clip(err.Error()))
	}
	if p.Version != bundleVersion {
		return nil, CodeBundle.Bad("bundle version", fmt.Sprint(bundleVersion), fmt.Sprint(p.Version))
	}
	if len(p.Documents) > maxDocuments || len(p.Digests) != len(p.Documents) {
		return nil, CodeBundle.Bad("bundle documents", fmt.Sprintf("at most %d, each with its digest", maxDocuments), fmt.Sprintf("%d, %d digests", len(p.Documents), len(p.Digests)))
	}
	b := &Bundle{Created: p.Created.UTC()}
	for i, l := range p.Documents {
		d, err := newDocument(l.Key, l.Body, l.Chain, l.Fetched, nil)
		if err != nil {
			return nil, err
		}
		if !d.Digest().Equal(l.Digest) || p.Digests[i] != l.Digest.String() {
			return nil, CodeBundle.Bad("bundle "+string(d.Key), "digest "+d.Digest().String(), l.Digest.String())
		}
		if !d.From.Equal(l.From) || !d.Until.Equal(l.Until) {
			return nil, CodeBundle.Bad("bundle "+string(d.Key), "valid from "+stamp(d.From)+" until "+stamp(d.Until), "from "+stamp(l.From)+" until "+stamp(l.Until))
		}
		if i > 0 && cmp.Compare(b.Documents[i-1].Key, d.Key) >= 0 {
			return nil, CodeBundle.Bad("bundle "+string(d.Key), "keys in ascending order, none twice", "after "+string(b.Documents[i-1].Key))
		}
		b.Documents = append(b.Documents, d)
	}
	return b, nil
}

// Import puts a bundle's documents into the cache. Documents at hand that were issued later stay; their number is returned.
func (c *Cache) Import(b *Bundle) (taken, kept int, err error) {
	for _, d := range b.Documents {
		if d, err = newDocument(d.Key, d.Body, d.Chain, d.Fetched, c.cfg.Roots); err != nil {
			return taken, kept, err
		}
		if have, ok := c.Find(d.Key); ok && (have.From.After(d.From) || have.From.Equal(d.From) && have.Fetched.After(d.Fetched)) {
			kept++
			continue
		}
		if err := c.save(d); err != nil {
			return taken, kept, err
		}
		c.mu.Lock()
		c.put(d)
		delete(c.failed, d.Key)
		c.mu.Unlock()
		taken++
	}
	return taken, kept, nil
}

// Contents returns what a file given as collateral holds, as endorsements: a bundle (whoever signed it), a file of a cache's
// directory, or the file itself, which verifiers recognise by its content.
func Contents(b []byte, fetched time.Time) ([]rats.Endorsement, error) {
	if IsBundle(b) {
		bundle, err := ReadBundle(b)
		if err != nil {
			return nil, err
		}
		return bundle.Endorsements(context.Background(), nil), nil
	}
	if d, err := readFile(b, nil); err == nil {
		return d.Endorsements(), nil
	}
	return []rats.Endorsement{{MediaType: "application/octet-stream", Body: b, Fetched: fetched}}, nil
}
