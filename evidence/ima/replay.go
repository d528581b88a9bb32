package ima

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the digests that the list states, and a bank that rules refuse unless told otherwise
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"

	"github.com/emmansun/gmsm/sm3"

	"github.com/assay-attest/assay/rats"
)

// bankSizes are the banks that can be replayed.
var bankSizes = map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3": 32}

// bankOrder is from the strongest.
var bankOrder = []string{"sha512", "sha384", "sha256", "sm3", "sha1"}

// bankOf returns the name of a bank or of a file digest's algorithm that digests go by here: the kernel and TPM tools have
// three for SM3.
func bankOf(alg string) string {
	if alg == "sm3-256" || alg == "sm3_256" {
		return "sm3"
	}
	return alg
}

// sumInto hashes b into out, which has the digest's size. No allocation: this runs for each entry.
func sumInto(bank string, out, b []byte) {
	switch bank {
	case "sha256":
		d := sha256.Sum256(b)
		copy(out, d[:])
	case "sha1":
		d := sha1.Sum(b) //nolint:gosec // see above
		copy(out, d[:])
	case "sha384":
		d := sha512.Sum384(b)
		copy(out, d[:])
	case "sm3":
		d := sm3.Sum(b)
		copy(out, d[:])
	default:
		d := sha512.Sum512(b)
		copy(out, d[:])
	}
}

// register is the list's register in one bank while the list is replayed.
type register struct {
	bank    string
	size    int
	value   [128]byte // the value, and behind it the digest that extends it
	want    []byte    // what is vouched for
	matched int       // number of entries of the whole list after which it held want, -1 if it never did
}

// violation is what a violation extends: all ones.
var violation = bytes.Repeat([]byte{0xff}, 64)

// extend takes over one entry; count is the number of entries of the list including it.
func (g *register) extend(r *record, padded bool, count int) {
	next := g.value[g.size : 2*g.size]
	switch {
	case r.Flags&FlagViolation != 0:
		copy(next, violation)
	case padded && g.bank != "sha1":
		clear(next)
		copy(next, r.sum)
	default:
		sumInto(g.bank, next, r.data)
	}
	sumInto(g.bank, g.value[:g.size], g.value[:2*g.size])
	if g.value[0] == g.want[0] && bytes.Equal(g.value[:g.size], g.want) {
		g.matched = count
	}
}

// seenTemplate is a template with the number of the entry that had it first.
type seenTemplate struct {
	*template
	first int
}

// replayer replays a list, from its start or from where an earlier verification got to.
type replayer struct {
	from      *state
	registers []*register
	pcr       int
	padded    bool
	packed    []byte
	total     int // entries, with those of from
	proven    int // of packed, up to the last match
	templates []seenTemplate
	last      *state    // of the last verification, if it is of this boot
	tail      hash.Hash // of the entries that the last verification couldn't prove
	sums      string    // algorithm of template digests of 32 bytes, once one was seen: lists of a bank don't name it
	sum       [64]byte
}

// newReplayer compares the list with the values of one PCR: bank → value.
func newReplayer(from, last *state, pcr int, want map[string][]byte, padded bool) *replayer {
	p := &replayer{from: from, last: last, pcr: pcr, padded: padded, total: from.Count, proven: len(from.packed)}
	for _, bank := range bankOrder {
		if len(want[bank]) != bankSizes[bank] {
			continue
		}
		g := &register{bank: bank, size: bankSizes[bank], want: want[bank], matched: -1}
		if from.Count > 0 {
			start, ok := from.Values[bank]
			if !ok || len(start) != g.size {
				continue // this bank was not followed so far
			}
			copy(g.value[:], start)
		}
		if bytes.Equal(g.value[:g.size], g.want) {
			g.matched = from.Count
		}
		p.registers = append(p.registers, g)
	}
	if last.TailCount > 0 {
		p.tail = sha256.New()
	}
	return p
}

// run reads the list to its end.
func (p *replayer) run(s source) error {
	p.packed = append(make([]byte, 0, len(p.from.packed)+1<<16), p.from.packed...)
	var r record
	for {
		r.Index = p.total
		ok, err := s.next(&r)
		if err != nil || !ok {
			return err
		}
		p.total++
		if r.PCR != p.pcr {
			return CodePCR.Bad(fmt.Sprintf("entries[%d] at offset %d", r.Index, r.offset), fmt.Sprintf("PCR %d", p.pcr), fmt.Sprintf("PCR %d", r.PCR))
		}
		if r.Flags&FlagViolation == 0 {
			sum, ok := p.check(&r)
			if !ok {
				return CodeTemplateDigest.Bad(fmt.Sprintf("entries[%d] at offset %d", r.Index, r.offset), hex.EncodeToString(sum), hex.EncodeToString(r.sum))
			}
		}
		for _, g := range p.registers {
			g.extend(&r, p.padded, p.total)
		}
		if p.tail != nil && p.total > p.last.Count && p.total <= p.last.Count+p.last.TailCount {
			hashTail(p.tail, &r)
		}
		if len(p.packed) > maxPacked {
			return CodeTooLarge.Bad("list", fmt.Sprintf("at most %d bytes of entries", maxPacked), "more")
		}
		p.packed = r.pack(p.packed)
		if p.registers[0].matched == p.total {
			p.proven = len(p.packed)
		}
		if n := len(p.templates); n == 0 || p.templates[n-1].template != r.template {
			p.seen(&r)
		}
	}
}

// check computes the template digest of an entry and says whether the list states it.
func (p *replayer) check(r *record) ([]byte, bool) {
	sum := p.sum[:len(r.sum)]
	bank := sumSizes[len(sum)]
	if len(sum) == sm3.Size && p.sums != "" {
		bank = p.sums
	}
	sumInto(bank, sum, r.data)
	if bytes.Equal(sum, r.sum) {
		if len(sum) == sm3.Size {
			p.sums = bank
		}
		return sum, true
	}
	if len(sum) != sm3.Size || p.sums != "" {
		return sum, false
	}
	var other [sm3.Size]byte
	sumInto("sm3", other[:], r.data)
	if !bytes.Equal(other[:], r.sum) {
		return sum, false
	}
	p.sums = "sm3"
	return r.sum, true
}

func (p *replayer) seen(r *record) {
	for _, t := range p.templates {
		if t.name == r.template.name {
			return
		}
	}
	if len(p.templates) < maxTemplates {
		p.templates = append(p.templates, seenTemplate{r.template, r.Index})
	}
}

// hashTail adds an entry to the digest of a tail.
func hashTail(h hash.Hash, r *record) {
	var head [9]byte
	head[0] = byte(r.PCR)
	binary.LittleEndian.PutUint64(head[1:], uint64(len(r.data)))
	h.Write(head[:])
	h.Write(r.sum)
	h.Write(r.data)
}

// settle returns how many entries are proven: those after which every bank held its vouched value.
func (p *replayer) settle() (int, error) {
	n := p.registers[0].matched
	for _, g := range p.registers {
		path := fmt.Sprintf("pcrs.%s.%d", g.bank, p.pcr)
		if g.matched < 0 {
			return 0, CodeReplay.Bad(path, hex.EncodeToString(g.want), fmt.Sprintf("%x after %d entries, and at no entry before", g.value[:g.size], p.total))
		}
		if g.matched != n {
			return 0, CodeReplay.Bad(path, fmt.Sprintf("the value after %d entries, as in bank %s", n, p.registers[0].bank), fmt.Sprintf("the value after %d", g.matched))
		}
	}
	return n, nil
}

// targets gathers the values that are vouched for: those of the parameters, else those of the facts. Only registers that
// the list extends, or that IMA uses by default, are compared.
func targets(p Params, facts rats.Facts) (map[string]map[int][]byte, error) {
	out := map[string]map[int][]byte{}
	for name, values := range p.PCRs {
		bank := bankOf(name)
		for text, value := range values {
			n, err := strconv.Atoi(text)
			v, hexErr := hex.DecodeString(value)
			if err != nil || n < 0 || hexErr != nil {
				return nil, fmt.Errorf("reading the given registers: %.20q of bank %.20q is not an index with a hex value", text, bank)
			}
			if out[bank] == nil {
				out[bank] = map[int][]byte{}
			}
			out[bank][n] = v
		}
	}
	if len(p.PCRs) > 0 {
		return out, nil
	}
	for _, r := range facts.Registers {
		if r.Kind != "pcr" {
			continue
		}
		bank := bankOf(r.Alg)
		if out[bank] == nil {
			out[bank] = map[int][]byte{}
		}
		for n, v := range r.Values {
			if old, ok := out[bank][n]; ok && !bytes.Equal(old, v) {
				return nil, CodeConflict.Bad(fmt.Sprintf("pcrs.%s.%d", bank, n), "one value", "two formats vouch for different ones")
			}
			out[bank][n] = v
		}
	}
	return out, nil
}
