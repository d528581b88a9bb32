package ima

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong between a list and the registers.
var (
	CodeMediaType = rats.CodeInfo{Code: "ima.evidence.media-type", Slot: rats.Executables,
		Title: "the evidence is of another kind, or has other parts", Hint: "send the whole list as the body, or what follows an offset as the part " + PartList}
	CodeOffset = rats.CodeInfo{Code: "ima.list.offset", Slot: rats.Executables,
		Title: "the list continues one that is not known", Hint: "after a restart of the machine, and whenever the verifier asks for offset 0, the whole list is needed"}
	CodeNoRegisters = rats.CodeInfo{Code: "ima.registers.missing", Slot: rats.Executables,
		Title: "nothing vouches for the value of the list's PCR", Hint: "let the tpm section quote PCR 10, or give the value"}
	CodeConflict = rats.CodeInfo{Code: "ima.registers.conflict", Slot: rats.Executables,
		Title: "two formats vouch for different values of a register", Hint: "evidence of two machines was mixed"}
	CodePCR = rats.CodeInfo{Code: "ima.entry.pcr", Slot: rats.Executables,
		Title: "an entry extends another PCR than the first entry does", Hint: "do not use pcr= in the kernel's IMA policy"}
	CodeTemplateDigest = rats.CodeInfo{Code: "ima.entry.digest", Slot: rats.Executables,
		Title: "an entry does not hash to its template digest", Hint: "the list was altered at this entry"}
	CodeReplay = rats.CodeInfo{Code: "ima.replay.mismatch", Slot: rats.Executables,
		Title: "the list does not replay to the register's value", Hint: "the list was altered or cut, or is of another boot; after kexec without IMA_KEXEC a restart is needed"}
	CodeTail = rats.CodeInfo{Code: "ima.tail.vanished", Slot: rats.Executables,
		Title: "entries that the last list ended with, then unquoted, are not what was extended", Hint: "treat the machine as compromised: entries were made up or taken back"}
	CodeResume = rats.CodeInfo{Code: "ima.resume.malformed", Slot: rats.Executables,
		Title: "the state of the last verification can't be read", Hint: "the next attestation starts from the whole list"}
	CodeKeys = rats.CodeInfo{Code: "ima.keys.malformed", Slot: rats.Executables,
		Title: "the keys to verify signatures by can't be read", Hint: "give PEM certificates or public keys, RSA from 2048 bits or ECDSA"}
)

var verifyCodes = []rats.CodeInfo{
	CodeMediaType, CodeOffset, CodeNoRegisters, CodeConflict, CodePCR, CodeTemplateDigest, CodeReplay, CodeTail, CodeResume, CodeKeys,
}

const aggregateName = "boot_aggregate"

type verifier struct{}

// New returns the verifier of IMA lists.
func New() rats.Verifier { return verifier{} }

// Continue implements rats.Continuer.
func (verifier) Continue(params, resume []byte) []byte {
	p, err := Continue(params, resume)
	if err != nil {
		return nil
	}
	return p
}

func (verifier) Descriptor() *rats.Descriptor { return descriptor }

// Verify implements rats.Verifier. Its inputs are the registers and the boot that other formats vouch for, Params, what
// the last verification of the same boot left (Resume), and keys (endorsements of MediaTypeKeys) by which the claims list
// signatures. The list carries no challenge: it is as fresh as the
// registers.
func (verifier) Verify(ctx context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	p, err := ParseParams(in.Params)
	if err != nil {
		return rats.Verified{}, err
	}
	list, offset, err := listOf(e)
	if err != nil {
		return rats.Verified{}, err
	}
	want, err := targets(p, in.Facts)
	if err != nil {
		return rats.Verified{}, err
	}
	keys, err := endorsedKeys(in)
	if err != nil {
		return rats.Verified{}, err
	}
	boot := bootOf(in.Facts)
	last, err := parseState(in.Resume)
	if err != nil && offset > 0 {
		return rats.Verified{}, err
	}
	if err != nil || !boot.Equal(last.Boot) {
		last = &state{} // another boot, or nothing: from the start
	}
	from := last
	if offset == 0 {
		from = &state{}
	} else if offset != int64(last.Count) {
		return rats.Verified{}, CodeOffset.Missing("parts.list", fmt.Sprintf("offset 0 or %d", last.Count), strconv.FormatInt(offset, 10))
	}
	r, err := replay(ctx, list, e.MediaType == MediaTypeASCII, from, last, want)
	if err != nil {
		return rats.Verified{}, err
	}
	v, err := r.verified(boot, want)
	if c, ok := v.Claims.(*Claims); ok && err == nil {
		c.verifySignatures(keys)
	}
	return v, err
}

// listOf returns the list and the number of entries left out before it.
func listOf(e rats.Evidence) ([]byte, int64, error) {
	bad := func(seen string) ([]byte, int64, error) {
		return nil, 0, CodeMediaType.Bad("evidence", "the list as body, or as the part "+PartList+" with an offset", seen)
	}
	if e.Format != Format || e.MediaType != MediaType && e.MediaType != MediaTypeASCII {
		return bad(fmt.Sprintf("%.80q", e.MediaType))
	}
	if len(e.Parts) == 0 {
		if len(e.Body) == 0 {
			return nil, 0, CodeEmpty.Bad("body", "entries", "no bytes")
		}
		return e.Body, 0, nil
	}
	part, ok := e.Part(PartList)
	if !ok || len(e.Parts) != 1 || len(e.Body) > 0 || part.Offset <= 0 {
		return bad(fmt.Sprintf("a body of %d bytes and %d parts", len(e.Body), len(e.Parts)))
	}
	return part.Data, part.Offset, nil
}

// bootOf identifies the boot by what all formats say of it; the zero digest if none says anything.
func bootOf(f rats.Facts) rats.Digest {
	if len(f.Boots) == 0 {
		return rats.Digest{}
	}
	b := []byte("assay/ima-boot/1")
	for _, boot := range f.Boots {
		b = append(append(b, boot.By...), 0)
		b = append(append(b, boot.ID.String()...), 0)
	}
	return rats.SHA256(b)
}

// replay finds how many entries are proven: first as kernels since 5.8 extend, then as earlier ones did.
func replay(ctx context.Context, list []byte, ascii bool, from, last *state, want map[string]map[int][]byte) (*outcome, error) {
	pcr := from.PCR
	if from.Count == 0 {
		s, err := open(list, ascii)
		if err != nil {
			return nil, err
		}
		var first record
		if ok, err := s.next(&first); err != nil {
			return nil, err
		} else if !ok {
			return nil, CodeEmpty.Bad("list", "entries", "none")
		}
		pcr = first.PCR
	}
	values := map[string][]byte{}
	for bank, regs := range want {
		if v, ok := regs[pcr]; ok && bankSizes[bank] == len(v) {
			values[bank] = v
		}
	}
	if len(values) == 0 {
		return nil, CodeNoRegisters.Missing("facts.registers", fmt.Sprintf("PCR %d in bank sha256, sha384, sha512, sm3 or sha1", pcr), "nothing")
	}
	modes := []bool{false, true}
	if from.Count > 0 {
		modes = []bool{from.Extend == ExtendPadded}
	}
	var failed error
	for _, padded := range modes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s, err := open(list, ascii)
		if err != nil {
			return nil, err
		}
		p := newReplayer(from, last, pcr, values, padded)
		if len(p.registers) == 0 {
			return nil, CodeOffset.Missing("facts.registers", "the bank of the last verification", "others")
		}
		if err := p.run(s); err != nil {
			return nil, err
		}
		n, err := p.settle()
		if err == nil {
			return &outcome{replayer: p, count: n, list: list, ascii: ascii}, p.checkTail(n, last)
		}
		if failed == nil {
			failed = err
		}
	}
	return nil, failed
}

// checkTail demands that the entries which the last list ended with are now proven, and are the same (S32).
func (p *replayer) checkTail(n int, last *state) error {
	if last.TailCount == 0 {
		return nil
	}
	need := last.Count + last.TailCount
	if n < need {
		return CodeTail.Bad("list", fmt.Sprintf("a quote that covers %d entries", need), fmt.Sprintf("%d", n))
	}
	if got := p.tail.Sum(nil); !bytes.Equal(got, last.Tail) {
		return CodeTail.Bad("list", fmt.Sprintf("entries %d to %d as the last list had them", last.Count, need-1), "others")
	}
	return nil
}

// outcome is a list with the number of its entries that are proven.
type outcome struct {
	*replayer
	count int
	list  []byte
	ascii bool
}

// verified makes claims and the state for the next verification.
func (o *outcome) verified(boot rats.Digest, want map[string]map[int][]byte) (rats.Verified, error) {
	c := &Claims{
		Count: o.count, PCR: o.pcr, Bank: o.registers[0].bank, Extend: ExtendRehash,
		Entries: o.packed[:o.proven:o.proven], Unquoted: o.total - o.count,
	}
	if o.padded && c.Bank != "sha1" {
		c.Extend = ExtendPadded
	}
	c.List = rats.SHA256(c.Entries)
	c.Templates = append(c.Templates, o.from.Templates...)
	for _, t := range o.templates {
		if t.first < o.count && !slices.Contains(c.Templates, t.name) {
			c.Templates = append(c.Templates, t.name)
		}
	}
	o.from.summary.into(c)
	c.summarise(len(o.from.packed), o.from.Count)
	c.aggregate(want)
	tail := Entry{}
	for b, ok := o.packed[o.proven:], true; len(b) > 0 && len(c.Tail) < maxTail; {
		if b, ok = tail.unpack(b); !ok {
			break
		}
		c.Tail = append(c.Tail, clip(tail.Text(), 256))
	}
	v := rats.Verified{Claims: c}
	if !boot.IsZero() {
		st, err := o.state(c, boot)
		if err != nil {
			return rats.Verified{}, err
		}
		v.Resume = st
	}
	return v, nil
}

// state is what the next verification needs.
func (o *outcome) state(c *Claims, boot rats.Digest) ([]byte, error) {
	st := &state{Boot: boot, Count: c.Count, PCR: c.PCR, Extend: c.Extend, Templates: c.Templates, Values: map[string]hexBytes{}, packed: c.Entries}
	for _, g := range o.registers {
		st.Values[g.bank] = g.want
	}
	st.summary.from(c)
	if c.Unquoted > 0 {
		h := sha256.New()
		s, err := open(o.list, o.ascii)
		if err != nil {
			return nil, err
		}
		var r record
		for i := o.from.Count; ; i++ {
			ok, err := s.next(&r)
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			if i >= c.Count {
				hashTail(h, &r)
			}
		}
		st.TailCount, st.Tail = c.Unquoted, h.Sum(nil)
	}
	return st.encode()
}

// aggregate says whether the list's first entry is of this boot's firmware (ima_crypto.c, ima_calc_boot_aggregate_tfm).
func (c *Claims) aggregate(want map[string]map[int][]byte) {
	c.Aggregate = AggregateMissing
	for e := range c.All() {
		if string(e.Path) != aggregateName || e.Flags&FlagViolation != 0 {
			return
		}
		c.Aggregate = AggregateUnchecked
		bank := bankOf(e.Alg)
		pcrs := want[bank]
		var both []byte
		for n := range 10 {
			v, ok := pcrs[n]
			if !ok {
				if n < 8 {
					return
				}
				break
			}
			both = append(both, v...)
		}
		c.Aggregate = AggregateMismatch
		size := bankSizes[bank]
		sum := make([]byte, size)
		for _, n := range []int{10, 8} {
			if len(both) < n*size {
				c.Aggregate = AggregateUnchecked // PCRs 8 and 9 could be part of it
				continue
			}
			if sumInto(bank, sum, both[:n*size]); hex.EncodeToString(sum) == hex.EncodeToString(e.Digest) {
				c.Aggregate = AggregateMatch
				return
			}
		}
		return
	}
}

// Inspect decodes a list without registers: nothing of it is proven, template digests are not checked.
func Inspect(b []byte, ascii bool) (*Claims, error) {
	s, err := open(b, ascii)
	if err != nil {
		return nil, err
	}
	c := &Claims{Aggregate: AggregateUnchecked}
	var r record
	for {
		ok, err := s.next(&r)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		c.PCR = r.PCR
		if !slices.Contains(c.Templates, r.template.name) && len(c.Templates) < maxTemplates {
			c.Templates = append(c.Templates, r.template.name)
		}
		if len(c.Entries) > maxPacked {
			return nil, CodeTooLarge.Bad("list", fmt.Sprintf("at most %d bytes of entries", maxPacked), "more")
		}
		c.Entries = r.pack(c.Entries)
		c.Unquoted++
	}
	c.List = rats.SHA256(c.Entries)
	c.summarise(0, 0)
	return c, nil
}
