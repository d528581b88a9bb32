package sdk

import (
	"slices"
	"sync"

	"github.com/assay-attest/assay/enclave/abi"
)

// maxQuote bounds a quote in bytes.
const maxQuote = 64 << 10

// Report makes a report of this enclave for another one on the same platform (EREPORT).
func Report(target abi.TargetInfo, data [64]byte) (abi.Report, error) {
	t, d, out := target.Bytes(), slices.Clone(data[:]), make([]byte, abi.ReportSize)
	if err := refused(leafReport(pointer(t), pointer(d), pointer(out))); err != nil {
		return abi.Report{}, err
	}
	return abi.ParseReport(out)
}

// VerifyReport checks that a report was made for this enclave on this platform. Who made it, and whether to trust it, is
// the caller's to judge by the body: signer, product, version, attributes (R106).
func VerifyReport(r abi.Report) error {
	return refused(leafVerify(pointer(r.Bytes())))
}

// Self returns what the monitor knows of this enclave. It never changes while the enclave runs.
func Self() (abi.ReportBody, error) { return self() }

var self = sync.OnceValues(func() (abi.ReportBody, error) {
	nobody := abi.TargetInfo{}
	nobody.Reserved2[0] = byte(abi.ModeInline)
	r, err := Report(nobody, [64]byte{})
	return r.Body, err
})

// Target returns the target info by which others on this platform make reports for this enclave.
func Target() (abi.TargetInfo, error) {
	body, err := Self()
	if err != nil {
		return abi.TargetInfo{}, err
	}
	p, err := abi.ParsePlatform(body.CPUSVN)
	if err != nil {
		return abi.TargetInfo{}, err
	}
	t := abi.TargetOf(body)
	t.Reserved2[0] = byte(p.Mode)
	return t, nil
}

// Quote returns a quote of this enclave that others can verify, in the platform's format. The report data of this
// project's manifests is their SHA-256 and 32 zero bytes.
func Quote(data [64]byte) ([]byte, error) {
	d, out := slices.Clone(data[:]), make([]byte, maxQuote)
	n := leafQuote(pointer(d), pointer(out), uint32(len(out)))
	if err := refused(n); err != nil {
		return nil, err
	}
	return out[:n:n], nil
}

// GetKey derives a key of this enclave (EGETKEY, 16 bytes). The request's CPUSVN is the own one if it is zero.
func GetKey(r abi.KeyRequest) (*Secret, error) {
	if r.CPUSVN == [16]byte{} {
		body, err := Self()
		if err != nil {
			return nil, err
		}
		r.CPUSVN = body.CPUSVN
	}
	b, out := r.Bytes(), make([]byte, 16)
	if err := refused(leafKey(pointer(b), pointer(out))); err != nil {
		return nil, err
	}
	return &Secret{out}, nil
}
