// Package tpm drives a TPM 2.0.
package tpm

import (
	"context"
	"crypto"
	"errors"
	"io"

	"github.com/assay-attest/assay/rats"
)

var errStub = errors.New("not built yet")

// Device is an open TPM.
type Device struct{}

// EK is the endorsement key.
type EK struct {
	Public  []byte // TPM2B_PUBLIC
	Digest  rats.Digest
	CertDER []byte
}

// AK is an attestation key.
type AK struct{ Public []byte }

// Key signs.
type Key struct{}

// Quote is a quote with its PCR values.
type Quote struct {
	Attest, Signature []byte
	Bank              string
	PCRs              map[int][]byte
}

// Clock is TPMS_CLOCK_INFO.
type Clock struct {
	Clock                    uint64
	ResetCount, RestartCount uint32
	Safe                     bool
}

// Info says who made the TPM.
type Info struct {
	Manufacturer, Model string
	Firmware            uint64
	Path                string
	Banks               []string
}

func Open(ctx context.Context, path string) (*Device, error)             { return nil, errStub }
func (d *Device) Close() error                                           { return nil }
func (d *Device) EK(ctx context.Context) (EK, error)                     { return EK{}, errStub }
func (d *Device) AK(ctx context.Context, unique []byte) (*AK, error)     { return nil, errStub }
func (d *Device) SigningKey(ctx context.Context, u []byte) (*Key, error) { return nil, errStub }
func (d *Device) Clock(ctx context.Context) (Clock, error)               { return Clock{}, errStub }
func (d *Device) Info(ctx context.Context) (Info, error)                 { return Info{}, errStub }
func (d *Device) Activate(ctx context.Context, ak *AK, credential, secret []byte) ([]byte, error) {
	return nil, errStub
}
func (d *Device) Certify(ctx context.Context, k *Key, ak *AK, nonce []byte) (info, sig []byte, err error) {
	return nil, nil, errStub
}
func (d *Device) Quote(ctx context.Context, ak *AK, bank string, pcrs []int, extra []byte) (Quote, error) {
	return Quote{}, errStub
}
func (k *Key) Public() crypto.PublicKey { return nil }
func (k *Key) TPMPublic() []byte        { return nil }
func (k *Key) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return nil, errStub
}
