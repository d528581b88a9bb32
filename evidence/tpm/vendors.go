package tpm

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed" // the makers' certificates
	"encoding/hex"
	"encoding/pem"
	"slices"
	"sync"

	"github.com/assay-attest/assay/rats"
)

// VendorRoot is a certificate of a TPM maker under which EK certificates are trusted without anybody naming it. It is
// pinned by the digest of the whole certificate.
type VendorRoot struct {
	Vendor  string      // as the TCG registers makers: STM, IFX, …
	Subject string      // the certificate's
	Digest  rats.Digest // SHA-256 of the certificate (DER)
	Issuer  bool        // an intermediate CA, pinned because the root above it is not at hand, or is not the maker's
	Virtual bool        // of a cloud: its TPMs are programs on the cloud's hosts
	Source  string      // the collections in which the certificate was found
	Cert    *x509.Certificate
}

// pin is a line of the table of makers.
type pin struct{ vendor, digest, source string }

// pins are the makers' certificates. Each was read from a collection of certificates that the makers published: the TPM
// Trust Bundle of 2026-04-11 (commit 7e245bcd; tpmtb), the certificate store of Keylime (keylime), the one of HIRS
// (hirs), Google's go-tpm-tools. A software TPM makes its own CA: none of those can ever stand here.
var pins = []pin{
	{"AMD", "67bd2472a546751caca5f358a78f80727531671338960a9bcfdfbe6a34d0c6a1", "tpmtb"},
	{"AMD", "14aac9fd58471a612afd75d8c0955daf99f091b1863702f9e0d4113faf234f9d", "tpmtb"},
	{"AMD", "593a1794f9e17476c7ad427d2908a97c451451c9e0939fdc80d5d662c232d401", "tpmtb"},
	{"IFX", "7df2c3751c03ce003e99174d9cb2559f57a1b05b1920dd30bb6f8dfcf17f5e62", "keylime"},
	{"IFX", "899e35474c9807eb4c7f2f7a12da0028fb250cd02154d0009fca7d9c66574f3b", "keylime, tpmtb"},
	{"IFX", "cfeb02fecd55ad7a73c6e1d11985d4c47dee248ab63dcb66091a2489660443c3", "keylime, tpmtb"},
	{"IFX", "b413c71580af3ec5efe83fad31db2d4af4612355e3b01e50903b10763d738894", "tpmtb"},
	{"IFX", "ee0c827555c4e9012037df4257bb8aaa26084a17b13ede41cd7895c8d6c11190", "tpmtb"},
	{"INTC", "2e1b3ba79af56d758be51697621bc4b9e8cee0983db3e749c55eb9b37c6d2ae0", "keylime"},
	{"INTC", "beb40bb7507b33967226aa80e084749fbb6593893c642e818d682e9a8d07fc24", "tpmtb"},
	{"MSFT", "870c7a35ceab3d59979f2c6a524042d404cb71518004350925fb2ced79a999da", "tpmtb"},
	{"MSFT", "32ab5fe7cb4396659fcb621ca14c6fb8fc2420f64050637d77e45a86c5d3916e", "tpmtb"},
	{"NSG", "72ca00612395af027cd84c5514219f110e964dfa0bfc1efbb3ac147e3b173971", "tpmtb"},
	{"NSG", "6ccf8a8a803d07a002a15d4889ffa0b125e4a82a1fe4211db3c6e8592919f9dc", "tpmtb"},
	{"NTC", "56b67007f448bd5c5746299fcdea9323971bbdaaefd8e3b9b84773abc888c90e", "keylime"},
	{"NTC", "8fac94b462b37acb84431bdc71395585caf518c17f656051ff9c4347a4726ed9", "keylime"},
	{"NTC", "887bc9658ffc6ad7f4eeb85c8819772ff609ee64c4dac4a6dca654a39e94b289", "keylime"},
	{"NTC", "2782e51a95e86d9557fe4204316cf805bd6f5898f81f9732e944d742bcdc5f54", "keylime, tpmtb"},
	{"NTC", "e38c280f7c0e0b49f31efc7531032bb6a86c3fba4eb89beb1d510eaa4510ae4a", "keylime, tpmtb"},
	{"NTC", "4aebe77a51ed29959a7f9f5e07a24a558dee8167f3985d724995a541c258dfda", "keylime"},
	{"NTC", "cd8185ff8995ed09811970090a8c36fafab34ef87f47fa51fdb9ecf95c9c2e04", "keylime, tpmtb"},
	{"NTC", "66e3a1013d4f697700f731e7d68c69b58351f90ec9580d85862d020ab4abf1af", "tpmtb"},
	{"NTC", "ba70a6ea7b77c7fee8947a07b1e70e0b26d39ce5e6307f63d5e4b9507f19a157", "tpmtb"},
	{"NTC", "fc61abbc18100f460205ebe09d8c3e6995ac2be2234344a7facb62e15f9a7584", "tpmtb"},
	{"NTC", "2bbc5db224b8f28a6d2cf336d4da7ab21c8c490e3d60ef497801dc0b6ac00227", "tpmtb"},
	{"NTC", "083e7bd13e8fe0bb9b0c64db9e0c8356681df65714d2d5c4925eb98ae1369d40", "tpmtb"},
	{"NTZ", "44afc4b65d4f617143cf3085637e88e6ecc7710f9594b37f65a3dea82d300ba3", "keylime"},
	{"STM", "f8e37a86b689a20a6cc0c40cc3f81fb130fa9f44ce7ffa60d62590aaf87273a9", "hirs, keylime, tpmtb"},
	{"STM", "c541d7e5b9e3f935621acbd403896225ec641036c9ae3b5f7ac793a606ff9b79", "keylime, tpmtb"},
	{"STM", "c8f179943356e13d9d84b100201cefabbf408880241e5329e60d950ce1dea623", "tpmtb"},
	{"STM", "fd1e7b68accd825636b27b3177c67402d463a7f04c97b6c47ab705fcdc1a04f6", "tpmtb"},
	{"GOOG", "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2", "go-tpm-tools"},
	{"GOOG", "5d8dbcf8c8053dd8ffad711b6219355032b7122c34cac0f90ccb49def69ec504", "go-tpm-tools"},
	{"GOOG", "7132b6ea71101f6c51bb58f98c3798c19b65be510eca0344318900510b593178", "go-tpm-tools"},
}

// virtualVendors keep their TPMs in software. Nothing but their word says that a host can't read such a TPM.
var virtualVendors = []string{"GOOG"}

//go:embed vendor-roots.pem
var vendorPEM []byte

var vendorRoots = sync.OnceValue(func() []VendorRoot {
	certs := make(map[string]*x509.Certificate)
	for rest := vendorPEM; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		rest = after
		sum := sha256.Sum256(block.Bytes)
		if c, err := readCertificate(block.Bytes); err == nil {
			certs[hex.EncodeToString(sum[:])] = c
		}
	}
	out := make([]VendorRoot, 0, len(pins))
	for _, p := range pins {
		c := certs[p.digest]
		sum, err := hex.DecodeString(p.digest)
		if c == nil || err != nil {
			panic("tpm: the built-in certificate " + p.digest + " is not there") // a test shows it can't be
		}
		out = append(out, VendorRoot{
			Vendor: p.vendor, Subject: c.Subject.String(), Digest: rats.Digest{Alg: "sha256", Sum: sum},
			Issuer: string(c.RawIssuer) != string(c.RawSubject), Virtual: slices.Contains(virtualVendors, p.vendor), Source: p.source, Cert: c,
		})
	}
	return out
})

// VendorRoots returns the built-in certificates of TPM makers. Certificates that come along with evidence may fill the
// gap between an EK certificate and one of these, and can never add to them: only an operator can (--ca, ek_cas).
func VendorRoots() []VendorRoot { return slices.Clone(vendorRoots()) }

// AllVendors in ek_vendors means every maker of the built-in set whose TPMs are hardware.
const AllVendors = "all"

// knownVendor says whether the built-in set has a certificate of this maker.
func knownVendor(id string) bool {
	return id == AllVendors || slices.ContainsFunc(pins, func(p pin) bool { return p.vendor == id })
}

// vendorAnchors returns the certificates of the makers in ids. Those of clouds must be named.
func vendorAnchors(ids []string) []*x509.Certificate {
	var out []*x509.Certificate
	for _, r := range vendorRoots() {
		if slices.Contains(ids, r.Vendor) || slices.Contains(ids, AllVendors) && !r.Virtual {
			out = append(out, r.Cert)
		}
	}
	return out
}

// everyAnchor returns the certificates of all makers, clouds included.
func everyAnchor() []*x509.Certificate {
	var out []*x509.Certificate
	for _, r := range vendorRoots() {
		out = append(out, r.Cert)
	}
	return out
}

// vendorOf returns the entry of the built-in set that an anchor is.
func vendorOf(anchor *x509.Certificate) (VendorRoot, bool) {
	sum := rats.SHA256(anchor.Raw)
	for _, r := range vendorRoots() {
		if r.Digest.Equal(sum) {
			return r, true
		}
	}
	return VendorRoot{}, false
}
