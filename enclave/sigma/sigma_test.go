package sigma

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"github.com/assay-attest/assay/rats"
)

var bg = context.Background()

const purpose = "provision secrets"

func wantCode(t testing.TB, what string, err error, want rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != want.Code {
		t.Errorf("%s: %v, want %s", what, err, want.Code)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A quote of these tests is who makes it, and what it is bound to.
func quoteOf(who string) func([64]byte) ([]byte, error) {
	return func(data [64]byte) ([]byte, error) { return append([]byte(who+":"), data[:]...), nil }
}

var errQuote = errors.New("the quote is of another enclave, or about something else")

func appraise(who string) func(context.Context, []byte, [64]byte) error {
	return func(_ context.Context, quote []byte, data [64]byte) error {
		if want, _ := quoteOf(who)(data); !bytes.Equal(quote, want) {
			return errQuote
		}
		return nil
	}
}

// pair is an enclave and the server that it trusts.
type pair struct {
	enclave EnclaveConfig
	server  ServerConfig
}

func newPair(t testing.TB) pair {
	t.Helper()
	k := newKey(t)
	spki, err := publicOf(k)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		EnclaveConfig{Purpose: purpose, Servers: [][32]byte{KeyID(spki)}, Quote: quoteOf("good"), Rand: rand.Reader},
		ServerConfig{Purpose: purpose, Key: k, Appraise: appraise("good"), Once: NewOnce(1000), Rand: rand.Reader},
	}
}

func (p pair) start(t testing.TB) (*Enclave, *Server) {
	t.Helper()
	e, err := NewEnclave(p.enclave)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(p.server)
	if err != nil {
		t.Fatal(err)
	}
	return e, s
}

// answered goes as far as message 2.
func (p pair) answered(t testing.TB) (*Enclave, *Exchange, []byte) {
	t.Helper()
	e, s := p.start(t)
	second, x, err := s.Answer(e.Hello())
	if err != nil {
		t.Fatal(err)
	}
	return e, x, second
}

// finished goes to the end.
func (p pair) finished(t testing.TB) (enclave, server *Session) {
	t.Helper()
	e, x, second := p.answered(t)
	third, enclave, err := e.Finish(second)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = x.Finish(bg, third); err != nil {
		t.Fatal(err)
	}
	return enclave, server
}

// R091: both sides get one channel, another for every exchange, in both suites.
func TestEnclaveAndServerGetOneChannel(t *testing.T) {
	seen := map[[32]byte]bool{}
	for _, suite := range []Suite{0, X25519, P256, X25519} {
		p := newPair(t)
		p.enclave.Suite, p.server.Suites = suite, []Suite{X25519, P256}
		e, s := p.finished(t)
		if e.ID() != s.ID() || seen[e.ID()] || e.Suite() != s.Suite() {
			t.Errorf("ids %x and %x", e.ID(), s.ID())
		}
		seen[e.ID()] = true
		for i := range 3 {
			for _, c := range [][2]*Session{{e, s}, {s, e}} {
				record, err := c[0].Seal([]byte("about"), fmt.Append(nil, "record ", i))
				if err != nil {
					t.Fatal(err)
				}
				if b, err := c[1].Open([]byte("about"), record); err != nil || string(b) != fmt.Sprint("record ", i) {
					t.Errorf("opened %q, %v", b, err)
				}
			}
		}
		a, err := e.Export("disk", 48)
		b, err2 := s.Export("disk", 48)
		c, err3 := s.Export("net", 48)
		if err != nil || err2 != nil || err3 != nil || !bytes.Equal(a, b) || bytes.Equal(a, c) {
			t.Errorf("exported %x, %x, %x", a, b, c)
		}
		if got := KeyID(e.Peer()); got != p.enclave.Servers[0] {
			t.Errorf("the enclave met %x", got)
		}
		if text := fmt.Sprintf("%v %+v %#v", e, e, s); bytes.Contains([]byte(text), a[:8]) || len(text) > 100 {
			t.Errorf("prints as %s", text)
		}
		e.Wipe()
		e.Wipe()
		_, err = e.Seal(nil, nil)
		wantCode(t, "after the end", err, CodeExhausted)
		_, err = e.Open(nil, nil)
		wantCode(t, "after the end", err, CodeExhausted)
		_, err = e.Export("disk", 1)
		wantCode(t, "after the end", err, CodeExhausted)
	}
}

// The channel's records: replayed, reordered, reflected, altered, about something else, of another channel, too many.
func TestRecordsAreOpenedOnceInTheirOrder(t *testing.T) {
	p := newPair(t)
	e, s := p.finished(t)
	other, _ := p.finished(t)
	seal := func(x *Session, extra string) []byte {
		b, err := x.Seal([]byte(extra), []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first, second := seal(e, ""), seal(e, "")
	refuse := func(what string, by *Session, extra string, record []byte) {
		t.Helper()
		_, err := by.Open([]byte(extra), record)
		wantCode(t, what, err, CodeRecord)
	}
	refuse("the second first", s, "", second)
	refuse("reflected", e, "", first)
	refuse("of another channel", s, "", seal(other, ""))
	refuse("about something else", s, "else", first)
	refuse("cut short", s, "", first[:10])
	refuse("empty", s, "", nil)
	refuse("altered", s, "", append([]byte{first[0] ^ 1}, first[1:]...))
	if _, err := s.Open(nil, first); err != nil {
		t.Fatal("what was refused before ended the channel:", err)
	}
	refuse("again", s, "", first)
	if _, err := s.Open(nil, second); err != nil {
		t.Error(err)
	}
	e.sent, s.got = maxRecords, maxRecords
	_, err := e.Seal(nil, nil)
	wantCode(t, "too many", err, CodeExhausted)
	_, err = s.Open(nil, second)
	wantCode(t, "too many", err, CodeExhausted)
}

// What an exchange can't be configured with.
func TestIncompleteConfigurationsAreRefused(t *testing.T) {
	for what, change := range map[string]func(*pair){
		"no purpose":     func(p *pair) { p.enclave.Purpose, p.server.Purpose = "", "" },
		"a long purpose": func(p *pair) { s := string(make([]byte, 256)); p.enclave.Purpose, p.server.Purpose = s, s },
		"no randomness":  func(p *pair) { p.enclave.Rand, p.server.Rand = nil, nil },
		"no quote":       func(p *pair) { p.enclave.Quote, p.server.Appraise = nil, nil },
		"unknown suite":  func(p *pair) { p.enclave.Suite, p.server.Suites = 9, []Suite{9} },
		"no key":         func(p *pair) { p.enclave.Servers, p.server.Key = nil, nil },
	} {
		p := newPair(t)
		change(&p)
		if _, err := NewEnclave(p.enclave); err == nil {
			t.Errorf("%s: there is an enclave's side", what)
		}
		if _, err := NewServer(p.server); err == nil {
			t.Errorf("%s: there is a server", what)
		}
	}
	p := newPair(t)
	p.enclave.Servers = nil
	_, err := NewEnclave(p.enclave)
	wantCode(t, "an enclave that trusts nobody", err, CodeServer)
}
