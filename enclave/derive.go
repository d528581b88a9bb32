package enclave

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/assay-attest/assay/enclave/abi"
)

// Identity is what the monitor knows of a running enclave: what SECS holds in hardware.
type Identity struct {
	MRENCLAVE  [32]byte
	MRSIGNER   [32]byte
	Attributes abi.Attributes
	MiscSelect uint32
	ISVProdID  uint16
	ISVSVN     uint16
	ConfigSVN  uint16
	ConfigID   [64]byte
	FamilyID   [16]byte
	ExtProdID  [16]byte
}

// derivation is what a key depends on: every field is part of the derivation, also those that are zero. Its layout is
// fixed (little-endian), so no two requests share one.
type derivation struct {
	Name         uint16
	Policy       uint16
	Mode         uint8 // S15: mode, launch and root class, whatever the request's mask says; DEBUG is in Attributes
	Launch       uint8
	Root         uint8
	Reserved     uint8
	MonitorSVN   uint16
	ISVSVN       uint16
	ISVProdID    uint16
	ConfigSVN    uint16
	Attributes   abi.Attributes
	Mask         abi.Attributes
	MiscSelect   uint32
	MiscMask     uint32
	MRENCLAVE    [32]byte
	MRSIGNER     [32]byte
	ConfigID     [64]byte
	FamilyID     [16]byte
	ExtProdID    [16]byte
	KeyID        [32]byte
	CETMask      uint8
	ReservedTail [63]byte
}

// always are the attributes that every key depends on (SDM 3D, EGETKEY).
const always = abi.FlagInit | abi.FlagDebug

const allPolicies = abi.PolicyMRENCLAVE | abi.PolicyMRSIGNER | abi.PolicyNoISVProdID | abi.PolicyConfigID | abi.PolicyISVFamilyID | abi.PolicyISVExtProdID

// Key derives the key that an enclave asks for, by the rules of EGETKEY (SDM 3D, 34.18 and EGETKEY):
//
//   - SEAL: MRENCLAVE, MRSIGNER or both by policy (one at least: a key of nobody is refused, other than by the
//     processor), product id, attributes and MISCSELECT under the masks, version up to the own, key id.
//   - REPORT: the enclave itself, with all its attributes; what others' reports for it are authenticated with.
//   - PROVISION, PROVISION_SEAL, EINITTOKEN: signer, product id and version, for enclaves with that attribute.
//
// The request's CPUSVN names the monitor's version and the platform, as reports show it: mode, launch and root class
// must be the caller's own, the monitor's version its own or an older one. For REPORT it is not looked at.
func (m *MonitorKey) Key(id Identity, p abi.Platform, r abi.KeyRequest) ([16]byte, error) {
	if r.Reserved1 != 0 || !zero(r.Reserved2[:]) {
		return [16]byte{}, CodeKeyReserved.Bad("keyrequest at byte 78", "zero", "other bytes")
	}
	if r.KeyName == abi.KeyReport {
		return m.reportKey(id, p, r.KeyID)
	}
	was, err := m.asked(id, p, r)
	if err != nil {
		return [16]byte{}, err
	}
	d := derivation{
		Name: r.KeyName, Mode: uint8(p.Mode), Launch: uint8(p.Launch), Root: uint8(p.Root), MonitorSVN: was.SVN, ISVSVN: r.ISVSVN,
		ISVProdID:  id.ISVProdID,
		Attributes: abi.Attributes{Flags: id.Attributes.Flags & (r.AttributeMask.Flags | always), XFRM: id.Attributes.XFRM & r.AttributeMask.XFRM},
		Mask:       r.AttributeMask, MiscSelect: id.MiscSelect & r.MiscMask, MiscMask: r.MiscMask, CETMask: r.CETAttributes,
	}
	switch r.KeyName {
	case abi.KeySeal:
		if err := sealed(&d, id, r); err != nil {
			return [16]byte{}, err
		}
	case abi.KeyProvision, abi.KeyProvisionSeal:
		if id.Attributes.Flags&abi.FlagProvisionKey == 0 {
			return [16]byte{}, CodeKeyName.Bad("keyname", "the attribute PROVISIONKEY", attributesText(id.Attributes))
		}
		d.MRSIGNER = id.MRSIGNER
	case abi.KeyEInitToken:
		if id.Attributes.Flags&abi.FlagEInitToken == 0 {
			return [16]byte{}, CodeKeyName.Bad("keyname", "the attribute EINITTOKEN_KEY", attributesText(id.Attributes))
		}
		d.MRSIGNER, d.KeyID = id.MRSIGNER, r.KeyID
	default:
		return [16]byte{}, CodeKeyName.Bad("keyname", "0 to 4", fmt.Sprint(r.KeyName))
	}
	return m.derive(d)
}

// asked checks versions and platform of a request and returns the platform that it names.
func (m *MonitorKey) asked(id Identity, p abi.Platform, r abi.KeyRequest) (abi.Platform, error) {
	was, err := abi.ParsePlatform(r.CPUSVN)
	if err != nil {
		return was, err
	}
	switch {
	case p.SVN != m.svn:
		return was, fmt.Errorf("deriving a key: the platform is of version %d, the monitor's key of %d", p.SVN, m.svn)
	case was.Mode != p.Mode || was.Launch != p.Launch || was.Root != p.Root:
		return was, CodeKeyPlatform.Bad("cpusvn", fmt.Sprintf("%s, %s, %s", p.Mode, p.Launch, p.Root), fmt.Sprintf("%s, %s, %s", was.Mode, was.Launch, was.Root))
	case was.SVN > m.svn:
		return was, CodeKeySVN.Bad("cpusvn at byte 4", fmt.Sprintf("a monitor's version up to %d", m.svn), fmt.Sprint(was.SVN))
	case r.ISVSVN > id.ISVSVN:
		return was, CodeKeySVN.Bad("isvsvn", fmt.Sprintf("a version up to %d", id.ISVSVN), fmt.Sprint(r.ISVSVN))
	case r.ConfigSVN > id.ConfigSVN:
		return was, CodeKeySVN.Bad("configsvn", fmt.Sprintf("a version up to %d", id.ConfigSVN), fmt.Sprint(r.ConfigSVN))
	}
	return was, nil
}

// sealed fills in what a sealing key depends on by the request's policy.
func sealed(d *derivation, id Identity, r abi.KeyRequest) error {
	const kss = abi.PolicyNoISVProdID | abi.PolicyConfigID | abi.PolicyISVFamilyID | abi.PolicyISVExtProdID
	seen := fmt.Sprintf("0x%04x", r.KeyPolicy)
	switch {
	case r.KeyPolicy&^allPolicies != 0:
		return CodeKeyPolicy.Bad("keypolicy", "known bits", seen)
	case r.KeyPolicy&(abi.PolicyMRENCLAVE|abi.PolicyMRSIGNER) == 0:
		return CodeKeyPolicy.Bad("keypolicy", "MRENCLAVE, MRSIGNER or both", seen)
	case r.KeyPolicy&kss != 0 && id.Attributes.Flags&abi.FlagKSS == 0:
		return CodeKeyPolicy.Bad("keypolicy", "an enclave with the attribute KSS", seen)
	}
	d.Policy, d.KeyID = r.KeyPolicy, r.KeyID
	if r.KeyPolicy&abi.PolicyMRENCLAVE != 0 {
		d.MRENCLAVE = id.MRENCLAVE
	}
	if r.KeyPolicy&abi.PolicyMRSIGNER != 0 {
		d.MRSIGNER = id.MRSIGNER
	}
	if r.KeyPolicy&abi.PolicyNoISVProdID != 0 {
		d.ISVProdID = 0
	}
	if r.KeyPolicy&abi.PolicyConfigID != 0 {
		d.ConfigID, d.ConfigSVN = id.ConfigID, r.ConfigSVN
	}
	if r.KeyPolicy&abi.PolicyISVFamilyID != 0 {
		d.FamilyID = id.FamilyID
	}
	if r.KeyPolicy&abi.PolicyISVExtProdID != 0 {
		d.ExtProdID = id.ExtProdID
	}
	return nil
}

// reportKey is the key by which reports for an enclave are authenticated: of the monitor's current version, and of
// exactly this enclave.
func (m *MonitorKey) reportKey(id Identity, p abi.Platform, keyID [32]byte) ([16]byte, error) {
	return m.derive(derivation{
		Name: abi.KeyReport, Mode: uint8(p.Mode), Launch: uint8(p.Launch), Root: uint8(p.Root), MonitorSVN: m.svn,
		Attributes: id.Attributes, MiscSelect: id.MiscSelect, MRENCLAVE: id.MRENCLAVE, ConfigID: id.ConfigID, ConfigSVN: id.ConfigSVN,
		KeyID: keyID,
	})
}

// derive runs HKDF over the whole description, with the key of the monitor version that it names.
func (m *MonitorKey) derive(d derivation) (key [16]byte, err error) {
	at, err := m.At(d.MonitorSVN)
	if err != nil {
		return key, err
	}
	defer at.Wipe()
	var b bytes.Buffer
	b.WriteString(infoEnclave)
	if err := binary.Write(&b, binary.LittleEndian, &d); err != nil {
		return key, fmt.Errorf("deriving a key: %w", err)
	}
	return key, expand(key[:], at.key[:], b.String())
}
