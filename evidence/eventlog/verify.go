package eventlog

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/assay-attest/assay/rats"
)

// What can be wrong between a log and the registers.
var (
	CodeMediaType = rats.CodeInfo{Code: "eventlog.evidence.media-type", Slot: rats.Configuration,
		Title: "the evidence is of another kind, or has other parts than systemd's log", Hint: "send the log as the body, as " + MediaType + " or " + MediaTypeCCEL}
	CodeNoRegisters = rats.CodeInfo{Code: "eventlog.registers.missing", Slot: rats.Configuration,
		Title: "nothing vouches for register values", Hint: "ask for evidence of format tpm (of tdx for a CCEL log) too, or give the values"}
	CodeConflict = rats.CodeInfo{Code: "eventlog.registers.conflict", Slot: rats.Configuration,
		Title: "two formats vouch for different values of a register", Hint: "evidence of two machines was mixed"}
	CodeBank = rats.CodeInfo{Code: "eventlog.bank.missing", Slot: rats.Configuration,
		Title: "the log can't be replayed in the bank that was quoted", Hint: "quote a bank that the firmware logs and Assay computes: sha256, sha384 or sha512"}
	CodeLocality = rats.CodeInfo{Code: "eventlog.locality.bad", Slot: rats.Configuration,
		Title: "the startup locality stands where it can't count", Hint: "the log was altered, or the firmware is at fault"}
	CodeReplay = rats.CodeInfo{Code: "eventlog.replay.mismatch", Slot: rats.Configuration,
		Title: "the log does not replay to the register's value", Hint: "the log was altered, or is of another boot or machine"}
	CodeReplayZero = rats.CodeInfo{Code: "eventlog.replay.pcr0", Slot: rats.Configuration,
		Title: "the log does not replay to PCR 0", Hint: "the log was altered or is of another boot; if all other PCRs fit, the firmware may not log its startup locality"}
)

var verifyCodes = []rats.CodeInfo{
	CodeMediaType, CodeNoRegisters, CodeConflict, CodeBank, CodeLocality, CodeReplay, CodeReplayZero,
}

type verifier struct{}

// New returns the verifier of event logs.
func New() rats.Verifier { return verifier{} }

func (verifier) Descriptor() *rats.Descriptor { return descriptor }

// Verify implements rats.Verifier. Its inputs are the registers that other formats vouch for, or Params. The log carries
// no challenge of its own: it is as fresh as the registers.
func (verifier) Verify(ctx context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	part, err := partOf(e)
	if err != nil {
		return rats.Verified{}, err
	}
	p, err := ParseParams(in.Params)
	if err != nil {
		return rats.Verified{}, err
	}
	kind := cmp.Or(p.Kind, kindOf(e.MediaType))
	log, err := Parse(e.Body, kind == KindRTMR)
	if err != nil {
		return rats.Verified{}, err
	}
	values, err := given(kind, p, in.Facts)
	if err != nil {
		return rats.Verified{}, err
	}
	if len(values) == 0 {
		return rats.Verified{}, CodeNoRegisters.Missing("facts.registers", "values of kind "+kind, "none")
	}
	records, err := ParseSystemd(part)
	if err != nil {
		return rats.Verified{}, err
	}
	c, err := log.compare(kind, values, records)
	if err != nil {
		return rats.Verified{}, err
	}
	if err := ctx.Err(); err != nil {
		return rats.Verified{}, err
	}
	return rats.Verified{Claims: claimsOf(log, e.Body, kind, c, records, part)}, nil
}

// partOf returns systemd's log, nil if there is none.
func partOf(e rats.Evidence) ([]byte, error) {
	ok := e.Format == Format && (e.MediaType == MediaType || e.MediaType == MediaTypeCCEL)
	if ok && len(e.Parts) == 0 {
		return nil, nil
	}
	p, found := e.Part(PartSystemd)
	if !ok || !found || len(e.Parts) != 1 || p.Offset != 0 || e.MediaType != MediaType {
		return nil, CodeMediaType.Bad("media_type", MediaType+", with at most the part "+PartSystemd+", or "+MediaTypeCCEL+" without parts",
			fmt.Sprintf("%.80q, %d parts", e.MediaType, len(e.Parts)))
	}
	if p.Data == nil {
		return []byte{}, nil
	}
	return p.Data, nil
}

func kindOf(mediaType string) string {
	if mediaType == MediaTypeCCEL {
		return KindRTMR
	}
	return KindPCR
}

// Inspect decodes a log without registers: every fact has Proof none.
func Inspect(b []byte, mediaType string) (*Claims, error) {
	kind := kindOf(mediaType)
	log, err := Parse(b, kind == KindRTMR)
	if err != nil {
		return nil, err
	}
	c := compared{bank: log.bankNames()[0]}
	for _, h := range hashes {
		if slices.Contains(log.bankNames(), h.name) {
			c.bank = h.name
			break
		}
	}
	return claimsOf(log, b, kind, c, nil, nil), nil
}
