package eventlog

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // a bank that logs still have; rules refuse it unless told otherwise
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strconv"

	"github.com/assay-attest/assay/rats"
)

// hashes are the algorithms that can be computed, strongest first. SM3 can't.
var hashes = []struct {
	name string
	new  func() hash.Hash
}{
	{"sha512", sha512.New}, {"sha3-512", func() hash.Hash { return sha3.New512() }},
	{"sha384", sha512.New384}, {"sha3-384", func() hash.Hash { return sha3.New384() }},
	{"sha256", sha256.New}, {"sha3-256", func() hash.Hash { return sha3.New256() }},
	{"sha1", sha1.New},
}

func hashOf(name string) hash.Hash {
	for _, h := range hashes {
		if h.name == name {
			return h.new()
		}
	}
	return nil
}

// extended says whether an event changed a register.
func (e *Event) extended() bool { return e.Type != evNoAction && e.Register <= maxRegister }

// Locality returns the locality that started the TPM: PCR 0 starts with it (PFP section 10.4.5.3). The event counts only
// while PCR 0 has not been extended.
func (l *Log) Locality() (byte, error) {
	seen, locality := false, byte(0)
	extended := false
	for i := range l.Events {
		e := &l.Events[i]
		if e.extended() && e.Register == 0 {
			extended = true
		}
		if e.Type != evNoAction || len(e.Data) != 17 || !bytes.HasPrefix(e.Data, []byte("StartupLocality\x00")) {
			continue
		}
		at := fmt.Sprintf("offset %d", e.Offset)
		switch v := e.Data[16]; {
		case extended || seen:
			return 0, CodeLocality.Bad(at, "one startup locality, before PCR 0 is extended", fmt.Sprintf("event %d", i))
		case v != 0 && v != 3 && v != 4:
			return 0, CodeLocality.Bad(at, "locality 0, 3 or 4", strconv.Itoa(int(v)))
		default:
			seen, locality = true, v
		}
	}
	return locality, nil
}

// Replay returns the registers' values after the log, of one bank. Registers 17 to 22 of a TPM start with all ones.
func (l *Log) Replay(bank, kind string) (map[int][]byte, error) {
	h := hashOf(bank)
	i := slices.IndexFunc(l.Banks, func(b Bank) bool { return b.Name == bank })
	if h == nil || i < 0 {
		return nil, CodeBank.Bad("log", "bank "+bank, fmt.Sprint(l.bankNames()))
	}
	locality, err := l.Locality()
	if err != nil {
		return nil, err
	}
	alg, size := l.Banks[i].ID, h.Size()
	slab := make([]byte, (maxRegister+1)*size)
	values := make(map[int][]byte, maxRegister+1)
	for n := range maxRegister + 1 {
		v := slab[n*size : (n+1)*size : (n+1)*size]
		if kind == KindPCR && n >= 17 && n <= 22 {
			for j := range v {
				v[j] = 0xff
			}
		}
		values[n] = v
	}
	if kind == KindPCR {
		values[0][size-1] = locality
	}
	for i := range l.Events {
		e := &l.Events[i]
		if !e.extended() {
			continue
		}
		sum := e.Sum(alg)
		if len(sum) != size {
			return nil, CodeBank.Bad(fmt.Sprintf("offset %d", e.Offset), "a digest of bank "+bank, "none")
		}
		v := values[int(e.Register)]
		extend(h, v, sum)
	}
	return values, nil
}

func extend(h hash.Hash, value, sum []byte) {
	h.Reset()
	h.Write(value)
	h.Write(sum)
	h.Sum(value[:0])
}

func (l *Log) algorithm(bank string) uint16 {
	for _, b := range l.Banks {
		if b.Name == bank {
			return b.ID
		}
	}
	return 0
}

func (l *Log) bankNames() []string {
	names := make([]string, len(l.Banks))
	for i, b := range l.Banks {
		names[i] = b.Name
	}
	return names
}

// systemdPhases are what systemd-pcrphase extends PCR 11 with, one after another, after the log ended
// (systemd-pcrphase.service).
var systemdPhases = []string{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"}

// phases returns the run of systemd's phases that leads from value to want.
func phases(h hash.Hash, value, want []byte) ([]string, bool) {
	for from := range systemdPhases {
		v := bytes.Clone(value)
		for to := from; to < len(systemdPhases); to++ {
			p := hashOfString(h, systemdPhases[to])
			extend(h, v, p)
			if bytes.Equal(v, want) {
				return systemdPhases[from : to+1], true
			}
		}
	}
	return nil, false
}

func hashOfString(h hash.Hash, s string) []byte {
	h.Reset()
	h.Write([]byte(s))
	return h.Sum(nil)
}

// closed says whether only firmware, boot loader and kernel entry extend a register, or systemd with a record in its log,
// so that logs that don't lead to its value are not this boot's. The others are extended by the running system, which keeps other logs: IMA 10, systemd
// 11 to 13 and 15, dynamic launch 17 to 22, and RTMR 3.
func closed(kind string, index int) bool {
	if kind == KindRTMR {
		return index >= 1 && index <= 3
	}
	return index <= 9 || index == 14
}

// compared is the outcome of comparing a log with registers.
type compared struct {
	bank      string // strongest that replays
	registers []Register
	phases    []string
	quoted    map[int]int // register → how many of systemd's records its value holds
}

// compare replays the log, and then systemd's, in every bank that values are given of. values: bank → index in the log →
// value.
func (l *Log) compare(kind string, values map[string]map[int][]byte, records []Record) (compared, error) {
	out := compared{quoted: map[int]int{}}
	counts := map[int]int{}
	for i := range records {
		if n := records[i].Register; n != noRegister {
			counts[n] += 0
		}
	}
	for i := range l.Events {
		if e := &l.Events[i]; e.extended() {
			counts[int(e.Register)]++
		}
	}
	states := map[int]Register{}
	for n, c := range counts {
		states[n] = Register{Index: n, State: StateUnknown, Events: c}
	}
	for _, h := range hashes {
		given := values[h.name]
		if len(given) == 0 || !slices.Contains(l.bankNames(), h.name) {
			continue
		}
		got, err := l.Replay(h.name, kind)
		if err != nil {
			return compared{}, err
		}
		if out.bank == "" {
			out.bank = h.name
		}
		for _, n := range sortedKeys(given) {
			after, err := later(records, n, l.algorithm(h.name))
			if err != nil {
				return compared{}, err
			}
			r, err := compareOne(kind, h.name, n, got[n], given[n], after, &out)
			if err != nil {
				return compared{}, err
			}
			r.Events = counts[n]
			if old, ok := states[n]; out.bank == h.name || !ok {
				states[n] = r
			} else if old.State == StateReplayed && r.State != StateReplayed {
				states[n] = r // a register must replay in every bank there is a value of
			}
		}
	}
	if out.bank == "" {
		return compared{}, CodeBank.Bad("log", fmt.Sprintf("one of the banks %v", sortedKeys(values)), fmt.Sprint(l.bankNames()))
	}
	for _, n := range sortedKeys(states) {
		out.registers = append(out.registers, states[n])
	}
	return out, nil
}

// capEvent is what a root keeper of ours extends, in the initramfs, into the registers that its seal covers: a constant, so that
// whoever replays a log can tell. The log itself ended before. More than once happens where a script capped after a keeper that died.
// PCR 11 holds more of the keeper's, which the format enclave replays.
const (
	capEvent = "assay:cap:1"
	maxCaps  = 2
)

// compareOne compares one register. after is what systemd's log says it was extended with later: the log is read after
// the quote, so its last records may not be in the value yet.
func compareOne(kind, bank string, n int, got, want []byte, after [][]byte, out *compared) (Register, error) {
	r := Register{Index: n, State: StateReplayed, Bank: bank, Value: hex.EncodeToString(want)}
	if got == nil || len(got) != len(want) {
		return r, CodeReplay.Bad(registerPath(kind, bank, n), hex.EncodeToString(want), "no such register")
	}
	if q, ok := reached(hashOf(bank), got, want, after); ok {
		if old, again := out.quoted[n]; again && old != q {
			return r, CodeReplay.Bad(registerPath(kind, bank, n), fmt.Sprintf("%d records of systemd's log, as in another bank", old), strconv.Itoa(q))
		}
		out.quoted[n], r.Systemd = q, q
		return r, nil
	}
	if kind == KindPCR && n != pcrKernel {
		capped := bytes.Clone(got)
		for times := range maxCaps {
			extend(hashOf(bank), capped, hashOfString(hashOf(bank), capEvent))
			if q, ok := reached(hashOf(bank), capped, want, after); ok {
				out.quoted[n], r.Systemd, r.Capped = q, q, times+1
				return r, nil
			}
		}
	}
	switch {
	case closed(kind, n):
		code := CodeReplay
		if n == 0 && kind == KindPCR {
			code = CodeReplayZero
		}
		return r, code.Bad(registerPath(kind, bank, n), hex.EncodeToString(want), hex.EncodeToString(got))
	}
	if kind == KindPCR && n == 11 && len(after) == 0 {
		if p, ok := phases(hashOf(bank), got, want); ok {
			out.phases = p
			return r, nil
		}
	}
	r.State = StateOpen
	return r, nil
}

// reached returns how many of the digests lead from value to want; none if they are equal.
func reached(h hash.Hash, value, want []byte, after [][]byte) (int, bool) {
	v := bytes.Clone(value)
	for i := range len(after) + 1 {
		if bytes.Equal(v, want) {
			return i, true
		}
		if i < len(after) {
			extend(h, v, after[i])
		}
	}
	return 0, false
}

// registerPath names a register as the format that vouches for it does.
func registerPath(kind, bank string, n int) string {
	if kind == KindRTMR {
		return fmt.Sprintf("rtmr.%s.%d", bank, n-1)
	}
	return fmt.Sprintf("pcrs.%s.%d", bank, n)
}

// given gathers the register values to compare with: those of the parameters, else those of the facts.
func given(kind string, p Params, facts rats.Facts) (map[string]map[int][]byte, error) {
	out := map[string]map[int][]byte{}
	put := func(bank string, n int, v []byte) error {
		if out[bank] == nil {
			out[bank] = map[int][]byte{}
		}
		if old, ok := out[bank][n]; ok && !bytes.Equal(old, v) {
			return CodeConflict.Bad(registerPath(kind, bank, n), "one value", "two formats vouch for different ones")
		}
		out[bank][n] = v
		return nil
	}
	for bank, values := range p.PCRs {
		for text, value := range values {
			n, err := strconv.Atoi(text)
			v, hexErr := hex.DecodeString(value)
			if err != nil || n < 0 || hexErr != nil {
				return nil, fmt.Errorf("reading the given registers: %.20q of bank %.20q is not an index with a hex value", text, bank)
			}
			if err := put(bank, n, v); err != nil {
				return nil, err
			}
		}
	}
	if len(p.PCRs) > 0 {
		return out, nil
	}
	for _, r := range facts.Registers {
		if r.Kind != kind {
			continue
		}
		for n, v := range r.Values {
			if kind == KindRTMR {
				n++ // in the log, 0 is MRTD
			}
			if err := put(r.Alg, n, v); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}
