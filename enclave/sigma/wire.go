package sigma

import (
	"encoding/binary"
	"fmt"
)

// Every message begins with these bytes, the version, which message it is, and the suite.
var magic = [4]byte{'A', 'S', 'G', 'M'}

const (
	version    = 1
	headerSize = len(magic) + 3
	sigSize    = 64 // r ‖ s
	macSize    = 32
	tagSize    = 16 // of AES-GCM
)

func header(kind byte, s Suite) []byte { return append(magic[:], version, kind, byte(s)) }

// body checks the head of a message and returns what follows, and the suite.
func body(b []byte, kind byte, most int) ([]byte, Suite, error) {
	if len(b) < headerSize || len(b) > most || [4]byte(b) != magic {
		return nil, 0, CodeMessage.Bad("message", fmt.Sprintf("a message of at most %d bytes", most), fmt.Sprintf("%d bytes", len(b)))
	}
	if b[4] != version {
		return nil, 0, CodeVersion.Bad("message.version", fmt.Sprint(version), fmt.Sprint(b[4]))
	}
	if b[5] != kind {
		return nil, 0, CodeOrder.Bad("message.kind", fmt.Sprint(kind), fmt.Sprint(b[5]))
	}
	s := Suite(b[6])
	if c, _ := s.curve(); c == nil {
		return nil, 0, CodeSuite.Bad("message.suite", "a known suite", fmt.Sprint(b[6]))
	}
	return b[headerSize:], s, nil
}

// hello is message 1.
type hello struct {
	suite   Suite
	purpose string
	share   []byte
}

func (m hello) encode() []byte {
	b := append(header(1, m.suite), byte(len(m.purpose)))
	b = append(b, m.purpose...)
	return append(b, m.share...)
}

func parseHello(b []byte) (m hello, err error) {
	rest, s, err := body(b, 1, headerSize+1+MaxPurpose+65)
	if err != nil {
		return m, err
	}
	_, size := s.curve()
	if len(rest) < 1 || len(rest) != 1+int(rest[0])+size {
		return m, CodeMessage.Bad("message 1", "a purpose and a share of the suite's size", fmt.Sprintf("%d bytes", len(b)))
	}
	n := 1 + int(rest[0])
	return hello{suite: s, purpose: string(rest[1:n]), share: rest[n:]}, nil
}

// parseAnswer is message 2: the bytes before the box, the share, and the box.
func parseAnswer(b []byte) (s Suite, open, share, box []byte, err error) {
	rest, s, err := body(b, 2, headerSize+65+2+maxKey+sigSize+macSize+tagSize)
	if err != nil {
		return 0, nil, nil, nil, err
	}
	_, size := s.curve()
	if len(rest) < size+tagSize {
		return 0, nil, nil, nil, CodeMessage.Bad("message 2", "a share and what is encrypted", fmt.Sprintf("%d bytes", len(b)))
	}
	return s, b[:headerSize+size], rest[:size], rest[size:], nil
}

// proof is what stands in the boxes of messages 2 and 3.
type proof struct {
	key      []byte // SubjectPublicKeyInfo
	sig, mac []byte
	quote    []byte // message 3 only
}

func (p proof) encode() []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(p.key)))
	b = append(b, p.key...)
	b = append(b, p.sig...)
	b = append(b, p.mac...)
	return append(b, p.quote...)
}

func parseProof(b []byte, quoted bool) (p proof, err error) {
	bad := CodeMessage.Bad("proof", "key, signature, MAC, and in message 3 a quote", fmt.Sprintf("%d bytes", len(b)))
	if len(b) < 2 {
		return p, bad
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n == 0 || n > maxKey || len(b) < n+sigSize+macSize {
		return p, bad
	}
	p = proof{key: b[:n], sig: b[n : n+sigSize], mac: b[n+sigSize : n+sigSize+macSize], quote: b[n+sigSize+macSize:]}
	if (len(p.quote) > 0) != quoted || len(p.quote) > MaxQuote {
		return proof{}, bad
	}
	return p, nil
}
