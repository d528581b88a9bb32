package plan

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

// Codes of orders.
var (
	CodeOrderSealed = rats.CodeInfo{
		Code:  "plan.order.sealed",
		Title: "order is not sealed to this enclave",
		Hint:  "the enclave was restarted, or the order is another's; attest the platform first, then ask again",
		Slot:  rats.RuntimeOpaque,
	}
	CodeOrderSignature = rats.CodeInfo{
		Code:  "plan.order.signature",
		Title: "order is not signed by the plan signer",
		Hint:  "the enclave obeys only the signer it was launched with; join again if the server's key was replaced",
		Slot:  rats.RuntimeOpaque,
	}
	CodeOrderMalformed = rats.CodeInfo{
		Code:  "plan.order.malformed",
		Title: "not an order in its canonical form",
		Hint:  "agent and server may be of different versions",
		Slot:  rats.RuntimeOpaque,
	}
	CodeOrderAddressee = rats.CodeInfo{
		Code:  "plan.order.addressee",
		Title: "order is for another enclave",
		Hint:  "orders are made for the keys of one enclave",
		Slot:  rats.RuntimeOpaque,
	}
	CodeOrderNamespace = rats.CodeInfo{
		Code:  "plan.order.namespace",
		Title: "order is for another namespace",
		Hint:  "order, manifest and enclave must name one namespace",
		Slot:  rats.RuntimeOpaque,
	}
	CodeOrderNode = rats.CodeInfo{
		Code:  "plan.order.node",
		Title: "order is for another node",
		Hint:  "order, manifest and enclave must name one node",
		Slot:  rats.RuntimeOpaque,
	}
	CodeOrderNonce = rats.CodeInfo{
		Code:  "plan.order.nonce",
		Title: "order is of another challenge",
		Hint:  "an order serves one challenge; a used one can't be replayed",
		Slot:  rats.RuntimeOpaque,
	}
	CodeOrderExpired = rats.CodeInfo{
		Code:  "plan.order.expired",
		Title: "order is expired",
		Hint:  "check the machine's clock; orders live as long as their challenge",
		Slot:  rats.RuntimeOpaque,
	}
)

// orderTag is the domain of an order's signature and the purpose of its box.
const orderTag = "assay/order/1"

// Order is a plan with whom it is for, which challenge it belongs to, and to which key its results go: what the
// verifier signs (S05).
type Order struct {
	Namespace string      `json:"namespace"`
	Node      string      `json:"node"`
	Nonce     []byte      `json:"nonce"`   // the challenge, 32 bytes
	To        rats.Digest `json:"to"`      // KeysDigest of the enclave
	Results   []byte      `json:"results"` // HPKE public key, 32 bytes, to which results are sealed
	Expires   time.Time   `json:"expires"` // UTC
	Plan      Plan        `json:"plan"`
}

// KeysDigest names an enclave by its keys: the SHA-256 over those for hpke and sign. It is the zero digest if either is
// missing.
func KeysDigest(keys []rats.BoundKey) rats.Digest {
	m := rats.Manifest{Keys: keys}
	hpke, ok := m.Key(rats.KeyHPKE)
	signKey, ok2 := m.Key(rats.KeySign)
	if !ok || !ok2 {
		return rats.Digest{}
	}
	b := appendField(nil, []byte("assay/enclave/1"))
	b = appendField(b, hpke.Public)
	return rats.SHA256(appendField(b, signKey.Public))
}

// orderMessage is what is signed: tag ‖ 64-bit length ‖ payload.
func orderMessage(payload []byte) []byte {
	b := append([]byte(nil), orderTag...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(payload)))
	return append(b, payload...)
}

// Seal signs the order with the plan signer (ECDSA P-256) and seals it to the enclave's HPKE key (32 bytes). It refuses an
// order that OpenOrder would. senders remembers the key; nil remembers nothing.
func (o Order) Seal(senders *sealed.Senders, signer crypto.Signer, hpkePub []byte) ([]byte, error) {
	payload, err := o.encode()
	if err != nil {
		return nil, err
	}
	if err := o.check(len(payload)); err != nil {
		return nil, err
	}
	sig, err := sign(signer, orderMessage(payload))
	if err != nil {
		return nil, fmt.Errorf("signing an order: %w", err)
	}
	return senders.Seal(hpkePub, []byte(orderTag), appendField(appendField(nil, payload), sig))
}

// OpenOrder opens a box with the enclave's key, checks the plan signer's signature before anything of the order is
// parsed, then decodes it strictly. Whether the order is for this enclave and challenge is CheckFor's to say.
func OpenOrder(key *sealed.Key, planSignerSPKI, box []byte) (Order, error) {
	if len(box) > MaxDocument+4096 {
		return Order{}, CodeOrderMalformed.Bad("order", fmt.Sprintf("at most %d bytes", MaxDocument), fmt.Sprintf("%d bytes", len(box)))
	}
	plain, err := key.Open([]byte(orderTag), box)
	if err != nil {
		return Order{}, CodeOrderSealed.Bad("order", "", "")
	}
	payload, sig, ok := pair(plain)
	if !ok {
		return Order{}, CodeOrderMalformed.Bad("order", "payload and signature", fmt.Sprintf("%d bytes", len(plain)))
	}
	signer, err := parseKey(planSignerSPKI)
	if err != nil {
		return Order{}, fmt.Errorf("reading the plan signer: %w", err)
	}
	if !verify(signer, orderMessage(payload), sig) {
		return Order{}, CodeOrderSignature.Bad("order", "a signature by "+rats.SHA256(planSignerSPKI).String(), "")
	}
	return decodeOrder(payload)
}

func (o Order) encode() ([]byte, error) {
	o.Expires = o.Expires.UTC()
	if o.Plan.Tests == nil {
		o.Plan.Tests = []Test{}
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encoding an order: %w", err)
	}
	return b, nil
}

// decodeOrder reads the payload of an order: canonical JSON, no other encoding.
func decodeOrder(payload []byte) (Order, error) {
	if err := fits(len(payload)); err != nil {
		return Order{}, err
	}
	var o Order
	if err := strict(payload, &o); err != nil {
		return Order{}, CodeOrderMalformed.Bad("order", "an order in JSON", err.Error())
	}
	if err := o.check(len(payload)); err != nil {
		return Order{}, err
	}
	if again, err := o.encode(); err != nil || !bytes.Equal(again, payload) {
		return Order{}, CodeOrderMalformed.Bad("order", "canonical JSON", "another encoding of the same order")
	}
	return o, nil
}

func fits(size int) error {
	if size > MaxDocument {
		return CodeOrderMalformed.Bad("order", fmt.Sprintf("at most %d bytes", MaxDocument), fmt.Sprintf("%d bytes", size))
	}
	return nil
}

// check says what is wrong with an order whose payload has a size.
func (o Order) check(size int) error {
	if err := fits(size); err != nil {
		return err
	}
	switch {
	case o.Namespace == "" || o.Node == "":
		return CodeOrderMalformed.Bad("order", "a namespace and a node", "")
	case len(o.Nonce) != 32:
		return CodeOrderMalformed.Bad("order.nonce", "32 bytes", fmt.Sprintf("%d bytes", len(o.Nonce)))
	case o.To.Alg != "sha256" || o.To.Check() != nil:
		return CodeOrderMalformed.Bad("order.to", "a SHA-256 digest", o.To.String())
	case len(o.Results) != sealed.PublicSize:
		return CodeOrderMalformed.Bad("order.results", "32 bytes", fmt.Sprintf("%d bytes", len(o.Results)))
	case o.Expires.IsZero():
		return CodeOrderMalformed.Bad("order.expires", "a time", "")
	}
	return o.Plan.Check()
}

// CheckFor says why an enclave with these keys must not obey the order in the attestation that m describes, nil if it may:
// the order must be addressed to those keys, for the manifest's namespace, node and nonce, and not expired at now.
func (o Order) CheckFor(keys []rats.BoundKey, m rats.Manifest, now time.Time) error {
	switch {
	case !KeysDigest(keys).Equal(o.To):
		return CodeOrderAddressee.Bad("order.to", KeysDigest(keys).String(), o.To.String())
	case o.Namespace != m.Namespace:
		return CodeOrderNamespace.Bad("order.namespace", m.Namespace, o.Namespace)
	case o.Node != m.Node:
		return CodeOrderNode.Bad("order.node", m.Node, o.Node)
	case len(o.Nonce) != 32 || !bytes.Equal(o.Nonce, m.Nonce):
		return CodeOrderNonce.Bad("order.nonce", rats.SHA256(m.Nonce).String(), rats.SHA256(o.Nonce).String())
	case !now.Before(o.Expires):
		return CodeOrderExpired.Bad("order.expires", "after "+now.UTC().Format(time.RFC3339), o.Expires.Format(time.RFC3339))
	}
	return nil
}
