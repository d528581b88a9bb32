package tpm

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Bounds of what is handed over beside a certificate.
const (
	maxChainBytes = 24 << 10
	maxIssuers    = 512
)

// collateral is what endorsements hold for the chains of TPM keys, told apart by content.
type collateral struct {
	anchors  []*x509.Certificate // named by the operator
	operator bool                // whether he named any: then they replace the built-in ones
	others   []*x509.Certificate // may fill gaps, trusted by nobody
	lists    []*x509.RevocationList
}

func gather(endorsements []rats.Endorsement) *collateral {
	c := &collateral{}
	for _, e := range endorsements {
		switch {
		case e.MediaType == MediaTypeAnchor:
			c.operator = true
			if cert, err := readCertificate(e.Body); err == nil {
				c.anchors = append(c.anchors, cert)
			}
		case e.MediaType == EnrolmentMediaType:
		default:
			c.add(e.Body)
		}
	}
	return c
}

func (c *collateral) add(b []byte) {
	if list := readCRL(b); list != nil {
		if len(c.lists) < maxLists {
			c.lists = append(c.lists, list)
		}
		return
	}
	certs, err := readCertificates(b)
	if err != nil {
		return
	}
	for _, cert := range certs {
		if len(c.others) < maxIssuers && !slices.ContainsFunc(c.others, cert.Equal) {
			c.others = append(c.others, cert)
		}
	}
}

// trusted returns the anchors: the operator's, else those of all makers.
func (c *collateral) trusted() []*x509.Certificate {
	if c.operator {
		return c.anchors
	}
	return everyAnchor()
}

// readCertificates reads certificates: PEM, or DER one after another, as a TPM's NV index for certificate chains holds
// them. There is at least one.
func readCertificates(b []byte) ([]*x509.Certificate, error) {
	if len(b) > maxCRL {
		return nil, fmt.Errorf("they have %d bytes, at most %d", len(b), maxCRL)
	}
	var out []*x509.Certificate
	add := func(der []byte) error {
		cert, err := readCertificate(der)
		if err != nil {
			return err
		}
		if out = append(out, cert); len(out) > maxIssuers {
			return fmt.Errorf("more than %d certificates", maxIssuers)
		}
		return nil
	}
	if block, _ := pem.Decode(b); block != nil {
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			if err := add(block.Bytes); err != nil {
				return nil, err
			}
		}
	} else {
		for rest := b; len(rest) > 0 && len(bytes.Trim(rest, "\x00")) > 0 && len(bytes.Trim(rest, "\xff")) > 0; {
			var one asn1.RawValue
			after, err := asn1.Unmarshal(rest, &one)
			if err != nil {
				return nil, fmt.Errorf("no DER at byte %d", len(b)-len(rest))
			}
			if err := add(one.FullBytes); err != nil {
				return nil, err
			}
			rest = after
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}

// judged is a verified chain.
type judged struct {
	chain      []*x509.Certificate // from the key's certificate to the anchor
	hash       string              // of the weakest signature below the anchor
	revocation Revocation
	vendor     string // of the anchor, if it is a built-in one
	virtual    bool
}

// judgeChain builds a chain to one of the anchors and looks it up in the lists. The zero time asks for no dates.
func judgeChain(leaf *x509.Certificate, anchors, others []*x509.Certificate, lists []*x509.RevocationList, now time.Time) (judged, error) {
	chain, err := buildChain(leaf, anchors, others, now)
	if err != nil {
		return judged{}, err
	}
	j := judged{chain: chain, hash: weakestHash(chain)}
	if j.revocation, err = checkRevoked(chain, lists); err != nil {
		return judged{}, err
	}
	if root, ok := vendorOf(chain[len(chain)-1]); ok {
		j.vendor, j.virtual = root.Vendor, root.Virtual
	}
	return j, nil
}

// rawOf returns the DER of the certificates, at most as much as a record of enrolment may hold.
func rawOf(certs []*x509.Certificate) [][]byte {
	var out [][]byte
	n := 0
	for _, c := range certs {
		if n += len(c.Raw); n > maxChainBytes {
			break
		}
		out = append(out, c.Raw)
	}
	return out
}

// parsed is the reverse of rawOf. What can't be read is passed over: it can fill no gap.
func parsed(ders [][]byte) []*x509.Certificate {
	var out []*x509.Certificate
	for _, der := range ders[:min(len(ders), maxChain)] {
		if c, err := readCertificate(der); err == nil {
			out = append(out, c)
		}
	}
	return out
}
