package tdx

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/evidence/hcl"
	"github.com/assay-attest/assay/rats"
)

// open returns the quote and, of a paravisor's report, the envelope. A TDREPORT alone is no evidence: its MAC can be
// checked on its own platform only.
func open(e rats.Evidence) ([]byte, *hcl.Report, error) {
	switch {
	case e.Format != Format || e.MediaType != MediaType && e.MediaType != MediaTypeHCL, e.MediaType == MediaType && len(e.Parts) > 0:
		return nil, nil, CodeMediaType.Bad("media_type", MediaType+", no parts", string(e.Format))
	case e.MediaType == MediaType:
		return e.Body, nil, nil
	}
	envelope, err := hcl.Parse(e.Body)
	if err != nil {
		return nil, nil, err
	}
	if envelope.Kind != hcl.KindTDX {
		return nil, nil, hcl.CodeKind.Bad("hcl report type", hcl.KindTDX, envelope.Kind)
	}
	p, ok := e.Part(PartQuote)
	switch {
	case len(e.Parts) == 0:
		return nil, nil, CodeReport.Missing("parts."+PartQuote, "a quote of the TDREPORT", "a TDREPORT alone")
	case !ok || len(e.Parts) != 1 || p.Offset != 0:
		return nil, nil, CodeMediaType.Bad("parts", "one part "+PartQuote, fmt.Sprintf("%d parts", len(e.Parts)))
	}
	return p.Data, envelope, nil
}

// tie checks that an authentic quote is of the TDREPORT in the envelope, and ties that to the exchange.
func tie(envelope *hcl.Report, q *dcap.Quote, body abi.TDBody, verdict dcap.Verdict, in rats.Inputs) (rats.Verified, error) {
	r, err := hcl.ParseTDReport(envelope.Hardware)
	if err != nil {
		return rats.Verified{}, err
	}
	le := func(n uint64) (b [8]byte) { binary.LittleEndian.PutUint64(b[:], n); return b }
	for _, f := range []struct {
		name       string
		want, seen []byte
	}{
		{"report data", r.ReportData[:], body.ReportData[:]},
		{"TEE_TCB_SVN", r.TEETCBSVN[:], body.TEETCBSVN[:]},
		{"MRSEAM", r.MRSeam[:], body.MRSEAM[:]},
		{"MRSIGNERSEAM", r.MRSignerSM[:], body.MRSIGNERSEAM[:]},
		{"SEAM attributes", r.SEAMAttributes[:], bytes8(le(body.SEAMAttributes))},
		{"attributes", r.Attributes[:], bytes8(le(body.Attributes))},
		{"XFAM", r.XFAM[:], bytes8(le(body.XFAM))},
		{"MRTD", r.MRTD[:], body.MRTD[:]},
		{"MRCONFIGID", r.MRConfigID[:], body.MRConfigID[:]},
		{"MROWNER", r.MROwner[:], body.MROwner[:]},
		{"MROWNERCONFIG", r.MROwnerConf[:], body.MROwnerConfig[:]},
		{"RTMR0", r.RTMR[0][:], body.RTMR[0][:]},
		{"RTMR1", r.RTMR[1][:], body.RTMR[1][:]},
		{"RTMR2", r.RTMR[2][:], body.RTMR[2][:]},
		{"RTMR3", r.RTMR[3][:], body.RTMR[3][:]},
	} {
		if want, seen := hex.EncodeToString(f.want), hex.EncodeToString(f.seen); want != seen {
			return rats.Verified{}, CodeOtherReport.Bad("quote "+f.name, want, seen)
		}
	}
	out, c := rats.Verified{Until: verdict.Until}, claimsOf(q, body, verdict)
	describeTD(&out, c, body)
	c.HCL, c.Binding, err = envelope.Tie(in, Format, &out)
	return out, err
}

func bytes8(b [8]byte) []byte { return b[:] }
