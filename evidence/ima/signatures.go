package ima

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// Kinds of signatures that an entry can carry.
const (
	KindIMA    = "ima"    // security.ima, over the file's digest
	KindModsig = "modsig" // appended to the file
	KindEVM    = "evm"    // security.evm, over security.ima and the file's metadata
)

// Signature is what became of one signature of an entry.
type Signature struct {
	Entry   int         `json:"entry"`
	Path    string      `json:"path"`
	Kind    string      `json:"kind"`
	Valid   bool        `json:"valid"`
	Key     rats.Digest `json:"key,omitzero"`      // SHA-256 of the SubjectPublicKeyInfo that signed; only if valid
	Problem string      `json:"problem,omitempty"` // why it isn't
}

// maxSignatures bounds the signatures that claims list. Rules verify those they need, however many there are.
const maxSignatures = 1 << 14

// kinds returns the signatures of an entry.
func (e *Entry) kinds() []string {
	var out []string
	if e.Flags&FlagSig != 0 {
		out = append(out, KindIMA)
	}
	if len(e.Mod.Sig) > 0 {
		out = append(out, KindModsig)
	}
	if len(e.EVM.Sig) > 0 {
		out = append(out, KindEVM)
	}
	return out
}

// endorsedKeys are the keys that the caller gave.
func endorsedKeys(in rats.Inputs) ([]key, error) {
	var out []key
	for i, e := range in.Endorsements {
		if e.MediaType != MediaTypeKeys {
			continue
		}
		text := e.Body
		if bytes.HasPrefix(text, []byte{0x30}) {
			text = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: text})
		}
		keys, err := parseKeys(string(text))
		if err != nil {
			return nil, CodeKeys.Missing(fmt.Sprintf("endorsements[%d]", i), "PEM certificates or public keys, RSA or ECDSA", clip(err.Error(), 160))
		}
		out = append(out, keys...)
	}
	return out, nil
}

// verifySignatures lists every signature of the proven entries with the key that made it.
func (c *Claims) verifySignatures(keys []key) {
	if len(keys) == 0 {
		return
	}
	for e := range c.All() {
		if e.Flags&FlagViolation != 0 {
			continue
		}
		for _, kind := range e.kinds() {
			if len(c.Signatures) == maxSignatures {
				return
			}
			var k *key
			var err error
			switch kind {
			case KindIMA:
				k, err = e.checkSignature(keys)
			case KindModsig:
				k, err = e.checkModsig(keys)
			case KindEVM:
				k, err = e.checkEVM(keys, keys)
			}
			s := Signature{Entry: e.Index, Path: clip(e.Text(), 256), Kind: kind, Valid: err == nil}
			if err != nil {
				s.Problem = clip(err.Error(), 160)
			} else {
				s.Key = k.name
			}
			c.Signatures = append(c.Signatures, s)
		}
	}
}
