package dcap

import (
	"crypto/subtle"
	"encoding/hex"
	"fmt"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

// minUserData is the shortest binding that can hold a challenge (R107).
const minUserData = 16

// Judge verifies a quote as Verify does, and what its report data (64 bytes) are bound to. It returns what both formats say
// of that in the same way: the verdict, with the report data in it where no manifest tells what they are, and the facts
// and the end of what was verified.
func (v *Verifier) Judge(q *Quote, module *ModuleOf, reportData []byte, in rats.Inputs) (Verdict, rats.Verified, error) {
	verdict, err := v.Verify(q, module, in)
	if err != nil {
		return Verdict{}, rats.Verified{}, err
	}
	keys, err := CheckBinding(in.Binding, reportData)
	if err != nil {
		return Verdict{}, rats.Verified{}, err
	}
	if in.Binding.Profile != rats.ProfileAssay {
		verdict.ReportData = hex.EncodeToString(reportData)
	}
	return verdict, rats.Verified{Facts: rats.Facts{Keys: keys, UserData: [][]byte{reportData}}, Until: verdict.Until}, nil
}

// CheckBinding compares the report data of a quote (64 bytes) with what it must be bound to: user data in its first
// bytes, and zero in the rest (S03). In profile assay/1 the user data must be the SHA-256 of the manifest; the keys the
// manifest binds are returned. Profile none binds nothing and compares nothing.
func CheckBinding(b rats.Binding, reportData []byte) ([]rats.BoundKey, error) {
	if b.Profile == rats.ProfileNone {
		return nil, nil
	}
	if n := len(b.UserData); b.Profile == "" || n < minUserData || n > abi.ReportDataSize {
		return nil, CodeUnbound.Missing("binding.user_data", fmt.Sprintf("%d to %d bytes and a profile", minUserData, abi.ReportDataSize), fmt.Sprintf("%d bytes", n))
	}
	var keys []rats.BoundKey
	if b.Profile == rats.ProfileAssay {
		if sum := rats.SHA256(b.Manifest).Sum; subtle.ConstantTimeCompare(sum, b.UserData) != 1 {
			return nil, CodeBinding.Bad("binding.user_data", hex.EncodeToString(sum), hex.EncodeToString(b.UserData))
		}
		m, err := rats.DecodeManifest(b.Manifest)
		if err != nil {
			return nil, CodeBinding.Bad("binding.manifest", "an assay/1 manifest", err.Error())
		}
		keys = m.Keys
	}
	want := make([]byte, abi.ReportDataSize)
	copy(want, b.UserData)
	if subtle.ConstantTimeCompare(want, reportData) != 1 {
		return nil, CodeReportData.Bad("report data", hex.EncodeToString(want), hex.EncodeToString(reportData))
	}
	return keys, nil
}
