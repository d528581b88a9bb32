package identity

import (
	"encoding/base32"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// Prefixes of the ids this package makes.
const (
	prefixNode  = "nd_"
	prefixToken = "jt_"
)

const (
	maxNamespace = 63
	maxName      = 128
)

var idText = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID returns the prefix and 128 random bits.
func newID(rand io.Reader, prefix string) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("reading randomness for an id: %w", err)
	}
	return prefix + idText.EncodeToString(b[:]), nil
}

// nodeURI returns assay://NAMESPACE/node/ID.
func nodeURI(namespace, node string) *url.URL {
	return &url.URL{Scheme: "assay", Host: namespace, Path: "/node/" + node}
}

// validNamespace says whether s is a DNS label (RFC 1035) in lower case: it stands as the host in the URI of a node.
func validNamespace(s string) bool {
	return s != "" && len(s) <= maxNamespace && only(s, "-") && s[0] != '-' && s[len(s)-1] != '-'
}

// validNodeID says whether s is spelled like a node's id.
func validNodeID(s string) bool {
	rest, ok := strings.CutPrefix(s, prefixNode)
	return ok && rest != "" && len(rest) <= 64 && only(rest, "")
}

func only(s, more string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.Contains(more, string(c)) {
			return false
		}
	}
	return true
}

// CodeNameInvalid refuses a node name.
var CodeNameInvalid = rats.CodeInfo{
	Code:  "join.name.invalid",
	Title: "the node's name is not usable",
	Hint:  "use 1 to 128 of a-z, 0-9, '.', '-', '_', beginning and ending with a letter or digit, not beginning with nd_",
	Slot:  rats.InstanceIdentity,
}

// checkName refuses names that would be ambiguous beside ids, in paths or to the eye.
func checkName(s string) error {
	ok := s != "" && len(s) <= maxName && only(s, ".-_") && only(s[:1], "") && only(s[len(s)-1:], "") &&
		!strings.HasPrefix(s, prefixNode)
	if !ok {
		return CodeNameInvalid.Bad("name", "a host name in lower case", clip(s))
	}
	return nil
}

// clip shortens foreign text for a reason.
func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return fmt.Sprintf("%q", s)
}
