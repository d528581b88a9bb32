package tpm

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Values of TPMS_ATTEST (TPM 2.0 part 2, sections 6.9 and 10.12).
const (
	magic       = 0xff544347 // TPM_GENERATED_VALUE: the TPM composed these bytes itself
	tagCertify  = 0x8017
	tagQuote    = 0x8018
	maxPCRBytes = 4 // of a selection's bitmap
)

// attest is a TPMS_ATTEST of a quote or a certification.
type attest struct {
	magic        uint32
	tag          uint16
	extra        []byte
	clock        uint64
	resetCount   uint32
	restartCount uint32
	safe         bool
	firmware     uint64
	// of a quote
	selections []selection
	pcrDigest  []byte
	// of a certification
	name []byte
}

// selection is a TPMS_PCR_SELECTION.
type selection struct {
	hash uint16
	pcrs []int
}

// empty says whether a quote selects nothing, whatever banks it names.
func (a *attest) empty() bool {
	return !slices.ContainsFunc(a.selections, func(s selection) bool { return len(s.pcrs) > 0 })
}

// errOther says that the structure is another attestation than the two read here. Magic and tag are filled in.
var errOther = errors.New("it is neither a quote nor a certification")

// parseAttest reads a TPMS_ATTEST. If the magic or the tag is wrong it stops there, since what follows is of unknown
// shape, and returns errOther with what it read.
func parseAttest(b []byte) (*attest, error) {
	if len(b) > maxAttest {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxAttest)
	}
	c := newCursor(b)
	a := &attest{magic: c.uint32(), tag: c.uint16()}
	if c.err != nil {
		return nil, c.err
	}
	if a.magic != magic || a.tag != tagQuote && a.tag != tagCertify {
		return a, errOther
	}
	c.sized() // qualified name of the signer
	a.extra = c.sized()
	a.clock, a.resetCount, a.restartCount = c.uint64(), c.uint32(), c.uint32()
	switch safe := c.uint8(); safe {
	case 0, 1:
		a.safe = safe == 1
	default:
		c.fail("its flag safe is %d, expected 0 or 1", safe)
	}
	a.firmware = c.uint64()
	if a.tag == tagQuote {
		a.selections = readSelections(c)
		a.pcrDigest = c.sized()
	} else {
		a.name = c.sized()
		c.sized() // qualified name of the key
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	return a, nil
}

func readSelections(c *cursor) []selection {
	n := c.uint32()
	if n > uint32(len(bankSizes))+2 {
		c.fail("it selects from %d PCR banks", n)
		return nil
	}
	var out []selection
	for range n {
		s := selection{hash: c.uint16()}
		size := int(c.uint8())
		if size > maxPCRBytes {
			c.fail("it has a PCR selection of %d bytes, at most %d", size, maxPCRBytes)
		}
		for i, bits := range c.take(size) {
			for bit := range 8 {
				if bits&(1<<bit) != 0 {
					s.pcrs = append(s.pcrs, 8*i+bit)
				}
			}
		}
		out = append(out, s)
	}
	return out
}

// maxPCRsPart bounds the PCR values: 24 of 64 bytes in hex, with their indexes.
const maxPCRsPart = 8 << 10

// EncodePCRs returns the canonical form of the part "pcrs": compact JSON, {"sha256":{"0":"hex",…}}, keys in the order
// of their bytes.
func EncodePCRs(bank string, values map[int][]byte) ([]byte, error) {
	m := make(map[string]string, len(values))
	for i, v := range values {
		m[strconv.Itoa(i)] = hex.EncodeToString(v)
	}
	return json.Marshal(map[string]map[string]string{bank: m})
}

// parsePCRs reads what EncodePCRs makes, and nothing else: one bank, indexes 0 to 23, values of the bank's size. Since
// only one encoding of a set of values is accepted, no name can stand twice.
func parsePCRs(b []byte) (bank string, values map[int][]byte, err error) {
	if len(b) > maxPCRsPart {
		return "", nil, fmt.Errorf("it has %d bytes, at most %d", len(b), maxPCRsPart)
	}
	var banks map[string]map[string]string
	if err := json.Unmarshal(b, &banks); err != nil {
		return "", nil, errors.New("it is not JSON of banks, indexes and values")
	}
	if len(banks) != 1 {
		return "", nil, fmt.Errorf("it has %d banks, expected 1", len(banks))
	}
	var given map[string]string
	for bank, given = range banks {
	}
	size, ok := bankSizes[bank]
	if !ok {
		return "", nil, fmt.Errorf("its bank is %.20q, expected sha256, sha384 or sha512", bank)
	}
	values = make(map[int][]byte, len(given))
	for index, value := range given {
		i, err := strconv.Atoi(index)
		if err != nil || i < 0 || i > lastPCR {
			return "", nil, fmt.Errorf("%.20q is not the index of a PCR", index)
		}
		if values[i], err = hex.DecodeString(value); err != nil || len(values[i]) != size {
			return "", nil, fmt.Errorf("the value of PCR %d is not %d bytes of hex", i, size)
		}
	}
	if canonical, err := EncodePCRs(bank, values); err != nil || string(canonical) != string(b) {
		return "", nil, errors.New("it is not in its canonical form")
	}
	return bank, values, nil
}

// pcrDigest is what a quote signs instead of the values: their hash, in ascending order of the index (part 3, section
// 18.4), by the hash algorithm of the signature.
func pcrDigest(hash uint16, values map[int][]byte) []byte {
	h := hashes[hash].New()
	for _, i := range indexes(values) {
		h.Write(values[i])
	}
	return h.Sum(nil)
}

func indexes(values map[int][]byte) []int {
	out := make([]int, 0, len(values))
	for i := range values {
		out = append(out, i)
	}
	slices.Sort(out)
	return out
}
