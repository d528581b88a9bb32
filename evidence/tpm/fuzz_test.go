package tpm

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"testing"
	"time"
)

// Seeds, made by swtpm 0.7.1: an AK, a quote of it and the signature.
const (
	seedAK        = "00580023000b00050472000000100018000b0003001000202144dbe6d3f1fa9b8e9ec0696b8f799be06879fe3ad37d308f712a9d255cb39c00209bab13ed728a48babcdd88e141dd25f83c4598e8156f044183564e5c82be7c46"
	seedAttest    = "ff54434780180022000b609f423fb637cdc4df677ebe7fdd80bd38008e13c17dca1141b645dd12ebe311000473656564000000000000014f000000020000000001201910230016363600000001000b038100000020f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"
	seedSignature = "0018000b00201fd31910b07d19c54fe015ad2830a66aaff5e4ebd72ea6e2b5c942d911a51d7400200d4b826b544d88a2ad1e34f68f5cb7aa674da5c61e52746155b3dfc837eb8e6b"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestQuoteOfADeviceIsRead(t *testing.T) {
	ak, err := parsePublic(unhex(t, seedAK))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ak.verify(unhex(t, seedAttest), unhex(t, seedSignature)); err != nil {
		t.Error(err)
	}
	a, err := parseAttest(unhex(t, seedAttest))
	if err != nil || string(a.extra) != "seed" {
		t.Errorf("got %+v, %v", a, err)
	}
}

func FuzzPublic(f *testing.F) {
	f.Add(unhex(f, seedAK))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePublic(b)
		if err != nil {
			return
		}
		if _, err := p.spki(); err != nil {
			t.Errorf("a key that was accepted has no encoding: %v", err)
		}
		if len(p.name()) < 34 || p.key == nil {
			t.Error("a key that was accepted has no name")
		}
		_ = checkAK(p)
		_ = checkEK(p)
	})
}

func FuzzAttest(f *testing.F) {
	f.Add(unhex(f, seedAttest))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAttest(b)
		if err != nil {
			return
		}
		if a.magic != magic || len(a.extra) > len(b) {
			t.Errorf("accepted %+v", a)
		}
		_ = describe(a.selections)
	})
}

func FuzzSignature(f *testing.F) {
	f.Add(unhex(f, seedSignature))
	f.Add([]byte{0, 0x14, 0, 0x0b, 0, 1, 1})
	ak, err := parsePublic(unhex(f, seedAK))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ak.verify([]byte("no such message"), b); err == nil {
			t.Error("a signature of nothing was accepted")
		}
	})
}

func FuzzPCRs(f *testing.F) {
	b, err := EncodePCRs("sha256", map[int][]byte{0: make([]byte, 32), 10: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"sha256":{"0":"` + "00" + `","0":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		bank, values, err := parsePCRs(b)
		if err != nil {
			return
		}
		again, err := EncodePCRs(bank, values)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted %q, which is not canonical", b)
		}
	})
}

func FuzzEnrolment(f *testing.F) {
	f.Add([]byte(`{"ek":"AAAA","ak":"AAAA","ek_digest":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseEnrolment(b); err == nil && r.EKDigest.IsZero() {
			t.Error("a record without EK was accepted")
		}
	})
}

func FuzzEKCertificate(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		if cert, err := parseEKCert(b); err == nil {
			m, model := makerOf(cert)
			_ = isSoftware(cert, m, model)
		}
	})
}

func FuzzMakerName(f *testing.F) {
	f.Add(unhex(f, "3000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, model := makerInName(b); len(m) > 2*maxAttributeBytes || len(model) > 2*maxAttributeBytes {
			t.Errorf("names of %d and %d bytes", len(m), len(model))
		}
	})
}

func FuzzRecording(f *testing.F) {
	f.Add(unhex(f, seedAttest))
	f.Add([]byte(`{"tpm_quote":{"message":"/1RDRw==","signature":"","pcrs":["00"]},"ak_public":""}`))
	f.Add([]byte(`{"AK":{"Public":"AA=="},"Quote":{"Quote":"/1RDRw==","Signature":""},"Log":{"PCRs":[{"Index":1,"Digest":"AA==","DigestAlg":3}],"Raw":""}}`))
	f.Add([]byte("r/1RDR4AY:ABQABA==:AA=="))
	f.Add([]byte{0x0a, 0, 0x12, 2, 0x0a, 0})
	f.Add(append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 9, 7, 0, 0, 0, 0, 0, 0, 0}, 0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecording(b)
		if err == nil && r.kind != kindKey && len(r.quotes) == 0 {
			t.Error("a recording without a quote")
		}
		_ = DetectRecorded(b)
		if v, err := InspectRecorded(b); err == nil && v == nil {
			t.Error("nothing was decoded")
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add(unhex(f, seedAK))
	f.Add(unhex(f, seedAK)[2:])
	f.Add([]byte(`{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"AQAB"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseKey(b)
		if err != nil {
			return
		}
		if _, err := p.spki(); err != nil {
			t.Errorf("a key that was accepted has no encoding: %v", err)
		}
		if _, err := p.verifyRecorded([]byte("no such message"), b); err == nil {
			t.Error("a signature of nothing was accepted")
		}
	})
}

func FuzzCertificate(f *testing.F) {
	f.Add([]byte{0x10, 0x01, 0, 0, 4, 0x10, 0x02, 0x30, 0})
	f.Add([]byte{0x30, 0, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		der, header, padding, err := trimCertificate(b)
		if err == nil && (header+len(der)+padding != len(b) || len(der) < 2) {
			t.Errorf("%d + %d + %d bytes of %d", header, len(der), padding, len(b))
		}
		_ = DetectCertificate(b)
	})
}

func FuzzCollateral(f *testing.F) {
	for _, r := range VendorRoots()[:3] {
		f.Add(r.Cert.Raw)
	}
	f.Add([]byte("-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"))
	leaf := VendorRoots()[0].Cert
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &collateral{}
		c.add(b)
		if len(c.others) > maxIssuers || len(c.lists) > 1 {
			t.Errorf("%d certificates and %d lists", len(c.others), len(c.lists))
		}
		for _, cert := range c.others {
			_ = deviceOf(cert)
			_, _ = judgeChain(cert, everyAnchor(), c.others, c.lists, time.Time{})
		}
		_, _ = checkRevoked([]*x509.Certificate{leaf, leaf}, c.lists)
		_, _, _ = openEKCert(b)
	})
}
