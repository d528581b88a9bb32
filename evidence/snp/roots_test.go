package snp_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"strings"
	"testing"
)

func certsOf(t testing.TB, text []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return out
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out, text = append(out, cert), rest
	}
}

func TestBuiltInCertificatesAreThoseOfTheirProvenanceNote(t *testing.T) {
	note, err := os.ReadFile("roots/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"Milan", "Genoa", "Turin"} {
		text, err := os.ReadFile("roots/" + strings.ToLower(p) + ".pem")
		if err != nil {
			t.Fatal(err)
		}
		certs := certsOf(t, text)
		if len(certs) != 3 {
			t.Fatalf("%s: %d certificates", p, len(certs))
		}
		for i, name := range []string{"ARK-" + p, "SEV-" + p, "SEV-VLEK-" + p} {
			sum := sha256.Sum256(certs[i].Raw)
			if certs[i].Subject.CommonName != name || !strings.Contains(string(note), "| "+name+" | "+hex.EncodeToString(sum[:])+" |") {
				t.Errorf("%s: %s is %x", name, certs[i].Subject.CommonName, sum)
			}
			if err := certs[i].CheckSignatureFrom(certs[0]); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
