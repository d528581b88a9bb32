package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
)

// Bounds of what is read beside a report.
const (
	maxTableEntries = 32
	maxCertificates = 64 // of each role, per verification
	maxCollateral   = 1 << 20
)

// CertEntry is an entry of the table of certificates that comes with an extended guest request.
type CertEntry struct {
	GUID string // as text, in the order of the bytes
	Data []byte
}

// The entries the GHCB specification (document 56421, MSG_EXT_GUEST_REQ) names.
const (
	GUIDVCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
	GUIDVLEK = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
	GUIDASK  = "4ab7b379-bbac-4fe4-a02f-05aef327c782"
	GUIDARK  = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
	GUIDCRL  = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"
)

const tableEntry = 24 // GUID, offset and length

// ParseCertTable reads a certificate table: entries of GUID (16 bytes), offset and length (32 bits each, little-endian,
// offset from the start of the table), ended by an entry of zeros, then the data. Entries nobody named are returned too.
func ParseCertTable(b []byte) ([]CertEntry, error) {
	refuse := func(at int, expected, seen string) ([]CertEntry, error) {
		return nil, CodeCertTable.Bad(fmt.Sprintf("%s[0x%x]", PartCerts, at), expected, seen)
	}
	var out []CertEntry
	for at := 0; ; at += tableEntry {
		if len(b)-at < tableEntry {
			return refuse(at, "an entry of zeros at the end", "the end of the data")
		}
		e := b[at : at+tableEntry]
		if bytes.Equal(e, make([]byte, tableEntry)) {
			return out, checkTable(b, out, at+tableEntry)
		}
		if len(out) == maxTableEntries {
			return refuse(at, fmt.Sprintf("at most %d entries", maxTableEntries), "more")
		}
		off, n := uint64(binary.LittleEndian.Uint32(e[16:])), uint64(binary.LittleEndian.Uint32(e[20:]))
		if off < uint64(at+tableEntry) || off+n > uint64(len(b)) {
			return refuse(at+16, fmt.Sprintf("data inside the %d bytes of the table", len(b)), fmt.Sprintf("%d bytes at offset %d", n, off))
		}
		out = append(out, CertEntry{GUID: guid(e[:16]), Data: b[off : off+n]})
	}
}

// checkTable refuses data that reaches into the table's own entries, and anything but zeros behind the last of it: hosts hand out
// whole pages.
func checkTable(b []byte, entries []CertEntry, end int) error {
	last := end
	for i, e := range entries {
		off := int64(binary.LittleEndian.Uint32(b[i*tableEntry+16:]))
		if off < int64(end) {
			return CodeCertTable.Bad(fmt.Sprintf("%s[0x%x]", PartCerts, i*tableEntry+16), fmt.Sprintf("an offset of at least %d", end), fmt.Sprint(off))
		}
		last = max(last, int(off)+len(e.Data))
	}
	for i, c := range b[last:] {
		if c != 0 {
			return CodeCertTable.Bad(fmt.Sprintf("%s[0x%x]", PartCerts, last+i), "zeros behind the table", fmt.Sprintf("%02x", c))
		}
	}
	return nil
}

func guid(b []byte) string {
	s := hex.EncodeToString(b)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// collateral is what was found among the endorsements and beside the report.
type collateral struct {
	leaves  []*vek
	issuers []*x509.Certificate
	roots   []*x509.Certificate // used only where the caller gives anchors
	crls    []*x509.RevocationList
	minima  []Minimum
	bad     error // of the first leaf that can't be read: told if no other is at hand
}

// addTable takes what a table holds by its content: the GUIDs are the sender's word.
func (c *collateral) addTable(b []byte) error {
	entries, err := ParseCertTable(b)
	if err != nil {
		return err
	}
	for _, e := range entries {
		c.addDER(e.Data)
	}
	return nil
}

// add takes a document by its content: PEM, DER, a table, Azure's JSON of certificates, minimum TCBs. What is none of these, or
// not AMD's, is passed over: collateral of other formats comes in the same list.
func (c *collateral) add(b []byte) {
	if len(b) > maxCollateral {
		return
	}
	switch text := bytes.TrimSpace(b); {
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		c.addPEM(text)
	case bytes.HasPrefix(text, []byte("{")):
		c.addJSON(text)
	case len(b) > 0 && b[0] == 0x30:
		c.addDER(b)
	default:
		_ = c.addTable(b) // not one of ours
	}
}

func (c *collateral) addPEM(b []byte) {
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			return
		}
		c.addDER(block.Bytes)
		b = rest
	}
}

// addJSON reads what Azure's host hands out (THIM: vcekCert, certificateChain) and minimum TCBs.
func (c *collateral) addJSON(b []byte) {
	var thim struct {
		VCEK  string `json:"vcekCert"`
		Chain string `json:"certificateChain"`
	}
	if json.Unmarshal(b, &thim) == nil && thim.VCEK+thim.Chain != "" {
		c.addPEM([]byte(thim.VCEK))
		c.addPEM([]byte(thim.Chain))
		return
	}
	if m, err := ParseMinimum(b); err == nil {
		c.minima = append(c.minima, m)
	}
}

func (c *collateral) addDER(der []byte) {
	if cert, err := x509.ParseCertificate(der); err == nil {
		c.addCert(cert)
		return
	}
	if crl, err := x509.ParseRevocationList(der); err == nil && len(c.crls) < maxCertificates {
		c.crls = append(c.crls, crl)
	}
}

func (c *collateral) addCert(cert *x509.Certificate) {
	cn := cert.Subject.CommonName
	switch {
	case cn == "SEV-VCEK" || cn == "SEV-VLEK":
		if len(c.leaves) == maxCertificates || slices.ContainsFunc(c.leaves, func(v *vek) bool { return v.cert.Equal(cert) }) {
			return
		}
		v, err := parseVEK(cert)
		if err != nil {
			c.bad = err
			return
		}
		c.leaves = append(c.leaves, v)
	case strings.HasPrefix(cn, "ARK-"):
		if len(c.roots) < maxCertificates && !slices.ContainsFunc(c.roots, cert.Equal) {
			c.roots = append(c.roots, cert)
		}
	case strings.HasPrefix(cn, "SEV-"):
		if len(c.issuers) < maxCertificates && !slices.ContainsFunc(c.issuers, cert.Equal) {
			c.issuers = append(c.issuers, cert)
		}
	}
}

// vek is a versioned endorsement key: of a chip (VCEK) or leased to a cloud (VLEK).
type vek struct {
	cert    *x509.Certificate
	key     *ecdsa.PublicKey
	signer  int
	product Product
	tcb     TCB
	hwid    []byte // of a VCEK: 64 bytes, on Turin 8
	csp     string // of a VLEK
}

// The extensions of AMD's certificates (document 57230, section 3): below 1.3.6.1.4.1.3704.1.
var oidAMD = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

// parseVEK reads the extensions of an endorsement key's certificate.
func parseVEK(cert *x509.Certificate) (*vek, error) {
	v := &vek{cert: cert, signer: SignerVCEK}
	if cert.Subject.CommonName == "SEV-VLEK" {
		v.signer = SignerVLEK
	}
	refuse := func(expected, seen string) (*vek, error) {
		return nil, CodeVEK.Bad("certificate", expected, seen)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return refuse("a key on P-384", cert.PublicKeyAlgorithm.String())
	}
	v.key = key
	exts := map[string][]byte{}
	for _, e := range cert.Extensions {
		if len(e.Id) > len(oidAMD) && e.Id[:len(oidAMD)].Equal(oidAMD) {
			exts[asn1.ObjectIdentifier(e.Id[len(oidAMD):]).String()] = e.Value
		}
	}
	name, err := text(exts["2"])
	if err != nil {
		return refuse("a product name (extension 2)", err.Error())
	}
	line, _, _ := strings.Cut(name, "-")
	if v.product, ok = map[string]Product{"Milan": Milan, "Genoa": Genoa, "Bergamo": Genoa, "Siena": Genoa, "Turin": Turin}[line]; !ok {
		return refuse("product Milan, Genoa or Turin", clip(name))
	}
	fields := map[string]*uint8{"3.1": &v.tcb.Bootloader, "3.2": &v.tcb.TEE, "3.3": &v.tcb.SNP, "3.8": &v.tcb.Microcode}
	if v.product == Turin {
		fields["3.9"] = &v.tcb.FMC
	}
	for id, to := range fields {
		if *to, err = spl(exts[id]); err != nil {
			return refuse("a version number (extension "+id+")", err.Error())
		}
	}
	if v.signer == SignerVLEK {
		if v.csp, err = text(exts["5"]); err != nil {
			return refuse("the name of a cloud (extension 5)", err.Error())
		}
		return v, nil
	}
	v.hwid = exts["4"]
	if n := len(v.hwid); n > 2 && v.hwid[0] == 4 && int(v.hwid[1]) == n-2 && n != 64 && n != 8 {
		v.hwid = v.hwid[2:] // newer certificates wrap it in an OCTET STRING
	}
	if n := len(v.hwid); n != 64 && (n != 8 || v.product != Turin) {
		return refuse("a chip id of 64 bytes, on Turin also 8 (extension 4)", fmt.Sprintf("%d bytes", n))
	}
	return v, nil
}

// text reads an IA5String or UTF8String.
func text(der []byte) (string, error) {
	var s string
	rest, err := asn1.Unmarshal(der, &s)
	switch {
	case len(der) == 0:
		return "", fmt.Errorf("nothing")
	case err != nil || len(rest) > 0:
		return "", fmt.Errorf("no text: %s", clipHex(der))
	}
	return s, nil
}

// spl reads a security patch level: a DER INTEGER from 0 to 255.
func spl(der []byte) (uint8, error) {
	var n int
	rest, err := asn1.Unmarshal(der, &n)
	switch {
	case len(der) == 0:
		return 0, fmt.Errorf("nothing")
	case err != nil || len(rest) > 0 || n < 0 || n > 255:
		return 0, fmt.Errorf("no number from 0 to 255: %s", clipHex(der))
	}
	return uint8(n), nil
}

// isChip says whether the certificate is of the chip that a report names.
func (v *vek) isChip(id [64]byte) bool {
	n := len(v.hwid)
	return bytes.Equal(v.hwid, id[:n]) && bytes.Equal(id[n:], make([]byte, 64-n))
}

// clip bounds foreign text in reasons.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func clipHex(b []byte) string {
	if len(b) > 64 {
		return hex.EncodeToString(b[:64]) + "…"
	}
	return hex.EncodeToString(b)
}
