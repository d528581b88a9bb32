package tpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	evidence "github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/internal/tpm"
)

var unique = bytes.Repeat([]byte{7}, tpm.UniqueSize)

func open(t *testing.T, path string) *tpm.Device {
	t.Helper()
	d, err := tpm.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func TestEndorsementKeyComesWithACertificateForIt(t *testing.T) {
	sw := swtpm.Start(t)
	ek, err := open(t, sw.Path()).EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(ek.CertDER)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(spki); !bytes.Equal(sum[:], ek.Digest.Sum) {
		t.Errorf("the certificate is for another key than %s", ek.Digest)
	}
}

func TestEndorsementKeyWithoutCertificateHasNone(t *testing.T) {
	ek, err := open(t, swtpm.StartUncertified(t).Path()).EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ek.CertDER != nil || len(ek.Public) == 0 {
		t.Errorf("got %d bytes of certificate and %d of key", len(ek.CertDER), len(ek.Public))
	}
}

func TestEndorsementKeyIsMadeAgainWhereNoneIsPersistent(t *testing.T) {
	sw := swtpm.Start(t)
	d, err := tpm.Open(t.Context(), sw.Path())
	if err != nil {
		t.Fatal(err)
	}
	before, err := d.EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(sw.Path(), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	raw := &rawTPM{conn}
	public, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81010001)}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: 0x81010001, Name: public.Name},
		PersistentHandle: 0x81010001,
	}).Execute(raw); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := open(t, sw.Path()).EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !after.Digest.Equal(before.Digest) || !bytes.Equal(after.CertDER, before.CertDER) {
		t.Errorf("the EK made is %s, the persistent one was %s", after.Digest, before.Digest)
	}
}

// withoutRSA stands before a TPM and knows no RSA.
func withoutRSA(t *testing.T, sw *swtpm.TPM) string {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(sw.Path(), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	raw, rsaTemplate := &rawTPM{conn}, tpm2.Marshal(tpm2.RSAEKTemplate)
	return fakeTPM(t, func(cmd []byte) []byte {
		switch {
		case bytes.Contains(cmd, rsaTemplate):
			return []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x02, 0xc4} // TPM_RC_VALUE, parameter 2
		case bytes.Equal(cmd[10:14], []byte{0x81, 0x01, 0x00, 0x01}):
			return []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x8b} // TPM_RC_HANDLE, handle 1
		}
		rsp, err := raw.Send(cmd)
		if err != nil {
			return nil
		}
		return rsp
	})
}

// R140: a TPM without RSA has an ECC endorsement key, which opens credentials as well.
func TestTPMWithoutRSAHasAnECCEndorsementKey(t *testing.T) {
	d := open(t, withoutRSA(t, swtpm.Start(t)))
	ek, err := d.EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ek.CertDER != nil { // swtpm certifies P-384 instead
		t.Error("there is a certificate of P-256")
	}
	ak, err := d.AK(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	credential, secret, err := evidence.MakeCredential(rand.Reader, ek.Public, ak.Public, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Activate(t.Context(), ak, credential, secret); err != nil || string(got) != "secret" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestSameUniqueValueYieldsTheSameKeyAfterReset(t *testing.T) {
	sw := swtpm.Start(t)
	d := open(t, sw.Path())
	ak, err := d.AK(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	other, err := d.AK(t.Context(), bytes.Repeat([]byte{8}, tpm.UniqueSize))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(ak.Public, other.Public) {
		t.Error("two unique values yield one key")
	}
	key, err := d.SigningKey(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	before, err := d.Clock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := sw.Reset(); err != nil {
		t.Fatal(err)
	}
	// The connection broke and the slots are empty; the device must notice and go on.
	if _, err := d.Quote(t.Context(), ak, "sha256", []int{0}, []byte("extra")); err != nil {
		t.Fatalf("quoting after a reset: %v", err)
	}
	digest := sha256.Sum256([]byte("x"))
	if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil {
		t.Fatalf("signing after a reset: %v", err)
	}
	again, err := d.AK(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Public, ak.Public) {
		t.Error("one unique value yields two keys")
	}
	after, err := d.Clock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.ResetCount <= before.ResetCount {
		t.Errorf("resetCount is %d after a reset, %d before", after.ResetCount, before.ResetCount)
	}
}

func TestSuccessorFindsFreeSlotsAfterUncleanEnd(t *testing.T) {
	sw := swtpm.Start(t)
	path := strings.TrimPrefix(sw.Path(), "unix:")
	for range 2 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		raw := &rawTPM{conn}
		for range 3 {
			_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(raw)
			if err != nil {
				t.Fatalf("filling the slots: %v", err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		d, err := tpm.Open(t.Context(), sw.Path())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.AK(t.Context(), unique); err != nil {
			t.Errorf("AK with the slots of a predecessor: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

type rawTPM struct{ conn net.Conn }

func (r *rawTPM) Send(b []byte) ([]byte, error) {
	if _, err := r.conn.Write(b); err != nil {
		return nil, err
	}
	rsp := make([]byte, 4096)
	n, err := r.conn.Read(rsp)
	return rsp[:n], err
}

func TestManyKeysFitIntoThreeSlots(t *testing.T) {
	d := open(t, swtpm.Start(t).Path())
	var aks []*tpm.AK
	for i := range 5 {
		ak, err := d.AK(t.Context(), bytes.Repeat([]byte{byte(i)}, tpm.UniqueSize))
		if err != nil {
			t.Fatal(err)
		}
		aks = append(aks, ak)
	}
	key, err := d.SigningKey(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, ak := range aks {
			if _, _, err := d.Certify(t.Context(), key, ak, []byte("nonce")); err != nil {
				t.Fatal(err)
			}
			if _, err := d.EK(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSigningKeySignsSHA256AndNothingElse(t *testing.T) {
	d := open(t, swtpm.Start(t).Path())
	key, err := d.SigningKey(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("hello"))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("the signature does not verify")
	}
	long := sha512.Sum384([]byte("hello"))
	if _, err := key.Sign(rand.Reader, long[:], crypto.SHA384); err == nil {
		t.Error("a SHA-384 digest was signed")
	}
	if _, err := key.Sign(rand.Reader, digest[:16], crypto.SHA256); err == nil {
		t.Error("a short digest was signed")
	}
}

func TestQuoteRefusesWhatNoTPMCouldQuote(t *testing.T) {
	d := open(t, swtpm.Start(t).Path())
	ak, err := d.AK(t.Context(), unique)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bank string
		pcrs []int
	}{
		"no PCRs":         {"sha256", nil},
		"PCR 24":          {"sha256", []int{24}},
		"negative PCR":    {"sha256", []int{-1}},
		"PCR twice":       {"sha256", []int{1, 1}},
		"unknown bank":    {"md5", []int{1}},
		"bank not in use": {"sha512", []int{1}},
	} {
		if _, err := d.Quote(t.Context(), ak, c.bank, c.pcrs, []byte("x")); err == nil {
			t.Errorf("%s: was quoted", name)
		}
	}
	all := make([]int, 24)
	for i := range all {
		all[i] = i
	}
	q, err := d.Quote(t.Context(), ak, "sha384", all, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if len(q.PCRs) != 24 || len(q.PCRs[17]) != 48 {
		t.Errorf("got %d PCRs, PCR 17 of %d bytes", len(q.PCRs), len(q.PCRs[17]))
	}
}

func TestClosedDeviceSaysSo(t *testing.T) {
	d, err := tpm.Open(t.Context(), swtpm.Start(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Clock(t.Context()); !errors.Is(err, tpm.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestOpenSaysWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	if _, err := tpm.Open(t.Context(), "unix:"+filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing socket: got %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"unix:" + file, file} {
		if _, err := tpm.Open(t.Context(), p); err == nil {
			t.Errorf("%s was opened", p)
		}
	}
}

func TestInfoNamesTheSoftwareTPM(t *testing.T) {
	info, err := open(t, swtpm.Start(t).Path()).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Manufacturer != "IBM" || info.Firmware == 0 || len(info.Banks) != 3 {
		t.Errorf("got %+v", info)
	}
}

// fakeTPM answers each command by a function, over a socket.
func fakeTPM(t *testing.T, answer func(cmd []byte) []byte) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				buf := make([]byte, 4096)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					rsp := answer(buf[:n])
					if rsp == nil {
						return
					}
					if _, err := conn.Write(rsp); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "unix:" + path
}

var (
	failure = []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01}
	retry   = []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x22}
	clock   = append([]byte{0x80, 0x01, 0, 0, 0, 35, 0, 0, 0, 0}, make([]byte, 25)...)
)

func isReadClock(cmd []byte) bool { return bytes.Equal(cmd[6:10], []byte{0, 0, 0x01, 0x81}) }

func TestCommandIsRepeatedWhileTheTPMAsksForIt(t *testing.T) {
	n := 0
	path := fakeTPM(t, func(cmd []byte) []byte {
		if !isReadClock(cmd) {
			return failure
		}
		if n++; n < 4 {
			return retry
		}
		return clock
	})
	open(t, path)
	if n != 4 {
		t.Errorf("the command was sent %d times, want 4", n)
	}
}

func TestAnswersThatNoTPMGivesAreRefused(t *testing.T) {
	for name, rsp := range map[string][]byte{
		"announces 4 GiB": {0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"announces 3":     {0x80, 0x01, 0, 0, 0, 3, 0, 0, 0, 0},
		"cut short":       {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0, 0, 1, 2},
		"hangs up":        nil,
	} {
		if d, err := tpm.Open(t.Context(), fakeTPM(t, func([]byte) []byte { return rsp })); err == nil {
			t.Errorf("%s: was accepted", name)
			_ = d.Close()
		}
	}
}

func TestSilentTPMIsGivenUpWhenTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	path := fakeTPM(t, func([]byte) []byte {
		cancel()
		<-t.Context().Done()
		return nil
	})
	if _, err := tpm.Open(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}
