package endorse

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"slices"

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

// wantedByQuote reads the header of a DCAP quote, and the certificate that it carries (DCAP Quote Generation, appendix A).
func wantedByQuote(b []byte) []Key {
	if len(b) < 48+384 {
		return nil
	}
	version, keyType, tee := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
	if version < 3 || version > 5 || keyType != 2 {
		return nil
	}
	name := "sgx"
	if tee == 0x81 && version >= 4 {
		name = "tdx"
	} else if tee != 0 && version >= 4 {
		return nil
	}
	at := bytes.Index(b, []byte("-----BEGIN CERTIFICATE-----"))
	if at < 0 {
		return nil
	}
	block, _ := pem.Decode(b[at:])
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	fmspc, ok := fmspcOf(cert)
	if !ok {
		return nil
	}
	ca := "platform"
	if cert.Issuer.CommonName == "Intel SGX PCK Processor CA" {
		ca = "processor"
	}
	return append(teeKeys(name, fmspc), listKeys(ca)...)
}

var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// fmspcOf finds the FMSPC in the SGX extension of a PCK certificate.
func fmspcOf(cert *x509.Certificate) ([6]byte, bool) {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSGX) {
			continue
		}
		var items []struct {
			ID    asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		if rest, err := asn1.Unmarshal(e.Value, &items); err != nil || len(rest) > 0 {
			return [6]byte{}, false
		}
		for _, it := range items {
			if it.ID.Equal(append(oidSGX[:len(oidSGX):len(oidSGX)], 4)) && len(it.Value.Bytes) == 6 {
				return [6]byte(it.Value.Bytes), true
			}
		}
	}
	return [6]byte{}, false
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
