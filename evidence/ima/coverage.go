package ima

import (
	"bytes"
	"slices"
	"strings"
)

// Coverage is what the kernel's policy in force makes IMA measure, as far as the list shows it (S30).
type Coverage struct {
	// Known says that the list holds the text of a policy (a buffer called ima_policy…): the rest is read off it.
	Known bool `json:"known"`
	// Functions are the hooks that are measured without a condition that could leave out code.
	Functions []string `json:"functions,omitempty"`
	// Partial are hooks that are measured under conditions (a user, a file system, a label).
	Partial []string `json:"partial,omitempty"`
	// Gaps are conditions under which nothing is measured, pseudo file systems that hold no code left out.
	Gaps []string `json:"gaps,omitempty"`
	// Reads says that files are measured when they are read, so that not every entry is of code.
	Reads bool `json:"reads"`
}

func (c Coverage) clone() Coverage {
	c.Functions, c.Partial, c.Gaps = slices.Clone(c.Functions), slices.Clone(c.Partial), slices.Clone(c.Gaps)
	return c
}

// pseudo are file systems that hold no files of their own: proc, sysfs, debugfs, devpts, binfmt_misc, securityfs,
// SELinux, smack, cgroup, cgroup2, nsfs, efivarfs (linux/magic.h). tmpfs, ramfs and overlayfs are not among them.
var pseudo = map[string]bool{
	"9fa0": true, "62656572": true, "64626720": true, "1cd1": true, "42494e4d": true, "73636673": true, "f97cff8c": true,
	"43415d53": true, "27e0eb": true, "63677270": true, "6e736673": true, "de5e81e4": true,
}

const maxRules = 1 << 10

// parsePolicy reads the rules of an IMA policy (Documentation/ABI/testing/ima_policy).
func parsePolicy(text []byte) (Coverage, bool) {
	c := Coverage{Known: true}
	n := 0
	for line := range bytes.Lines(text) {
		rule := strings.TrimSpace(string(line))
		if rule == "" || strings.HasPrefix(rule, "#") {
			continue
		}
		if n++; n > maxRules || !printable(line) {
			return Coverage{}, false
		}
		f := strings.Fields(rule)
		switch f[0] {
		case "measure":
			c.measure(f[1:])
		case "dont_measure":
			c.gap(f[1:])
		case "appraise", "dont_appraise", "audit", "dont_audit", "hash", "dont_hash":
		default:
			return Coverage{}, false
		}
	}
	return c, n > 0
}

func printable(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r < 0x20 && r != '\n' && r != '\t' || r > 0x7e })
}

func (c *Coverage) measure(conditions []string) {
	function, partial := "FILE_CHECK", false
	mask := ""
	for _, o := range conditions {
		k, v, _ := strings.Cut(o, "=")
		switch k {
		case "func":
			function = v
		case "mask":
			mask = strings.TrimPrefix(v, "^")
		case "template", "pcr", "template_fmt", "digest_type":
		default:
			partial = true
		}
	}
	switch function {
	case "FILE_MMAP":
		function = "MMAP_CHECK"
	case "PATH_CHECK":
		function = "FILE_CHECK"
	}
	if len(function) > 64 {
		return
	}
	if function == "FILE_CHECK" {
		c.Reads = true
	}
	if mask != "" && mask != "MAY_EXEC" && (function == "BPRM_CHECK" || function == "MMAP_CHECK") {
		partial = true
	}
	list := &c.Functions
	if partial {
		list = &c.Partial
	}
	if !slices.Contains(*list, function) && len(*list) < 64 {
		*list = append(*list, function)
	}
}

func (c *Coverage) gap(conditions []string) {
	if len(conditions) == 1 {
		if v, ok := strings.CutPrefix(conditions[0], "fsmagic="); ok && pseudo[strings.TrimLeft(strings.TrimPrefix(strings.ToLower(v), "0x"), "0")] {
			return
		}
	}
	if gap := strings.Join(conditions, " "); len(c.Gaps) < 64 {
		c.Gaps = append(c.Gaps, clip(gap, 200))
	}
}

// summarise adds to the claims what the entries from a place on say.
func (c *Claims) summarise(from, index int) {
	var e Entry
	b, ok := c.Entries[from:], true
	for ; len(b) > 0; index++ {
		e.Index = index
		if b, ok = e.unpack(b); !ok {
			return
		}
		if len(c.Algorithms) == 0 || c.Algorithms[len(c.Algorithms)-1] != e.Alg {
			if !slices.Contains(c.Algorithms, e.Alg) && len(c.Algorithms) < maxTemplates {
				c.Algorithms = append(c.Algorithms, e.Alg)
			}
		}
		if len(e.Path) == len(aggregateName) && string(e.Path) == aggregateName {
			c.Aggregates++
		}
		if e.Flags == 0 {
			continue
		}
		if e.Flags&FlagViolation != 0 {
			c.Violated++
			if len(c.Violations) < maxViolations {
				c.Violations = append(c.Violations, Violation{index, clip(e.Text(), 1024)})
			}
			continue
		}
		if e.Flags&FlagSig != 0 || len(e.Mod.Sig) > 0 || len(e.EVM.Sig) > 0 {
			c.Signed++
		}
		if e.isPolicy() {
			// Later rules replace the earlier policy.
			if p, ok := parsePolicy(e.Buf); ok {
				c.Coverage = p
			}
		}
	}
}

// isPolicy says whether an entry is the text of a policy: a buffer whose digest is that of its content. The template's
// name is covered by nothing, but a path with a slash, or a signature, is not taken for one.
func (e *Entry) isPolicy() bool {
	if e.Flags&FlagBuf == 0 || !bytes.HasPrefix(e.Path, []byte("ima_policy")) || bytes.IndexByte(e.Path, '/') >= 0 {
		return false
	}
	return e.bufferMatches()
}

// bufferMatches says whether the digest of an entry of template ima-buf is that of its content.
func (e *Entry) bufferMatches() bool {
	bank := bankOf(e.Alg)
	size, ok := bankSizes[bank]
	if !ok || len(e.Digest) != size {
		return false
	}
	sum := make([]byte, size)
	sumInto(bank, sum, e.Buf)
	return bytes.Equal(sum, e.Digest)
}
