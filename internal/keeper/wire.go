package keeper

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/assay-attest/assay/rats"
)

// A message on the socket is a length (4 bytes, big endian) and JSON; an answer is followed by a second length and a key,
// which thereby never passes through JSON, whose buffers can't be wiped. A connection carries requests one after another.

const maxMessage = 64 << 10

// The operations.
const (
	opStatus  = "status"
	opBrief   = "brief"
	opDerive  = "derive"
	opInstall = "install"
	opCommit  = "commit"
	opRequest = "recovery-request"
	opFinish  = "recovery-finish"
)

type message struct {
	Op     string          `json:"op"`
	Derive *Request        `json:"derive,omitempty"`
	Set    json.RawMessage `json:"set,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

type reply struct {
	Reason  *rats.Reason     `json:"reason,omitempty"` // a refusal
	Error   string           `json:"error,omitempty"`  // a malfunction
	Status  *Status          `json:"status,omitempty"`
	Value   uint64           `json:"value,omitempty"`
	Request *RecoveryRequest `json:"request,omitempty"`
}

func writePart(w io.Writer, b []byte) error {
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d", len(b), maxMessage)
	}
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b)))
	out = append(out, b...)
	_, err := w.Write(out)
	clear(out)
	return err
}

func readPart(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return nil, CodeRequest.Bad("length", fmt.Sprintf("at most %d bytes", maxMessage), fmt.Sprint(n))
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func parseMessage(b []byte) (message, error) {
	var m message
	if err := strictJSON(b, &m); err != nil {
		return message{}, CodeRequest.Bad("", "JSON of known fields", err.Error())
	}
	if m.Op == opDerive && m.Derive == nil {
		return message{}, CodeRequest.Bad("derive", "what to derive", "nothing")
	}
	return m, nil
}
