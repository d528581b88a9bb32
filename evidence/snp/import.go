package snp

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/rats"
)

// CodeUnknownForm is the refusal of a file that is in none of the known forms.
var CodeUnknownForm = rats.CodeInfo{Code: "snp.file.unknown", Slot: rats.InstanceIdentity,
	Title: "the file is in no known form of a SEV-SNP report", Hint: "give the raw report, its hex or base64, a paravisor's report, or the JSON of a Confidential Containers attester"}

var importCodes = []rats.CodeInfo{CodeUnknownForm}

// Import makes evidence of a file as other tools leave it: a report alone, with zeros or a certificate table behind it, or behind
// the 32 bytes of the firmware's answer; an HCL report; any of these as hex or base64; the JSON of a Confidential Containers
// attester (snp or az-snp-vtpm). Certificates found in it become PartCerts. Nothing is verified.
func Import(b []byte) (rats.Evidence, error) {
	if len(b) > maxBody {
		return rats.Evidence{}, CodeUnknownForm.Bad("file", "at most 1 MiB", fmt.Sprintf("%d bytes", len(b)))
	}
	if hcl.Detect(b) {
		return rats.Evidence{Format: Format, MediaType: MediaTypeHCL, Body: b}, nil
	}
	if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '{' {
		return importJSON(t)
	}
	if raw, ok := decodeText(b); ok {
		if hcl.Detect(raw) {
			return rats.Evidence{Format: Format, MediaType: MediaTypeHCL, Body: raw}, nil
		}
		b = raw
	}
	// MSG_REPORT_RSP: status, size, 24 reserved bytes, report.
	if len(b) >= 32+ReportSize && binary.LittleEndian.Uint32(b) == 0 && binary.LittleEndian.Uint32(b[4:]) == ReportSize {
		b = b[32:]
	}
	body, table, err := split(b)
	if err != nil {
		return rats.Evidence{}, err
	}
	if _, err := ParseReport(body); err != nil {
		return rats.Evidence{}, err
	}
	return evidenceOf(body, table), nil
}

func evidenceOf(report, certs []byte) rats.Evidence {
	e := rats.Evidence{Format: Format, MediaType: MediaType, Body: report}
	if hcl.Detect(report) {
		e.MediaType = MediaTypeHCL
	}
	if len(certs) > 0 {
		e.Parts = []rats.Part{{Name: PartCerts, Data: certs}}
	}
	return e
}

// decodeText reads hex or base64, white space apart.
func decodeText(b []byte) ([]byte, bool) {
	if len(b) > 0 && b[0] < 0x20 && !strings.ContainsRune("\t\n\r", rune(b[0])) {
		return nil, false // a raw report starts with its version
	}
	text := strings.Join(strings.Fields(string(b)), "")
	if raw, err := hex.DecodeString(strings.TrimPrefix(text, "0x")); err == nil {
		return raw, true
	}
	return decode64(text)
}

// decode64 reads base64 of either alphabet, padded or not.
func decode64(text string) ([]byte, bool) {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	raw, err := base64.RawStdEncoding.DecodeString(text)
	return raw, err == nil
}

// Azure is the evidence that the Confidential Containers attesters of Azure send (az-snp-vtpm, az-tdx-vtpm).
type Azure struct {
	HCL      []byte // the paravisor's report
	VCEK     []byte // PEM or DER; of SEV-SNP
	TDQuote  []byte // of TDX
	TPMQuote struct {
		Message   []byte   // TPMS_ATTEST
		Signature []byte   // RSASSA PKCS #1 v1.5 with SHA-256 by the key that the HCL report names
		PCRs      [][]byte // SHA-256, from index 0
	}
}

// ParseAzure reads the JSON of an az-snp-vtpm or az-tdx-vtpm attester, version 0 to 2.
func ParseAzure(b []byte) (*Azure, error) {
	type quote struct {
		Message   anyBytes   `json:"message"`
		Signature anyBytes   `json:"signature"`
		PCRs      []anyBytes `json:"pcrs"`
	}
	var j struct {
		Report  anyBytes        `json:"report"` // version 0
		Quote   *quote          `json:"quote"`
		HCL     string          `json:"hcl_report"`
		TPM     *quote          `json:"tpm_quote"`
		VCEK    string          `json:"vcek"`
		TDQuote json.RawMessage `json:"td_quote"`
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, CodeUnknownForm.Bad("json", "evidence of an az-snp-vtpm or az-tdx-vtpm attester", clip(err.Error()))
	}
	a := &Azure{HCL: j.Report, VCEK: []byte(j.VCEK)}
	ok := true
	if j.HCL != "" {
		a.HCL, ok = decode64(j.HCL)
	}
	if der, is64 := decode64(j.VCEK); is64 {
		a.VCEK = der
	}
	if q := j.TPM; q != nil || j.Quote != nil {
		if q == nil {
			q = j.Quote
		}
		a.TPMQuote.Message, a.TPMQuote.Signature = q.Message, q.Signature
		for _, p := range q.PCRs {
			a.TPMQuote.PCRs = append(a.TPMQuote.PCRs, p)
		}
	}
	if len(j.TDQuote) > 0 {
		var text string
		if json.Unmarshal(j.TDQuote, &text) == nil {
			a.TDQuote, _ = decode64(text)
		} else {
			var raw anyBytes
			_ = json.Unmarshal(j.TDQuote, &raw)
			a.TDQuote = raw
		}
	}
	if !ok || !hcl.Detect(a.HCL) || len(a.TPMQuote.PCRs) > 24 {
		return nil, CodeUnknownForm.Bad("json", "a paravisor's report and a TPM quote", "something else")
	}
	return a, nil
}

// importJSON reads the evidence of a Confidential Containers attester.
func importJSON(b []byte) (rats.Evidence, error) {
	if a, err := ParseAzure(b); err == nil {
		return evidenceOf(a.HCL, a.VCEK), nil
	}
	var j struct {
		Report *jsonReport `json:"attestation_report"`
		Chain  []struct {
			Data anyBytes `json:"data"`
		} `json:"cert_chain"`
	}
	if err := json.Unmarshal(b, &j); err != nil || j.Report == nil {
		why := "no attestation_report"
		if err != nil {
			why = clip(err.Error())
		}
		return rats.Evidence{}, CodeUnknownForm.Bad("json", "evidence of an snp attester", why)
	}
	report, err := j.Report.bytes()
	if err != nil {
		return rats.Evidence{}, err
	}
	var certs []byte
	for _, c := range j.Chain {
		certs = appendPEM(certs, c.Data)
	}
	return evidenceOf(report, certs), nil
}

// appendPEM appends a certificate, given as DER or PEM, as PEM.
func appendPEM(to, cert []byte) []byte {
	if bytes.HasPrefix(cert, []byte("-----BEGIN ")) {
		return append(append(to, cert...), '\n')
	}
	text := base64.StdEncoding.EncodeToString(cert)
	to = append(to, "-----BEGIN CERTIFICATE-----\n"...)
	for len(text) > 64 {
		to = append(append(to, text[:64]...), '\n')
		text = text[64:]
	}
	return append(append(to, text...), "\n-----END CERTIFICATE-----\n"...)
}

// jsonReport is a report as the Rust library of the attesters writes its fields.
type jsonReport struct {
	Version    uint32   `json:"version"`
	GuestSVN   uint32   `json:"guest_svn"`
	Policy     uint64   `json:"policy"`
	FamilyID   anyBytes `json:"family_id"`
	ImageID    anyBytes `json:"image_id"`
	VMPL       uint32   `json:"vmpl"`
	SigAlgo    uint32   `json:"sig_algo"`
	CurrentTCB jsonTCB  `json:"current_tcb"`
	Platform   uint64   `json:"plat_info"`
	KeyInfo    uint32   `json:"key_info"`
	Data       anyBytes `json:"report_data"`
	Measure    anyBytes `json:"measurement"`
	HostData   anyBytes `json:"host_data"`
	IDKey      anyBytes `json:"id_key_digest"`
	AuthorKey  anyBytes `json:"author_key_digest"`
	ReportID   anyBytes `json:"report_id"`
	ReportIDMA anyBytes `json:"report_id_ma"`
	Reported   jsonTCB  `json:"reported_tcb"`
	Family     *uint8   `json:"cpuid_fam_id"`
	Model      *uint8   `json:"cpuid_mod_id"`
	Stepping   *uint8   `json:"cpuid_step"`
	ChipID     anyBytes `json:"chip_id"`
	Committed  jsonTCB  `json:"committed_tcb"`
	Current    jsonVer  `json:"current"`
	CommitVer  jsonVer  `json:"committed"`
	Launch     jsonTCB  `json:"launch_tcb"`
	LaunchMit  *uint64  `json:"launch_mit_vector"`
	CurrentMit *uint64  `json:"current_mit_vector"`
	Signature  struct {
		R anyBytes `json:"r"`
		S anyBytes `json:"s"`
	} `json:"signature"`
}

type jsonTCB struct {
	FMC        *uint8 `json:"fmc"`
	Bootloader uint8  `json:"bootloader"`
	TEE        uint8  `json:"tee"`
	SNP        uint8  `json:"snp"`
	Microcode  uint8  `json:"microcode"`
}

type jsonVer struct{ Major, Minor, Build uint8 }

func (t jsonTCB) raw() RawTCB {
	tcb, p := TCB{Bootloader: t.Bootloader, TEE: t.TEE, SNP: t.SNP, Microcode: t.Microcode}, Genoa
	if t.FMC != nil {
		tcb.FMC, p = *t.FMC, Turin
	}
	return tcb.Raw(p)
}

// bytes puts the report together again. What was signed comes out only if every field was given as it was.
func (j *jsonReport) bytes() ([]byte, error) {
	r := &Report{
		Version: j.Version, GuestSVN: j.GuestSVN, Policy: Policy(j.Policy), VMPL: j.VMPL, SigAlgo: j.SigAlgo, CurrentTCB: j.CurrentTCB.raw(),
		PlatformInfo: j.Platform, KeyInfo: j.KeyInfo, ReportedTCB: j.Reported.raw(), CommittedTCB: j.Committed.raw(), LaunchTCB: j.Launch.raw(),
		Current: Build{j.Current.Build, j.Current.Minor, j.Current.Major}, Committed: Build{j.CommitVer.Build, j.CommitVer.Minor, j.CommitVer.Major},
	}
	for _, p := range []struct {
		from *uint8
		to   *byte
	}{{j.Family, &r.CPUFamily}, {j.Model, &r.CPUModel}, {j.Stepping, &r.CPUStepping}} {
		if p.from != nil {
			*p.to = *p.from
		}
	}
	if j.LaunchMit != nil && j.CurrentMit != nil {
		r.LaunchMit, r.CurrentMit = *j.LaunchMit, *j.CurrentMit
	}
	for _, f := range []struct {
		name string
		from anyBytes
		to   []byte
	}{
		{"family_id", j.FamilyID, r.FamilyID[:]}, {"image_id", j.ImageID, r.ImageID[:]}, {"report_data", j.Data, r.ReportData[:]},
		{"measurement", j.Measure, r.Measurement[:]}, {"host_data", j.HostData, r.HostData[:]}, {"id_key_digest", j.IDKey, r.IDKeyDigest[:]},
		{"author_key_digest", j.AuthorKey, r.AuthorKeyDigest[:]}, {"report_id", j.ReportID, r.ReportID[:]}, {"report_id_ma", j.ReportIDMA, r.ReportIDMA[:]},
		{"chip_id", j.ChipID, r.ChipID[:]}, {"signature.r", j.Signature.R, r.R[:]}, {"signature.s", j.Signature.S, r.S[:]},
	} {
		if len(f.from) != len(f.to) {
			return nil, CodeUnknownForm.Bad("json attestation_report."+f.name, fmt.Sprintf("%d bytes", len(f.to)), fmt.Sprintf("%d bytes", len(f.from)))
		}
		copy(f.to, f.from)
	}
	return r.Bytes(), nil
}

// anyBytes is bytes as JSON writers put them: a list of numbers, or a string of hex or base64.
type anyBytes []byte

// UnmarshalJSON implements json.Unmarshaler.
func (a *anyBytes) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if len(b) > 0 && b[0] == '[' {
		var list []uint16
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		*a = make([]byte, len(list))
		for i, n := range list {
			if n > 255 {
				return fmt.Errorf("%d is no byte", n)
			}
			(*a)[i] = byte(n)
		}
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		var ok bool
		if raw, ok = decode64(text); !ok {
			return fmt.Errorf("neither hex nor base64")
		}
	}
	*a = raw
	return nil
}
