package abi

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"testing"
)

// newKey makes an RSA-3072 key with exponent 3, which crypto/rsa doesn't make.
func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	one, e := big.NewInt(1), big.NewInt(3)
	prime := func() *big.Int {
		for {
			p, err := rand.Prime(rand.Reader, 1536)
			if err != nil {
				t.Fatal(err)
			}
			if new(big.Int).Mod(p, e).Int64() == 2 { // 3 has an inverse modulo p-1
				return p
			}
		}
	}
	for {
		p, q := prime(), prime()
		n := new(big.Int).Mul(p, q)
		if n.BitLen() != 3072 || p.Cmp(q) == 0 {
			continue
		}
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: 3}, D: new(big.Int).ModInverse(e, phi), Primes: []*big.Int{p, q}}
		key.Precompute()
		return key
	}
}

func signed(t *testing.T, key *rsa.PrivateKey) Sigstruct {
	t.Helper()
	s := NewSigstruct()
	s.Date, s.EnclaveHash, s.ISVSVN = 0x20260102, [32]byte{1, 2, 3}, 7
	digest := sha256.Sum256(s.SignedBytes())
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetSignature(&key.PublicKey, sig); err != nil {
		t.Fatal(err)
	}
	return s
}

// The refusal matrix of SIGSTRUCT: a valid one with one thing changed.
func TestSigstructWithOneThingChangedIsRefused(t *testing.T) {
	good := signed(t, newKey(t))
	if err := good.Verify(); err != nil {
		t.Fatal(err)
	}
	if !IsSigstruct(good.Bytes()) || IsSigstruct(good.Bytes()[1:]) || good.DateText() != "20260102" {
		t.Error("it isn't recognised")
	}
	for name, c := range map[string]struct {
		change func(*Sigstruct)
		code   any
	}{
		"header":        {func(s *Sigstruct) { s.Header[0]++ }, CodeSigstructHeader.Code},
		"second header": {func(s *Sigstruct) { s.Header2[0]++ }, CodeSigstructHeader.Code},
		"exponent":      {func(s *Sigstruct) { s.Exponent = 65537 }, CodeSigstructKey.Code},
		"short modulus": {func(s *Sigstruct) { s.Modulus[383] = 0 }, CodeSigstructKey.Code},
		"even modulus":  {func(s *Sigstruct) { s.Modulus[0] &^= 1 }, CodeSigstructKey.Code},
		"date":          {func(s *Sigstruct) { s.Date++ }, CodeSigstructSignature.Code},
		"hash":          {func(s *Sigstruct) { s.EnclaveHash[31]++ }, CodeSigstructSignature.Code},
		"attributes":    {func(s *Sigstruct) { s.Attributes.Flags |= FlagDebug }, CodeSigstructSignature.Code},
		"product":       {func(s *Sigstruct) { s.ISVProdID++ }, CodeSigstructSignature.Code},
		"version":       {func(s *Sigstruct) { s.ISVSVN++ }, CodeSigstructSignature.Code},
		"signature":     {func(s *Sigstruct) { s.Signature[9]++ }, CodeSigstructSignature.Code},
		"q1":            {func(s *Sigstruct) { s.Q1[100]++ }, CodeSigstructQuotients.Code},
		"q2":            {func(s *Sigstruct) { s.Q2[100]++ }, CodeSigstructQuotients.Code},
	} {
		s := good
		c.change(&s)
		if got := codeOf(t, s.Verify()); got != c.code {
			t.Errorf("%s: %q, expected %q", name, got, c.code)
		}
	}
}

func TestSignatureOfAnotherKindOfKeyIsRefused(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var s Sigstruct
	if got := codeOf(t, s.SetSignature(&key.PublicKey, make([]byte, 256))); got != CodeSigstructKey.Code {
		t.Errorf("%q", got)
	}
}
