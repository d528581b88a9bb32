package tpm

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/assay-attest/assay/rats"
)

// EK is a TPM's endorsement key.
type EK struct {
	Public  []byte      // TPM2B_PUBLIC
	Digest  rats.Digest // SHA-256 of the key's SubjectPublicKeyInfo (DER): what a policy pins
	CertDER []byte      // the manufacturer's certificate; nil if the TPM holds none
	Issuers [][]byte    // certificates (DER) that the manufacturer left for its issuers; they prove nothing by themselves
}

// ekKind is one of the endorsement keys of the TCG EK Credential Profile 2.5, sections 2.2.1.4 and B.3.
type ekKind struct {
	persistent tpm2.TPMHandle
	cert       tpm2.TPMHandle
	template   tpm2.TPMTPublic
}

// ekKinds in order of preference: template L-1, whose handle is where the industry expects an EK, then L-2.
var ekKinds = []ekKind{
	{persistent: 0x81010001, cert: 0x01c00002, template: tpm2.RSAEKTemplate},
	{persistent: 0x81010002, cert: 0x01c0000a, template: tpm2.ECCEKTemplate},
}

// maxCertificate bounds an EK certificate in NV memory.
const maxCertificate = 8 << 10

// Where certificates of the EK certificate's issuers lie, one after another over as many indices as they need (TCG EK
// Credential Profile 2.5, section 2.2.1.5.2), and how many are read.
const (
	chainFirst  tpm2.TPMHandle = 0x01c00100
	chainLast   tpm2.TPMHandle = 0x01c001ff
	maxChain                   = 12 << 10
	maxIssuers                 = 6
	nvIndexType                = 0x01
)

// EK returns the endorsement key: RSA 2048 if the TPM has one, else ECC P-256, with the certificate that the
// manufacturer left in NV memory.
func (d *Device) EK(ctx context.Context) (EK, error) {
	var ek EK
	err := d.do(ctx, "reading the endorsement key", func(t transport.TPM) error {
		kind, handle, public, err := loadEK(t)
		if err != nil {
			return err
		}
		release(t, handle)
		ek.Public = tpm2.Marshal(tpm2.New2B(public))
		spki, err := spkiOf(public)
		if err != nil {
			return err
		}
		ek.Digest = rats.SHA256(spki)
		if ek.CertDER, err = readCertificate(t, kind.cert); err != nil || ek.CertDER == nil {
			return err
		}
		ek.Issuers = readIssuers(t)
		return nil
	})
	if err != nil {
		return EK{}, err
	}
	return ek, nil
}

// loadEK returns a handle of the endorsement key, persistent or, then to be released, transient.
func loadEK(t transport.TPM) (ekKind, tpm2.TPMHandle, tpm2.TPMTPublic, error) {
	for _, k := range ekKinds {
		if public, err := readPublic(t, k.persistent); err == nil && isEK(public, k.template) {
			return k, k.persistent, public, nil
		}
	}
	var refused error
	for _, k := range ekKinds {
		rsp, err := tpm2.CreatePrimary{
			PrimaryHandle: emptyAuth(tpm2.TPMRHEndorsement),
			InPublic:      tpm2.New2B(k.template),
		}.Execute(t)
		if err != nil {
			if !errors.Is(err, tpm2.TPMRCValue) && !errors.Is(err, tpm2.TPMRCCurve) && !errors.Is(err, tpm2.TPMRCAsymmetric) && !errors.Is(err, tpm2.TPMRCScheme) {
				return ekKind{}, 0, tpm2.TPMTPublic{}, fmt.Errorf("creating the endorsement key: %w", err)
			}
			refused = err // the algorithm is not there: try the next kind
			continue
		}
		public, err := rsp.OutPublic.Contents()
		if err != nil {
			flush(t, rsp.ObjectHandle)
			return ekKind{}, 0, tpm2.TPMTPublic{}, err
		}
		return k, rsp.ObjectHandle, *public, nil
	}
	return ekKind{}, 0, tpm2.TPMTPublic{}, fmt.Errorf("creating the endorsement key: no kind is supported: %w", refused)
}

// isEK says whether a persistent key was made from the template: administrators keep other keys there too.
func isEK(public, template tpm2.TPMTPublic) bool {
	public.Unique = template.Unique
	return bytes.Equal(tpm2.Marshal(public), tpm2.Marshal(template))
}

// release flushes transient objects and leaves persistent ones.
func release(t transport.TPM, h tpm2.TPMHandle) {
	if h>>24 == 0x80 {
		flush(t, h)
	}
}

func readPublic(t transport.TPM, h tpm2.TPMHandle) (tpm2.TPMTPublic, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(t)
	if err != nil {
		return tpm2.TPMTPublic{}, err
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return tpm2.TPMTPublic{}, err
	}
	return *public, nil
}

func spkiOf(public tpm2.TPMTPublic) ([]byte, error) {
	key, err := tpm2.Pub(public)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	return x509.MarshalPKIXPublicKey(key)
}

// readCertificate reads the certificate at an NV index, nil if there is none. The index may be larger than it.
func readCertificate(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	data, err := readIndex(t, index)
	if err != nil {
		return nil, err
	}
	var der asn1.RawValue
	if _, err := asn1.Unmarshal(data, &der); err != nil {
		return nil, nil // an index that was provisioned with something else, or with padding only
	}
	return der.FullBytes, nil
}

// readIssuers reads the issuers' certificates. What can't be read is not there: they are a help for finding a chain, and a
// join doesn't fail for want of it.
func readIssuers(t transport.TPM) [][]byte {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(chainFirst), PropertyCount: 64}.Execute(t)
	if err != nil {
		return nil
	}
	handles, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil
	}
	var all []byte
	for _, h := range handles.Handle {
		if h>>24 != nvIndexType || h < chainFirst || h > chainLast {
			continue
		}
		b, err := readIndex(t, h)
		if err != nil || len(all)+len(b) > maxChain {
			break
		}
		all = append(all, b...)
	}
	var out [][]byte
	for len(out) < maxIssuers {
		var der asn1.RawValue
		rest, err := asn1.Unmarshal(all, &der)
		if err != nil {
			break
		}
		if _, err := x509.ParseCertificate(der.FullBytes); err != nil {
			break
		}
		out, all = append(out, der.FullBytes), rest
	}
	return out
}

// readIndex reads what an NV index holds; nil if there is no such index or nothing was written to it.
func readIndex(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the certificate's NV index: %w", err)
	}
	nv, err := pub.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading the certificate's NV index: %w", err)
	}
	if nv.DataSize > maxCertificate {
		return nil, fmt.Errorf("reading the certificate: the NV index holds %d bytes, at most %d", nv.DataSize, maxCertificate)
	}
	if !nv.Attributes.Written {
		return nil, nil
	}
	auth := emptyAuth(index)
	auth.Name = pub.NVName
	if !nv.Attributes.AuthRead {
		auth = emptyAuth(tpm2.TPMRHOwner)
	}
	var data []byte
	for len(data) < int(nv.DataSize) {
		const chunk = 512 // every TPM's MAX_NV_BUFFER_SIZE is at least this
		rsp, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Size:       uint16(min(chunk, int(nv.DataSize)-len(data))),
			Offset:     uint16(len(data)),
		}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate at byte %d: %w", len(data), err)
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, fmt.Errorf("reading the certificate at byte %d: the TPM yields nothing", len(data))
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// emptyAuth authorises the use of a handle with its empty password.
func emptyAuth(h tpm2.TPMHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth(nil)}
}

// Activate proves to a verifier that the attestation key lives in the TPM of the endorsement key: it opens a credential
// that was made for both (TPM 2.0 part 1, section 24). credential and secret are the contents of TPM2B_ID_OBJECT and
// TPM2B_ENCRYPTED_SECRET. The answer crosses the bus encrypted under a session salted with the endorsement key.
func (d *Device) Activate(ctx context.Context, ak *AK, credential, secret []byte) ([]byte, error) {
	var out []byte
	err := d.do(ctx, "activating a credential", func(t transport.TPM) error {
		key, err := d.load(t, ak.key)
		if err != nil {
			return err
		}
		_, handle, public, err := loadEK(t)
		if err != nil {
			return err
		}
		defer release(t, handle)
		name, err := tpm2.ObjectName(&public)
		if err != nil {
			return err
		}
		rsp, err := tpm2.ActivateCredential{
			ActivateHandle: key.auth(),
			KeyHandle: tpm2.AuthHandle{
				Handle: handle, Name: *name,
				Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, endorsementPolicy,
					tpm2.Salted(handle, public), tpm2.AESEncryption(128, tpm2.EncryptOut)),
			},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
		}.Execute(t)
		if err != nil {
			return err
		}
		out = rsp.CertInfo.Buffer
		return nil
	})
	return out, err
}

// endorsementPolicy satisfies the policy of the EK templates: PolicySecret(TPM_RH_ENDORSEMENT).
func endorsementPolicy(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    emptyAuth(tpm2.TPMRHEndorsement),
		PolicySession: session,
		NonceTPM:      nonce,
	}.Execute(t)
	return err
}
