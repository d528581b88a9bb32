// Package tpm verifies TPM 2.0 quotes.
package tpm

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/assay-attest/assay/rats"
)

// Format is the id of TPM quotes.
const Format rats.Format = "tpm"

// EnrolmentMediaType is the media type of an enrolment record.
const EnrolmentMediaType = "application/vnd.assay.tpm-enrolment+json"

// Params is what is asked of the Attester.
type Params struct {
	Bank string `json:"bank"`
	PCRs []int  `json:"pcrs"`
}

// Claims are what a quote says.
type Claims struct{}

// ClaimsOf implements rats.Claims.
func (*Claims) ClaimsOf() rats.Format { return Format }

// Rules are the section tpm of a policy.
type Rules struct{}

// Enrolment is the record of a joined TPM.
type Enrolment struct {
	EK           []byte      `json:"ek"`
	EKDigest     rats.Digest `json:"ek_digest"`
	EKCert       []byte      `json:"ek_cert,omitempty"`
	AK           []byte      `json:"ak"`
	Manufacturer string      `json:"manufacturer,omitempty"`
	Model        string      `json:"model,omitempty"`
	Software     bool        `json:"software"`
	At           time.Time   `json:"at"`
}

var errStub = errors.New("not built yet")

type verifier struct{}

// New returns the verifier.
func New() rats.Verifier { return verifier{} }

func (verifier) Descriptor() *rats.Descriptor { return &rats.Descriptor{ID: Format} }

func (verifier) Verify(context.Context, rats.Evidence, rats.Inputs) (rats.Verified, error) {
	return rats.Verified{}, errStub
}

// Enrol makes the record.
func Enrol(ekPub, ekCertDER, akPub []byte, now time.Time) (Enrolment, error) {
	return Enrolment{}, errStub
}

// Endorsement wraps the record.
func (e Enrolment) Endorsement() rats.Endorsement { return rats.Endorsement{} }

// MakeCredential makes the challenge for TPM2_ActivateCredential.
func MakeCredential(rand io.Reader, ekPub, akPub, secret []byte) (credential, encSecret []byte, err error) {
	return nil, nil, errStub
}

// VerifyCertify checks a TPM2_Certify.
func VerifyCertify(akPub, keyTPM2B, nonce, info, sig []byte) (spki []byte, err error) {
	return nil, errStub
}

// EKDigest returns the SHA-256 of the EK's SubjectPublicKeyInfo.
func EKDigest(ekPub []byte) (rats.Digest, error) { return rats.Digest{}, errStub }

// BootID identifies one boot.
func BootID(akPub []byte, reset, restart uint32) rats.Digest { return rats.Digest{} }
