package plan

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"fmt"

	"github.com/assay-attest/assay/rats"
)

// Names of a report as evidence.
const (
	Format          rats.Format = "plan" // the same id as package evidence/plan's
	ReportMediaType string      = "application/vnd.assay.plan-report"
	PartOutcomes    string      = "outcomes"
	PartTimings     string      = "timings"
)

// What runs plans.
const (
	BackendNative  = "native"  // an ordinary process: nothing isolates it
	BackendEnclave = "enclave" // an enclave image that a monitor runs; what that is worth, its own evidence says
)

// Codes of reports.
var (
	CodeReport = rats.CodeInfo{
		Code:  "plan.report.malformed",
		Title: "not a report in its canonical form",
		Hint:  "agent and server may be of different versions",
		Slot:  rats.RuntimeOpaque,
	}
	CodeReportSignature = rats.CodeInfo{
		Code:  "plan.report.signature",
		Title: "report is not signed by the key it names",
		Hint:  "the report was altered on its way",
		Slot:  rats.RuntimeOpaque,
	}
	CodeReportParts = rats.CodeInfo{
		Code:  "plan.report.parts",
		Title: "outcomes are not those the report was signed over",
		Hint:  "the outcomes were altered on their way, or a part is missing or doubled",
		Slot:  rats.RuntimeOpaque,
	}
)

const reportTag = "assay/report/1"

// maxReport bounds a report's signed header with its signature.
const maxReport = 4096

// Report is what an enclave signs of one run (S04): the challenge and manifest it was for, the plan it ran, what came of
// it and who says so.
type Report struct {
	Nonce     []byte      // the challenge, 32 bytes
	Manifest  []byte      // SHA-256 of the manifest, 32 bytes
	Plan      rats.Digest // of the plan's canonical bytes
	Outcomes  rats.Digest // SHA-256 of the part PartOutcomes
	Timings   rats.Digest // SHA-256 of the part PartTimings
	Sequence  uint64      // ascends with every report of one signer, from 1
	Backend   string      // BackendNative, BackendEnclave
	Simulated bool        // nothing protects the runner from the machine's administrator
	Signer    []byte      // SubjectPublicKeyInfo, ECDSA P-256
}

func (r Report) encode() []byte {
	b := appendField(nil, []byte(reportTag))
	b = appendField(b, r.Nonce)
	b = appendField(b, r.Manifest)
	for _, d := range []rats.Digest{r.Plan, r.Outcomes, r.Timings} {
		b = appendField(b, []byte(d.String()))
	}
	b = binary.BigEndian.AppendUint64(b, r.Sequence)
	b = appendField(b, []byte(r.Backend))
	simulated := byte(0)
	if r.Simulated {
		simulated = 1
	}
	b = append(b, simulated)
	return appendField(b, r.Signer)
}

// Sign returns the report as evidence: body = pair of signed header and signature (each with a 32-bit length), parts =
// outcomes and timings as EncodeOutcomes made them. It fills Outcomes, Timings and Signer.
func (r Report) Sign(signer crypto.Signer, outcomes, timings []byte) (rats.Evidence, error) {
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("encoding the signer's key: %w", err)
	}
	r.Signer, r.Outcomes, r.Timings = spki, rats.SHA256(outcomes), rats.SHA256(timings)
	header := r.encode()
	if _, err := decodeReport(header); err != nil {
		return rats.Evidence{}, err
	}
	sig, err := sign(signer, header)
	if err != nil {
		return rats.Evidence{}, fmt.Errorf("signing a report: %w", err)
	}
	return rats.Evidence{
		Format: Format, MediaType: ReportMediaType,
		Body:  appendField(appendField(nil, header), sig),
		Parts: []rats.Part{{Name: PartOutcomes, Data: outcomes}, {Name: PartTimings, Data: timings}},
	}, nil
}

// OpenReport reads evidence made by Sign: it decodes the header, checks the signature by the key the header names and
// that the parts are the signed ones. Whether that key is to be believed, and the report is of this challenge, is the
// verifier's to say.
func OpenReport(e rats.Evidence) (r Report, outcomes, timings []byte, err error) {
	if e.Format != Format || e.MediaType != ReportMediaType {
		return Report{}, nil, nil, CodeReport.Bad("media type", ReportMediaType, clip(e.MediaType))
	}
	if len(e.Body) > maxReport {
		return Report{}, nil, nil, CodeReport.Bad("body", fmt.Sprintf("at most %d bytes", maxReport), fmt.Sprintf("%d bytes", len(e.Body)))
	}
	header, sig, ok := pair(e.Body)
	if !ok {
		return Report{}, nil, nil, CodeReport.Bad("body", "header and signature", fmt.Sprintf("%d bytes", len(e.Body)))
	}
	if r, err = decodeReport(header); err != nil {
		return Report{}, nil, nil, err
	}
	key, err := parseKey(r.Signer)
	if err != nil {
		return Report{}, nil, nil, CodeReport.Bad("signer", "an ECDSA P-256 key", err.Error())
	}
	if !verify(key, header, sig) {
		return Report{}, nil, nil, CodeReportSignature.Bad("body", "a signature by "+rats.SHA256(r.Signer).String(), "")
	}
	o, ok := e.Part(PartOutcomes)
	t, ok2 := e.Part(PartTimings)
	if !ok || !ok2 || len(e.Parts) != 2 || o.Offset != 0 || t.Offset != 0 {
		return Report{}, nil, nil, CodeReportParts.Bad("parts", "outcomes and timings, once each", fmt.Sprintf("%d parts", len(e.Parts)))
	}
	if d := rats.SHA256(o.Data); !d.Equal(r.Outcomes) {
		return Report{}, nil, nil, CodeReportParts.Bad("outcomes", r.Outcomes.String(), d.String())
	}
	if d := rats.SHA256(t.Data); !d.Equal(r.Timings) {
		return Report{}, nil, nil, CodeReportParts.Bad("timings", r.Timings.String(), d.String())
	}
	return r, o.Data, t.Data, nil
}

// decodeReport reads a signed header and refuses every encoding but the one encode makes.
func decodeReport(b []byte) (Report, error) {
	in := &reader{rest: b}
	if tag := in.field(); string(tag) != reportTag {
		return Report{}, CodeReport.Bad("tag", reportTag, clip(rats.EscapePath(tag)))
	}
	r := Report{Nonce: in.field(), Manifest: in.field()}
	for _, d := range []*rats.Digest{&r.Plan, &r.Outcomes, &r.Timings} {
		if err := d.UnmarshalText(in.field()); err != nil || d.Alg != "sha256" {
			return Report{}, CodeReport.Bad("digests", "three SHA-256 digests", d.String())
		}
	}
	r.Sequence = in.uint64()
	r.Backend = string(in.field())
	r.Simulated = in.uint8() != 0
	r.Signer = in.field()
	switch {
	case !in.done():
		return Report{}, CodeReport.Bad("header", "its fields and nothing else", "truncated, or followed by other bytes")
	case len(r.Nonce) != 32 || len(r.Manifest) != 32:
		return Report{}, CodeReport.Bad("header", "nonce and manifest hash of 32 bytes", fmt.Sprintf("%d and %d", len(r.Nonce), len(r.Manifest)))
	case r.Sequence == 0:
		return Report{}, CodeReport.Bad("sequence", "1 or more", "0")
	case r.Backend != BackendNative && r.Backend != BackendEnclave:
		return Report{}, CodeReport.Bad("backend", BackendNative+" or "+BackendEnclave, clip(r.Backend))
	case r.Simulated != (r.Backend == BackendNative):
		// A native backend that calls itself real is a lie; an enclave brings its own proof, or counts as simulated.
		return Report{}, CodeReport.Bad("simulated", "true for backend "+BackendNative+" alone", fmt.Sprint(r.Simulated))
	case !bytes.Equal(r.encode(), b):
		return Report{}, CodeReport.Bad("header", "the canonical encoding", "another one")
	}
	return r, nil
}
