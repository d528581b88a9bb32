package plan

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// sumOf is the digest of a value by a test's algorithm.
func sumOf(alg string, b []byte) []byte {
	switch alg {
	case "sha384":
		s := sha512.Sum384(b)
		return s[:]
	case "sha512":
		s := sha512.Sum512(b)
		return s[:]
	default:
		s := sha256.Sum256(b)
		return s[:]
	}
}

// seenOf is what a reason says of a measurement: its value where it was disclosed, else its digest.
func seenOf(m Measurement) string {
	if m.Value == "" {
		return m.Digest.String()
	}
	const most = 512
	if len(m.Value) > most {
		return m.Value[:most] + "…"
	}
	return m.Value
}

// key returns an item's name without the check's.
func (c *check) key(m Measurement) string {
	return strings.TrimPrefix(m.Name, rats.EscapePath(c.scope.Path))
}

// listed judges an outcome by the rule's own lists and patterns; it is false if they say nothing of it, and the reference
// set is asked. What is denied is denied whatever permits it.
func (c *check) listed(m Measurement, severity rats.Tier) bool {
	key := c.key(m)
	match := func(pattern string) bool { return wildcard(pattern, key) }
	values, expected := c.rule.Expect[key]
	switch {
	case c.rule.Match+c.rule.NoMatch != "":
		c.pattern(m, severity)
	case slices.ContainsFunc(c.rule.Deny, match):
		c.unknown++
		c.lower(CodeDenied, severity, m.Name, "nothing of this name", seenOf(m))
	case expected:
		ok := slices.ContainsFunc(values, func(v string) bool { return bytes.Equal(sumOf(m.Digest.Alg, []byte(v)), m.Digest.Sum) })
		if !ok {
			c.changed++
			c.lower(CodeValue, severity, m.Name, clipValues(values), seenOf(m))
		}
	default:
		return slices.ContainsFunc(c.rule.Allow, match)
	}
	return true
}

// The values of a command with a pattern, as package measure makes them.
const (
	valueMatch   = "match"
	valueNoMatch = "no match"
)

func (c *check) pattern(m Measurement, severity rats.Tier) {
	want := valueMatch
	if c.rule.NoMatch != "" {
		want = valueNoMatch
	}
	if !bytes.Equal(sumOf(m.Digest.Alg, []byte(want)), m.Digest.Sum) {
		c.changed++
		c.lower(CodePattern, severity, m.Name, want+" of "+clipText(c.rule.Match+c.rule.NoMatch), seenOf(m))
	}
}

// expected finds the items that must be there and are not.
func (c *check) expected(seen map[string]bool) {
	for _, key := range slices.Sorted(maps.Keys(c.rule.Expect)) {
		if name := rats.EscapePath(c.scope.Path) + key; !seen[name] {
			c.missing++
			c.lower(CodeAbsent, tier(c.rule.Missing, c.rule.Severity), name, clipValues(c.rule.Expect[key]), "nothing")
		}
	}
}

func clipValues(values []string) string {
	const most = 4
	if len(values) > most {
		return strings.Join(values[:most], " or ") + fmt.Sprintf(" or %d others", len(values)-most)
	}
	return clipText(strings.Join(values, " or "))
}

func clipText(s string) string {
	if len(s) > 256 {
		return s[:256] + "…"
	}
	return s
}

// wildcard says whether s is what pattern says, in which * is anything, slashes and nothing included, and all else itself.
func wildcard(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return s == pattern
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, tail, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], tail
	}
}
