package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// AK is an attestation key: a restricted signing key that signs only what the TPM itself composed.
type AK struct {
	Public []byte // TPM2B_PUBLIC
	key    *primary
}

// Key is a TPM key for TLS client authentication. It implements crypto.Signer for SHA-256 digests, which is what
// TLS 1.3 asks of a P-256 key.
type Key struct {
	device *Device
	key    *primary
	public *ecdsa.PublicKey
	tpm2b  []byte
}

// primary is how to make a key again: primary keys are a function of hierarchy seed and template.
type primary struct {
	hierarchy tpm2.TPMHandle
	template  tpm2.TPMTPublic
	name      tpm2.TPM2BName // of the key, once made
	public    tpm2.TPMTPublic
}

// loadedKey is a primary that is in the TPM now.
type loadedKey struct {
	of     *primary
	handle tpm2.TPMHandle
}

func (k *loadedKey) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: k.of.name, Auth: tpm2.PasswordAuth(nil)}
}

// errOtherKey says that a handle leads to another key than we left there: the TPM was reset.
var errOtherKey = errors.New("TPM handle leads to another key")

// UniqueSize is the size of the value that tells keys of one kind apart.
const UniqueSize = 32

// AK makes the attestation key of a unique value of 32 bytes; the same value always yields the same key on the same
// TPM. A verifier must not learn another verifier's value: their keys must not be linkable (R117).
func (d *Device) AK(ctx context.Context, unique []byte) (*AK, error) {
	attributes := signingAttributes
	attributes.Restricted = true
	k, err := d.make(ctx, "making an attestation key", tpm2.TPMRHEndorsement, attributes, unique)
	if err != nil {
		return nil, err
	}
	return &AK{Public: tpm2.Marshal(tpm2.New2B(k.public)), key: k}, nil
}

// SigningKey makes the TLS key of a unique value of 32 bytes, in the same way as AK does.
func (d *Device) SigningKey(ctx context.Context, unique []byte) (*Key, error) {
	k, err := d.make(ctx, "making a signing key", tpm2.TPMRHOwner, signingAttributes, unique)
	if err != nil {
		return nil, err
	}
	pub, err := tpm2.Pub(k.public)
	if err != nil {
		return nil, fmt.Errorf("reading a signing key: %w", err)
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("reading a signing key: the TPM made a %T", pub)
	}
	return &Key{device: d, key: k, public: ec, tpm2b: tpm2.Marshal(tpm2.New2B(k.public))}, nil
}

var signingAttributes = tpm2.TPMAObject{
	FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true,
}

func (d *Device) make(ctx context.Context, what string, hierarchy tpm2.TPMHandle, attributes tpm2.TPMAObject, unique []byte) (*primary, error) {
	if len(unique) != UniqueSize {
		return nil, fmt.Errorf("%s: unique value of %d bytes, expected %d", what, len(unique), UniqueSize)
	}
	k := &primary{hierarchy: hierarchy, template: tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme:  ecdsaScheme,
			CurveID: tpm2.TPMECCNistP256,
		}),
		// Both coordinates have full length: some TPMs refuse a shorter one.
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: append(bytes.Clone(unique[:16]), make([]byte, 16)...)},
			Y: tpm2.TPM2BECCParameter{Buffer: append(bytes.Clone(unique[16:]), make([]byte, 16)...)},
		}),
	}}
	err := d.do(ctx, what, func(t transport.TPM) error {
		_, err := d.load(t, k)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

var ecdsaScheme = tpm2.TPMTECCScheme{
	Scheme:  tpm2.TPMAlgECDSA,
	Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
}

// load puts a key into the TPM unless it is there, evicting the one that was used longest ago.
func (d *Device) load(t transport.TPM, k *primary) (*loadedKey, error) {
	for i, l := range d.loaded {
		if l.of != k {
			continue
		}
		// A TPM that was reset under us gives its handles out anew.
		rsp, err := tpm2.ReadPublic{ObjectHandle: l.handle}.Execute(t)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(rsp.Name.Buffer, k.name.Buffer) {
			return nil, errOtherKey
		}
		d.loaded = append(append(d.loaded[:i:i], d.loaded[i+1:]...), l)
		return l, nil
	}
	for len(d.loaded) >= maxLoaded {
		flush(t, d.loaded[0].handle)
		d.loaded = d.loaded[1:]
	}
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: emptyAuth(k.hierarchy), InPublic: tpm2.New2B(k.template)}.Execute(t)
	if err != nil {
		return nil, err
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		flush(t, rsp.ObjectHandle)
		return nil, err
	}
	if len(k.name.Buffer) != 0 && !bytes.Equal(k.name.Buffer, rsp.Name.Buffer) {
		flush(t, rsp.ObjectHandle)
		return nil, errors.New("the TPM makes another key of the same template: its seed was changed")
	}
	k.name, k.public = rsp.Name, *public
	l := &loadedKey{of: k, handle: rsp.ObjectHandle}
	d.loaded = append(d.loaded, l)
	return l, nil
}

// Public implements crypto.Signer; the key is an *ecdsa.PublicKey on P-256.
func (k *Key) Public() crypto.PublicKey { return k.public }

// TPMPublic returns the key as TPM2B_PUBLIC.
func (k *Key) TPMPublic() []byte { return k.tpm2b }

// Sign implements crypto.Signer. It signs SHA-256 digests and returns an ASN.1 signature; the TPM's own randomness is
// used.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, errors.New("signing with a TPM key: it signs SHA-256 digests only")
	}
	var sig struct{ R, S *big.Int }
	err := k.device.do(context.Background(), "signing with a TPM key", func(t transport.TPM) error {
		l, err := k.device.load(t, k.key)
		if err != nil {
			return err
		}
		rsp, err := tpm2.Sign{
			KeyHandle:  l.auth(),
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(t)
		if err != nil {
			return err
		}
		ec, err := rsp.Signature.Signature.ECDSA()
		if err != nil {
			return err
		}
		sig.R, sig.S = new(big.Int).SetBytes(ec.SignatureR.Buffer), new(big.Int).SetBytes(ec.SignatureS.Buffer)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(sig)
}
