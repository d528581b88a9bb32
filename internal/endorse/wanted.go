package endorse

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"slices"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// Wanted returns the documents that judging evidence takes, as far as the evidence says: whatever kind it is of, it is
// recognised by its bytes. Nothing is verified; what isn't recognised wants nothing. At most maxWanted keys are returned.
func Wanted(evidence ...rats.Evidence) []Key {
	var out []Key
	for _, e := range evidence {
		out = append(out, WantedBy(e.Body)...)
		if len(out) > maxWanted {
			break
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxWanted)]
}

const maxWanted = 32

// WantedBy is Wanted for the bytes of one piece of evidence.
func WantedBy(b []byte) []Key {
	const hcl, hclHead = "HCLA", 32 // Azure's paravisor: a report in an envelope
	if bytes.HasPrefix(b, []byte(hcl)) && len(b) > hclHead {
		b = b[hclHead:]
	}
	if keys := wantedByQuote(b); keys != nil {
		return keys
	}
	return wantedByReport(b)
}

// wantedByQuote reads a DCAP quote, and the certificate that it carries or names. Where it only names one, that is wanted
// first; what else is wanted, the certificate says (Further).
func wantedByQuote(b []byte) []Key {
	q, err := dcap.ParseQuote(b)
	if err != nil {
		return nil
	}
	name := "sgx"
	if q.Header.TEEType == abi.TEETDX {
		name = "tdx"
	}
	if id := q.PCKID(); id != nil {
		return []Key{pckKey(id), identityKey(name), keyRootCRL}
	}
	if cert := q.PCK(); cert != nil {
		return wantedByPCK(name, cert)
	}
	return nil
}

// wantedByPCK names the documents about the kind of platform that a PCK certificate is of.
func wantedByPCK(tee string, cert *x509.Certificate) []Key {
	p, err := dcap.ParsePCK(cert)
	if err != nil {
		return nil
	}
	ca := "platform"
	if cert.Issuer.CommonName == nameProcessor {
		ca = "processor"
	}
	return append(teeKeys(tee, p.FMSPC), listKeys(ca)...)
}

// Further returns what judging evidence takes besides the keys that it wanted: what the documents found under them name,
// in the cache's channel. A PCK certificate names the kind of platform; of which technology the evidence is, the identity
// wanted with it tells.
func (c *Cache) Further(keys []Key, found ...Document) []Key {
	var out []Key
	for _, d := range found {
		if k, _, _ := d.Key.parse(); k != kindPCK {
			continue
		}
		certs, err := readPEM(d.Body)
		if err != nil || len(certs) != 1 {
			continue
		}
		for _, tee := range []string{"sgx", "tdx"} {
			if slices.Contains(keys, identityKey(tee)) || slices.Contains(keys, early(identityKey(tee))) {
				out = append(out, wantedByPCK(tee, certs[0])...)
			}
		}
	}
	out = Channel(c.cfg.Update, out)
	slices.Sort(out)
	out = slices.DeleteFunc(slices.Compact(out), func(k Key) bool { return slices.Contains(keys, k) })
	return out[:min(len(out), maxWanted)]
}

// wantedByReport reads the fields of a SEV-SNP report that name its key (SEV-SNP ABI, table ATTESTATION_REPORT). A
// report of version 2 doesn't name its product: both that it can be of are wanted.
func wantedByReport(b []byte) []Key {
	if len(b) < 1184 {
		return nil
	}
	version, algorithm := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[0x34:])
	if version < 2 || version > 5 || algorithm != 1 {
		return nil
	}
	id, tcb, leased := [64]byte(b[0x1a0:]), [8]byte(b[0x180:]), b[0x48]>>2&7 == 1
	products := []string{"Milan", "Genoa"}
	if [56]byte(id[8:]) == [56]byte{} && id != [64]byte{} {
		products = []string{"Turin"}
	}
	if version >= 3 {
		switch family, model := b[0x188], b[0x189]; {
		case family == 0x19 && model <= 0x0f:
			products = []string{"Milan"}
		case family == 0x19:
			products = []string{"Genoa"}
		case family == 0x1a:
			products = []string{"Turin"}
		default:
			return nil
		}
	}
	var out []Key
	for _, product := range products {
		out = append(out, productKeys(product, leased)...)
		if !leased && id != [64]byte{} {
			out = append(out, chipKey(product, id, tcb))
		}
	}
	return out
}
