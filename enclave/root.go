package enclave

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"math/big"

	"github.com/assay-attest/assay/enclave/abi"
)

// RootSize is the length of a root key.
const RootSize = 32

// MaxMonitorSVN is the highest security version of a monitor.
const MaxMonitorSVN = 1023

// What derivations begin with, one tag for each purpose.
const (
	saltRoot    = "assay/root/1"
	infoChain   = "older monitor"
	infoAttest  = "attestation key"
	infoEnclave = "enclave key"
)

// Root is the root key: the newest end of the chain of monitor versions (S15). Its keeper holds it; a monitor gets the
// key of its own version only.
type Root struct{ key [RootSize]byte }

// NewRoot makes a root key of 32 random bytes.
func NewRoot(rand io.Reader) (*Root, error) {
	r := new(Root)
	if _, err := io.ReadFull(rand, r.key[:]); err != nil {
		return nil, fmt.Errorf("making a root key: %w", err)
	}
	return r, nil
}

// ParseRoot copies a root key of 32 bytes.
func ParseRoot(b []byte) (*Root, error) {
	if len(b) != RootSize {
		return nil, fmt.Errorf("reading a root key: %d bytes, expected %d", len(b), RootSize)
	}
	return &Root{key: [RootSize]byte(b)}, nil
}

// Bytes returns a copy of the key, for sealing; the caller wipes it.
func (r *Root) Bytes() []byte { return append([]byte(nil), r.key[:]...) }

// Wipe overwrites the key.
func (r *Root) Wipe() { clear(r.key[:]) }

// Monitor returns the key of a monitor's security version.
func (r *Root) Monitor(svn uint16) (*MonitorKey, error) {
	newest := &MonitorKey{svn: MaxMonitorSVN, key: r.key}
	defer newest.Wipe()
	return newest.At(svn)
}

// MonitorKey is the secret of one security version of the monitor: an older version's key is derived of a newer one's,
// never the other way round.
type MonitorKey struct {
	svn uint16
	key [RootSize]byte
}

// ParseMonitorKey copies the key of a version as it came from the root keeper (32 bytes).
func ParseMonitorKey(svn uint16, b []byte) (*MonitorKey, error) {
	if len(b) != RootSize || svn > MaxMonitorSVN {
		return nil, fmt.Errorf("reading a monitor's key: %d bytes for version %d, expected %d, up to version %d", len(b), svn, RootSize, MaxMonitorSVN)
	}
	return &MonitorKey{svn: svn, key: [RootSize]byte(b)}, nil
}

// SVN returns the version.
func (m *MonitorKey) SVN() uint16 { return m.svn }

// Bytes returns a copy of the key; the caller wipes it.
func (m *MonitorKey) Bytes() []byte { return append([]byte(nil), m.key[:]...) }

// Wipe overwrites the key.
func (m *MonitorKey) Wipe() { clear(m.key[:]) }

// At returns the key of this version or an older one, and refuses a newer one.
func (m *MonitorKey) At(svn uint16) (*MonitorKey, error) {
	if svn > m.svn {
		return nil, CodeKeySVN.Bad("cpusvn at byte 4", fmt.Sprintf("a monitor's version up to %d", m.svn), fmt.Sprint(svn))
	}
	out := &MonitorKey{svn: svn, key: m.key}
	for v := m.svn; v > svn; v-- {
		if err := expand(out.key[:], out.key[:], infoChain); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// expand derives len(out) bytes by HKDF-SHA256 (RFC 5869). out may be the key itself.
func expand(out, key []byte, info string) error {
	b, err := hkdf.Key(sha256.New, key, []byte(saltRoot), info, len(out))
	if err != nil {
		return fmt.Errorf("deriving a key: %w", err)
	}
	copy(out, b)
	clear(b)
	return nil
}

// AttestationKey returns the key by which the monitor signs quotes (P-256): one for each version, launch and root
// class, so that a monitor started from user space never has the key of one started in the initrd. The context
// separates verifiers that shall not recognise the machine (R117); it may be empty.
func (m *MonitorKey) AttestationKey(p abi.Platform, context string) (*ecdsa.PrivateKey, error) {
	// FIPS 186-5, A.2.1: 128 bits more than the order, reduced modulo n-1, plus one.
	var wide [48]byte
	defer clear(wide[:])
	if err := expand(wide[:], m.key[:], infoAttest+"\x00"+string([]byte{byte(p.Launch), byte(p.Root)})+context); err != nil {
		return nil, err
	}
	order := new(big.Int).Sub(elliptic.P256().Params().N, big.NewInt(1))
	d := new(big.Int).SetBytes(wide[:])
	d.Mod(d, order).Add(d, big.NewInt(1))
	raw := d.FillBytes(make([]byte, 32))
	defer clear(raw)
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	if err != nil {
		return nil, fmt.Errorf("deriving the attestation key: %w", err)
	}
	return key, nil
}
