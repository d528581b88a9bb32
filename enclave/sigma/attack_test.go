package sigma

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/assay-attest/assay/rats"
)

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// lowOrder are points of curve25519 that yield zero with every key, and their encodings above the prime (RFC 7748).
var lowOrder = [][]byte{
	make([]byte, 32),
	append([]byte{1}, make([]byte, 31)...),
	unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
	unhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
	unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}

func unhex(s string) []byte {
	b := make([]byte, len(s)/2)
	for i := range b {
		b[i] = nibble(s[2*i])<<4 | nibble(s[2*i+1])
	}
	return b
}

func nibble(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// R091: the refusal matrix of message 1. Its purpose and suite can't be changed on the way either: see below.
func TestServerRefusesHellos(t *testing.T) {
	e, s := newPair(t).start(t)
	good := e.Hello()
	share := len(good) - 32
	with := func(at int, b ...byte) []byte { return append(bytes.Clone(good[:at]), b...) }
	for what, c := range map[string]struct {
		message []byte
		want    rats.CodeInfo
	}{
		"nothing":              {nil, CodeMessage},
		"only a head":          {good[:headerSize], CodeMessage},
		"other magic":          {flip(good, 0), CodeMessage},
		"an older version":     {append(with(4, 0), good[5:]...), CodeVersion},
		"a newer version":      {append(with(4, 2), good[5:]...), CodeVersion},
		"message 3":            {append(with(5, 3), good[6:]...), CodeOrder},
		"an unknown suite":     {append(with(6, 0), good[7:]...), CodeSuite},
		"a suite not accepted": {append(append(with(6, byte(P256)), good[7:]...), make([]byte, 33)...), CodeSuite},
		"cut short":            {good[:len(good)-1], CodeMessage},
		"a byte more":          {append(bytes.Clone(good), 0), CodeMessage},
		"far too long":         {append(bytes.Clone(good), make([]byte, 1<<20)...), CodeMessage},
		"purpose beyond end":   {append(with(headerSize, 255), good[headerSize+1:]...), CodeMessage},
		"another purpose":      {flip(good, headerSize+1), CodePurpose},
		"low order":            {append(with(share), lowOrder[2]...), CodeShare},
	} {
		_, _, err := s.Answer(c.message)
		wantCode(t, what, err, c.want)
	}
	for _, point := range lowOrder {
		_, _, err := s.Answer(append(with(share), point...))
		wantCode(t, "a point of low order", err, CodeShare)
		_, _, err = s.Answer(append(with(share), append(bytes.Clone(point[:31]), point[31]|0x80)...)) // the ignored bit
		wantCode(t, "a point of low order", err, CodeShare)
	}
	if _, _, err := s.Answer(good); err != nil {
		t.Error(err)
	}
	_, _, err := s.Answer(good)
	wantCode(t, "message 1 again", err, CodeReused)
}

func TestPointsOffTheCurveAreRefused(t *testing.T) {
	p := newPair(t)
	p.enclave.Suite, p.server.Suites = P256, []Suite{P256}
	e, s := p.start(t)
	good := e.Hello()
	_, _, err := s.Answer(flip(good, len(good)-1))
	wantCode(t, "off the curve", err, CodeShare)
	_, _, err = s.Answer(append(bytes.Clone(good[:len(good)-65]), make([]byte, 65)...))
	wantCode(t, "infinity", err, CodeShare)
}

// R091, R110: the refusal matrix of message 2. Whatever it is, no quote is made for it.
func TestEnclaveRefusesServers(t *testing.T) {
	for what, c := range map[string]struct {
		want   rats.CodeInfo
		change func(t *testing.T, p *pair, e *Enclave, second []byte) []byte
	}{
		"nothing":          {CodeMessage, func(*testing.T, *pair, *Enclave, []byte) []byte { return nil }},
		"cut short":        {CodeSealed, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte { return b[:len(b)-1] }},
		"no box":           {CodeMessage, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte { return b[:headerSize+32] }},
		"far too long":     {CodeMessage, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte { return append(b, make([]byte, 9999)...) }},
		"another version":  {CodeVersion, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte { return flip(b, 4) }},
		"an altered share": {CodeSealed, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte { return flip(b, headerSize) }},
		"an altered box":   {CodeSealed, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte { return flip(b, len(b)-1) }},
		"its own message":  {CodeOrder, func(_ *testing.T, _ *pair, e *Enclave, _ []byte) []byte { return e.Hello() }},
		"another suite": {CodeSuite, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte {
			b[6] = byte(P256)
			return append(b, make([]byte, 33)...)
		}},
		"an unknown suite": {CodeSuite, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte { b[6] = 7; return b }},
		"a share it made": {CodeReflected, func(_ *testing.T, _ *pair, e *Enclave, b []byte) []byte {
			copy(b[headerSize:], e.first[len(e.first)-32:])
			return b
		}},
		"low order": {CodeShare, func(_ *testing.T, _ *pair, _ *Enclave, b []byte) []byte { copy(b[headerSize:], lowOrder[3]); return b }},
		"a stranger's": {CodeServer, func(t *testing.T, p *pair, e *Enclave, _ []byte) []byte {
			p.server.Key = newKey(t)
			return p.again(t, e)
		}},
		"of an old message": {CodeSealed, func(t *testing.T, p *pair, _ *Enclave, _ []byte) []byte { _, _, old := p.answered(t); return old }},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPair(t)
			p.enclave.Quote = func([64]byte) ([]byte, error) { t.Error("the enclave showed a quote"); return nil, errQuote }
			e, _, second := p.answered(t)
			_, s, err := e.Finish(c.change(t, &p, e, second))
			wantCode(t, what, err, c.want)
			if s != nil {
				t.Error("there is a channel")
			}
			_, _, err = e.Finish(second)
			wantCode(t, "a second try", err, CodeOrder)
		})
	}
	e, _ := newPair(t).start(t)
	_, _, err := e.Finish(nil)
	wantCode(t, "message 2 before message 1", err, CodeOrder)
}

// again lets a server of the pair as it is now answer the enclave.
func (p *pair) again(t *testing.T, e *Enclave) []byte {
	t.Helper()
	c := p.server
	c.Once = nil // another server, another memory
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := s.Answer(e.Hello())
	if err != nil {
		t.Fatal(err)
	}
	return second
}

// forge makes message 2 anew from what stands in it: an attacker that could open and close the boxes, which nobody can, still
// fails at signature and MAC. That is what each of them is for.
func forge(t *testing.T, e *Enclave, x *Exchange, second []byte, change func(*proof, [32]byte)) []byte {
	t.Helper()
	h, err := newHandshake(e.curve, e.share, x.share, e.first, second[:headerSize+32])
	if err != nil {
		t.Fatal(err)
	}
	plain, err := h.open(nil, serverRole, second[headerSize+32:])
	if err != nil {
		t.Fatal(err)
	}
	p, err := parseProof(plain, false)
	if err != nil {
		t.Fatal(err)
	}
	change(&p, h.th)
	box, err := h.seal(nil, serverRole, p)
	if err != nil {
		t.Fatal(err)
	}
	return append(bytes.Clone(second[:headerSize+32]), box...)
}

// R091: identity misbinding. Mallory, whom the enclave trusts too, puts her name and her signature on the exchange of
// another: she doesn't know the keys, so her MAC is missing. Without the MAC the enclave would believe that it talks to her
// while it shares keys with the other.
func TestIdentityMisbindingFails(t *testing.T) {
	p := newPair(t)
	mallory := newKey(t)
	spki, err := publicOf(mallory)
	if err != nil {
		t.Fatal(err)
	}
	p.enclave.Servers = append(p.enclave.Servers, KeyID(spki))
	for what, c := range map[string]struct {
		change func(*proof, [32]byte)
		want   rats.CodeInfo
	}{
		"her name and signature": {func(p *proof, th [32]byte) {
			p.key = spki
			p.sig, err = sign(rand.Reader, mallory, hash("server signs", th[:]))
		}, CodeMAC},
		"her name alone":        {func(p *proof, _ [32]byte) { p.key = spki }, CodeSignature},
		"an altered signature":  {func(p *proof, _ [32]byte) { p.sig[5] ^= 1 }, CodeSignature},
		"a signature of zeroes": {func(p *proof, _ [32]byte) { clear(p.sig) }, CodeSignature},
		"an altered MAC":        {func(p *proof, _ [32]byte) { p.mac[5] ^= 1 }, CodeMAC},
		"the other role's signature": {func(q *proof, th [32]byte) {
			q.sig, err = sign(rand.Reader, p.server.Key, hash("enclave signs", th[:]))
		}, CodeSignature},
		"another hash signed": {func(q *proof, th [32]byte) {
			q.sig, err = sign(rand.Reader, p.server.Key, hash("server signs", th[1:]))
		}, CodeSignature},
		"a quote where none belongs": {func(q *proof, _ [32]byte) { q.quote = []byte("x") }, CodeMessage},
		"a key of no bytes":          {func(q *proof, _ [32]byte) { q.key = nil }, CodeMessage},
		"a key that is none":         {func(q *proof, _ [32]byte) { q.key = []byte("key") }, CodeServer},
	} {
		e, x, second := p.answered(t)
		_, _, got := e.Finish(forge(t, e, x, second, c.change))
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, what, got, c.want)
	}
}

// The man in the middle has an exchange of his own with each side: the enclave gets his key, and stops before its quote.
func TestManInTheMiddleGetsNoQuote(t *testing.T) {
	p := newPair(t)
	mallory := p
	mallory.server.Key = newKey(t)
	mallory.enclave.Quote = func([64]byte) ([]byte, error) { t.Error("a quote for the man in the middle"); return nil, errQuote }
	e, err := NewEnclave(mallory.enclave)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = e.Finish(mallory.again(t, e))
	wantCode(t, "the man in the middle", err, CodeServer)
}

// Whatever of messages 1 and 2 is changed on the way, to lower the purpose or the suite, the enclave sees it: both are in
// what the server signed and MACed.
func TestDowngradeOnTheWayIsSeen(t *testing.T) {
	p := newPair(t)
	other := p
	other.server.Purpose = "provision toys"
	e, _ := p.start(t)
	first := hello{X25519, other.server.Purpose, e.share.PublicKey().Bytes()}.encode()
	s, err := NewServer(other.server)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := s.Answer(first) // the server takes it for an exchange about toys
	if err != nil {
		t.Fatal(err)
	}
	e.Hello()
	_, _, err = e.Finish(second)
	wantCode(t, "another purpose for the server than for the enclave", err, CodeSealed)
}

// The refusal matrix of message 3.
func TestServerRefusesEnclaves(t *testing.T) {
	for what, c := range map[string]struct {
		want   rats.CodeInfo
		change func(t *testing.T, p pair, third []byte) []byte
	}{
		"nothing":             {CodeMessage, func(*testing.T, pair, []byte) []byte { return nil }},
		"cut short":           {CodeSealed, func(_ *testing.T, _ pair, b []byte) []byte { return b[:len(b)-1] }},
		"an empty box":        {CodeSealed, func(_ *testing.T, _ pair, b []byte) []byte { return b[:headerSize] }},
		"far too long":        {CodeMessage, func(_ *testing.T, _ pair, b []byte) []byte { return append(b, make([]byte, 1<<17)...) }},
		"another version":     {CodeVersion, func(_ *testing.T, _ pair, b []byte) []byte { return flip(b, 4) }},
		"another suite":       {CodeSuite, func(_ *testing.T, _ pair, b []byte) []byte { b[6] = byte(P256); return b }},
		"an altered box":      {CodeSealed, func(_ *testing.T, _ pair, b []byte) []byte { return flip(b, 20) }},
		"of another exchange": {CodeSealed, func(t *testing.T, p pair, _ []byte) []byte { _, _, third := p.third(t); return third }},
		"message 2 sent back": {CodeOrder, func(t *testing.T, p pair, _ []byte) []byte { _, _, second := p.answered(t); return second }},
	} {
		p := newPair(t)
		x, _, third := p.third(t)
		_, err := x.Finish(bg, c.change(t, p, bytes.Clone(third)))
		wantCode(t, what, err, c.want)
		_, err = x.Finish(bg, third)
		wantCode(t, what+", and then the right one", err, CodeOrder)
	}
}

// third goes as far as message 3.
func (p pair) third(t *testing.T) (*Exchange, *Session, []byte) {
	t.Helper()
	e, x, second := p.answered(t)
	third, s, err := e.Finish(second)
	if err != nil {
		t.Fatal(err)
	}
	return x, s, third
}

// R091: the quote binds both shares, roles, purpose and keys: another enclave's, an old one, or one of the same enclave about
// another exchange is refused; so is a quote that nobody signed for.
func TestQuoteOfAnotherEnclaveIsRefused(t *testing.T) {
	p := newPair(t)
	var old []byte
	p.enclave.Quote = func(d [64]byte) ([]byte, error) { old, _ = quoteOf("good")(d); return old, nil }
	p.finished(t)
	for what, quote := range map[string]func([64]byte) ([]byte, error){
		"another enclave's":       quoteOf("bad"),
		"of an exchange before":   func([64]byte) ([]byte, error) { return old, nil },
		"bound to something else": func(d [64]byte) ([]byte, error) { d[0] ^= 1; return quoteOf("good")(d) },
	} {
		p.enclave.Quote = quote
		x, _, third := p.third(t)
		if _, err := x.Finish(bg, third); !errors.Is(err, errQuote) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, quote := range map[string][]byte{"none": {}, "too long": make([]byte, MaxQuote+1)} {
		p.enclave.Quote = func([64]byte) ([]byte, error) { return quote, nil }
		e, _, second := p.answered(t)
		_, _, err := e.Finish(second)
		wantCode(t, "a quote that is "+what, err, CodeMessage)
	}
	p.enclave.Quote = func([64]byte) ([]byte, error) { return nil, errQuote }
	e, _, second := p.answered(t)
	if _, _, err := e.Finish(second); !errors.Is(err, errQuote) {
		t.Errorf("no quote: %v", err)
	}
}

// The other direction of misbinding: another enclave's key under this exchange, each time with one thing right. As in forge,
// the attacker can do what nobody can, and open and close the box.
func TestEnclavesCannotTakeOverAnExchange(t *testing.T) {
	p := newPair(t)
	mallory := newKey(t)
	spki, err := publicOf(mallory)
	if err != nil {
		t.Fatal(err)
	}
	var own *ecdsa.PrivateKey
	for what, c := range map[string]struct {
		change func(q *proof, h *handshake)
		want   rats.CodeInfo
	}{
		"name and signature": {func(q *proof, h *handshake) {
			q.key = spki
			q.sig, err = sign(rand.Reader, mallory, hash("enclave signs", h.th[:], q.quote))
		}, CodeMAC},
		"name alone":  {func(q *proof, _ *handshake) { q.key = spki }, CodeSignature},
		"quote alone": {func(q *proof, _ *handshake) { q.quote = []byte("another") }, CodeSignature},
		"quote, signed, not MACed": {func(q *proof, h *handshake) {
			q.quote = []byte("another")
			q.sig, err = sign(rand.Reader, own, hash("enclave signs", h.th[:], q.quote))
		}, CodeMAC},
		"the other role's signature": {func(q *proof, h *handshake) { q.sig, err = sign(rand.Reader, own, hash("server signs", h.th[:])) }, CodeSignature},
		"the other role's MAC":       {func(q *proof, h *handshake) { q.mac = h.tag(serverRole, q.key, q.sig, q.quote) }, CodeMAC},
		"no quote":                   {func(q *proof, _ *handshake) { q.quote = nil }, CodeMessage},
	} {
		own = newKey(t)
		p.enclave.Key = own
		x, _, third := p.third(t)
		plain, openErr := x.h.open(nil, enclaveRole, third[headerSize:])
		if openErr != nil {
			t.Fatal(openErr)
		}
		q, parseErr := parseProof(plain, true)
		if parseErr != nil {
			t.Fatal(parseErr)
		}
		c.change(&q, x.h)
		if err != nil {
			t.Fatal(err)
		}
		box, sealErr := x.h.seal(nil, enclaveRole, q)
		if sealErr != nil {
			t.Fatal(sealErr)
		}
		_, got := x.Finish(bg, append(header(3, X25519), box...))
		wantCode(t, what, got, c.want)
	}
}

// Swapped roles: what one side sends means nothing to its own kind, and keys are separate.
func TestRolesAreSeparate(t *testing.T) {
	p := newPair(t)
	e, x, _ := p.answered(t)
	if bytes.Equal(x.h.mac[enclaveRole], x.h.mac[serverRole]) || bytes.Equal(x.h.box[enclaveRole], x.h.box[serverRole]) {
		t.Error("both roles have one key")
	}
	_, s := p.start(t)
	other, _, second := p.answered(t)
	_, _, err := s.Answer(second)
	wantCode(t, "message 2 as message 1", err, CodeOrder)
	third, _, err := other.Finish(second)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = e.Finish(third)
	wantCode(t, "message 3 as message 2", err, CodeOrder)
}

// A server whose randomness yields the share it gets has met itself.
func TestServerRefusesItsOwnShare(t *testing.T) {
	p := newPair(t)
	fixed := bytes.Repeat([]byte{9}, 32)
	key := newKey(t)
	p.enclave.Key, p.enclave.Rand, p.server.Rand = key, bytes.NewReader(fixed), bytes.NewReader(fixed)
	e, s := p.start(t)
	_, _, err := s.Answer(e.Hello())
	wantCode(t, "its own share", err, CodeReflected)
}

func TestOnceForgetsTheOldestFirst(t *testing.T) {
	o := NewOnce(2)
	for i, c := range []struct {
		share byte
		isNew bool
	}{{1, true}, {2, true}, {1, false}, {2, false}, {3, true}, {2, false}, {1, true}} {
		if got := o.Use([]byte{c.share}); got != c.isNew {
			t.Errorf("use %d of share %d: %t", i, c.share, got)
		}
	}
}
