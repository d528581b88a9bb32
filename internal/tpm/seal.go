package tpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Why a sealed object doesn't open. Each is a fact about the machine, not a malfunction.
var (
	ErrOtherTPM  = errors.New("the object was sealed by another TPM, or this one was cleared")
	ErrPCRs      = errors.New("the PCRs have other values than the approval says")
	ErrRevoked   = errors.New("the counter passed the approval's limit")
	ErrNoCounter = errors.New("the counter is not defined")
	ErrSignature = errors.New("the approval is not signed by the owner's policy key")
	ErrRefused   = errors.New("the approval is not one for this object")
)

// Sealed is a secret that only the TPM that made it opens, under the conditions of its Authority. It may lie anywhere.
type Sealed struct {
	Public  []byte // TPM2B_PUBLIC
	Private []byte // TPM2B_PRIVATE
}

// maxSealed is the most data a TPM keeps in one sealed object (MAX_SYM_DATA).
const maxSealed = 128

// Seal seals 1 to 128 bytes below the storage primary key. The object has no password and no other way in than an
// approval of the authority, cannot leave the TPM, and is exempt from dictionary-attack lockout (S14). The secret crosses
// the bus encrypted.
func (d *Device) Seal(ctx context.Context, secret []byte, a Authority) (Sealed, error) {
	if len(secret) == 0 || len(secret) > maxSealed {
		return Sealed{}, fmt.Errorf("sealing: %d bytes, expected 1 to %d", len(secret), maxSealed)
	}
	policy, err := a.digest()
	if err != nil {
		return Sealed{}, fmt.Errorf("sealing: %w", err)
	}
	var out Sealed
	err = d.withStorage(ctx, "sealing", d.do, func(t transport.TPM, s *storage) error {
		rsp, err := tpm2.Create{
			ParentHandle: s.auth(true),
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
			}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, AdminWithPolicy: true, NoDA: true},
				AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
				Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull}}),
			}),
		}.Execute(t)
		if err != nil {
			return err
		}
		out = Sealed{Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate)}
		return nil
	})
	return out, err
}

// Unseal opens an object under an approval and its ASN.1 signature by the authority. It fails with ErrOtherTPM, ErrPCRs,
// ErrRevoked, ErrNoCounter, ErrSignature or ErrRefused if a condition doesn't hold. The secret crosses the bus encrypted under a session
// salted with the storage primary key; the caller wipes it.
func (d *Device) Unseal(ctx context.Context, o Sealed, a Authority, ap Approval, signature []byte) ([]byte, error) {
	const what = "unsealing"
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](o.Public)
	if err != nil {
		return nil, fmt.Errorf("%s: reading the public part: %w", what, err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](o.Private)
	if err != nil {
		return nil, fmt.Errorf("%s: reading the private part: %w", what, err)
	}
	sig, err := ecdsaSignature(signature)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	approved, err := ap.Digest()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	var secret []byte
	err = d.withStorage(ctx, what, d.do, func(t transport.TPM, s *storage) error {
		session, done, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, 16, tpm2.Salted(s.handle, s.public), tpm2.AESEncryption(128, tpm2.EncryptOut))
		if err != nil {
			return err
		}
		defer func() { _ = done() }()
		loaded, err := tpm2.Load{ParentHandle: s.auth(false), InPrivate: *private, InPublic: *public}.Execute(t)
		if err != nil {
			if errors.Is(err, tpm2.TPMRCIntegrity) {
				return fmt.Errorf("%w: %w", ErrOtherTPM, err)
			}
			return err
		}
		defer flush(t, loaded.ObjectHandle)
		s.release(t)
		if err := satisfy(t, session.Handle(), a, ap, approved, sig); err != nil {
			return err
		}
		rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: session}}.Execute(t)
		switch {
		case errors.Is(err, tpm2.TPMRCPolicyFail):
			return fmt.Errorf("%w: %w", ErrRefused, err)
		case errors.Is(err, tpm2.TPMRCPCRChanged):
			return fmt.Errorf("%w: %w", ErrPCRs, err)
		case err != nil:
			return err
		}
		secret = rsp.OutData.Buffer
		return nil
	})
	return secret, err
}

// satisfy brings a policy session to the object's policy: the approval's conditions, then the owner's word for them.
func satisfy(t transport.TPM, session tpm2.TPMISHPolicy, a Authority, ap Approval, approved []byte, sig tpm2.TPMTSignature) error {
	name, ticket, err := verifyApproval(t, a, approved, sig)
	if err != nil {
		return err
	}
	pcrs := ap.pcrs()
	pcrs.PolicySession = session
	if _, err := pcrs.Execute(t); errors.Is(err, tpm2.TPMRCValue) {
		return fmt.Errorf("%w: %w", ErrPCRs, err)
	} else if err != nil {
		return err
	}
	nv, err := ap.revision()
	if err != nil {
		return err
	}
	nv.PolicySession = session
	switch _, err := nv.Execute(t); {
	case errors.Is(err, tpm2.TPMRCPolicy):
		return fmt.Errorf("%w: %w", ErrRevoked, err)
	case errors.Is(err, tpm2.TPMRCNVUninitialized):
		return fmt.Errorf("%w: %w", ErrNoCounter, err)
	case errors.Is(err, tpm2.TPMRCHandle):
		return fmt.Errorf("%w: %v", ErrNoCounter, err) // not wrapped: the handle isn't stale, it was never there
	case err != nil:
		return err
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession: session, ApprovedPolicy: tpm2.TPM2BDigest{Buffer: approved},
		PolicyRef: tpm2.TPM2BDigest{Buffer: a.Ref}, KeySign: name, CheckTicket: ticket,
	}.Execute(t)
	return err
}

// verifyApproval has the TPM check the owner's signature: it trusts its own ticket only.
func verifyApproval(t transport.TPM, a Authority, approved []byte, sig tpm2.TPMTSignature) (tpm2.TPM2BName, tpm2.TPMTTKVerified, error) {
	public, err := a.public()
	if err != nil {
		return tpm2.TPM2BName{}, tpm2.TPMTTKVerified{}, err
	}
	key, err := tpm2.LoadExternal{InPublic: tpm2.New2B(public), Hierarchy: tpm2.TPMRHOwner}.Execute(t)
	if err != nil {
		return tpm2.TPM2BName{}, tpm2.TPMTTKVerified{}, fmt.Errorf("loading the owner's policy key: %w", err)
	}
	defer flush(t, key.ObjectHandle)
	signed := SignedDigest(approved, a.Ref)
	rsp, err := tpm2.VerifySignature{KeyHandle: key.ObjectHandle, Digest: tpm2.TPM2BDigest{Buffer: signed[:]}, Signature: sig}.Execute(t)
	if errors.Is(err, tpm2.TPMRCSignature) {
		return tpm2.TPM2BName{}, tpm2.TPMTTKVerified{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if err != nil {
		return tpm2.TPM2BName{}, tpm2.TPMTTKVerified{}, err
	}
	return key.Name, rsp.Validation, nil
}

// VerifyApproval checks an owner's signature without a TPM.
func VerifyApproval(a Authority, ap Approval, signature []byte) error {
	if _, err := a.public(); err != nil {
		return err
	}
	policy, err := ap.Digest()
	if err != nil {
		return err
	}
	signed := SignedDigest(policy, a.Ref)
	if !ecdsa.VerifyASN1(a.Owner, signed[:], signature) {
		return ErrSignature
	}
	return nil
}

// StorageName returns the Name of the storage primary key: another Name, another TPM, or a cleared one.
func (d *Device) StorageName(ctx context.Context) ([]byte, error) {
	var name []byte
	err := d.withStorage(ctx, "reading the storage key", d.do, func(_ transport.TPM, s *storage) error {
		name = bytes.Clone(s.name.Buffer)
		return nil
	})
	return name, err
}

// Random returns n bytes, at most 32, of the TPM's random numbers. They cross the bus encrypted.
func (d *Device) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > 32 {
		return nil, fmt.Errorf("asking the TPM for randomness: %d bytes, expected 1 to 32", n)
	}
	var out []byte
	err := d.withStorage(ctx, "asking the TPM for randomness", d.do, func(t transport.TPM, s *storage) error {
		rsp, err := tpm2.GetRandom{BytesRequested: uint16(n)}.Execute(t,
			tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(s.handle, s.public), tpm2.AESEncryption(128, tpm2.EncryptOut)))
		if err != nil {
			return err
		}
		if len(rsp.RandomBytes.Buffer) != n {
			return fmt.Errorf("the TPM gave %d bytes of %d", len(rsp.RandomBytes.Buffer), n)
		}
		out = rsp.RandomBytes.Buffer
		return nil
	})
	return out, err
}

// storage is the storage primary key (TCG Provisioning Guidance, ECC P-256) while it is loaded. Sealed objects lie below
// it and sessions are salted with it.
type storage struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
	gone   bool
}

// auth authorises the storage key by its empty password.
func (s *storage) auth(encryptIn bool) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: s.handle, Name: s.name, Auth: s.session(nil, encryptIn)}
}

// session is a session for one command, salted with the storage key, that proves a password; with encryptIn the first
// parameter of the command is encrypted.
func (s *storage) session(password []byte, encryptIn bool) tpm2.Session {
	opts := []tpm2.AuthOption{tpm2.Auth(password), tpm2.Salted(s.handle, s.public)}
	if encryptIn {
		opts = append(opts, tpm2.AESEncryption(128, tpm2.EncryptIn))
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, opts...)
}

func (s *storage) release(t transport.TPM) {
	if !s.gone {
		flush(t, s.handle)
		s.gone = true
	}
}

// withStorage runs f with the storage key loaded and, of three slots, two others free. How is do or once.
func (d *Device) withStorage(ctx context.Context, what string, how func(context.Context, string, func(transport.TPM) error) error, f func(transport.TPM, *storage) error) error {
	return how(ctx, what, func(t transport.TPM) error {
		for _, k := range d.loaded {
			flush(t, k.handle)
		}
		d.loaded = nil
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: emptyAuth(tpm2.TPMRHOwner), InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
		if err != nil {
			return fmt.Errorf("making the storage key: %w", err)
		}
		s := &storage{handle: rsp.ObjectHandle, name: rsp.Name}
		defer s.release(t)
		public, err := rsp.OutPublic.Contents()
		if err != nil {
			return fmt.Errorf("reading the storage key: %w", err)
		}
		s.public = *public
		return f(t, s)
	})
}
