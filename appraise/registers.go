package appraise

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// KindPCR is the kind of the registers that ParseRegisters returns.
const KindPCR = "pcr"

const (
	maxRegisters     = 256 << 10 // bytes of a file with register values
	maxRegisterIndex = 31
)

// bankNames are the banks of a file with registers, as different tools write them.
var bankNames = map[string]string{
	"sha1": "sha1", "sha256": "sha256", "sha384": "sha384", "sha512": "sha512", "sm3_256": "sm3", "sm3": "sm3",
}

var bankBytes = map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3": 32}

// bankOfSize is the bank of a flat map, which names none.
var bankOfSize = map[int]string{20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}

// registerFile gathers values: bank → index → value.
type registerFile map[string]map[int][]byte

func (r registerFile) add(bank, index, value string) error {
	name := strings.ToLower(strings.TrimSpace(index))
	i, err := strconv.ParseUint(strings.TrimPrefix(name, "pcr"), 10, 8)
	if err != nil || i > maxRegisterIndex {
		return fmt.Errorf("%s is not the index of a register", clip(index))
	}
	value = strings.TrimSpace(value)
	b, err := hex.DecodeString(strings.TrimPrefix(strings.TrimPrefix(value, "0x"), "0X"))
	if err != nil {
		return fmt.Errorf("the value of register %d is not hex", i)
	}
	if bank == "" {
		bank = bankOfSize[len(b)]
	}
	size, ok := bankBytes[bank]
	if !ok || size != len(b) {
		return fmt.Errorf("the value of register %d has %d bytes, which bank %s doesn't", i, len(b), clip(bank))
	}
	if r[bank] == nil {
		r[bank] = make(map[int][]byte)
	}
	if _, twice := r[bank][int(i)]; twice {
		return fmt.Errorf("register %d of bank %s stands twice", i, bank)
	}
	r[bank][int(i)] = b
	return nil
}

// ParseRegisters reads a file with register values in one of the forms that tools write:
//
//   - what tpm2_pcrread prints: "sha256:", then lines "  0 : 0x…"
//   - JSON: {"sha256":{"0":"hex"}}, indexes with or without leading zeroes; or a flat map {"0":"hex"}
//   - the serialised form of tpm2_quote --pcr, with the selection before the values
//
// The registers come in ascending order of the bank's name. A register that stands twice is refused.
func ParseRegisters(b []byte) ([]rats.Registers, error) {
	if len(b) > maxRegisters {
		return nil, fmt.Errorf("reading register values: %d bytes, at most %d", len(b), maxRegisters)
	}
	r := make(registerFile)
	text := bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
	var err error
	switch {
	case len(text) > 0 && text[0] == '{':
		err = r.json(text)
	case isText(text):
		err = r.lines(string(text))
	default:
		err = r.serialised(b)
	}
	if err != nil {
		return nil, fmt.Errorf("reading register values: %w", err)
	}
	var out []rats.Registers
	for _, bank := range []string{"sha1", "sha256", "sha384", "sha512", "sm3"} {
		if len(r[bank]) > 0 {
			out = append(out, rats.Registers{Kind: KindPCR, Alg: bank, Values: r[bank]})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("reading register values: there are none")
	}
	return out, nil
}

// json reads token by token, since a name that stands twice must be seen.
func (r registerFile) json(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return err
	}
	if err := r.object(dec, ""); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("something follows the JSON at byte %d", dec.InputOffset())
	}
	return nil
}

// object reads the rest of an object whose bracket was read: banks, or the values of one.
func (r registerFile) object(dec *json.Decoder, bank string) error {
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if t, err = dec.Token(); err != nil {
			return err
		}
		switch v := t.(type) {
		case string:
			if err := r.add(bank, name, v); err != nil {
				return err
			}
		case json.Delim:
			b, known := bankNames[strings.ToLower(name)]
			if v != '{' || bank != "" || !known {
				return fmt.Errorf("%s is neither a bank nor a register with a value in hex, at byte %d", clip(name), dec.InputOffset())
			}
			if err := r.object(dec, b); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the value of %s is not text, at byte %d", clip(name), dec.InputOffset())
		}
	}
	_, err := dec.Token()
	return err
}

// lines reads what tpm2_pcrread prints; lines before the first bank that name no bank ("pcrs:") are passed over.
func (r registerFile) lines(text string) error {
	bank, seen := "", false
	for n, line := range strings.Split(text, "\n") {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		name = strings.TrimSpace(name)
		if !ok {
			if name == "" || strings.HasPrefix(name, "#") {
				continue
			}
			return fmt.Errorf("line %d is neither a bank nor a register", n+1)
		}
		if strings.TrimSpace(value) == "" {
			b, known := bankNames[strings.ToLower(name)]
			if !known && seen {
				return fmt.Errorf("line %d: %s is not a bank", n+1, clip(name))
			}
			bank, seen = b, seen || known
			continue
		}
		if err := r.add(bank, name, value); err != nil {
			return fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	return nil
}

// tpmBanks are the hash algorithms of TPM 2.0 part 2, table 9, that have a bank.
var tpmBanks = map[uint16]string{0x0004: "sha1", 0x000b: "sha256", 0x000c: "sha384", 0x000d: "sha512", 0x0012: "sm3"}

// The fixed sizes of the serialised form: C structures of a little-endian machine, arrays at full length.
const (
	selectionsSize = 4 + 16*8       // TPML_PCR_SELECTION
	digestsSize    = 4 + 8*(2+64)   // TPML_DIGEST
	maxDigestLists = 4 * (24/8 + 1) // a list holds eight values
)

// serialised reads what tpm2_quote writes by default: selections, and lists of up to eight values in their order.
func (r registerFile) serialised(b []byte) error {
	if len(b) < selectionsSize+4 {
		return fmt.Errorf("%d bytes that are neither text nor the output of tpm2_quote", len(b))
	}
	type place struct {
		bank  string
		index int
	}
	var places []place
	n := binary.LittleEndian.Uint32(b)
	if n > 16 {
		return fmt.Errorf("a selection of %d banks at byte 0", n)
	}
	for i := range int(n) {
		s := b[4+8*i:]
		bank, ok := tpmBanks[binary.LittleEndian.Uint16(s)]
		if !ok || s[2] > 4 {
			return fmt.Errorf("an unknown bank at byte %d", 4+8*i)
		}
		for p := range 8 * int(s[2]) {
			if s[3+p/8]&(1<<(p%8)) != 0 {
				places = append(places, place{bank, p})
			}
		}
	}
	lists := binary.LittleEndian.Uint32(b[selectionsSize:])
	if lists > maxDigestLists || len(b) != selectionsSize+4+int(lists)*digestsSize {
		return fmt.Errorf("%d lists of values in %d bytes", lists, len(b))
	}
	next := 0
	for l := range int(lists) {
		list := b[selectionsSize+4+l*digestsSize:]
		count := binary.LittleEndian.Uint32(list)
		if count > 8 || next+int(count) > len(places) {
			return fmt.Errorf("%d values in list %d, which the selection doesn't name", count, l)
		}
		for i := range int(count) {
			v := list[4+66*i : 4+66*(i+1)]
			size := int(binary.LittleEndian.Uint16(v))
			if size > 64 {
				return fmt.Errorf("a value of %d bytes in list %d", size, l)
			}
			p := places[next]
			if err := r.add(p.bank, strconv.Itoa(p.index), hex.EncodeToString(v[2:2+size])); err != nil {
				return err
			}
			next++
		}
	}
	if next != len(places) {
		return fmt.Errorf("%d values for %d selected registers", next, len(places))
	}
	return nil
}
