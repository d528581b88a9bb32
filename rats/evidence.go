package rats

import (
	"encoding/binary"
	"time"
)

// Evidence is what one format says, as verified = as stored = as bundled.
type Evidence struct {
	Format    Format `json:"format"`
	MediaType string `json:"media_type"`
	Body      []byte `json:"body"`            // the signed bytes; never re-encoded, never encrypted
	Parts     []Part `json:"parts,omitempty"` // logs, certificate tables, signatures that stand beside the body
}

// Part is a named companion of an evidence body.
type Part struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset,omitempty"` // > 0: continues what Inputs.Resume covers
	Data   []byte `json:"data"`
}

// Part returns the part called name. It is false if there is none, or more than one: which of two would be judged must
// not be the sender's choice.
func (e Evidence) Part(name string) (Part, bool) {
	var found Part
	n := 0
	for _, p := range e.Parts {
		if p.Name == name {
			found, n = p, n+1
		}
	}
	return found, n == 1
}

// Collection is all evidence of one attestation under one Binding.
type Collection struct {
	Binding  Binding    `json:"binding"`
	Evidence []Evidence `json:"evidence"`
}

// Digest returns the SHA-256 over a length-prefixed serialisation of the collection: equal digests mean equal binding,
// formats, bodies and parts in equal order.
func (c Collection) Digest() Digest {
	var b []byte
	b = appendField(b, []byte("assay/collection/1"))
	b = appendField(b, []byte(c.Binding.Profile))
	b = appendField(b, c.Binding.Manifest)
	b = appendField(b, c.Binding.UserData)
	for _, e := range c.Evidence {
		b = appendField(b, []byte(e.Format))
		b = appendField(b, []byte(e.MediaType))
		b = appendField(b, SHA256(e.Body).Sum)
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.Parts)))
		for _, p := range e.Parts {
			b = appendField(b, []byte(p.Name))
			b = binary.BigEndian.AppendUint64(b, uint64(p.Offset))
			b = appendField(b, SHA256(p.Data).Sum)
		}
	}
	return SHA256(b)
}

// Ask is what the Verifier wants of one format.
type Ask struct {
	Format  Format  `json:"format"`
	Binding Binding `json:"-"`
	Params  []byte  `json:"params,omitempty"` // the format's own JSON: PCRs, offset, spot-check seed
}

// Endorsement is a document that vouches for an Attester: a certificate, a CRL, TCB information, an enrolment record.
type Endorsement struct {
	MediaType string    `json:"media_type"`
	Body      []byte    `json:"body"`
	Fetched   time.Time `json:"fetched"`
}

// Facts is what one format vouches for to the formats after it. Formats speak to one another only through Facts.
type Facts struct {
	Registers []Registers `json:"registers,omitempty"`
	Keys      []BoundKey  `json:"keys,omitempty"`
	UserData  [][]byte    `json:"user_data,omitempty"`
	Boots     []Boot      `json:"boots,omitempty"`
	Enclaves  []Enclave   `json:"enclaves,omitempty"`
}

// Enclave is a running enclave that a format has authenticated, with the keys that it agreed to: they stand in its report.
// Which enclave it is, and whether that is acceptable, the format's own claims and rules say.
type Enclave struct {
	By   Format     `json:"by"`
	Keys []BoundKey `json:"keys"`
}

// Key returns the enclave's key for a use.
func (e Enclave) Key(use string) (BoundKey, bool) { return keyOf(e.Keys, use) }

// Registers are measurement registers a format has authenticated.
type Registers struct {
	By     Format         `json:"by"`
	Kind   string         `json:"kind"` // pcr, rtmr
	Alg    string         `json:"alg"`
	Values map[int][]byte `json:"values"`
}

// Boot identifies one boot of the platform: it changes with every reset, restart or change of the root of trust.
type Boot struct {
	By Format `json:"by"`
	ID Digest `json:"id"`
}

// Merge returns the facts of both, f's first.
func (f Facts) Merge(o Facts) Facts {
	return Facts{
		Registers: append(append([]Registers(nil), f.Registers...), o.Registers...),
		Keys:      append(append([]BoundKey(nil), f.Keys...), o.Keys...),
		UserData:  append(append([][]byte(nil), f.UserData...), o.UserData...),
		Boots:     append(append([]Boot(nil), f.Boots...), o.Boots...),
		Enclaves:  append(append([]Enclave(nil), f.Enclaves...), o.Enclaves...),
	}
}

// Key returns the vouched key for a use. It is false if there is none, or several that differ.
func (f Facts) Key(use string) (BoundKey, bool) { return keyOf(f.Keys, use) }

// Link is a checked statement that two formats speak of one platform (S01).
type Link struct {
	From Format `json:"from"`
	To   Format `json:"to"`
	Kind string `json:"kind"`
}

// The kinds of links. LinkNone is what two formats have that merely share a nonce.
const (
	LinkAKInReport   = "ak-in-report"
	LinkPCRHoldsKey  = "pcr-holds-key"
	LinkSealedSecret = "sealed-secret"
	LinkEnrolled     = "enrolled"
	LinkKeyInReport  = "key-in-report" // the key that signed one stands in the report of the other
	LinkNone         = "none"
)

// Marks that a verified piece of evidence can carry. A mark that policy doesn't name in its allow list refuses.
const (
	MarkSimulated   = "simulated"    // an enclave without isolation
	MarkSoftwareTPM = "software-tpm" // a TPM without hardware
	MarkDebug       = "debug"        // an enclave, TD or guest open to a debugger
	MarkTestKey     = "test-key"     // an enclave signed with the published test key
)
