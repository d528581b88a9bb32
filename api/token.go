package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/assay-attest/assay/rats"
)

// The text form of a join token is "asj1." and the unpadded base64url of a small JSON object.
const (
	joinTokenPrefix = "asj1."
	maxJoinToken    = 1024
	joinSecretSize  = 32
)

// ErrJoinToken is wrapped by every error of ParseJoinToken.
var ErrJoinToken = errors.New("not a join token")

// JoinTokenText is what a join token tells its holder: where to join, the secret that permits it, and which CA the
// server of that namespace must prove to be under before the secret is sent anywhere.
type JoinTokenText struct {
	Namespace string      // of the node to be
	ID        string      // jt_…
	Secret    []byte      // 32 random bytes; the server keeps their hash only
	CA        rats.Digest // SHA-256 of the CA certificate's DER
}

// joinTokenJSON is the wire form; the order of its fields is part of the canonical text.
type joinTokenJSON struct {
	Namespace string      `json:"ns"`
	ID        string      `json:"id"`
	Secret    []byte      `json:"secret"`
	CA        rats.Digest `json:"ca"`
}

// ParseJoinToken reads the text of a join token. It accepts exactly the texts that String makes of well-formed tokens,
// of at most 1 KiB; white space around the text is the caller's to trim. Its errors never repeat the text.
func ParseJoinToken(s string) (JoinTokenText, error) {
	if len(s) > maxJoinToken {
		return JoinTokenText{}, fmt.Errorf("%w: %d bytes, at most %d", ErrJoinToken, len(s), maxJoinToken)
	}
	body, ok := strings.CutPrefix(s, joinTokenPrefix)
	if !ok {
		return JoinTokenText{}, fmt.Errorf("%w: it does not start with %q", ErrJoinToken, joinTokenPrefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return JoinTokenText{}, fmt.Errorf("%w: what follows %q is not base64url", ErrJoinToken, joinTokenPrefix)
	}
	defer clear(raw)
	var w joinTokenJSON
	if err := json.Unmarshal(raw, &w); err != nil {
		return JoinTokenText{}, fmt.Errorf("%w: its content is not the expected JSON", ErrJoinToken)
	}
	t := JoinTokenText(w)
	if err := t.check(); err != nil {
		return JoinTokenText{}, err
	}
	// One text per token: other spellings of the same JSON are refused.
	if t.String() != s {
		return JoinTokenText{}, fmt.Errorf("%w: its content is not in canonical form", ErrJoinToken)
	}
	return t, nil
}

func (t JoinTokenText) check() error {
	switch {
	case t.Namespace == "" || len(t.Namespace) > 63:
		return fmt.Errorf("%w: namespace of %d bytes, expected 1 to 63", ErrJoinToken, len(t.Namespace))
	case !strings.HasPrefix(t.ID, "jt_") || len(t.ID) > 64:
		return fmt.Errorf("%w: its id is not jt_…", ErrJoinToken)
	case len(t.Secret) != joinSecretSize:
		return fmt.Errorf("%w: secret of %d bytes, expected %d", ErrJoinToken, len(t.Secret), joinSecretSize)
	case t.CA.Alg != "sha256" || t.CA.Check() != nil:
		return fmt.Errorf("%w: its CA is not a SHA-256 digest", ErrJoinToken)
	}
	return nil
}

// String returns the text form, with the secret in it: it is told once, to the one who is to join.
func (t JoinTokenText) String() string {
	// Marshalling strings, bytes and a digest can't fail.
	b, _ := json.Marshal(joinTokenJSON(t))
	return joinTokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// LogValue implements slog.LogValuer: a log gets the id, never the secret.
func (t JoinTokenText) LogValue() slog.Value { return slog.StringValue(t.ID) }
