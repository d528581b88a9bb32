package enclave

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	_ "embed" // the test key
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"crypto/x509"
	"encoding/pem"

	"github.com/assay-attest/assay/enclave/abi"
)

// SignOptions are what a SIGSTRUCT says besides the measurement.
type SignOptions struct {
	ProductID  uint16
	SVN        uint16
	Attributes abi.Attributes // what the enclave must run with, where the mask has ones
	Mask       abi.Attributes // 0: all flags and all of XFRM
	MiscSelect uint32
	MiscMask   uint32 // 0: all bits
	FamilyID   [16]byte
	ExtProdID  [16]byte
	Vendor     uint32
	Date       time.Time // of the signature; the day counts
}

// Defaults returns the options for signing that stand in the image.
func (i *Image) Defaults() SignOptions {
	o := i.Options
	return SignOptions{ProductID: o.ProductID, SVN: o.SVN, Attributes: o.Attributes, MiscSelect: o.MiscSelect}
}

// Unsigned returns the SIGSTRUCT of a measurement without key and signature.
func Unsigned(mrenclave [32]byte, o SignOptions) (abi.Sigstruct, error) {
	if o.Mask == (abi.Attributes{}) {
		o.Mask = abi.Attributes{Flags: ^uint64(0), XFRM: ^uint64(0)}
	}
	if o.MiscMask == 0 {
		o.MiscMask = ^uint32(0)
	}
	date, err := strconv.ParseUint(o.Date.UTC().Format("20060102"), 16, 32)
	if err != nil || o.Date.IsZero() || o.Date.UTC().Year() < 2000 {
		return abi.Sigstruct{}, CodeSignOptions.Bad("date", "a day from the year 2000 on", o.Date.UTC().Format(time.DateOnly))
	}
	const always = abi.FlagInit | abi.FlagDebug
	if o.Attributes.Flags&abi.FlagInit == 0 || o.Mask.Flags&always != always || o.Attributes.Flags&^o.Mask.Flags != 0 || o.Attributes.XFRM&^o.Mask.XFRM != 0 {
		return abi.Sigstruct{}, CodeSignOptions.Bad("attributes", "INIT, under a mask that covers them, INIT and DEBUG",
			fmt.Sprintf("flags 0x%x under mask 0x%x", o.Attributes.Flags, o.Mask.Flags))
	}
	s := abi.NewSigstruct()
	s.Vendor, s.Date = o.Vendor, uint32(date)
	s.MiscSelect, s.MiscMask = o.MiscSelect, o.MiscMask
	s.Attributes, s.AttributesMask = o.Attributes, o.Mask
	s.EnclaveHash = mrenclave
	s.ISVProdID, s.ISVSVN, s.ISVFamilyID, s.ISVExtProdID = o.ProductID, o.SVN, o.FamilyID, o.ExtProdID
	return s, nil
}

// Sign returns the SIGSTRUCT of a measurement, signed by a key at hand: RSA-3072 with exponent 3. For keys that aren't
// at hand there are GenData and CatSig. PKCS #1 v1.5 needs no randomness: the same options give the same bytes.
func Sign(mrenclave [32]byte, o SignOptions, key crypto.Signer) (abi.Sigstruct, error) {
	s, err := Unsigned(mrenclave, o)
	if err != nil {
		return abi.Sigstruct{}, err
	}
	pub, ok := key.Public().(*rsa.PublicKey)
	if !ok {
		return abi.Sigstruct{}, CodeSignKey.Bad("key", "RSA-3072 with exponent 3", fmt.Sprintf("%T", key.Public()))
	}
	if err := checkSigner(pub); err != nil {
		return abi.Sigstruct{}, err
	}
	sum := sha256.Sum256(s.SignedBytes())
	sig, err := key.Sign(noRandom{}, sum[:], crypto.SHA256)
	if err != nil {
		return abi.Sigstruct{}, fmt.Errorf("signing an enclave: %w", err)
	}
	return attach(s, pub, sig)
}

// noRandom refuses: a signature that needs randomness is not one of PKCS #1 v1.5.
type noRandom struct{}

func (noRandom) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func checkSigner(pub *rsa.PublicKey) error {
	if pub.N.BitLen() != 3072 || pub.E != 3 {
		return CodeSignKey.Bad("key", "RSA-3072 with exponent 3", fmt.Sprintf("RSA-%d with exponent %d", pub.N.BitLen(), pub.E))
	}
	return nil
}

func attach(s abi.Sigstruct, pub *rsa.PublicKey, sig []byte) (abi.Sigstruct, error) {
	if err := s.SetSignature(pub, sig); err != nil {
		return abi.Sigstruct{}, err
	}
	return s, s.Verify()
}

// GenDataSize is the length of what is signed.
const GenDataSize = 256

// GenData returns the 256 bytes that the signature of a SIGSTRUCT covers: what is taken to the offline key, as
// `openssl dgst -sha256 -sign KEY` signs it.
func GenData(mrenclave [32]byte, o SignOptions) ([]byte, error) {
	s, err := Unsigned(mrenclave, o)
	if err != nil {
		return nil, err
	}
	return s.SignedBytes(), nil
}

// CatSig makes the SIGSTRUCT of what GenData wrote, the public key and its signature of those bytes (384 bytes,
// big-endian, as openssl writes it). It computes Q1 and Q2, and verifies what it made.
func CatSig(gendata []byte, pub *rsa.PublicKey, sig []byte) (abi.Sigstruct, error) {
	if len(gendata) != GenDataSize {
		return abi.Sigstruct{}, CodeSignData.Bad("gendata", fmt.Sprintf("%d bytes", GenDataSize), fmt.Sprintf("%d bytes", len(gendata)))
	}
	if err := checkSigner(pub); err != nil {
		return abi.Sigstruct{}, err
	}
	b := make([]byte, abi.SigstructSize)
	copy(b, gendata[:128])
	copy(b[900:], gendata[128:])
	s, err := abi.ParseSigstruct(b)
	if err != nil {
		return abi.Sigstruct{}, err
	}
	want, err := Unsigned(s.EnclaveHash, SignOptions{Date: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), Attributes: abi.Attributes{Flags: abi.FlagInit}})
	if err != nil {
		return abi.Sigstruct{}, err
	}
	if s.Header != want.Header || s.Header2 != want.Header2 {
		return abi.Sigstruct{}, CodeSignData.Bad("gendata at byte 0", "the head of a SIGSTRUCT", hex.EncodeToString(s.Header[:]))
	}
	return attach(s, pub, sig)
}

// ParsePublicKey reads a signer's public key: PEM of a SubjectPublicKeyInfo or of PKCS #1.
func ParsePublicKey(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, CodeSignKey.Bad("public key", "PEM", "other text")
	}
	var key any
	var err error
	if block.Type == "RSA PUBLIC KEY" {
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	} else {
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	pub, ok := key.(*rsa.PublicKey)
	if err != nil || !ok {
		return nil, CodeSignKey.Bad("public key", "an RSA public key", block.Type)
	}
	return pub, checkSigner(pub)
}

// ParsePrivateKey reads a signer's private key: PEM of PKCS #8 or PKCS #1, not encrypted. Nothing of it is in the
// errors.
func ParsePrivateKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, CodeSignKey.Bad("private key", "PEM", "other text")
	}
	defer clear(block.Bytes)
	var key any
	var err error
	if block.Type == "RSA PRIVATE KEY" {
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	} else {
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	private, ok := key.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, CodeSignKey.Bad("private key", "an RSA private key that is not encrypted", block.Type)
	}
	return private, checkSigner(&private.PublicKey)
}

//go:embed testkey.pem
var testKey []byte

// TestKey returns the published key for enclaves under development. Everybody has it: whatever it signed is shown as
// `test` in every verdict, and its MRSIGNER is abi.TestMRSIGNER.
func TestKey() (*rsa.PrivateKey, error) {
	return ParsePrivateKey(append([]byte(nil), testKey...))
}

// TestSigned says whether an enclave was signed with the published test key.
func TestSigned(mrsigner [32]byte) bool { return mrsigner == abi.TestMRSIGNER }

// Start is what a monitor wants of an enclave that it starts.
type Start struct {
	Attributes abi.Attributes // 0: those of the SIGSTRUCT
	MiscSelect uint32
	ConfigID   [64]byte // with KSS: the launch configuration, of which the creator chooses the hash
	ConfigSVN  uint16
	AllowDebug bool
}

var errKSS = errors.New("config without KSS")

// Init checks what EINIT checks (SDM 3D, EINIT): the SIGSTRUCT's signature, that it is for this measurement, and the
// attributes under its mask. It returns the identity that reports and keys of the enclave will have. Who the signer is
// counts for whoever reads a report; the monitor's own launch policy is its own business.
func Init(mrenclave [32]byte, s abi.Sigstruct, want Start) (Identity, error) {
	if err := s.Verify(); err != nil {
		return Identity{}, err
	}
	if s.EnclaveHash != mrenclave {
		return Identity{}, CodeInitHash.Bad("enclavehash at byte 960", hex.EncodeToString(mrenclave[:]), hex.EncodeToString(s.EnclaveHash[:]))
	}
	a := want.Attributes
	if a == (abi.Attributes{}) {
		a, want.MiscSelect = s.Attributes, s.MiscSelect
	}
	a.Flags |= abi.FlagInit
	m := s.AttributesMask
	if a.Flags&m.Flags != s.Attributes.Flags&m.Flags || a.XFRM&m.XFRM != s.Attributes.XFRM&m.XFRM {
		return Identity{}, CodeInitAttributes.Bad("attributes at byte 928", attributesText(s.Attributes), attributesText(a))
	}
	if want.MiscSelect&s.MiscMask != s.MiscSelect&s.MiscMask {
		return Identity{}, CodeInitAttributes.Bad("miscselect at byte 900", fmt.Sprintf("0x%x", s.MiscSelect), fmt.Sprintf("0x%x", want.MiscSelect))
	}
	if a.Debug() && !want.AllowDebug {
		return Identity{}, CodeInitDebug.Bad("attributes", "no DEBUG", attributesText(a))
	}
	if a.Flags&abi.FlagKSS == 0 && (want.ConfigID != [64]byte{} || want.ConfigSVN != 0) {
		return Identity{}, CodeInitAttributes.Bad("attributes", "KSS, for a launch configuration", errKSS.Error())
	}
	id := Identity{
		MRENCLAVE: mrenclave, MRSIGNER: s.MRSIGNER(), Attributes: a, MiscSelect: want.MiscSelect,
		ISVProdID: s.ISVProdID, ISVSVN: s.ISVSVN, ConfigID: want.ConfigID, ConfigSVN: want.ConfigSVN,
	}
	if a.Flags&abi.FlagKSS != 0 {
		id.FamilyID, id.ExtProdID = s.ISVFamilyID, s.ISVExtProdID
	}
	return id, nil
}

func attributesText(a abi.Attributes) string {
	return fmt.Sprintf("flags 0x%x, xfrm 0x%x", a.Flags, a.XFRM)
}
