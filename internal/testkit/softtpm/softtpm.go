// Package softtpm is a TPM made of Go: real keys and real signatures without a TPM process, for load generators, which
// need thousands, and for attack tests, which need TPMs that lie.
//
// It is no TPM: its keys are in our memory, it takes no commands, and its endorsement key is certified by a maker that
// doesn't exist. What it guarantees is that its evidence has the shape and the cryptography of a device's.
package softtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// The kinds of keys.
const (
	ECDSAP256 = "ecdsa-p256" // the default of every key
	ECDSAP384 = "ecdsa-p384"
	RSASSA    = "rsassa"
	RSAPSS    = "rsapss"
)

// Options of a TPM. The zero value is a well-behaved TPM with ECC keys, certified by a maker of its own.
type Options struct {
	CA            *CA  // the maker; nil: a new one
	WithoutEKCert bool // nobody certifies the endorsement key
	Software      bool // the certificate says that it is a software TPM
	RSAEK         bool // endorsement key RSA 2048, which takes long to make, instead of P-256
	AK            string
	// AKPublic and TLSPublic change the public areas before the keys count, to make keys of wrong attributes.
	AKPublic, TLSPublic func(*tpm2.TPMTPublic)
	// SameEK makes other keys of a TPM that is there: its endorsement key and certificate, another AK and TLS key.
	SameEK *TPM
}

// TPM is a software TPM. Its methods may be called from several goroutines.
type TPM struct {
	rand   io.Reader
	ca     *CA
	ek, ak key
	tls    key
	ekCert []byte

	mu       sync.Mutex
	pcrs     map[string]map[int][]byte
	resets   uint32
	restarts uint32
	clock    uint64
	unsafe   bool
}

// key is a key pair with its TPM public area.
type key struct {
	private crypto.Signer
	public  tpm2.TPMTPublic
}

func (k key) tpm2b() []byte { return tpm2.Marshal(tpm2.New2B(k.public)) }

// New makes a TPM after its first boot. It panics if rand fails.
func New(rand io.Reader, opts ...Options) *TPM {
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	t := &TPM{rand: rand, ca: o.CA, resets: 1, clock: 1000}
	if t.ca == nil {
		t.ca = NewCA(rand)
	}
	t.ek = newEK(rand, o.RSAEK)
	t.ak = newKey(rand, o.AK, true)
	t.tls = newKey(rand, ECDSAP256, false)
	if o.AKPublic != nil {
		o.AKPublic(&t.ak.public)
	}
	if o.TLSPublic != nil {
		o.TLSPublic(&t.tls.public)
	}
	if !o.WithoutEKCert {
		t.ekCert = t.ca.certify(rand, t.ek.private.Public(), o.Software)
	}
	if o.SameEK != nil {
		t.ca, t.ek, t.ekCert = o.SameEK.ca, o.SameEK.ek, o.SameEK.ekCert
	}
	t.clearPCRs()
	return t
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("softtpm: %v", err))
	}
	return v
}

// newKey makes a signing key.
func newKey(rand io.Reader, kind string, restricted bool) key {
	k := key{public: tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true,
		Restricted: restricted,
	}}}
	switch kind {
	case "", ECDSAP256, ECDSAP384:
		curve, id, alg := elliptic.P256(), tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256
		if kind == ECDSAP384 {
			curve, id, alg = elliptic.P384(), tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384
		}
		private := must(ecdsa.GenerateKey(curve, rand))
		k.private = private
		k.public.Type = tpm2.TPMAlgECC
		k.public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: id,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: alg})},
		})
		k.public.Unique = eccUnique(&private.PublicKey)
	case RSASSA, RSAPSS:
		private := must(rsa.GenerateKey(rand, 2048))
		k.private = private
		k.public.Type = tpm2.TPMAlgRSA
		scheme := tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}
		if kind == RSAPSS {
			scheme = tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSAPSS,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256})}
		}
		k.public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Scheme: scheme, KeyBits: 2048})
		k.public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: private.N.Bytes()})
	default:
		panic("softtpm: unknown kind of key " + kind)
	}
	return k
}

func eccUnique(p *ecdsa.PublicKey) tpm2.TPMUPublicID {
	point := must(p.Bytes())[1:]
	n := len(point) / 2
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[:n]}, Y: tpm2.TPM2BECCParameter{Buffer: point[n:]},
	})
}

// CA returns the maker of the TPM.
func (t *TPM) CA() *CA { return t.ca }

// EKPublic returns the endorsement key as TPM2B_PUBLIC.
func (t *TPM) EKPublic() []byte { return t.ek.tpm2b() }

// EKCert returns the endorsement key's certificate (DER), nil if it has none.
func (t *TPM) EKCert() []byte { return t.ekCert }

// Certified returns a certificate (DER) of the endorsement key by the maker, also for a TPM that has none.
func (t *TPM) Certified() []byte { return t.ca.certify(t.rand, t.ek.private.Public(), false) }

// AKPublic returns the attestation key as TPM2B_PUBLIC.
func (t *TPM) AKPublic() []byte { return t.ak.tpm2b() }

// TLSPublic returns the TLS key as TPM2B_PUBLIC.
func (t *TPM) TLSPublic() []byte { return t.tls.tpm2b() }

// TLSKey returns the TLS key.
func (t *TPM) TLSKey() crypto.Signer { return t.tls.private }

// BootID returns the id of the current boot, as verifiers compute it.
func (t *TPM) BootID() rats.Digest {
	t.mu.Lock()
	defer t.mu.Unlock()
	return tpm.BootID(t.ak.tpm2b(), t.resets, t.restarts)
}

// hashOf are the PCR banks.
var hashOf = map[string]func() hash.Hash{
	"sha1": crypto.SHA1.New, "sha256": sha256.New, "sha384": crypto.SHA384.New, "sha512": crypto.SHA512.New,
}

func (t *TPM) clearPCRs() {
	t.pcrs = map[string]map[int][]byte{}
	for bank, h := range hashOf {
		t.pcrs[bank] = map[int][]byte{}
		for i := range 24 {
			value := make([]byte, h().Size())
			if i >= 17 && i <= 22 {
				for j := range value {
					value[j] = 0xff
				}
			}
			t.pcrs[bank][i] = value
		}
	}
}

// Extend extends a PCR of every bank with data, as TPM2_PCR_Event does.
func (t *TPM) Extend(pcr int, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for bank, h := range hashOf {
		digest := h()
		digest.Write(data)
		t.pcrs[bank][pcr] = extend(h(), t.pcrs[bank][pcr], digest.Sum(nil))
	}
}

// ExtendDigest extends a PCR of one bank with a digest, as TPM2_PCR_Extend does.
func (t *TPM) ExtendDigest(bank string, pcr int, digest []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pcrs[bank][pcr] = extend(hashOf[bank](), t.pcrs[bank][pcr], digest)
}

func extend(h hash.Hash, value, digest []byte) []byte {
	h.Write(value)
	h.Write(digest)
	return h.Sum(nil)
}

// PCR returns the value of a PCR.
func (t *TPM) PCR(bank string, pcr int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pcrs[bank][pcr]
}

// Reset is a reboot: TPM Reset.
func (t *TPM) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resets++
	t.restarts = 0
	t.clearPCRs()
}

// Restart is a wake-up from sleep: TPM Resume.
func (t *TPM) Restart() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.restarts++
}

// SetCounters sets resetCount and restartCount, which a device can't.
func (t *TPM) SetCounters(resets, restarts uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resets, t.restarts = resets, restarts
}

// SetClockSafe sets the clock's flag, as a power failure does.
func (t *TPM) SetClockSafe(safe bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unsafe = !safe
}
