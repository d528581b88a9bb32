package enclave_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

var day = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func options() enclave.SignOptions {
	return enclave.SignOptions{ProductID: 7, SVN: 3, Date: day, Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64, XFRM: 3}}
}

func testKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := enclave.TestKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t testing.TB, mrenclave [32]byte, change func(*enclave.SignOptions)) abi.Sigstruct {
	t.Helper()
	o := options()
	if change != nil {
		change(&o)
	}
	s, err := enclave.Sign(mrenclave, o, testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// R100: signature, enclave hash and signer.
func TestSignedEnclaveIsInitialised(t *testing.T) {
	m := small(t, enclave.Options{}).Measure()
	s := signed(t, m, nil)
	again, err := abi.ParseSigstruct(s.Bytes())
	if err != nil || again != s || s.DateText() != "20260304" {
		t.Fatalf("%v, date %s", err, s.DateText())
	}
	id, err := enclave.Init(m, again, enclave.Start{})
	if err != nil {
		t.Fatal(err)
	}
	if id.MRENCLAVE != m || id.MRSIGNER != abi.TestMRSIGNER || !enclave.TestSigned(id.MRSIGNER) || id.ISVProdID != 7 || id.ISVSVN != 3 || id.Attributes.Debug() {
		t.Errorf("identity %+v", id)
	}
	if signed(t, m, nil) != s {
		t.Error("signing twice gives two signatures")
	}
}

// R010: multi-step signing; the signature is made by openssl, and openssl verifies ours.
func TestOpensslSignsWhatGenDataWrote(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), openssl, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v: %s", args, err, out)
		}
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := small(t, enclave.Options{}).Measure()
	data, err := enclave.GenData(m, options())
	if err != nil {
		t.Fatal(err)
	}
	write("gendata", data)
	run("genrsa", "-3", "-out", "key.pem", "3072")
	run("rsa", "-in", "key.pem", "-pubout", "-out", "pub.pem")
	run("dgst", "-sha256", "-sign", "key.pem", "-out", "sig", "gendata")
	pub, err := enclave.ParsePublicKey(read("pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := enclave.CatSig(data, pub, read("sig"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := enclave.Init(m, s, enclave.Start{})
	if err != nil || enclave.TestSigned(id.MRSIGNER) {
		t.Errorf("identity %+v, %v", id, err)
	}
	// The other way round: what is inside our SIGSTRUCT verifies with openssl.
	ours := signed(t, m, nil)
	b := ours.Bytes()
	sig := bytes.Clone(b[516:900])
	for i, j := 0, len(sig)-1; i < j; i, j = i+1, j-1 {
		sig[i], sig[j] = sig[j], sig[i]
	}
	write("sig2", sig)
	write("signed", append(bytes.Clone(b[:128]), b[900:1028]...))
	write("pub2.pem", pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&testKey(t).PublicKey)}))
	run("rsa", "-RSAPublicKey_in", "-in", "pub2.pem", "-pubout", "-out", "pub3.pem")
	run("dgst", "-sha256", "-verify", "pub3.pem", "-signature", "sig2", "signed")
	if _, err := enclave.ParsePublicKey(read("pub2.pem")); err != nil {
		t.Error(err)
	}
	if key, err := enclave.ParsePrivateKey(read("key.pem")); err != nil || key.E != 3 {
		t.Error(err)
	}
}

func TestSignaturesThatCannotCountAreRefused(t *testing.T) {
	m := small(t, enclave.Options{}).Measure()
	good := signed(t, m, nil)
	f4, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key crypto.Signer, change func(*enclave.SignOptions)) error {
		o := options()
		if change != nil {
			change(&o)
		}
		_, err := enclave.Sign(m, o, key)
		return err
	}
	start := func(change func(*abi.Sigstruct), w enclave.Start) error {
		s := good
		if change != nil {
			change(&s)
		}
		_, err := enclave.Init(m, s, w)
		return err
	}
	cat := func(change func(b, sig []byte) ([]byte, []byte)) error {
		b := good.Bytes()
		sig := bytes.Clone(b[516:900])
		for i, j := 0, len(sig)-1; i < j; i, j = i+1, j-1 {
			sig[i], sig[j] = sig[j], sig[i]
		}
		data, sig := change(append(bytes.Clone(b[:128]), b[900:1028]...), sig)
		_, err := enclave.CatSig(data, &testKey(t).PublicKey, sig)
		return err
	}
	if err := cat(func(b, s []byte) ([]byte, []byte) { return b, s }); err != nil {
		t.Fatal(err)
	}
	_, errPub := enclave.ParsePublicKey([]byte("x"))
	_, errKey := enclave.ParsePrivateKey([]byte("x"))
	debug := signed(t, m, func(o *enclave.SignOptions) { o.Attributes.Flags |= abi.FlagDebug })
	_, errDebug := enclave.Init(m, debug, enclave.Start{})
	if _, err := enclave.Init(m, debug, enclave.Start{AllowDebug: true}); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		name string
		err  error
		want rats.CodeInfo
	}{
		{"exponent 65537", sign(f4, nil), enclave.CodeSignKey},
		{"an elliptic key", sign(p256, nil), enclave.CodeSignKey},
		{"no PEM", errPub, enclave.CodeSignKey},
		{"no private PEM", errKey, enclave.CodeSignKey},
		{"no date", sign(testKey(t), func(o *enclave.SignOptions) { o.Date = time.Time{} }), enclave.CodeSignOptions},
		{"no INIT", sign(testKey(t), func(o *enclave.SignOptions) { o.Attributes.Flags = abi.FlagMode64 }), enclave.CodeSignOptions},
		{"DEBUG left open", sign(testKey(t), func(o *enclave.SignOptions) { o.Mask = abi.Attributes{Flags: abi.FlagInit, XFRM: 3} }), enclave.CodeSignOptions},
		{"gendata too short", cat(func(b, s []byte) ([]byte, []byte) { return b[1:], s }), enclave.CodeSignData},
		{"gendata of another head", cat(func(b, s []byte) ([]byte, []byte) { b[0] ^= 1; return b, s }), enclave.CodeSignData},
		{"gendata changed after signing", cat(func(b, s []byte) ([]byte, []byte) { b[255] ^= 1; return b, s }), abi.CodeSigstructSignature},
		{"signature changed", cat(func(b, s []byte) ([]byte, []byte) { s[9] ^= 1; return b, s }), abi.CodeSigstructSignature},
		{"signature too short", cat(func(b, s []byte) ([]byte, []byte) { return b, s[1:] }), abi.CodeSigstructKey},
		{"another enclave", func() error { _, err := enclave.Init([32]byte{1}, good, enclave.Start{}); return err }(), enclave.CodeInitHash},
		{"exponent in the SIGSTRUCT", start(func(s *abi.Sigstruct) { s.Exponent = 65537 }, enclave.Start{}), abi.CodeSigstructKey},
		{"Q1", start(func(s *abi.Sigstruct) { s.Q1[0] ^= 1 }, enclave.Start{}), abi.CodeSigstructQuotients},
		{"Q2", start(func(s *abi.Sigstruct) { s.Q2[0] ^= 1 }, enclave.Start{}), abi.CodeSigstructQuotients},
		{"version raised after signing", start(func(s *abi.Sigstruct) { s.ISVSVN++ }, enclave.Start{}), abi.CodeSigstructSignature},
		{"started with DEBUG", start(nil, enclave.Start{Attributes: abi.Attributes{Flags: abi.FlagMode64 | abi.FlagDebug, XFRM: 3}, AllowDebug: true}), enclave.CodeInitAttributes},
		{"started with other MISCSELECT", start(nil, enclave.Start{Attributes: abi.Attributes{Flags: abi.FlagMode64, XFRM: 3}, MiscSelect: 1}), enclave.CodeInitAttributes},
		{"configuration without KSS", start(nil, enclave.Start{ConfigSVN: 1}), enclave.CodeInitAttributes},
		{"debug where forbidden", errDebug, enclave.CodeInitDebug},
	} {
		wantCode(t, tt.name, tt.err, tt.want)
	}
}
