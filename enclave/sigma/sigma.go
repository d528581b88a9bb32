// Package sigma is the key exchange by which an enclave and a server make a channel that begins inside the enclave: SIGMA-I
// (Krawczyk, "SIGMA: the 'SIGn-and-MAc' approach to authenticated Diffie-Hellman") in three messages. The enclave begins,
// the server authenticates first, and only then the enclave shows its quote. docs/enclave-sdk.md has the formats.
//
//	1  enclave → server   purpose, share
//	2  server → enclave   share, { server's key, signature, MAC }
//	3  enclave → server   { enclave's key, signature, MAC, quote }
//
// It guarantees to both that the other holds the key it signed with and made these very shares for this exchange, under
// these roles, this version, suite and purpose; to the enclave that the server is one of those it was given; to the server
// that the quote it appraises is of the enclave it shares keys with; and that keys are new for every exchange, since shares
// are. What stands in braces is encrypted: who listens learns neither key nor quote, who plays the server without its key
// never gets a quote.
//
// It doesn't appraise the quote: that is the caller's function. It hides neither the purpose nor that an exchange happens,
// and what deletes a message isn't noticed until an answer is missed. Go can't wipe the expanded keys of AES and the
// numbers inside crypto/ecdh; it wipes what it holds in slices. It reads no clock and no randomness of its own, and builds
// for wasip1 and js/wasm.
package sigma

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/assay-attest/assay/rats"
)

// Why an exchange is refused.
var (
	CodeMessage = code("enclave.sigma.malformed", "the message is cut short, too long, or none of a key exchange",
		"hand on messages as they are; a quote may have 64 KiB")
	CodeVersion = code("enclave.sigma.version", "the message is of another version of the key exchange",
		"use equal versions on both sides; there is no fall-back to an older one")
	CodeSuite = code("enclave.sigma.suite", "the other side's cryptography is not accepted here",
		"configure one suite for both sides; the enclave's choice is never lowered")
	CodePurpose = code("enclave.sigma.purpose", "the exchange is for another purpose",
		"talk to the service that is for this purpose")
	CodeOrder = code("enclave.sigma.order", "the message is not the one that is due",
		"an exchange has three messages, each used once; begin another exchange")
	CodeShare = code("enclave.sigma.share", "the other side's share is no usable point of the curve",
		"whoever sent it doesn't follow the protocol")
	CodeReflected = code("enclave.sigma.reflected", "the other side sent back what it was sent",
		"somebody in between plays the other side")
	CodeReused = code("enclave.sigma.reused", "the share was used in an exchange before",
		"begin another exchange; an old message was sent again")
	CodeSealed = code("enclave.sigma.sealed", "the encrypted part of a message is not authentic",
		"a message was altered, or belongs to another exchange")
	CodeServer = code("enclave.sigma.server", "the server is none of those that the enclave trusts",
		"start the enclave with the server's key in its launch configuration, or build it with it")
	CodeSignature = code("enclave.sigma.signature", "the signature of the exchange is not the sender's",
		"the sender doesn't hold the key that it names, or signed another exchange")
	CodeMAC = code("enclave.sigma.mac", "the sender doesn't share keys with this side under the identity it names",
		"somebody signs for an exchange that is another's")
	CodeRecord = code("enclave.sigma.record", "the record is not the next one of this channel",
		"records are opened once, in their order, by the other side; nothing may be lost or sent again")
	CodeExhausted = code("enclave.sigma.exhausted", "the channel has carried as many records as it may, or has ended",
		"begin another exchange")
)

func code(c rats.Code, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Slot: rats.InstanceIdentity, Title: title, Hint: hint}
}

// Codes are all reasons that this package gives.
var Codes = []rats.CodeInfo{
	CodeMessage, CodeVersion, CodeSuite, CodePurpose, CodeOrder, CodeShare, CodeReflected, CodeReused, CodeSealed, CodeServer,
	CodeSignature, CodeMAC, CodeRecord, CodeExhausted,
}

// Suite is the cryptography of an exchange. All of them sign with ECDSA P-256 and SHA-256, derive by HKDF-SHA256, and
// encrypt with AES-256-GCM.
type Suite uint8

// The suites: which curve the shares are of.
const (
	X25519 Suite = 1 // RFC 7748
	P256   Suite = 2 // NIST SP 800-56A, uncompressed points
)

func (s Suite) curve() (c ecdh.Curve, share int) {
	switch s {
	case X25519:
		return ecdh.X25519(), 32
	case P256:
		return ecdh.P256(), 65
	}
	return nil, 0
}

// Bounds of what an exchange carries.
const (
	MaxPurpose = 255
	MaxQuote   = 64 << 10
	maxKey     = 256 // bytes of a SubjectPublicKeyInfo
)

// label begins everything that is hashed, signed, MACed or derived, so that nothing of this protocol means anything in
// another one, or in another place of this one.
const label = "assay/sigma/1 "

const (
	enclaveRole = "enclave"
	serverRole  = "server"
)

// newShare makes an ephemeral key of the reader's bytes; ecdh's own generator would ignore the reader.
func newShare(c ecdh.Curve, rand io.Reader) (*ecdh.PrivateKey, error) {
	var b [32]byte
	defer clear(b[:])
	for range 128 { // a candidate of P-256 is out of range once in 2^32
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return nil, fmt.Errorf("reading randomness for a key exchange: %w", err)
		}
		if k, err := c.NewPrivateKey(b[:]); err == nil {
			return k, nil
		}
	}
	return nil, errors.New("randomness yields no share")
}

// lv is a field with its length before it, so that no two lists of fields are one string.
func lv(fields ...[]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return b
}

func hash(what string, fields ...[]byte) [32]byte {
	return sha256.Sum256(append([]byte(label+what+"\x00"), lv(fields...)...))
}

// handshake are the keys of an exchange while it lasts.
type handshake struct {
	prk []byte   // of the shared secret
	th  [32]byte // of the messages as far as they have gone

	mac, box map[string][]byte // by the role that sends
}

// newHandshake derives from both shares. It refuses points that yield no secret: those of low order, and off the curve.
func newHandshake(c ecdh.Curve, own *ecdh.PrivateKey, peer []byte, first, second []byte) (*handshake, error) {
	p, err := c.NewPublicKey(peer)
	if err != nil {
		return nil, CodeShare.Bad("share", "a point of the curve", "none")
	}
	shared, err := own.ECDH(p)
	if err != nil {
		return nil, CodeShare.Bad("share", "a point of full order", "one of low order")
	}
	defer clear(shared)
	h := &handshake{th: hash("shares", first, second), mac: map[string][]byte{}, box: map[string][]byte{}}
	if h.prk, err = hkdf.Extract(sha256.New, shared, []byte(label)); err != nil {
		return nil, fmt.Errorf("deriving keys: %w", err)
	}
	for _, role := range []string{enclaveRole, serverRole} {
		if h.mac[role], err = h.derive(role + " mac"); err != nil {
			return nil, err
		}
		if h.box[role], err = h.derive(role + " box"); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// derive makes a key of what the parties share and of everything they have said so far.
func (h *handshake) derive(what string) ([]byte, error) {
	k, err := hkdf.Expand(sha256.New, h.prk, label+what+"\x00"+string(h.th[:]), 32)
	if err != nil {
		return nil, fmt.Errorf("deriving keys: %w", err)
	}
	return k, nil
}

// tag is the MAC of the role that sends over the identity it claims and the rest of its message.
func (h *handshake) tag(role string, fields ...[]byte) []byte {
	m := hmac.New(sha256.New, h.mac[role])
	sum := hash(role+" mac", append([][]byte{h.th[:]}, fields...)...)
	m.Write(sum[:])
	return m.Sum(nil)
}

// next takes a message into the transcript.
func (h *handshake) next(what string, message []byte) { h.th = hash(what, h.th[:], message) }

func (h *handshake) wipe() {
	clear(h.prk)
	for _, m := range []map[string][]byte{h.mac, h.box} {
		for _, k := range m {
			clear(k)
		}
	}
}

// bound is the report data of the enclave's quote: both shares with their roles, the purpose, and both keys (R091). 32
// zero bytes follow, as in every report of this project (R088).
func (h *handshake) bound(enclaveShare, serverShare []byte, purpose string, serverKey, enclaveKey []byte) (data [64]byte) {
	sum := hash("quote", h.th[:], []byte(enclaveRole), enclaveShare, []byte(serverRole), serverShare, []byte(purpose), serverKey, enclaveKey)
	copy(data[:], sum[:])
	return data
}
