package sdk

import (
	"slices"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
)

// Policies of Seal: who may open.
const (
	ToEnclave = abi.PolicyMRENCLAVE // this very code and no other
	ToSigner  = abi.PolicyMRSIGNER  // enclaves of the same signer and product id, of this version or a newer one
)

// sealed is how sealed bytes begin. All of it is authenticated, and names the key.
type sealed struct {
	Magic  [4]byte
	Policy uint16
	ISVSVN uint16
	CPUSVN [16]byte // the monitor's version, mode, launch and root class
	Flags  uint64   // mask of attributes
	XFRM   uint64
	KeyID  [32]byte // random: a key for each Seal, so the nonce is zero
}

var sealedMagic = [4]byte{'A', 'S', 'L', '1'}

const sealedSize = 4 + 2 + 2 + 16 + 8 + 8 + 32

// Seal encrypts data so that it opens only for whom the policy names, on this platform under the same mode, launch and
// root class, and with the same additional data, which isn't stored. What is sealed can be replaced by an older sealing:
// whoever needs to know keeps a counter that the outside can't turn back.
func Seal(policy uint16, extra, plaintext []byte) ([]byte, error) {
	body, err := Self()
	if err != nil {
		return nil, err
	}
	h := sealed{Magic: sealedMagic, Policy: policy, ISVSVN: body.ISVSVN, CPUSVN: body.CPUSVN, Flags: abi.FlagInit | abi.FlagDebug}
	Random(h.KeyID[:])
	head, err := boundary.Encode(h)
	if err != nil {
		return nil, err
	}
	k, err := h.key()
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	box, err := SealWith(k, [NonceSize]byte{}, slices.Concat(head, extra), plaintext)
	if err != nil {
		return nil, err
	}
	return append(head, box...), nil
}

// Unseal opens what Seal made. The key's refusals say why it isn't this enclave's to open: a newer version, another mode,
// launch or root class; another enclave, signer or platform is seen by the bytes not being authentic.
func Unseal(extra, box []byte) ([]byte, error) {
	var h sealed
	if len(box) < sealedSize {
		return nil, CodeSealed.Bad("sealed", "the head of sealed bytes", "less")
	}
	head := box[:sealedSize]
	if err := boundary.Decode(head, &h); err != nil {
		return nil, err
	}
	if h.Magic != sealedMagic || h.Policy != ToEnclave && h.Policy != ToSigner && h.Policy != ToEnclave|ToSigner {
		return nil, CodeSealed.Bad("sealed", "the head of sealed bytes", "another")
	}
	k, err := h.key()
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	return OpenWith(k, [NonceSize]byte{}, slices.Concat(head, extra), box[sealedSize:])
}

func (h sealed) key() (*Secret, error) {
	return GetKey(abi.KeyRequest{
		KeyName: abi.KeySeal, KeyPolicy: h.Policy, ISVSVN: h.ISVSVN, CPUSVN: h.CPUSVN,
		AttributeMask: abi.Attributes{Flags: h.Flags, XFRM: h.XFRM}, KeyID: h.KeyID,
	})
}
