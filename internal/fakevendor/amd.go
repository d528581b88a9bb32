package fakevendor

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"io"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/assay-attest/assay/rats"
)

// The products.
const (
	Milan = "Milan"
	Genoa = "Genoa"
	Turin = "Turin"
)

// cpuid is family and model of a product, as reports write them.
var cpuid = map[string][2]byte{Milan: {0x19, 0x01}, Genoa: {0x19, 0x11}, Turin: {0x1a, 0x02}}

// amdBits is the size of AMD's RSA keys here. Real ones have 4096 bits, which take seconds to make.
const amdBits = 2048

// Line is the authorities of a product.
type Line struct {
	ARK, ASK, ASVK *Authority // root, signer of chip keys, signer of leased keys
}

// AMD certifies the keys of chips, and keys it leases to clouds.
type AMD struct {
	rand io.Reader
	now  func() time.Time

	mu    sync.Mutex
	lines map[string]*Line
	chips map[string]*Chip // by product and id
}

// NewAMD makes an AMD. The authorities of a product are made when they are first needed.
func NewAMD(rand io.Reader, now func() time.Time) *AMD {
	return &AMD{rand: rand, now: now, lines: make(map[string]*Line), chips: make(map[string]*Chip)}
}

func amdName(cn string) pkix.Name {
	return pkix.Name{
		CommonName: cn, OrganizationalUnit: []string{"Engineering"}, Organization: []string{"Advanced Micro Devices"},
		Locality: []string{"Santa Clara"}, Province: []string{"CA"}, Country: []string{"US"},
	}
}

// Line returns the authorities of a product.
func (a *AMD) Line(product string) *Line {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.lines[product]; l != nil {
		return l
	}
	start := a.now().AddDate(-1, 0, 0)
	make := func(cn string, serial int64, issuer *Authority) *Authority {
		return issue(a.rand, keyRSA(a.rand, amdBits), issuer, request{
			subject: amdName(cn), ca: true, from: start, to: start.AddDate(rootYears, 0, 0), serial: big.NewInt(serial), alg: x509.SHA384WithRSAPSS,
			points: []string{"https://kdsintf.amd.com/vcek/v1/" + product + "/crl"},
		})
	}
	l := &Line{ARK: make("ARK-"+product, 0x10000, nil)}
	l.ASK = make("SEV-"+product, 0x10001, l.ARK)
	l.ASVK = make("SEV-VLEK-"+product, 0x10002, l.ARK)
	a.lines[product] = l
	return l
}

// Anchors returns the root of a product as trust anchors.
func (a *AMD) Anchors(product string) *x509.CertPool { return Pool(a.Line(product).ARK.Cert) }

// TCB is the security version numbers of a chip's firmware. FMC counts on Turin only.
type TCB struct{ FMC, Bootloader, TEE, SNP, Microcode uint8 }

func (t TCB) bytes(product string) []byte {
	if product == Turin {
		return []byte{t.FMC, t.Bootloader, t.TEE, t.SNP, 0, 0, 0, t.Microcode}
	}
	return []byte{t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode}
}

// Chip is a processor with SEV-SNP.
type Chip struct {
	Product string
	ID      [64]byte
	TCB     TCB
	CSP     string // the cloud that leases a key

	amd  *AMD
	mu   sync.Mutex
	keys map[TCB]*Authority
	vlek *Authority
}

// Chip makes a processor.
func (a *AMD) Chip(product string) *Chip {
	c := &Chip{
		Product: product, TCB: TCB{Bootloader: 4, SNP: 24, Microcode: 219}, CSP: "fake-cloud", amd: a, keys: make(map[TCB]*Authority),
	}
	id := c.ID[:]
	if product == Turin {
		id, c.TCB.FMC = id[:8], 1
	}
	must(io.ReadFull(a.rand, id))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.chips[product+string(id)] = c
	return c
}

// hwid is the id as certificates and the KDS write it.
func (c *Chip) hwid() []byte {
	if c.Product == Turin {
		return c.ID[:8]
	}
	return c.ID[:]
}

var oidAMD = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

// extensions are those of an endorsement key (document 57230, section 3).
func (c *Chip) extensions(t TCB, leased bool) []pkix.Extension {
	ext := func(value any, id ...int) pkix.Extension {
		der, raw := value.([]byte)
		if !raw {
			der = must(asn1.Marshal(value))
		}
		return pkix.Extension{Id: append(oidAMD[:len(oidAMD):len(oidAMD)], id...), Value: der}
	}
	ia5 := func(s string) asn1.RawValue { return asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s)} }
	out := []pkix.Extension{
		ext(0, 1), ext(ia5(c.Product+"-B0"), 2), ext(int(t.Bootloader), 3, 1), ext(int(t.TEE), 3, 2), ext(int(t.SNP), 3, 3),
		ext(0, 3, 4), ext(0, 3, 5), ext(0, 3, 6), ext(0, 3, 7), ext(int(t.Microcode), 3, 8),
	}
	if c.Product == Turin {
		out = append(out, ext(int(t.FMC), 3, 9))
	}
	if leased {
		return append(out, ext(ia5(c.CSP), 5))
	}
	return append(out, ext(c.hwid(), 4))
}

func (c *Chip) certify(cn string, issuer *Authority, ext []pkix.Extension, change func(*x509.Certificate)) *Authority {
	from := c.amd.now().AddDate(0, -1, 0)
	return issue(c.amd.rand, must(ecdsa.GenerateKey(elliptic.P384(), c.amd.rand)), issuer, request{
		subject: amdName(cn), from: from, to: from.AddDate(leafYears, 0, 0), serial: new(big.Int), alg: x509.SHA384WithRSAPSS, extra: ext, change: change,
	})
}

// VCEK returns the chip's key for a TCB, the same each time.
func (c *Chip) VCEK(t TCB) *Authority {
	issuer := c.amd.Line(c.Product).ASK
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys[t] == nil {
		c.keys[t] = c.certify("SEV-VCEK", issuer, c.extensions(t, false), nil)
	}
	return c.keys[t]
}

// AlteredVCEK is a key for the chip's TCB with another certificate than AMD would make. Issuer nil is AMD's own.
func (c *Chip) AlteredVCEK(issuer *Authority, change func(*x509.Certificate)) *Authority {
	if issuer == nil {
		issuer = c.amd.Line(c.Product).ASK
	}
	return c.certify("SEV-VCEK", issuer, c.extensions(c.TCB, false), change)
}

// VLEK returns the key leased to the chip's cloud, the same each time.
func (c *Chip) VLEK() *Authority {
	issuer := c.amd.Line(c.Product).ASVK
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.vlek == nil {
		c.vlek = c.certify("SEV-VLEK", issuer, c.extensions(c.TCB, true), nil)
	}
	return c.vlek
}

// Report is an attestation report before it is signed, with room for faults.
type Report struct {
	Version      uint32
	Policy       uint64
	VMPL         uint32
	PlatformInfo uint64
	Leased       bool // signed by the VLEK
	ReportData   [64]byte
	Measurement  [48]byte
	HostData     [32]byte
	TCB          TCB // current, reported, committed and at launch
	Family       byte
	Model        byte
	ChipID       [64]byte

	Raw func([]byte)  // changes the 1184 bytes before they are signed
	Key crypto.Signer // signs instead of the chip's key
}

// The bit of a guest policy that must be set, and the one that allows a debugger.
const (
	PolicyOne   = 1 << 17
	PolicySMT   = 1 << 16
	PolicyDebug = 1 << 19
)

// Report makes a report of version 2 to 5 of a guest nobody can debug. Report data is at most 64 bytes.
func (c *Chip) Report(version uint32, reportData []byte, changes ...func(*Report)) []byte {
	id := cpuid[c.Product]
	r := Report{
		Version: version, Policy: PolicyOne | PolicySMT, PlatformInfo: 1, TCB: c.TCB, Family: id[0], Model: id[1], ChipID: c.ID,
		Measurement: sha512.Sum384([]byte("guest")),
	}
	copy(r.ReportData[:], reportData)
	for _, change := range changes {
		change(&r)
	}
	b := r.bytes(c.Product)
	if r.Raw != nil {
		r.Raw(b)
	}
	key := r.Key
	switch {
	case key == nil && r.Leased:
		key = c.VLEK().Key
	case key == nil:
		key = c.VCEK(r.TCB).Key
	}
	sum := sha512.Sum384(b[:0x2a0])
	R, S, err := ecdsa.Sign(c.amd.rand, key.(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		panic("fakevendor: " + err.Error())
	}
	for at, n := range map[int]*big.Int{0x2a0: R, 0x2e8: S} {
		n.FillBytes(b[at : at+72])
		slices.Reverse(b[at : at+72])
	}
	return b
}

// bytes writes the report without its signature (SEV-SNP ABI, table ATTESTATION_REPORT).
func (r *Report) bytes(product string) []byte {
	b := make([]byte, 1184)
	le := binary.LittleEndian
	le.PutUint32(b, r.Version)
	le.PutUint64(b[0x08:], r.Policy)
	le.PutUint32(b[0x30:], r.VMPL)
	le.PutUint32(b[0x34:], 1)
	le.PutUint64(b[0x40:], r.PlatformInfo)
	if r.Leased {
		b[0x48] = 1 << 2
	}
	copy(b[0x50:], r.ReportData[:])
	copy(b[0x90:], r.Measurement[:])
	copy(b[0xc0:], r.HostData[:])
	copy(b[0x140:], bytes.Repeat([]byte{0x11}, 32))
	copy(b[0x160:], bytes.Repeat([]byte{0xff}, 32))
	for _, at := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		copy(b[at:], r.TCB.bytes(product))
	}
	if r.Version >= 3 {
		b[0x188], b[0x189], b[0x18a] = r.Family, r.Model, 1
	}
	copy(b[0x1a0:], r.ChipID[:])
	copy(b[0x1e8:], []byte{21, 55, 1, 0, 21, 55, 1})
	return b
}

// Collateral returns everything AMD says about a chip at its TCB: its key's certificate, the chain, revocations.
func (c *Chip) Collateral() []rats.Endorsement { return c.collateral(c.VCEK(c.TCB), false) }

// LeasedCollateral is Collateral for reports signed by the leased key.
func (c *Chip) LeasedCollateral() []rats.Endorsement { return c.collateral(c.VLEK(), true) }

func (c *Chip) collateral(leaf *Authority, leased bool) []rats.Endorsement {
	now, line := c.amd.now(), c.amd.Line(c.Product)
	var out []rats.Endorsement
	for _, b := range [][]byte{leaf.Cert.Raw, line.chain(leased), line.ARK.CRL(now)} {
		out = append(out, rats.Endorsement{MediaType: "application/octet-stream", Body: b, Fetched: now})
	}
	return out
}

// chain is the answer of the KDS: signer and root.
func (l *Line) chain(leased bool) []byte {
	if leased {
		return PEM(l.ASVK.Cert, l.ARK.Cert)
	}
	return PEM(l.ASK.Cert, l.ARK.Cert)
}

// certEntry is a line of a certificate table.
type certEntry struct {
	guid string
	der  []byte
}

const (
	guidVCEK = "\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd"
	guidVLEK = "\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1"
	guidASK  = "\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82"
	guidARK  = "\xc0\xb4\x06\xa4\xa8\x03\x49\x52\x97\x43\x3f\xb6\x01\x4c\xd0\xae"
	guidHost = "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10" // an entry of the host's own
)

// Table returns the chip's certificates as a host hands them to its guests.
func (c *Chip) Table() []byte {
	line := c.amd.Line(c.Product)
	return table(certEntry{guidVCEK, c.VCEK(c.TCB).Cert.Raw}, certEntry{guidASK, line.ASK.Cert.Raw}, certEntry{guidARK, line.ARK.Cert.Raw})
}

// LeasedTable is Table of a host that leases a key, and adds an entry of its own.
func (c *Chip) LeasedTable() []byte {
	line := c.amd.Line(c.Product)
	return table(certEntry{guidHost, []byte("host")}, certEntry{guidVLEK, c.VLEK().Cert.Raw}, certEntry{guidASK, line.ASVK.Cert.Raw}, certEntry{guidARK, line.ARK.Cert.Raw})
}

func table(entries ...certEntry) []byte {
	var head, data []byte
	at := 24 * (len(entries) + 1)
	for _, e := range entries {
		head = append(head, e.guid...)
		head = binary.LittleEndian.AppendUint32(head, uint32(at+len(data)))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(e.der)))
		data = append(data, e.der...)
	}
	return append(append(head, make([]byte, 24)...), data...)
}
