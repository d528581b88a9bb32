package dcap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// PCK is what a platform's certificate says of it (SGX PCK Certificate Profile, 1.3.5).
type PCK struct {
	PPID       [16]byte
	Components [16]byte // SVNs of the TCB components
	PCESVN     uint16
	CPUSVN     [16]byte
	PCEID      [2]byte
	FMSPC      [6]byte
	Type       string // standard, scalable, scalable-with-integrity
	Platform   []byte // platform instance id, of multi-socket platforms
	Dynamic    bool   // packages may be added to the platform
	SMT        bool   // simultaneous multithreading is enabled, as far as known
}

var (
	oidSGX   = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	sgxTypes = map[int]string{0: "standard", 1: "scalable", 2: "scalable-with-integrity"}
)

type sgxItem struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

// sgxItems reads a list of (oid, value) pairs below a prefix; none may stand twice.
func sgxItems(der []byte, prefix asn1.ObjectIdentifier) (map[int]asn1.RawValue, error) {
	var list []sgxItem
	if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) > 0 {
		return nil, errors.New("it is not a list of items")
	}
	items := make(map[int]asn1.RawValue, len(list))
	for _, it := range list {
		n := len(prefix)
		if len(it.ID) != n+1 || !it.ID[:n].Equal(prefix) {
			return nil, fmt.Errorf("item %v", it.ID)
		}
		if _, twice := items[it.ID[n]]; twice {
			return nil, fmt.Errorf("item %v stands twice", it.ID)
		}
		items[it.ID[n]] = it.Value
	}
	return items, nil
}

func octets(items map[int]asn1.RawValue, n, size int) ([]byte, error) {
	v, ok := items[n]
	if !ok || v.Class != asn1.ClassUniversal || v.Tag != asn1.TagOctetString || len(v.Bytes) != size {
		return nil, fmt.Errorf("item %d is not %d bytes", n, size)
	}
	return v.Bytes, nil
}

func integer(items map[int]asn1.RawValue, n, limit int) (int, error) {
	var i int
	v, ok := items[n]
	if !ok {
		return 0, fmt.Errorf("item %d is missing", n)
	}
	if _, err := asn1.Unmarshal(v.FullBytes, &i); err != nil || i < 0 || i > limit {
		return 0, fmt.Errorf("item %d is not an integer from 0 to %d", n, limit)
	}
	return i, nil
}

// ParsePCK reads the SGX extension of a PCK certificate and checks that its key is on P-256.
func ParsePCK(cert *x509.Certificate) (PCK, error) {
	var p PCK
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return p, errors.New("its key is not on P-256")
	}
	var ext []byte
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSGX) {
			ext = e.Value
		}
	}
	if ext == nil {
		return p, errors.New("it has no SGX extension")
	}
	items, err := sgxItems(ext, oidSGX)
	if err != nil {
		return p, err
	}
	for _, f := range []struct {
		n   int
		out []byte
	}{{1, p.PPID[:]}, {3, p.PCEID[:]}, {4, p.FMSPC[:]}} {
		b, err := octets(items, f.n, len(f.out))
		if err != nil {
			return p, err
		}
		copy(f.out, b)
	}
	var kind asn1.Enumerated
	if _, err := asn1.Unmarshal(items[5].FullBytes, &kind); err != nil || sgxTypes[int(kind)] == "" {
		return p, errors.New("item 5 is not a known SGX type")
	}
	p.Type = sgxTypes[int(kind)]
	if _, ok := items[6]; ok {
		if p.Platform, err = octets(items, 6, 16); err != nil {
			return p, err
		}
	}
	if err := p.readConfiguration(items); err != nil {
		return p, err
	}
	return p, p.readTCB(items)
}

func (p *PCK) readTCB(items map[int]asn1.RawValue) error {
	tcb, err := sgxItems(items[2].FullBytes, append(oidSGX[:len(oidSGX):len(oidSGX)], 2))
	if err != nil {
		return fmt.Errorf("TCB: %w", err)
	}
	for i := range p.Components {
		svn, err := integer(tcb, i+1, 255)
		if err != nil {
			return fmt.Errorf("TCB: %w", err)
		}
		p.Components[i] = byte(svn)
	}
	svn, err := integer(tcb, 17, 65535)
	if err != nil {
		return fmt.Errorf("TCB: %w", err)
	}
	p.PCESVN = uint16(svn)
	cpusvn, err := octets(tcb, 18, 16)
	if err != nil {
		return fmt.Errorf("TCB: %w", err)
	}
	copy(p.CPUSVN[:], cpusvn)
	return nil
}

// readConfiguration reads the flags that certificates of the platform CA carry: dynamic platform, cached keys, SMT.
func (p *PCK) readConfiguration(items map[int]asn1.RawValue) error {
	raw, ok := items[7]
	if !ok {
		return nil
	}
	flags, err := sgxItems(raw.FullBytes, append(oidSGX[:len(oidSGX):len(oidSGX)], 7))
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	for n, out := range map[int]*bool{1: &p.Dynamic, 3: &p.SMT} {
		if v, ok := flags[n]; ok {
			if _, err := asn1.Unmarshal(v.FullBytes, out); err != nil {
				return fmt.Errorf("configuration: item %d is not a boolean", n)
			}
		}
	}
	return nil
}
