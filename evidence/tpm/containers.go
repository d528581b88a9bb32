package tpm

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Bounds of a recording. Logs inside it are not read here.
const (
	maxRecording = 16 << 20
	maxQuotes    = 8
)

// banks are PCR values: bank → index → value.
type banks map[string]map[int][]byte

// bankLengths are the banks that recordings may hold.
var bankLengths = map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}

func (b banks) add(bank string, index int, value []byte) error {
	size, ok := bankLengths[bank]
	if !ok || index < 0 || index > lastPCR || len(value) != size {
		return fmt.Errorf("PCR %d of bank %.20q with a value of %d bytes", index, bank, len(value))
	}
	if b[bank] == nil {
		b[bank] = make(map[int][]byte)
	}
	if old, twice := b[bank][index]; twice && !bytes.Equal(old, value) {
		return fmt.Errorf("PCR %d of bank %s stands twice", index, bank)
	}
	b[bank][index] = value
	return nil
}

// recording is what a file with quotes holds, whatever wrote it.
type recording struct {
	kind   string // see the containers below
	key    []byte // of the signer, in any form that parseKey reads; nil: not in the file
	quotes []recordedQuote
	log    []byte // a boot event log
}

type recordedQuote struct {
	attest    []byte
	signature []byte // TPMT_SIGNATURE, or the bare bytes of an RSASSA signature with SHA-256; nil: not in the file
	values    banks
}

// The kinds of recordings.
const (
	kindAttest     = "tpms-attest"
	kindKey        = "tpm2b-public"
	kindTrustee    = "trustee-json"
	kindGoAttest   = "go-attestation-json"
	kindToolsProto = "go-tpm-tools-protobuf"
	kindAzure      = "azure-vtpm-bincode"
	kindKeylime    = "keylime-quote"
)

// parseRecording reads a TPMS_ATTEST as a TPM gave it, or one of the files that attestation projects keep quotes in.
func parseRecording(b []byte) (*recording, error) {
	if len(b) > maxRecording {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxRecording)
	}
	text := bytes.TrimSpace(b)
	switch {
	case isAttest(b):
		return &recording{kind: kindAttest, quotes: []recordedQuote{{attest: b}}}, nil
	case len(text) > 0 && text[0] == '{':
		return parseJSONRecording(text)
	case len(text) > 0 && text[0] == 'r' && bytes.IndexByte(text, ':') > 0:
		return parseKeylime(text)
	case len(b) > 8 && b[0] == 0x0a:
		return parseToolsProto(b)
	case len(b) > 8 && binary.LittleEndian.Uint64(b) <= maxSignature:
		return parseAzure(b)
	}
	if _, err := parseTPMKey(b); err == nil {
		return &recording{kind: kindKey, key: b}, nil
	}
	return &recording{kind: kindAttest, quotes: []recordedQuote{{attest: b}}}, nil
}

func isAttest(b []byte) bool {
	return len(b) > 6 && (binary.BigEndian.Uint32(b) == magic || binary.BigEndian.Uint16(b[4:]) == tagQuote)
}

// DetectRecorded says whether b looks like a TPM quote in one of the forms that NewRecorded verifies.
func DetectRecorded(b []byte) bool {
	if len(b) < 32 || len(b) > maxRecording {
		return false
	}
	if isAttest(b) {
		return true
	}
	r, err := parseRecording(b)
	return err == nil && r.kind != kindAttest
}

// parseJSONRecording reads the JSON of Trustee's TPM verifier and of go-attestation.
func parseJSONRecording(text []byte) (*recording, error) {
	var doc struct {
		Key   []byte `json:"ak_public"`
		Quote *struct {
			Message   []byte   `json:"message"`
			Signature []byte   `json:"signature"`
			PCRs      []string `json:"pcrs"`
		} `json:"tpm_quote"`
		AK *struct {
			Public []byte
		}
		Dump *struct {
			Quote, Signature []byte
		} `json:"Quote"`
		Log *struct {
			PCRs []struct {
				Index     int
				Digest    []byte
				DigestAlg int
			}
			Raw []byte
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("it is not the JSON of a quote: %w", err)
	}
	switch {
	case doc.Quote != nil:
		values := make(banks)
		for i, v := range doc.Quote.PCRs {
			raw, err := hex.DecodeString(v)
			if err != nil {
				return nil, fmt.Errorf("the value of PCR %d is not hex", i)
			}
			if err := values.add("sha256", i, raw); err != nil {
				return nil, err
			}
		}
		q := recordedQuote{attest: doc.Quote.Message, signature: doc.Quote.Signature, values: values}
		return &recording{kind: kindTrustee, key: doc.Key, quotes: []recordedQuote{q}}, nil
	case doc.Dump != nil && doc.AK != nil:
		q := recordedQuote{attest: doc.Dump.Quote, signature: doc.Dump.Signature, values: make(banks)}
		r := &recording{kind: kindGoAttest, key: doc.AK.Public}
		if doc.Log != nil {
			r.log = doc.Log.Raw
			// The numbers of package crypto.
			names := map[int]string{3: "sha1", 5: "sha256", 6: "sha384", 7: "sha512"}
			for _, p := range doc.Log.PCRs {
				if err := q.values.add(names[p.DigestAlg], p.Index, p.Digest); err != nil {
					return nil, err
				}
			}
		}
		r.quotes = []recordedQuote{q}
		return r, nil
	}
	return nil, errors.New("it is JSON without a quote")
}

// parseKeylime reads r<attest>:<signature>:<PCRs>, each in base64. The PCR values are not read: their form is that of
// a C structure.
func parseKeylime(text []byte) (*recording, error) {
	parts := bytes.Split(text[1:], []byte(":"))
	if len(parts) != 3 {
		return nil, fmt.Errorf("it has %d parts, expected quote, signature and PCRs", len(parts))
	}
	var raw [3][]byte
	at := 1
	for i, p := range parts {
		var err error
		if raw[i], err = base64.StdEncoding.DecodeString(string(p)); err != nil {
			return nil, fmt.Errorf("its part %d at byte %d is not base64", i+1, at)
		}
		at += len(p) + 1
	}
	if !isAttest(raw[0]) {
		return nil, errors.New("its first part is not a TPMS_ATTEST")
	}
	return &recording{kind: kindKeylime, quotes: []recordedQuote{{attest: raw[0], signature: raw[1]}}}, nil
}

// parseAzure reads what Azure's tools for confidential VMs write: lengths of eight little-endian bytes before signature
// and quote, a count before the PCR values of bank SHA-256.
func parseAzure(b []byte) (*recording, error) {
	rest := b
	length := func() (int, error) {
		if len(rest) < 8 {
			return 0, fmt.Errorf("%w at byte %d", errTruncated, len(b)-len(rest))
		}
		n := binary.LittleEndian.Uint64(rest)
		rest = rest[8:]
		if n > uint64(len(rest)) {
			return 0, fmt.Errorf("a length of %d before byte %d", n, len(b)-len(rest))
		}
		return int(n), nil
	}
	field := func() ([]byte, error) {
		n, err := length()
		if err != nil {
			return nil, err
		}
		f := rest[:n]
		rest = rest[n:]
		return f, nil
	}
	sig, err := field()
	if err != nil {
		return nil, err
	}
	attest, err := field()
	if err != nil {
		return nil, err
	}
	count, err := length()
	if err != nil {
		return nil, err
	}
	if !isAttest(attest) || count > lastPCR+1 || len(rest) != count*32 {
		return nil, fmt.Errorf("%d PCR values in %d bytes before byte %d", count, len(rest), len(b))
	}
	values := make(banks)
	for i := range count {
		if err := values.add("sha256", i, rest[i*32:(i+1)*32]); err != nil {
			return nil, err
		}
	}
	return &recording{kind: kindAzure, quotes: []recordedQuote{{attest: attest, signature: sig, values: values}}}, nil
}

// parseToolsProto reads go-tpm-tools' message Attestation: 1 the AK (TPMT_PUBLIC), 2 quotes, 3 the boot event log. A
// quote is 1 TPMS_ATTEST, 2 TPMT_SIGNATURE, 3 PCRs: 1 the bank, 2 a map of values.
func parseToolsProto(b []byte) (*recording, error) {
	r := &recording{kind: kindToolsProto}
	err := eachField(b, func(n int, v []byte, _ uint64) error {
		switch n {
		case 1:
			r.key = v
		case 2:
			if len(r.quotes) == maxQuotes {
				return fmt.Errorf("it has more than %d quotes", maxQuotes)
			}
			q, err := parseProtoQuote(v)
			r.quotes = append(r.quotes, q)
			return err
		case 3:
			r.log = v
		}
		return nil
	})
	if err == nil && len(r.quotes) == 0 {
		err = errors.New("it has no quote")
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func parseProtoQuote(b []byte) (recordedQuote, error) {
	q := recordedQuote{values: make(banks)}
	err := eachField(b, func(n int, v []byte, _ uint64) error {
		switch n {
		case 1:
			q.attest = v
		case 2:
			q.signature = v
		case 3:
			return parseProtoPCRs(v, q.values)
		}
		return nil
	})
	if err == nil && !isAttest(q.attest) {
		err = errors.New("it has a quote that is no TPMS_ATTEST")
	}
	return q, err
}

func parseProtoPCRs(b []byte, values banks) error {
	bank := ""
	return eachField(b, func(n int, v []byte, i uint64) error {
		switch n {
		case 1:
			bank = recordedBanks[uint16(min(i, 0xffff))]
		case 2:
			var index uint64
			var value []byte
			if err := eachField(v, func(n int, v []byte, i uint64) error {
				if n == 1 {
					index = i
				} else if n == 2 {
					value = v
				}
				return nil
			}); err != nil {
				return err
			}
			return values.add(bank, int(min(index, lastPCR+1)), value)
		}
		return nil
	})
}

// eachField visits the fields of a protobuf message: bytes and varints, fixed widths are passed over.
func eachField(b []byte, visit func(number int, bytes []byte, varint uint64) error) error {
	at := 0
	varint := func() (uint64, error) {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return 0, fmt.Errorf("a broken number at byte %d of a message", at)
		}
		at += n
		return v, nil
	}
	for at < len(b) {
		key, err := varint()
		if err != nil {
			return err
		}
		var v []byte
		var i uint64
		size := 0
		switch key & 7 {
		case 0:
			i, err = varint()
		case 1:
			size = 8
		case 5:
			size = 4
		case 2:
			var n uint64
			if n, err = varint(); err == nil && n <= uint64(len(b)-at) {
				size = int(n)
			} else if err == nil {
				err = fmt.Errorf("a field of %d bytes at byte %d of a message of %d", n, at, len(b))
			}
		default:
			err = fmt.Errorf("a field of unknown type at byte %d of a message", at)
		}
		if err != nil {
			return err
		}
		if size > len(b)-at {
			return fmt.Errorf("a field of %d bytes at byte %d of a message of %d", size, at, len(b))
		}
		if key&7 == 2 {
			v = b[at : at+size : at+size]
		}
		at += size
		if number := key >> 3; number > 0 && number < 1<<29 {
			if err := visit(int(number), v, i); err != nil {
				return err
			}
		} else {
			return fmt.Errorf("a field with the number %d", number)
		}
	}
	return nil
}

// EncodeBanks returns PCR values of several banks as the part "pcrs" of a recorded quote: compact JSON.
func EncodeBanks(values map[string]map[int][]byte) ([]byte, error) {
	m := make(map[string]map[string]string, len(values))
	for bank, v := range values {
		m[bank] = make(map[string]string, len(v))
		for i, value := range v {
			m[bank][strconv.Itoa(i)] = hex.EncodeToString(value)
		}
	}
	return json.Marshal(m)
}

func parseBanks(b []byte) (banks, error) {
	if len(b) > 4*maxPCRsPart {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(b), 4*maxPCRsPart)
	}
	var m map[string]map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, errors.New("it is not JSON of banks, indexes and values")
	}
	out := make(banks)
	for bank, values := range m {
		for index, value := range values {
			i, err := strconv.Atoi(index)
			if err != nil {
				return nil, fmt.Errorf("%.20q is not the index of a PCR", index)
			}
			raw, err := hex.DecodeString(value)
			if err != nil {
				return nil, fmt.Errorf("the value of PCR %d is not hex", i)
			}
			if i > lastPCR { // registers no PC client has
				continue
			}
			if err := out.add(bank, i, raw); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
