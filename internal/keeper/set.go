package keeper

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"

	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

// Set is what may open a root: PCR values of a boot, up to a revision. Unsigned it is a plan; the owner's signature makes
// the TPM accept it. The signature covers the policy digest of PCRs, counter and revision together with root, launch class
// and epoch: changing any field makes it worthless.
type Set struct {
	Version  int                 `json:"version"` // 1
	Root     rats.Digest         `json:"root"`
	Launch   Launch              `json:"launch"`
	Epoch    []byte              `json:"epoch"` // 16 random bytes of this sealing: a set for an earlier one is void
	NVIndex  uint32              `json:"nv_index"`
	Revision uint64              `json:"revision"` // opens while the counter is at most this
	PCRs     map[int]rats.Digest `json:"pcrs"`     // SHA-256 bank, as they are when the root is unsealed
	Note     string              `json:"note,omitempty"`
	// Signature is ECDSA P-256 over SHA-256(policy digest ‖ reference), ASN.1 (TPM 2.0 part 3, 23.16).
	Signature []byte `json:"signature,omitempty"`
}

const (
	maxSet    = 16 << 10
	epochSize = 16
)

// ParseSet reads a set strictly and checks its form, not its signature.
func ParseSet(b []byte) (Set, error) {
	var s Set
	if len(b) > maxSet {
		return s, CodeSet.Bad("", fmt.Sprintf("at most %d bytes", maxSet), fmt.Sprint(len(b)))
	}
	if err := strictJSON(b, &s); err != nil {
		return Set{}, CodeSet.Bad("", "JSON of known fields", err.Error())
	}
	if err := s.check(); err != nil {
		return Set{}, err
	}
	return s, nil
}

// Encode returns the set as JSON.
func (s Set) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

func (s Set) check() error {
	switch {
	case s.Version != 1:
		return CodeSet.Bad("version", "1", fmt.Sprint(s.Version))
	case s.Root.Alg != "sha256" || s.Root.Check() != nil:
		return CodeSet.Bad("root", "sha256:…", clip(s.Root.String()))
	case s.Launch != LaunchInitrd && s.Launch != LaunchUserspace:
		return CodeSet.Bad("launch", "initrd or userspace", clip(string(s.Launch)))
	case len(s.Epoch) != epochSize:
		return CodeSet.Bad("epoch", fmt.Sprintf("%d bytes", epochSize), fmt.Sprint(len(s.Epoch)))
	case len(s.Note) > 256 || len(s.Signature) > 256:
		return CodeSet.Bad("note, signature", "at most 256 bytes", "more")
	}
	for p, v := range s.PCRs {
		if v.Alg != "sha256" || v.Check() != nil {
			return CodeSet.Bad(fmt.Sprintf("pcrs.%d", p), "sha256:…", clip(v.String()))
		}
	}
	if s.Launch == LaunchInitrd {
		for _, p := range initrdPCRs {
			if _, ok := s.PCRs[p]; !ok {
				return CodeSet.Bad("pcrs", fmt.Sprintf("%v and more", initrdPCRs), fmt.Sprintf("no PCR %d", p))
			}
		}
	}
	if err := s.approval().Check(); err != nil {
		return CodeSet.Bad("pcrs, nv_index", "PCRs 0 to 15 and an owner's NV index", err.Error())
	}
	return nil
}

func (s Set) approval() tpm.Approval {
	a := tpm.Approval{PCRs: make(map[int][]byte, len(s.PCRs)), Counter: s.NVIndex, Limit: s.Revision}
	for p, v := range s.PCRs {
		a.PCRs[p] = v.Sum
	}
	return a
}

// authority is who decides for a root: the owner's key, for this root, launch class and sealing alone. That the root's id
// is in it keeps a root that somebody else made from passing for the authorised one.
func authority(owner *ecdsa.PublicKey, root rats.Digest, launch Launch, epoch []byte) tpm.Authority {
	ref := sha256.New()
	fmt.Fprintf(ref, "assay root 1\x00%s\x00", launch)
	ref.Write(epoch)
	ref.Write(root.Sum)
	return tpm.Authority{Owner: owner, Ref: ref.Sum(nil)}
}

// SignedDigest is the SHA-256 digest the owner signs: for keys that live in another device.
func (s Set) SignedDigest() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	policy, err := s.approval().Digest()
	if err != nil {
		return nil, err
	}
	d := tpm.SignedDigest(policy, authority(nil, s.Root, s.Launch, s.Epoch).Ref)
	return d[:], nil
}

// Authorise signs a plan with the owner's policy key.
func Authorise(plan Set, key crypto.Signer, rand io.Reader) (Set, error) {
	digest, err := plan.SignedDigest()
	if err != nil {
		return Set{}, err
	}
	sig, err := key.Sign(rand, digest, crypto.SHA256)
	if err != nil {
		return Set{}, fmt.Errorf("signing the plan: %w", err)
	}
	plan.Signature = sig
	owner, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return Set{}, CodeSetSignature.Bad("key", "a key on P-256", fmt.Sprintf("%T", key.Public()))
	}
	return plan, plan.Verify(owner)
}

// Verify checks the owner's signature.
func (s Set) Verify(owner *ecdsa.PublicKey) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := tpm.VerifyApproval(authority(owner, s.Root, s.Launch, s.Epoch), s.approval(), s.Signature); err != nil {
		return CodeSetSignature.Bad("signature", "one by the owner's policy key over this set", err.Error())
	}
	return nil
}

// matches says whether the set is for these PCR values.
func (s Set) matches(values map[int][]byte) bool { return len(s.differing(values)) == 0 }

// differing lists the PCRs that have other values than the set says.
func (s Set) differing(values map[int][]byte) []int {
	var out []int
	for p := range 24 {
		if want, ok := s.PCRs[p]; ok && !bytes.Equal(want.Sum, values[p]) {
			out = append(out, p)
		}
	}
	return out
}

// maxCaps is how often a boot may have been capped and is still recognised: keeper and scripts may each do it.
const maxCaps = 8

// cappedFrom says whether the values are what the set's become by the cap. PCRs that user space extends further tell
// nothing.
func (s Set) cappedFrom(values map[int][]byte) bool {
	expected := make(map[int][]byte)
	for p, want := range s.PCRs {
		if p != 8 && p != measuredPCR && p != 12 && p != 14 {
			expected[p] = want.Sum
		}
	}
	for range maxCaps {
		equal := len(expected) > 0
		for p, v := range expected {
			sum := sha256.Sum256(append(bytes.Clone(v), capDigest()...))
			expected[p] = sum[:]
			equal = equal && bytes.Equal(sum[:], values[p])
		}
		if equal {
			return true
		}
	}
	return false
}
