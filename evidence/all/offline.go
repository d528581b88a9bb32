package all

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/evidence/hyperenclave"
	"github.com/assay-attest/assay/evidence/ias"
	"github.com/assay-attest/assay/evidence/ima"
	"github.com/assay-attest/assay/evidence/sgx"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// Offline returns the formats that can be judged from files. What holds others comes first, what recognises almost
// anything last.
func Offline() []appraise.Offline {
	return []appraise.Offline{
		appraise.Plain{Verifier: newAzure(), Is: isAzure, Decode: inspectAzure},
		appraise.Plain{
			Verifier: sgx.New(), Is: sgx.Detect, Default: func() rats.Rules { return sgx.DefaultRules() },
			Decode: func(b []byte) (any, error) {
				_, body, err := sgx.Parse(b)
				return decodedAs(body, body.Attributes.Debug()), err
			},
		},
		appraise.Plain{
			Verifier: tdx.New(), Is: tdx.Detect, Default: func() rats.Rules { return tdx.DefaultRules() },
			Decode: func(b []byte) (any, error) {
				_, body, err := tdx.Parse(b)
				return decodedAs(body, body.Attributes&1 != 0), err
			},
		},
		appraise.Plain{
			Verifier: snp.New(), Is: isReport, Adapt: importReport,
			Decode: func(b []byte) (any, error) {
				e, err := snp.Import(b)
				if err != nil {
					return nil, err
				}
				return decodeReport(e)
			},
		},
		appraise.Plain{
			Verifier: tpm.NewRecorded(), Is: tpm.DetectRecorded, Decode: tpm.InspectRecorded, Default: tpm.DefaultRules,
			Adapt: recordedParts, Holds: func(b []byte) [][]byte { return some(tpm.RecordedLog(b)) },
		},
		appraise.Plain{
			Verifier: eventlog.New(), Is: isLog, Adapt: logRegisters, Also: []string{"ccel"},
			Decode: func(b []byte) (any, error) { return eventlog.Inspect(b, logType(b)) },
		},
		appraise.Plain{
			Verifier: ima.New(), Is: ima.Detect, Adapt: listRegisters, Remark: listRemarks,
			Decode: func(b []byte) (any, error) { return ima.Inspect(b, ima.IsASCII(b)) },
		},
		appraise.Plain{
			Verifier: ias.New(), Is: ias.Detect, Adapt: iasParts, Default: func() rats.Rules { return ias.DefaultRules() },
			Decode: func(b []byte) (any, error) {
				if e, ok := ias.FromCertificate(b); ok {
					b = e.Body
				}
				r, err := ias.ParseReport(b)
				return decodedAs(r, r.Quote.Body.Attributes.Debug()), err
			},
		},
		appraise.Plain{
			Verifier: hyperenclave.New(), Is: hyperenclave.Detect, Adapt: hyperEnclaveAnchors, Default: func() rats.Rules { return hyperenclave.DefaultRules() },
			Decode: func(b []byte) (any, error) {
				q, err := abi.ParseHyperEnclaveQuote(b)
				return decodedAs(q, q.Head.Body.Attributes.Debug()), err
			},
		},
		appraise.Plain{Verifier: newSigstruct(), Is: abi.IsSigstruct, Decode: inspectSigstruct},
		appraise.Plain{
			Verifier: tpm.NewCertificate(), Is: isKeyCertificate, Decode: tpm.InspectCertificate, Adapt: certificateAnchors,
		},
		appraise.Plain{Verifier: newCollateral(), Is: isCollateral, Decode: inspectCollateral},
	}
}

func some(b []byte) [][]byte {
	if len(b) == 0 {
		return nil
	}
	return [][]byte{b}
}

// isKeyCertificate leaves certificates of CAs and of other makers' keys to the format that judges collateral.
func isKeyCertificate(b []byte) bool {
	if !tpm.DetectCertificate(b) {
		return false
	}
	v, err := tpm.InspectCertificate(b)
	c, ok := v.(*tpm.CertificateClaims)
	return err == nil && ok && (c.Kind == tpm.KindEK || c.Kind == tpm.KindDevice)
}

func isReport(b []byte) bool {
	if snp.Detect(b) {
		return true
	}
	if len(b) == 0 || b[0] != '{' {
		return false
	}
	_, err := snp.Import(b)
	return err == nil
}

// importReport takes a report apart: it may stand behind a header, before certificates, or in JSON.
func importReport(g appraise.Given, e *rats.Evidence, _ *rats.Inputs) error {
	got, err := snp.Import(g.Body)
	if err != nil {
		return err
	}
	*e = got
	return nil
}

func decodeReport(e rats.Evidence) (any, error) {
	if e.MediaType == snp.MediaTypeHCL {
		h, err := hcl.Parse(e.Body)
		return hexed(h), err
	}
	r, err := snp.ParseReport(e.Body)
	if err != nil {
		return nil, err
	}
	return decodedAs(r, r.Policy.Debug()), nil
}

// isLog passes over runs of zeroes, which are hashes and signers in documents, and logs without events by their form.
func isLog(b []byte) bool {
	return eventlog.Detect(b) && len(bytes.Trim(b, "\x00")) > 0
}

// logType returns the media type of a log: that of a TD's where the file is a whole area with a log at its beginning.
func logType(b []byte) string {
	if _, err := eventlog.Parse(b, false); err != nil {
		if _, err := eventlog.Parse(b, true); err == nil {
			return eventlog.MediaTypeCCEL
		}
	}
	return eventlog.MediaType
}

// logRegisters gives a log the values that were given: a quote's, or a file's by index as they stand in the log.
func logRegisters(g appraise.Given, e *rats.Evidence, in *rats.Inputs) error {
	e.MediaType = logType(g.Body)
	if b, ok := g.Beside[appraise.BesideLog]; ok {
		e.Parts = append(e.Parts, rats.Part{Name: eventlog.PartSystemd, Data: b})
	}
	if len(g.Registers) == 0 {
		return nil
	}
	for _, r := range g.Registers {
		if r.Kind == eventlog.KindRTMR {
			e.MediaType = eventlog.MediaTypeCCEL
			return nil
		}
	}
	in.Facts.Registers = nil
	values, err := valuesOf(g.Registers)
	if err != nil {
		return err
	}
	in.Params, err = json.Marshal(eventlog.Params{PCRs: values})
	return err
}

// listRegisters gives an IMA list the values that were given, and the keys by which to verify signatures.
func listRegisters(g appraise.Given, e *rats.Evidence, in *rats.Inputs) error {
	if ima.IsASCII(g.Body) {
		e.MediaType = ima.MediaTypeASCII
	}
	in.Endorsements = nil
	for _, f := range g.CA {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: ima.MediaTypeKeys, Body: f.Body, Fetched: g.Now})
	}
	if len(g.Registers) == 0 {
		return nil
	}
	in.Facts.Registers = nil
	values, err := valuesOf(g.Registers)
	if err != nil {
		return err
	}
	in.Params, err = json.Marshal(ima.Params{PCRs: values})
	return err
}

// What must be told about a list, whatever rules say.
var (
	CodeListUnquoted = rats.CodeInfo{
		Code: "ima.list.unquoted", Title: "entries follow that the register's value doesn't cover", Slot: rats.Executables,
		Hint: "they were read after the quote and count for nothing; quote again to have them verified",
	}
	CodeListViolation = rats.CodeInfo{
		Code: "ima.list.violation", Title: "files were measured while they were open for writing", Slot: rats.Executables,
		Hint: "their content is not known; look who writes to files that are run",
	}
)

// Codes are the reasons that this package gives.
var Codes = []rats.CodeInfo{CodeListUnquoted, CodeListViolation}

func listRemarks(claims rats.Claims) (out []rats.Reason) {
	c, ok := claims.(*ima.Claims)
	if !ok {
		return nil
	}
	if c.Unquoted > 0 {
		out = append(out, CodeListUnquoted.At(rats.Warning, fmt.Sprintf("unquoted: entries from %d", c.Count),
			"none", fmt.Sprintf("%d: %s", c.Unquoted, strings.Join(c.Tail, ", "))))
	}
	for _, v := range c.Violations {
		out = append(out, CodeListViolation.At(rats.Warning, fmt.Sprintf("entry %d", v.Entry), "no violation", v.Path))
	}
	return out
}

func valuesOf(rs []rats.Registers) (map[string]map[string]string, error) {
	b, err := tpm.EncodeBanks(banksOf(rs))
	if err != nil {
		return nil, err
	}
	var out map[string]map[string]string
	return out, json.Unmarshal(b, &out)
}

// iasParts puts the headers of the service's answer into their parts.
func iasParts(g appraise.Given, e *rats.Evidence, _ *rats.Inputs) error {
	if s, ok := g.Beside[appraise.BesideSignature]; ok {
		e.Parts = append(e.Parts, rats.Part{Name: ias.PartSignature, Data: s})
		if len(g.Collateral) > 0 {
			e.Parts = append(e.Parts, rats.Part{Name: ias.PartCertificates, Data: g.Collateral[0].Body})
		}
	}
	return nil
}

// unwrapped returns the first of what b may hold that is of a kind, b itself if nothing is.
func unwrapped(b []byte, is func([]byte) bool) []byte {
	for _, c := range appraise.Unwrap(b) {
		if is(c) {
			return c
		}
	}
	return b
}

func banksOf(rs []rats.Registers) map[string]map[int][]byte {
	out := make(map[string]map[int][]byte)
	for _, r := range rs {
		if out[r.Alg] == nil {
			out[r.Alg] = make(map[int][]byte)
		}
		for i, v := range r.Values {
			out[r.Alg][i] = v
		}
	}
	return out
}

// recordedParts puts the files beside a quote into its parts.
func recordedParts(g appraise.Given, e *rats.Evidence, in *rats.Inputs) error {
	if err := certificateAnchors(g, e, in); err != nil {
		return err
	}
	in.Facts.Registers = nil
	if b, ok := g.Beside[appraise.BesideSignature]; ok {
		e.Parts = append(e.Parts, rats.Part{Name: tpm.PartSignature, Data: unwrapped(b, tpm.DetectSignature)})
	}
	if b, ok := g.Beside[appraise.BesideKey]; ok {
		e.Parts = append(e.Parts, rats.Part{Name: tpm.PartAK, Data: unwrapped(b, tpm.DetectKey)})
	}
	if len(g.Registers) == 0 {
		return nil
	}
	values := banksOf(g.Registers)
	delete(values, "sm3") // a bank that no quote here has
	pcrs, err := tpm.EncodeBanks(values)
	e.Parts = append(e.Parts, rats.Part{Name: tpm.PartPCRs, Data: pcrs})
	return err
}

// hyperEnclaveAnchors hands over anchors that package x509 can't read.
func hyperEnclaveAnchors(g appraise.Given, _ *rats.Evidence, in *rats.Inputs) error {
	in.Endorsements = nil
	for _, der := range appraise.Certificates(g.CA) {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: hyperenclave.MediaTypeAnchor, Body: der, Fetched: g.Now})
	}
	return nil
}

// certificateAnchors hands over anchors, and certificates and revocation lists that may help, also those that package x509
// can't read. Anchors of which none can be read are handed over as such: they don't make way for the built-in ones.
func certificateAnchors(g appraise.Given, _ *rats.Evidence, in *rats.Inputs) error {
	in.Endorsements = nil
	add := func(mediaType string, body []byte) {
		in.Endorsements = append(in.Endorsements, rats.Endorsement{MediaType: mediaType, Body: body, Fetched: g.Now})
	}
	certs := appraise.Certificates(g.CA)
	for _, der := range certs {
		add(tpm.MediaTypeAnchor, der)
	}
	if len(g.CA) > 0 && len(certs) == 0 {
		add(tpm.MediaTypeAnchor, nil)
	}
	for _, der := range appraise.Certificates(g.Collateral) {
		add(tpm.MediaTypeCertificate, der)
	}
	for _, f := range slices.Concat(g.CA, g.Collateral) {
		for _, b := range appraise.Unwrap(f.Body) {
			if tpm.DetectCRL(b) {
				add(appraise.MediaTypeFile, b)
				break
			}
		}
	}
	return nil
}
