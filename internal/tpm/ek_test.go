package tpm

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/assay-attest/assay/internal/testkit/swtpm"
)

func open(t *testing.T, path string) *Device {
	t.Helper()
	d, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// Makers leave their intermediate certificates in NV memory, one after another over several indices.
func TestEndorsementKeyComesWithItsIssuers(t *testing.T) {
	dev := open(t, swtpm.Start(t).Path())
	first, err := dev.EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Issuers) != 0 {
		t.Fatalf("a software TPM has %d issuers", len(first.Issuers))
	}
	chain := append(bytes.Clone(first.CertDER), first.CertDER...) // any certificates will do
	third := len(chain) / 3
	for i, part := range [][]byte{chain[:third], chain[third:], []byte("padding")} {
		if err := writeIndex(t, dev, uint32(chainFirst)+uint32(i), part); err != nil {
			t.Fatal(err)
		}
	}
	ek, err := dev.EK(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(ek.Issuers) != 2 || !bytes.Equal(ek.Issuers[1], first.CertDER) {
		t.Errorf("got %d issuers", len(ek.Issuers))
	}
}

func writeIndex(t *testing.T, d *Device, index uint32, data []byte) error {
	return d.do(t.Context(), "writing an index", func(tr transport.TPM) error {
		_, err := tpm2.NVDefineSpace{
			AuthHandle: emptyAuth(tpm2.TPMRHOwner),
			PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
				NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data)),
				Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true},
			}),
		}.Execute(tr)
		if err != nil {
			return err
		}
		public, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(tr)
		if err != nil {
			return err
		}
		for at := 0; at < len(data); {
			n := min(512, len(data)-at)
			_, err := tpm2.NVWrite{
				AuthHandle: emptyAuth(tpm2.TPMRHOwner),
				NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: public.NVName},
				Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[at : at+n]}, Offset: uint16(at),
			}.Execute(tr)
			if err != nil {
				return err
			}
			at += n
		}
		return nil
	})
}
