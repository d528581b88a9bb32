package sigma

import (
	"bytes"
	"crypto/rand"
	"testing"
)

// Parsers take any bytes, and what they take they give back.
func FuzzHello(f *testing.F) {
	e, _ := newPair(f).start(f)
	f.Add(e.Hello())
	f.Add([]byte("ASGM\x01\x01\x02\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseHello(b); err == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%x is %x", b, m.encode())
		}
	})
}

func FuzzAnswer(f *testing.F) {
	_, _, second := newPair(f).answered(f)
	f.Add(second)
	f.Add(second[:50])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, open, _, box, err := parseAnswer(b); err == nil && !bytes.Equal(append(bytes.Clone(open), box...), b) {
			t.Errorf("%x isn't its parts", b)
		}
		// No message but the server's makes a channel.
		if e, err := NewEnclave(newPair(t).enclave); err == nil {
			e.Hello()
			if _, s, err := e.Finish(b); err == nil || s != nil {
				t.Error("a channel of nothing")
			}
		}
	})
}

func FuzzProof(f *testing.F) {
	p := proof{key: []byte("key"), sig: make([]byte, sigSize), mac: make([]byte, macSize)}
	f.Add(p.encode(), false)
	p.quote = []byte("quote")
	f.Add(p.encode(), true)
	f.Fuzz(func(t *testing.T, b []byte, quoted bool) {
		p, err := parseProof(b, quoted)
		if err != nil {
			return
		}
		if !bytes.Equal(p.encode(), b) {
			t.Errorf("%x is %x", b, p.encode())
		}
		_ = verify(p.key, p.sig, [32]byte{})
	})
}

func FuzzFinish(f *testing.F) {
	pair := newPair(f)
	e, _, second := pair.answered(f)
	third, _, err := e.Finish(second)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(third)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, x, _ := pair.answered(t)
		if s, err := x.Finish(bg, b); err == nil || s != nil {
			t.Error("a channel of nothing")
		}
	})
}

func BenchmarkExchange(b *testing.B) {
	p := newPair(b)
	p.server.Once = nil
	p.enclave.Key = newKey(b)
	p.enclave.Rand = rand.Reader
	for b.Loop() {
		p.finished(b)
	}
}
