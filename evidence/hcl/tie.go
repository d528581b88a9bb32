package hcl

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// FormatTPM is the format whose quotes a report can be linked to. Formats that take such reports need it (S01).
const FormatTPM rats.Format = "tpm"

// How a report is bound to the exchange.
const (
	BoundUserData = "user-data" // the paravisor included the user data
	BoundAKQuote  = "ak-quote"  // a quote by the key it names is bound to the exchange
	BoundNone     = "none"      // nothing was asked to be bound
)

// Claims is what the paravisor adds to a hardware report.
type Claims struct {
	ReportType      string      `json:"report_type"`
	Bound           bool        `json:"vardata_bound"`
	Vardata         string      `json:"vardata_sha256"`
	AK              rats.Digest `json:"ak"` // SHA-256 of the vTPM's attestation key as SubjectPublicKeyInfo
	AKModulus       string      `json:"hcl_ak_modulus_sha256"`
	ConsoleEnabled  bool        `json:"console_enabled"`
	SecureBoot      bool        `json:"secure_boot"`
	TPMEnabled      bool        `json:"tpm_enabled"`
	TPMPersisted    bool        `json:"tpm_persisted"`
	VMID            string      `json:"vm_id"`
	RootCertificate string      `json:"root_cert_thumbprint"`
	UserData        string      `json:"user_data"`
}

// Tie ties a report, whose hardware report is authentic, to the exchange: by the user data that the guest had the
// paravisor include, or by a quote of the key it names, verified before and bound to the same exchange. Only the second is
// a link to the TPM (S01). It adds keys, user data and link of format by to out, and returns what the paravisor says and
// how the report is bound. Its inputs are the binding and, of the facts, the key KeyAK of a TPM quote.
func (h *Report) Tie(in rats.Inputs, by rats.Format, out *rats.Verified) (*Claims, string, error) {
	keys, err := checkBinding(in.Binding)
	if err != nil {
		return nil, "", err
	}
	ak, err := h.AK()
	if err != nil {
		return nil, "", err
	}
	quoted, linked := in.Facts.Key(rats.KeyAK)
	if linked && !bytes.Equal(quoted.Public, ak) {
		return nil, "", CodeOtherAK.Bad("hcl keys.HCLAkPub", rats.SHA256(ak).String(), rats.SHA256(quoted.Public).String())
	}
	bound := BoundNone
	switch {
	case in.Binding.Profile == rats.ProfileNone:
	case h.hasUserData(in.Binding.UserData):
		bound = BoundUserData
	case linked:
		bound = BoundAKQuote
	default:
		return nil, "", CodeUnlinked.Bad("hcl user-data", clipHex(in.Binding.UserData)+", or a quote by the key in the report", clipHex(h.Data.UserData))
	}
	if bound != BoundNone {
		out.Facts.UserData = [][]byte{bytes.Clone(in.Binding.UserData)}
	}
	out.Facts.Keys = append(keys, rats.BoundKey{Use: rats.KeyAK, Public: ak})
	if linked {
		out.Links = []rats.Link{{From: FormatTPM, To: by, Kind: rats.LinkAKInReport}}
	}
	return h.Claims(), bound, nil
}

// Claims returns what the paravisor says. It is true only if the hardware report is authentic.
func (h *Report) Claims() *Claims {
	c := &Claims{
		ReportType: h.Kind, Bound: true, Vardata: hex.EncodeToString(rats.SHA256(h.Runtime).Sum),
		AKModulus:      hex.EncodeToString(rats.SHA256(h.Data.AK.N.Bytes()).Sum),
		ConsoleEnabled: h.Data.VM.ConsoleEnabled, SecureBoot: h.Data.VM.SecureBoot, TPMEnabled: h.Data.VM.TPMEnabled,
		TPMPersisted: h.Data.VM.TPMPersisted, VMID: clip(h.Data.VM.VMID), RootCertificate: clip(h.Data.VM.RootCertThumbprint),
		UserData: clipHex(h.Data.UserData),
	}
	if ak, err := h.AK(); err == nil {
		c.AK = rats.SHA256(ak)
	}
	return c
}

// checkBinding returns the keys that the binding binds.
func checkBinding(b rats.Binding) ([]rats.BoundKey, error) {
	if b.Profile == rats.ProfileNone {
		return nil, nil
	}
	if n := len(b.UserData); n == 0 || n > 64 {
		return nil, CodeBinding.Bad("binding.user_data", "1 to 64 bytes", fmt.Sprintf("%d bytes", n))
	}
	if b.Profile != rats.ProfileAssay {
		return nil, nil
	}
	if sum := rats.SHA256(b.Manifest).Sum; subtle.ConstantTimeCompare(sum, b.UserData) != 1 {
		return nil, CodeBinding.Bad("binding.user_data", hex.EncodeToString(sum), clipHex(b.UserData))
	}
	m, err := rats.DecodeManifest(b.Manifest)
	if err != nil {
		return nil, CodeBinding.Bad("binding.manifest", "an assay/1 manifest", err.Error())
	}
	if _, named := m.Key(rats.KeyAK); named {
		// The sender writes the manifest; only a verified quote may say whose key a TPM's is (S01).
		return nil, CodeBinding.Bad("binding.manifest", "no key of use "+rats.KeyAK, "one")
	}
	return m.Keys, nil
}
