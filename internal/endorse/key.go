package endorse

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// Key names a document of a vendor: "vendor:path", the path as the vendor's own service has it. The same document has the
// same key wherever it is fetched from.
type Key string

// The vendors.
const (
	Intel = "intel" // Provisioning Certification Service, API version 4
	AMD   = "amd"   // Key Distribution Service
)

// Official are the vendors' own services.
var Official = map[string]string{
	Intel: "https://api.trustedservices.intel.com",
	AMD:   "https://kdsintf.amd.com",
}

// officialRootCRL is where Intel itself publishes the revocation list of its root; a PCCS has it at the key's path.
const officialRootCRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

// CodeKey refuses what names no document.
var CodeKey = rats.CodeInfo{Code: "endorse.key.unknown", Title: "this names no document that a vendor publishes",
	Hint: "keys look like intel:/sgx/certification/v4/tcb?fmspc=00606a000000; `assay collateral show` lists those at hand"}

// kind is how a document is read and checked.
type kind int

const (
	kindTCBInfo kind = iota
	kindIdentity
	kindNumbers
	kindList  // revocation list with its issuer chain
	kindCRL   // revocation list by itself
	kindChain // certificates, PEM
	kindLeaf  // one certificate, DER
	kindPCK   // certificate of a platform's key, PEM, with its issuer chain
)

// grammar is every key there is: nothing else is ever fetched, imported or read from the disk.
var grammar = []struct {
	form *regexp.Regexp
	kind kind
}{
	{regexp.MustCompile(`^intel:/(sgx|tdx)/certification/v4/tcb\?fmspc=([0-9a-f]{12})(?:&update=early)?$`), kindTCBInfo},
	{regexp.MustCompile(`^intel:/(sgx|tdx)/certification/v4/(qe)/identity(?:\?update=early)?$`), kindIdentity},
	{regexp.MustCompile(`^intel:/(sgx)/certification/v4/(qve)/identity(?:\?update=early)?$`), kindIdentity},
	{regexp.MustCompile(`^intel:/(sgx|tdx)/certification/v4/tcbevaluationdatanumbers$`), kindNumbers},
	{regexp.MustCompile(`^intel:/sgx/certification/v4/pckcrl\?ca=(processor|platform)&encoding=der$`), kindList},
	{regexp.MustCompile(`^intel:/sgx/certification/v4/rootcacrl$`), kindCRL},
	{regexp.MustCompile(`^intel:/sgx/certification/v4/pckcert\?(?:encrypted_ppid=[0-9a-f]{768}&)?cpusvn=([0-9a-f]{32})&pcesvn=([0-9a-f]{4})&pceid=([0-9a-f]{4})&qeid=[0-9a-f]{32}$`), kindPCK},
	{regexp.MustCompile(`^amd:/(vcek|vlek)/v1/(Milan|Genoa|Turin)/cert_chain$`), kindChain},
	{regexp.MustCompile(`^amd:/(vcek|vlek)/v1/(Milan|Genoa|Turin)/crl$`), kindCRL},
	{regexp.MustCompile(`^amd:/vcek/v1/(Milan|Genoa)/([0-9a-f]{128})\?blSPL=(\d{1,3})&teeSPL=(\d{1,3})&snpSPL=(\d{1,3})&ucodeSPL=(\d{1,3})$`), kindLeaf},
	{regexp.MustCompile(`^amd:/vcek/v1/(Turin)/([0-9a-f]{16})\?fmcSPL=(\d{1,3})&blSPL=(\d{1,3})&teeSPL=(\d{1,3})&snpSPL=(\d{1,3})&ucodeSPL=(\d{1,3})$`), kindLeaf},
}

// ParseKey reads a key and refuses whatever names no document.
func ParseKey(s string) (Key, error) {
	if _, _, err := Key(s).parse(); err != nil {
		return "", err
	}
	return Key(s), nil
}

// parse returns the kind of a key and the parameters in it.
func (k Key) parse() (kind, []string, error) {
	for _, g := range grammar {
		if m := g.form.FindStringSubmatch(string(k)); m != nil {
			return g.kind, m[1:], nil
		}
	}
	return 0, nil, CodeKey.Bad("key", "vendor:path of a known document", clip(string(k)))
}

// Vendor returns the vendor of a key.
func (k Key) Vendor() string {
	v, _, _ := strings.Cut(string(k), ":")
	return v
}

// path returns the path and query below a service's base.
func (k Key) path() string {
	_, p, _ := strings.Cut(string(k), ":")
	return p
}

// PlatformKeys are the documents about a kind of Intel platform: FMSPC, and the CA that certified it ("processor" or
// "platform"; "" stands for both). Both technologies are named: which of them evidence is of is not the caller's to know.
func PlatformKeys(fmspc [6]byte, ca string) []Key {
	var out []Key
	for _, tee := range []string{"sgx", "tdx"} {
		out = append(out, teeKeys(tee, fmspc)...)
	}
	if ca == "" {
		return append(append(out, listKeys("processor")[:1]...), listKeys("platform")...)
	}
	return append(out, listKeys(ca)...)
}

func teeKeys(tee string, fmspc [6]byte) []Key {
	base := "intel:/" + tee + "/certification/v4/"
	return []Key{Key(base + "tcb?fmspc=" + hex.EncodeToString(fmspc[:])), identityKey(tee)}
}

func identityKey(tee string) Key { return Key("intel:/" + tee + "/certification/v4/qe/identity") }

const keyRootCRL Key = "intel:/sgx/certification/v4/rootcacrl"

func listKeys(ca string) []Key {
	return []Key{Key("intel:/sgx/certification/v4/pckcrl?ca=" + ca + "&encoding=der"), keyRootCRL}
}

// The channels of Intel's documents. Early ones are published when a TCB recovery is disclosed, standard ones up to a year
// later, when owners of machines have had the time to update.
const (
	Standard = "standard"
	Early    = "early"
)

// early is the key of the same document in the early channel: of those that have one.
func early(k Key) Key {
	switch kind, _, err := k.parse(); {
	case err != nil || kind != kindTCBInfo && kind != kindIdentity || strings.Contains(string(k), "update="):
		return k
	case strings.Contains(string(k), "?"):
		return k + "&update=early"
	}
	return k + "?update=early"
}

// Channel returns the keys of the same documents in a channel.
func Channel(channel string, keys []Key) []Key {
	if channel != Early {
		return keys
	}
	out := make([]Key, len(keys))
	for i, k := range keys {
		out[i] = early(k)
	}
	return out
}

// pckKey is the certificate of a platform's key that a quote names without carrying it. Intel's service finds it by the
// encrypted PPID, a caching one by the id of the quoting enclave too.
func pckKey(id *dcap.PCKID) Key {
	ppid, pce := "", [2]byte{}
	if len(id.PPID) == 384 {
		ppid = fmt.Sprintf("encrypted_ppid=%x&", id.PPID)
	}
	if id.PCEID != nil {
		pce = *id.PCEID
	}
	svn := binary.LittleEndian.AppendUint16(nil, id.PCESVN)
	return Key(fmt.Sprintf("intel:/sgx/certification/v4/pckcert?%scpusvn=%x&pcesvn=%x&pceid=%x&qeid=%x", ppid, id.CPUSVN, svn, pce, id.QEID))
}

// productKeys are the chain and the revocation list of an AMD product, for chip keys or leased ones.
func productKeys(product string, leased bool) []Key {
	base := "amd:/vcek/v1/" + product
	if leased {
		base = "amd:/vlek/v1/" + product
	}
	return []Key{Key(base + "/cert_chain"), Key(base + "/crl")}
}

// chipKey is the certificate of a chip's key for a TCB, both as a report writes them.
func chipKey(product string, id [64]byte, tcb [8]byte) Key {
	if product == "Turin" {
		return Key(fmt.Sprintf("amd:/vcek/v1/Turin/%x?fmcSPL=%d&blSPL=%d&teeSPL=%d&snpSPL=%d&ucodeSPL=%d", id[:8], tcb[0], tcb[1], tcb[2], tcb[3], tcb[7]))
	}
	return Key(fmt.Sprintf("amd:/vcek/v1/%s/%x?blSPL=%d&teeSPL=%d&snpSPL=%d&ucodeSPL=%d", product, id, tcb[0], tcb[1], tcb[6], tcb[7]))
}

// clip bounds foreign text in errors.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
