package dcap

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// MediaType is the media type under which collateral is handed over as an endorsement. It is recognised by content, so
// other media types serve as well.
const MediaType = "application/vnd.assay.dcap-collateral"

// Signed is a document with its signature: Raw are the signed bytes exactly as received.
type Signed[T any] struct {
	Raw       []byte
	Signature []byte // ECDSA r ‖ s, 64 bytes
	Value     T
}

// Collateral is what Intel says about platforms, quoting enclaves and certificates. Nothing in it is verified yet.
type Collateral struct {
	Certs      []*x509.Certificate
	CRLs       []*x509.RevocationList
	TCBInfos   []Signed[TCBInfo]
	Identities []Signed[Identity]
	Numbers    []Signed[EvaluationNumbers]
}

// Bounds of collateral.
const (
	maxCollateral = 4 << 20
	maxDocuments  = 128
	maxNesting    = 6
	minNested     = 64 // shorter strings inside a container can't be collateral
)

func (c *Collateral) size() int {
	return len(c.Certs) + len(c.CRLs) + len(c.TCBInfos) + len(c.Identities) + len(c.Numbers)
}

func (c *Collateral) add(o *Collateral) {
	c.Certs = append(c.Certs, o.Certs...)
	c.CRLs = append(c.CRLs, o.CRLs...)
	c.TCBInfos = append(c.TCBInfos, o.TCBInfos...)
	c.Identities = append(c.Identities, o.Identities...)
	c.Numbers = append(c.Numbers, o.Numbers...)
}

// errForeign marks bytes that are no collateral at all.
var errForeign = errors.New("no collateral")

// ParseCollateral reads one file of collateral, recognised by its content: certificates and revocation lists (PEM,
// URL-encoded PEM, DER, hex or base64 of DER), answers of Intel's PCS and of a PCCS, the JSON and the SCALE of dcap-qvl and the JSON
// of other tools that wrap these, endorsements of Open Enclave and the memory image of Intel's collateral structure. What is in
// a container besides is passed over; a container without any collateral is refused.
func ParseCollateral(b []byte) (*Collateral, error) {
	c := &Collateral{}
	err := CodeCollateralUnknown.Bad("collateral", "at most 4 MiB", "more")
	if len(b) <= maxCollateral {
		err = c.read(b, 0)
	}
	if errors.Is(err, errForeign) || err == nil && c.size() == 0 {
		return nil, CodeCollateralUnknown.Bad("collateral at byte 0", "TCB info, an identity, certificates or revocation lists", "other bytes")
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// read recognises b. It returns errForeign if it can't, and other errors for what is recognised but broken.
func (c *Collateral) read(b []byte, depth int) error {
	if depth > maxNesting || c.size() > maxDocuments {
		return CodeCollateralMalformed.Bad("collateral", "fewer documents, nested less deeply", "too many")
	}
	t := bytes.Trim(b, "\x00 \t\r\n")
	switch {
	case len(t) == 0:
		return errForeign
	case t[0] == '{' || t[0] == '[':
		return c.readJSON(t, depth)
	case bytes.HasPrefix(t, []byte("-----BEGIN%20")), bytes.HasPrefix(t, []byte("-----BEGIN+")):
		plain, err := url.PathUnescape(string(t))
		if err != nil {
			return CodeCollateralMalformed.Bad("certificates", "URL-encoded PEM", "a broken escape")
		}
		return c.readPEM([]byte(plain))
	case b[0] == 0x30:
		return c.readDER(b)
	}
	if parts := endorsementParts(b); parts != nil {
		return c.readAll(parts, depth)
	}
	if parts := scaleParts(b); parts != nil {
		return c.readScale(parts, depth)
	}
	if bytes.Contains(t[:min(len(t), 4096)], []byte("-----BEGIN ")) {
		return c.readPEM(t)
	}
	if plain := decodeText(t); len(plain) > 0 && plain[0] == 0x30 {
		return c.readDER(plain) // nothing else is written as hex or base64; a signature could look like anything
	}
	return errForeign
}

// readAll reads parts of a container and passes over those that are no collateral.
func (c *Collateral) readAll(parts [][]byte, depth int) error {
	for _, p := range parts {
		if err := c.read(p, depth+1); err != nil && !errors.Is(err, errForeign) {
			return err
		}
	}
	return nil
}

// decodeText decodes hex or base64 of something long enough, nil if t is neither.
func decodeText(t []byte) []byte {
	if len(t) < minNested || bytes.IndexFunc(t, func(r rune) bool { return r > 'z' }) >= 0 {
		return nil
	}
	s := strings.NewReplacer("\n", "", "\r", "").Replace(string(t))
	if b, err := hex.DecodeString(s); err == nil {
		return b
	}
	if b, err := base64.StdEncoding.DecodeString(s); err == nil {
		return b
	}
	return nil
}

func (c *Collateral) readPEM(b []byte) error {
	found := false
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE", "X509 CRL":
			if err := c.readDER(block.Bytes); err != nil {
				return CodeCollateralMalformed.Bad("PEM block "+block.Type, "a certificate or revocation list", "other bytes")
			}
			found = true
		}
		b = rest
	}
	if !found {
		return CodeCollateralMalformed.Bad("certificates", "PEM blocks of type CERTIFICATE or X509 CRL", "none")
	}
	return nil
}

// readDER reads a certificate, a revocation list, or certificates one after another; zero bytes may follow.
func (c *Collateral) readDER(b []byte) error {
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(b, &outer); err == nil && len(bytes.Trim(rest, "\x00")) == 0 {
		b = outer.FullBytes
	}
	if cert, err := x509.ParseCertificate(b); err == nil {
		c.Certs = append(c.Certs, cert)
		return nil
	}
	if crl, err := x509.ParseRevocationList(b); err == nil {
		if slices.ContainsFunc(crl.Extensions, func(e pkix.Extension) bool { return e.Critical }) {
			// Delta lists and lists of partial scope are marked critical (RFC 5280, 5.2).
			return CodeCollateralMalformed.Bad("revocation list", "a complete list", "a critical extension")
		}
		c.CRLs = append(c.CRLs, crl)
		return nil
	}
	if certs, err := x509.ParseCertificates(b); err == nil && len(certs) <= maxDocuments {
		c.Certs = append(c.Certs, certs...)
		return nil
	}
	return errForeign
}

// endorsementParts splits the two binary containers: Open Enclave's endorsements and the memory image of Intel's
// sgx_ql_qve_collateral_t. It returns nil for other bytes.
func endorsementParts(b []byte) [][]byte {
	if len(b) < 20 {
		return nil
	}
	le := binary.LittleEndian
	if size, n := le.Uint32(b[8:]), le.Uint32(b[12:]); le.Uint32(b) == 1 && uint64(size) == uint64(len(b)-16) && n > 0 && n <= 32 && int(n)*4 <= len(b)-16 {
		data := b[16+4*n:]
		return slice(data, int(n), func(i int) uint64 { return uint64(le.Uint32(b[16+4*i:])) })
	}
	const head, pairs = 120, 7 // version and TEE type, then pointer and size of each part
	if v := le.Uint32(b); len(b) > head && (v == 1 || v == 3 || v == 4 || v == 0x10003) {
		ends := make([]uint64, pairs)
		at := uint64(0)
		for i := range pairs {
			ends[i] = at
			at += uint64(le.Uint32(b[16+16*i:]))
		}
		if at == uint64(len(b)-head) {
			return slice(b[head:], pairs, func(i int) uint64 { return ends[i] })
		}
	}
	return nil
}

// slice cuts data at ascending offsets; nil if they aren't.
func slice(data []byte, n int, offset func(int) uint64) [][]byte {
	parts := make([][]byte, 0, n)
	for i := range n {
		from, to := offset(i), uint64(len(data))
		if i+1 < n {
			to = offset(i + 1)
		}
		if from > to || to > uint64(len(data)) {
			return nil
		}
		parts = append(parts, data[from:to])
	}
	return parts
}

// documents are the names under which JSON carries signed documents: the document's, then the signature's.
var documents = []struct{ body, signature, kind string }{
	{"tcbInfo", "signature", "tcb"},
	{"enclaveIdentity", "signature", "identity"},
	{"qeIdentity", "signature", "identity-v1"},
	{"tcbEvaluationDataNumbers", "signature", "numbers"},
	{"tcb_info", "tcb_info_signature", "tcb"},
	{"qe_identity", "qe_identity_signature", "identity"},
	{"raw_tcb_info", "signature", "tcb"},
	{"raw_enclave_identity", "signature", "identity"},
	{"raw_tcb_evaluation_data_numbers", "signature", "numbers"},
}

func (c *Collateral) readJSON(b []byte, depth int) error {
	if depth > maxNesting {
		return CodeCollateralMalformed.Bad("collateral", "objects nested less deeply", "too deep")
	}
	if b[0] == '[' {
		var list []json.RawMessage
		if json.Unmarshal(b, &list) != nil {
			return CodeCollateralMalformed.Bad("collateral", "a JSON list", "broken JSON")
		}
		return c.readNested(slices.Values(list), depth)
	}
	fields, err := splitObject(b)
	if err != nil {
		return CodeCollateralMalformed.Bad("collateral", "a JSON object", err.Error())
	}
	for _, d := range documents {
		body, ok := fields[d.body]
		signature, has := fields[d.signature]
		if !ok || d.signature != "signature" && !has {
			continue
		}
		if err := c.readDocument(d.kind, d.body, body, signature); err != nil {
			return err
		}
		delete(fields, d.body)
		delete(fields, d.signature)
	}
	return c.readNested(sortedValues(fields), depth)
}

// readNested reads the values of a container: texts, lists and objects that may be collateral.
func (c *Collateral) readNested(values func(func(json.RawMessage) bool), depth int) error {
	for v := range values {
		var text string
		if len(v) > 0 && v[0] == '"' {
			if len(v) < minNested || json.Unmarshal(v, &text) != nil {
				continue
			}
			v = []byte(text)
		} else if len(v) == 0 || v[0] != '{' && v[0] != '[' {
			continue
		}
		if err := c.read(v, depth+1); err != nil && !errors.Is(err, errForeign) {
			return err
		}
	}
	return nil
}

func sortedValues(fields map[string]json.RawMessage) func(func(json.RawMessage) bool) {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return func(yield func(json.RawMessage) bool) {
		for _, name := range names {
			if !yield(fields[name]) {
				return
			}
		}
	}
}

// readDocument reads a signed document, whose body is a JSON object or the text of one.
func (c *Collateral) readDocument(kind, name string, body, signature json.RawMessage) error {
	raw := []byte(body)
	if len(raw) > 0 && raw[0] == '"' {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return CodeCollateralMalformed.Bad(name, "the text of a JSON object", "broken text")
		}
		raw = []byte(text)
	}
	sig, err := parseSignature(signature)
	if err != nil {
		return err
	}
	switch kind {
	case "tcb":
		v, err := parseTCBInfo(raw)
		c.TCBInfos = append(c.TCBInfos, Signed[TCBInfo]{raw, sig, v})
		return err
	case "numbers":
		v, err := parseEvaluationNumbers(raw)
		c.Numbers = append(c.Numbers, Signed[EvaluationNumbers]{raw, sig, v})
		return err
	}
	v, err := parseIdentity(raw, kind == "identity-v1")
	c.Identities = append(c.Identities, Signed[Identity]{raw, sig, v})
	return err
}

// parseSignature reads 128 hex digits (r ‖ s), or a list of the bytes of an ASN.1 signature.
func parseSignature(raw json.RawMessage) ([]byte, error) {
	bad := CodeCollateralMalformed.Bad("signature", "128 hex digits", clip(string(raw)))
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if b, err := hex.DecodeString(text); err == nil && len(b) == quoteSignatureLen {
			return b, nil
		}
		return nil, bad
	}
	var list []uint8Number
	var rs struct{ R, S *big.Int }
	if json.Unmarshal(raw, &list) != nil || len(list) > 80 {
		return nil, bad
	}
	if len(list) == 0 {
		return nil, nil // unsigned: it can be read, but nothing will trust it
	}
	der := make([]byte, len(list))
	for i, n := range list {
		der[i] = byte(n)
	}
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 || rs.R.Sign() < 0 || rs.S.Sign() < 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
		return nil, bad
	}
	out := make([]byte, quoteSignatureLen)
	rs.R.FillBytes(out[:32])
	rs.S.FillBytes(out[32:])
	return out, nil
}

// uint8Number is a byte that JSON writes as a number: a []byte would be base64.
type uint8Number uint8

// collateralOf gathers the collateral among endorsements, and notes what is broken. Other formats' endorsements are
// passed over.
func (v *Verifier) collateralOf(es []rats.Endorsement) (*Collateral, []Problem) {
	all := &Collateral{}
	var problems []Problem
	for _, e := range es {
		if e.MediaType != "" && e.MediaType != MediaType && strings.HasPrefix(e.MediaType, "application/vnd.assay.") {
			continue
		}
		k := keyOf([]byte("collateral"), e.Body)
		if c, ok := v.parsed.get(k); ok {
			all.add(c.(*Collateral))
			continue
		}
		c, err := ParseCollateral(e.Body)
		if err != nil {
			if r, ok := rats.ReasonOf(err); ok && r.Code != CodeCollateralUnknown.Code {
				problems = append(problems, Problem{r.Code, r.Path, r.Expected, r.Seen})
			}
			continue
		}
		if len(e.Body) <= maxParsedSize {
			v.parsed.put(k, c)
		}
		all.add(c)
	}
	return all, problems
}
