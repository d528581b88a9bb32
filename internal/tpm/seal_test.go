package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/internal/tpm"
)

const counterIndex = 0x01a55a70

var (
	secret   = []byte("thirty-two bytes of a root, say.")
	password = bytes.Repeat([]byte{9}, 32)
	ref      = bytes.Repeat([]byte{3}, 32)
)

func newOwner(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func approve(t *testing.T, owner *ecdsa.PrivateKey, ref []byte, a tpm.Approval) []byte {
	t.Helper()
	policy, err := a.Digest()
	if err != nil {
		t.Fatal(err)
	}
	digest := tpm.SignedDigest(policy, ref)
	sig, err := ecdsa.SignASN1(rand.Reader, owner, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// sealedSetup is a TPM with a counter and an object sealed under an owner.
type sealedSetup struct {
	sw        *swtpm.TPM
	dev       *tpm.Device
	owner     *ecdsa.PrivateKey
	authority tpm.Authority
	object    tpm.Sealed
	counter   uint64
}

func (s *sealedSetup) approval(t *testing.T, limit uint64, pcrs ...int) tpm.Approval {
	t.Helper()
	values, err := s.dev.PCRs(t.Context(), "sha256", pcrs)
	if err != nil {
		t.Fatal(err)
	}
	return tpm.Approval{PCRs: values, Counter: counterIndex, Limit: limit}
}

func newSealed(t *testing.T) *sealedSetup {
	t.Helper()
	s := &sealedSetup{sw: swtpm.StartUncertified(t), owner: newOwner(t)}
	s.dev = open(t, s.sw.Path())
	s.authority = tpm.Authority{Owner: &s.owner.PublicKey, Ref: ref}
	var err error
	if s.counter, err = s.dev.DefineCounter(t.Context(), counterIndex, password); err != nil {
		t.Fatal(err)
	}
	if s.object, err = s.dev.Seal(t.Context(), secret, s.authority); err != nil {
		t.Fatal(err)
	}
	return s
}

// R083, S12: what opens a sealed object, and everything that doesn't.
func TestSealedObjectOpensForTheOwnersApprovalOnly(t *testing.T) {
	s := newSealed(t)
	ctx := t.Context()
	good := s.approval(t, s.counter, 0, 2, 4, 7, 9, 11, 12, 8, 14)
	sig := approve(t, s.owner, ref, good)
	for range 5 { // more often than the TPM has slots
		got, err := s.dev.Unseal(ctx, s.object, s.authority, good, sig)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if err := tpm.VerifyApproval(s.authority, good, sig); err != nil {
		t.Error(err)
	}
	other := newOwner(t)
	otherPCRs := s.approval(t, s.counter, 7)
	otherPCRs.PCRs[7] = bytes.Repeat([]byte{1}, 32)
	fewer := s.approval(t, s.counter, 7)
	foreign := tpm.Authority{Owner: &other.PublicKey, Ref: ref}
	otherRef := tpm.Authority{Owner: &s.owner.PublicKey, Ref: bytes.Repeat([]byte{4}, 32)}
	for _, c := range []struct {
		name string
		a    tpm.Authority
		ap   tpm.Approval
		sig  []byte
		want error
	}{
		{"signed by another key", s.authority, good, approve(t, other, ref, good), tpm.ErrSignature},
		{"no signature", s.authority, good, nil, tpm.ErrSignature},
		{"signature of another approval", s.authority, fewer, sig, tpm.ErrSignature},
		{"signature for another object", s.authority, good, approve(t, s.owner, otherRef.Ref, good), tpm.ErrSignature},
		{"another owner", foreign, good, approve(t, other, ref, good), tpm.ErrRefused},
		{"another object's authority", otherRef, good, approve(t, s.owner, otherRef.Ref, good), tpm.ErrRefused},
		{"other PCRs", s.authority, otherPCRs, approve(t, s.owner, ref, otherPCRs), tpm.ErrPCRs},
		{"limit below the counter", s.authority, s.approval(t, s.counter-1, 7), approve(t, s.owner, ref, s.approval(t, s.counter-1, 7)), tpm.ErrRevoked},
	} {
		if got, err := s.dev.Unseal(ctx, s.object, c.a, c.ap, c.sig); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: got %q, %v, want %v", c.name, got, err, c.want)
		}
	}

	t.Run("another TPM", func(t *testing.T) {
		dev := open(t, swtpm.StartUncertified(t).Path())
		if _, err := dev.DefineCounter(ctx, counterIndex, password); err != nil {
			t.Fatal(err)
		}
		if _, err := dev.Unseal(ctx, s.object, s.authority, good, sig); !errors.Is(err, tpm.ErrOtherTPM) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("after an extend", func(t *testing.T) {
		if err := s.dev.ExtendPCR(ctx, 7, []byte("an event")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.dev.Unseal(ctx, s.object, s.authority, good, sig); !errors.Is(err, tpm.ErrPCRs) {
			t.Errorf("got %v", err)
		}
		want := sha256.Sum256([]byte("an event"))
		want = sha256.Sum256(append(make([]byte, 32), want[:]...))
		if got := s.approval(t, 0, 7).PCRs[7]; !bytes.Equal(got, want[:]) {
			t.Errorf("PCR 7 is %x, want %x", got, want)
		}
	})
}

// S12: without the counter an old signature would open for ever.
func TestIncrementKillsOlderApprovals(t *testing.T) {
	s := newSealed(t)
	ctx := t.Context()
	old, next := s.approval(t, s.counter, 7), s.approval(t, s.counter+1, 7)
	oldSig, nextSig := approve(t, s.owner, ref, old), approve(t, s.owner, ref, next)
	if _, err := s.dev.Unseal(ctx, s.object, s.authority, next, nextSig); err != nil {
		t.Fatalf("the next approval before the increment: %v", err)
	}
	if _, err := s.dev.IncrementCounter(ctx, counterIndex, []byte("wrong")); err == nil {
		t.Error("incremented with a wrong password")
	}
	v, err := s.dev.IncrementCounter(ctx, counterIndex, password)
	if err != nil || v != s.counter+1 {
		t.Fatalf("got %d, %v", v, err)
	}
	if _, err := s.dev.Unseal(ctx, s.object, s.authority, old, oldSig); !errors.Is(err, tpm.ErrRevoked) {
		t.Errorf("the old approval: %v", err)
	}
	if _, err := s.dev.Unseal(ctx, s.object, s.authority, next, nextSig); err != nil {
		t.Errorf("the next approval after the increment: %v", err)
	}
	// Defined anew, the counter revives nothing.
	if v, err := s.dev.DefineCounter(ctx, counterIndex, password); err != nil || v <= s.counter+1 {
		t.Errorf("got %d, %v, want more than %d", v, err, s.counter+1)
	}
	if _, err := s.dev.Unseal(ctx, s.object, s.authority, old, oldSig); !errors.Is(err, tpm.ErrRevoked) {
		t.Errorf("the old approval, counter defined anew: %v", err)
	}
}

// S14: seen: four unclean stops lock what is under dictionary-attack protection.
func TestUncleanStopsDoNotLockOut(t *testing.T) {
	s := newSealed(t)
	ap := s.approval(t, s.counter, 7)
	sig := approve(t, s.owner, ref, ap)
	for range 6 {
		if err := s.sw.Reset(); err != nil { // the connection is ours: the TPM gets no TPM2_Shutdown
			t.Fatal(err)
		}
		if _, err := s.dev.Unseal(t.Context(), s.object, s.authority, ap, sig); err != nil {
			t.Fatal(err)
		}
		if v, err := s.dev.Counter(t.Context(), counterIndex); err != nil || v < s.counter {
			t.Fatalf("got %d, %v", v, err)
		}
	}
}

func TestCounterThatIsNotOneIsNone(t *testing.T) {
	dev := open(t, swtpm.StartUncertified(t).Path())
	if _, err := dev.Counter(t.Context(), counterIndex); !errors.Is(err, tpm.ErrNoCounter) {
		t.Errorf("got %v", err)
	}
	if _, err := dev.DefineCounter(t.Context(), counterIndex, []byte{1, 0, 2}); err == nil {
		t.Error("defined with a password that would be cut at its zero")
	}
	if _, err := dev.DefineCounter(t.Context(), 0x01c00002, password); err == nil {
		t.Error("defined in the manufacturer's range")
	}
	a, err := dev.Random(t.Context(), 32)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := dev.Random(t.Context(), 32); len(a) != 32 || bytes.Equal(a, b) {
		t.Error("the TPM's numbers are not random")
	}
}

func TestApprovalOfResettablePCRsIsRefused(t *testing.T) {
	for _, p := range []int{-1, 16, 17, 22, 23} {
		if _, err := (tpm.Approval{PCRs: map[int][]byte{p: make([]byte, 32)}, Counter: counterIndex}).Digest(); err == nil {
			t.Errorf("PCR %d was accepted", p)
		}
	}
	if _, err := (tpm.Approval{Counter: counterIndex}).Digest(); err == nil {
		t.Error("an approval without PCRs was accepted")
	}
}
