package rats

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Format is the id of one kind of evidence ("tpm", "plan", …): the same string in API, policy, database, CLI and
// docs. The constant lives in the format's folder.
type Format string

// Digest is a hash with the name of its algorithm. Its text form is "sha256:hex", lower case.
type Digest struct {
	Alg string
	Sum []byte
}

// digestSizes are the algorithms a Digest may name, with their size in bytes.
var digestSizes = map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3": 32}

// SHA256 returns the SHA-256 digest of the parts, hashed one after another without separators.
func SHA256(parts ...[]byte) Digest {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return Digest{Alg: "sha256", Sum: h.Sum(nil)}
}

// SHA384 returns the SHA-384 digest of the parts, hashed one after another without separators.
func SHA384(parts ...[]byte) Digest {
	h := sha512.New384()
	for _, p := range parts {
		h.Write(p)
	}
	return Digest{Alg: "sha384", Sum: h.Sum(nil)}
}

// ErrDigest is wrapped by every error of ParseDigest.
var ErrDigest = errors.New("not a digest")

// ParseDigest reads the text form "alg:hex". It refuses unknown algorithms, upper-case hex and sums of another length
// than the algorithm's.
func ParseDigest(s string) (Digest, error) {
	alg, sum, ok := strings.Cut(s, ":")
	if !ok {
		return Digest{}, fmt.Errorf("%w: %q has no algorithm; write it as sha256:<hex>", ErrDigest, clip(s))
	}
	size, ok := digestSizes[alg]
	if !ok {
		return Digest{}, fmt.Errorf("%w: algorithm %q is not one of sha1, sha256, sha384, sha512, sm3", ErrDigest, clip(alg))
	}
	if len(sum) != 2*size {
		return Digest{}, fmt.Errorf("%w: %s needs %d hex digits, got %d", ErrDigest, alg, 2*size, len(sum))
	}
	if strings.ToLower(sum) != sum {
		return Digest{}, fmt.Errorf("%w: hex digits are lower case", ErrDigest)
	}
	b, err := hex.DecodeString(sum)
	if err != nil {
		return Digest{}, fmt.Errorf("%w: %s", ErrDigest, err)
	}
	return Digest{Alg: alg, Sum: b}, nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// String returns "alg:hex", and "" for the zero digest.
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return d.Alg + ":" + hex.EncodeToString(d.Sum)
}

// IsZero says whether d is no digest at all.
func (d Digest) IsZero() bool { return d.Alg == "" && len(d.Sum) == 0 }

// Equal says whether both are the same digest by the same algorithm. A zero digest equals nothing, itself included.
func (d Digest) Equal(o Digest) bool {
	return !d.IsZero() && d.Alg == o.Alg && bytes.Equal(d.Sum, o.Sum)
}

// Check says why d is not a well-formed digest, nil if it is.
func (d Digest) Check() error {
	if size, ok := digestSizes[d.Alg]; !ok || size != len(d.Sum) {
		return fmt.Errorf("%w: algorithm %q with %d bytes", ErrDigest, clip(d.Alg), len(d.Sum))
	}
	return nil
}

// MarshalText implements encoding.TextMarshaler; the zero digest is empty text.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero digest.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	p, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = p
	return nil
}

// Ref names one version of a stored document.
type Ref struct {
	Name    string `json:"name"`
	Version int64  `json:"version"`
	Digest  Digest `json:"digest"`
}
