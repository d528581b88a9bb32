package ima

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// maxReasons bounds the reasons of one code: a list of a foreign machine has thousands of unknown files. Each code keeps
// its first ones, so that no slot's reason is hidden by those of another.
const maxReasons = 32

// checker compares claims with rules.
type checker struct {
	r        *Rules
	c        *Claims
	l        rats.Lookup
	codeOnly bool // the kernel's policy is known to measure code only: every entry is of code
	out      []rats.Reason
	count    map[rats.Code]int
	excluded int
	policy   bool // one of the listed policy files is in the list
}

func (k *checker) add(r rats.Reason) {
	if k.count[r.Code]++; k.count[r.Code] <= maxReasons {
		k.out = append(k.out, r)
	}
}

// Check implements rats.Rules.
func (r *Rules) Check(claims rats.Claims, l rats.Lookup, now time.Time) []rats.Reason {
	c, ok := claims.(*Claims)
	if !ok || c == nil || !r.linted {
		return []rats.Reason{CodeClaims.Refuse("claims", "claims of an IMA list, and rules without mistakes", fmt.Sprintf("%T", claims))}
	}
	k := &checker{r: r, c: c, l: l, count: map[rats.Code]int{}}
	if c.Bank == "sha1" || c.Extend != ExtendRehash {
		if end, err := time.Parse(time.DateOnly, r.SHA1Until); err != nil || !now.Before(end.AddDate(0, 0, 1)) {
			k.add(CodeWeak.Refuse("bank", "sha256 or stronger, of the entries themselves", c.Bank+", "+c.Extend))
		}
	}
	if c.Aggregate == AggregateMismatch || c.Aggregate == AggregateMissing {
		k.add(CodeAggregate.Refuse("entries[0]", "the digest of PCRs 0 to 9", c.Aggregate))
	}
	if c.Aggregates > 1 && !r.AllowKexec {
		k.add(CodeKexec.Refuse("boot_aggregates", "1", fmt.Sprint(c.Aggregates)))
	}
	k.codeOnly = c.Coverage.Known && !c.Coverage.Reads
	for e := range c.All() {
		if slices.Contains(r.Coverage.Policies, e.Sum().String()) && len(r.Coverage.Policies) > 0 {
			k.policy = true
			k.codeOnly = k.codeOnly || r.Coverage.CodeOnly
			break
		}
	}
	n := 0
	for e := range c.All() {
		k.entry(e)
		n++
	}
	if n == 0 || n != c.Count {
		k.add(CodeClaims.Refuse("entries", fmt.Sprintf("%d entries, at least one", c.Count), fmt.Sprint(n)))
	}
	if k.excluded > 0 {
		k.add(CodeExcluded.At(rats.Warning, "entries", "none passed over", fmt.Sprint(k.excluded)))
	}
	k.coverage()
	return k.out
}

func entryPath(e *Entry) string {
	return fmt.Sprintf("entries[%d] %s", e.Index, clip(e.Text(), 512))
}

// entry judges one proven entry.
func (k *checker) entry(e *Entry) {
	switch {
	case e.Flags&FlagViolation != 0:
		// Nothing covers the path of a violation; S31 lets it decide between a warning and a failure all the same.
		if k.matches(k.r.data, e) && !executable(e) {
			k.add(CodeViolationData.At(rats.Warning, entryPath(e), "no violation", "a violation"))
		} else {
			k.add(CodeViolation.Refuse(entryPath(e), "no violation", "a violation"))
		}
		return
	case string(e.Path) == aggregateName && (e.Index == 0 || k.r.AllowKexec):
		return
	case e.Flags&FlagBuf != 0:
		k.buffer(e)
		return
	}
	known, expected := k.find(e)
	must := k.matches(k.r.signed, e)
	if (known || k.policyFile(e)) && !must {
		return
	}
	kind, problem := k.signature(e)
	if kind.Code == "" && problem == nil {
		return
	}
	if must {
		k.unsigned(e, kind, problem)
		return
	}
	code, want := CodeUnknown, "a path that a reference set names"
	if len(expected) > 0 {
		code, want = CodeChanged, digests(expected)
	} else if problem != nil {
		code, want = kind, "a signature by a listed key"
	}
	seen := e.Sum().String()
	if problem != nil {
		seen += "; " + problem.Error()
	}
	switch {
	case len(expected) == 0 && k.mayExclude(e) && k.matches(k.r.exclude, e):
		k.excluded++
	case k.mayExclude(e) && k.matches(k.r.data, e):
		k.add(CodeData.At(rats.Warning, entryPath(e), want, seen))
	case code.Code == CodeUnknown.Code && k.r.Unknown == SeverityWarning:
		k.add(code.At(rats.Warning, entryPath(e), want, seen))
	default:
		k.add(code.Refuse(entryPath(e), want, seen))
	}
}

// signature verifies the signatures of an entry by the keys listed for their kinds. It returns no code if one is accepted,
// else the code and the problem of the first; CodeUnsigned without a problem if there is none to be verified.
func (k *checker) signature(e *Entry) (code rats.CodeInfo, problem error) {
	code = CodeUnsigned
	for _, kind := range e.kinds() {
		var err error
		var info rats.CodeInfo
		switch {
		case kind == KindIMA && len(k.r.keys) > 0:
			info = CodeSignature
			_, err = e.checkSignature(k.r.keys)
		case kind == KindModsig && len(k.r.modsigKeys) > 0:
			info = CodeModsig
			_, err = e.checkModsig(k.r.modsigKeys)
		case kind == KindEVM && len(k.r.evmKeys) > 0:
			info = CodeEVM
			_, err = e.checkEVM(k.r.evmKeys, k.r.keys)
		default:
			continue
		}
		if err == nil {
			return rats.CodeInfo{}, nil
		}
		if problem == nil {
			code, problem = info, err
		}
	}
	return code, problem
}

// unsigned refuses an entry that must be signed, whatever else speaks for it.
func (k *checker) unsigned(e *Entry, code rats.CodeInfo, problem error) {
	seen := e.Sum().String()
	if problem != nil {
		seen += "; " + problem.Error()
	}
	k.add(code.Refuse(entryPath(e), "a signature by a listed key", seen))
}

// buffer judges what the kernel measured of its own memory.
func (k *checker) buffer(e *Entry) {
	if !e.bufferMatches() {
		k.add(CodeBuffer.Refuse(entryPath(e), "the digest of the content", e.Sum().String()))
		return
	}
	if e.isPolicy() || slices.Contains(k.r.Buffers, e.Text()) {
		return // a policy is judged by what it covers
	}
	if known, _ := k.find(e); !known {
		k.add(CodeBuffer.Refuse(entryPath(e), "a name that buffers lists, or a digest of a reference set", e.Sum().String()))
	}
}

func (k *checker) policyFile(e *Entry) bool {
	return len(k.r.Coverage.Policies) > 0 && slices.Contains(k.r.Coverage.Policies, e.Sum().String())
}

// find asks the reference sets. Digests of fs-verity are of other trees than those of files, so they are not looked up.
func (k *checker) find(e *Entry) (known bool, expected []rats.Digest) {
	d := e.Sum()
	if k.l == nil || e.Flags&FlagVerity != 0 || d.Check() != nil {
		return false, nil
	}
	name := e.Text()
	for _, set := range k.r.Allow {
		hit, err := k.l.Find(set, name, d)
		if err != nil {
			if reason, ok := rats.ReasonOf(err); ok && !slices.ContainsFunc(k.out, func(r rats.Reason) bool { return r.Code == reason.Code && r.Path == reason.Path }) {
				k.out = append(k.out, reason)
			}
			continue
		}
		if hit.Known {
			return true, nil
		}
		expected = append(expected, hit.Expected...)
	}
	return false, expected
}

func digests(ds []rats.Digest) string {
	var b strings.Builder
	for i, d := range ds[:min(len(ds), 4)] {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString(d.String())
	}
	return b.String()
}

func (k *checker) matches(patterns []*regexp.Regexp, e *Entry) bool {
	return slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.Match(e.Path) })
}

// mayExclude says whether an entry may be of data. The list doesn't say which hook measured an entry; where the policy in
// force measures code only, all of them are code.
func (k *checker) mayExclude(e *Entry) bool { return !k.codeOnly && !executable(e) }

// codeDirs are where programs, libraries and modules lie.
var codeDirs = [][]byte{
	[]byte("/bin/"), []byte("/sbin/"), []byte("/lib/"), []byte("/lib32/"), []byte("/lib64/"), []byte("/libx32/"),
	[]byte("/usr/bin/"), []byte("/usr/sbin/"), []byte("/usr/lib/"), []byte("/usr/lib32/"), []byte("/usr/lib64/"),
	[]byte("/usr/libexec/"), []byte("/usr/local/"), []byte("/opt/"), []byte("/boot/"), []byte("/init"),
}

// executable says whether an entry is of code for certain, or by its path.
func executable(e *Entry) bool {
	if e.Flags&(FlagModsig|FlagExec) != 0 {
		return true
	}
	for _, dir := range codeDirs {
		if bytes.HasPrefix(e.Path, dir) {
			return true
		}
	}
	base := e.Path[bytes.LastIndexByte(e.Path, '/')+1:]
	for _, part := range []string{".so", ".ko"} {
		if i := bytes.Index(base, []byte(part)); i >= 0 && (i+3 == len(base) || base[i+3] == '.') {
			return true
		}
	}
	return len(e.Path) == 0 || e.Path[0] != '/'
}

// coverage demands that the list shows a policy that measures all code.
func (k *checker) coverage() {
	r := k.r.Coverage
	tier := rats.Warning
	if r.Missing == SeverityFail {
		tier = rats.Contraindicated
	}
	c := k.c.Coverage
	if !c.Known {
		if !k.policy {
			k.add(CodeCoverage.At(tier, "coverage", "a policy file that coverage.policies lists, or the text of a policy", "neither"))
		}
		return
	}
	want := r.Functions
	if len(want) == 0 {
		want = defaultFunctions
	}
	for _, f := range want {
		if !slices.Contains(c.Functions, f) {
			k.add(CodeCoverage.At(tier, "coverage.functions", f+" without conditions", strings.Join(c.Functions, " ")))
		}
	}
	if len(c.Gaps) > 0 {
		k.add(CodeCoverage.At(tier, "coverage.gaps", "none", strings.Join(c.Gaps, "; ")))
	}
}
