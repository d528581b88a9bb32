package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/rats"
)

// The headers of a delivery to a webhook.
const (
	HeaderSignature = "Assay-Signature" // t=UNIX,v1=HEX of SignDelivery, or jws=PROTECTED..SIGNATURE
	HeaderDelivery  = "Assay-Delivery"  // NAMESPACE/SEQ: the same for every attempt, by which receivers know doubles
)

// WebhookRequest is POST …/webhooks: who is to be told what (admin).
type WebhookRequest struct {
	URL      string   `json:"url"`
	Kinds    []string `json:"kinds,omitempty"`    // node.state, node.*; empty: all but the many
	Nodes    []string `json:"nodes,omitempty"`    // ids or names; empty: all
	Severity string   `json:"severity,omitempty"` // at least: info, warning, critical
	// Secret authenticates deliveries (HMAC-SHA256); 16 to 256 bytes. Empty: one is made and told once, unless SignJWS.
	Secret []byte `json:"secret,omitempty"`
	// SignJWS has the server sign with the key of its results, published as JWKS, instead of a secret.
	SignJWS bool `json:"sign_jws,omitempty"`
}

// Webhook is a webhook as owners see it.
type Webhook struct {
	ID        string    `json:"id"`
	URL       string    `json:"url"`
	Kinds     []string  `json:"kinds,omitempty"`
	Nodes     []string  `json:"nodes,omitempty"` // ids
	Severity  string    `json:"severity,omitempty"`
	Signs     string    `json:"signs"`            // secret or jws
	Secret    []byte    `json:"secret,omitempty"` // only in the answer to its creation, if the server made it
	CreatedAt time.Time `json:"created_at"`
	After     int64     `json:"after"` // the sequence number up to which everything was delivered, passed over or given up
	Behind    int64     `json:"behind"`
	Dead      int       `json:"dead"`                   // dead letters
	Failing   time.Time `json:"failing_since,omitzero"` // zero: the last delivery succeeded
	Problem   rats.Code `json:"problem,omitempty"`      // of the last attempt that failed
	Seen      string    `json:"problem_seen,omitempty"`
}

// WebhookList is GET …/webhooks.
type WebhookList struct {
	Webhooks []Webhook `json:"webhooks"`
}

// WebhookTest is the answer to POST …/webhooks/{id}/test: what a delivery made now came to.
type WebhookTest struct {
	OK     bool         `json:"ok"`
	Status int          `json:"status,omitempty"` // of the answer
	Took   string       `json:"took"`
	Reason *rats.Reason `json:"reason,omitempty"`
}

// DeadLetter is an event that could not be delivered.
type DeadLetter struct {
	Seq      int64     `json:"seq"`
	Kind     string    `json:"kind"`
	Subject  string    `json:"subject"`
	At       time.Time `json:"at"`
	Given    time.Time `json:"given_up"`
	Attempts int       `json:"attempts"`
	Problem  rats.Code `json:"problem"`
	Seen     string    `json:"problem_seen,omitempty"`
	Due      bool      `json:"due,omitempty"` // it is to be sent again
}

// DeadLetterList is GET …/webhooks/{id}/dead?after=SEQ.
type DeadLetterList struct {
	Letters []DeadLetter `json:"letters"`
	Next    int64        `json:"next,omitempty"` // pass as after
}

// Redeliver is POST …/webhooks/{id}/redeliver: which dead letters to send again.
type Redeliver struct {
	Seq []int64 `json:"seq,omitempty"` // empty: all
}

// Redelivered is its answer.
type Redelivered struct {
	Due int `json:"due"`
}

// Delivery is the body of a delivery.
type Delivery struct {
	ID        string `json:"id"` // NAMESPACE/SEQ
	Namespace string `json:"namespace"`
	Webhook   string `json:"webhook"`
	Severity  string `json:"severity"`
	Event
}

// Quarantine is a node's mark that only an administrator lifts, and the body of PUT …/nodes/{node}/quarantine.
type Quarantine struct {
	At  time.Time `json:"at,omitzero"`
	By  string    `json:"by,omitempty"` // admin:…, or action:NAME of the policy
	Why string    `json:"why,omitempty"`
}

// Wish is POST …/nodes/{node}/wish: an agent asks to be challenged, for something happened on its machine. The server
// decides; an agent that doesn't ask is challenged when it is due.
type Wish struct {
	Event string `json:"event"` // packages, modules, kexec
}

// SignDelivery returns the value of HeaderSignature for a body under a webhook's secret: HMAC-SHA256 over the decimal Unix
// time, a dot, and the body.
func SignDelivery(secret, body []byte, at time.Time) string {
	t := strconv.FormatInt(at.Unix(), 10)
	return "t=" + t + ",v1=" + hex.EncodeToString(deliverySum(secret, t, body))
}

func deliverySum(secret []byte, t string, body []byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(t + "."))
	m.Write(body)
	return m.Sum(nil)
}

// DeliveryAge is how old a delivery may be by default when its receiver checks it.
const DeliveryAge = 5 * time.Minute

// VerifyDelivery is nil if a delivery was signed with the secret no longer than age ago (zero: DeliveryAge), nor that far
// in the future. Receivers keep the delivery ids they have seen, for an event may come twice.
func VerifyDelivery(secret []byte, signature string, body []byte, now time.Time, age time.Duration) error {
	if age <= 0 {
		age = DeliveryAge
	}
	t, sum, ok := strings.Cut(signature, ",v1=")
	t, stamped := strings.CutPrefix(t, "t=")
	want, err := hex.DecodeString(sum)
	unix, err2 := strconv.ParseInt(t, 10, 64)
	if !ok || !stamped || err != nil || err2 != nil {
		return errors.New("signature is not of the form t=UNIX,v1=HEX")
	}
	if len(secret) == 0 || !hmac.Equal(want, deliverySum(secret, t, body)) {
		return errors.New("signature is not of this secret and body")
	}
	if d := now.Sub(time.Unix(unix, 0)); d > age || d < -age {
		return fmt.Errorf("delivery was signed %s ago", d)
	}
	return nil
}
