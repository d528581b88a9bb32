package all

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/rats"
)

// document is the verifier of a file that is no evidence of a node, only signed by somebody.
type document struct {
	d     *rats.Descriptor
	check func(rats.Evidence, rats.Inputs) (rats.Verified, error)
}

func (v document) Descriptor() *rats.Descriptor { return v.d }

func (v document) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	return v.check(e, in)
}

// intact are rules for documents that are good enough if they are genuine and nothing speaks against their claims.
type intact struct{}

func (intact) Lint() []rats.Reason { return nil }
func (intact) Slots() []rats.Slot  { return []rats.Slot{rats.Hardware} }
func (intact) Params() []byte      { return nil }

func (intact) Check(c rats.Claims, _ rats.Lookup, now time.Time) []rats.Reason {
	if j, ok := c.(interface{ against(time.Time) []rats.Reason }); ok {
		return j.against(now)
	}
	return []rats.Reason{dcap.CodeCollateralUnknown.Refuse("claims", "claims of a document", "others")}
}

func descriptorOf(id rats.Format, title, doc string, claims func() rats.Claims, codes []rats.CodeInfo) *rats.Descriptor {
	return &rats.Descriptor{
		ID: id, Title: title, Doc: doc, MediaTypes: []string{"application/vnd.assay." + string(id)}, Hardware: true,
		NewClaims: claims, ClaimsVersion: 1, NewRules: func() rats.Rules { return &intact{} }, Codes: codes,
	}
}

// signature is what an enclave's SIGSTRUCT says.
type signature struct {
	MRENCLAVE  string `json:"mrenclave"`
	MRSIGNER   string `json:"mrsigner"`
	ISVProdID  uint16 `json:"isv_prod_id"`
	ISVSVN     uint16 `json:"isv_svn"`
	Date       string `json:"date"` // yyyymmdd
	Vendor     string `json:"vendor"`
	Debug      bool   `json:"debug"` // the enclave may be started open to a debugger
	Attributes string `json:"attributes"`
	Mask       string `json:"attributes_mask"`
	MiscSelect uint32 `json:"misc_select"`
	MiscMask   uint32 `json:"misc_mask"`
}

const formatSigstruct rats.Format = "sigstruct"

func (*signature) ClaimsOf() rats.Format           { return formatSigstruct }
func (s *signature) DebugEnabled() bool            { return s.Debug }
func (*signature) against(time.Time) []rats.Reason { return nil }

// newSigstruct verifies the author's signature of an enclave. Who the author is, nobody vouches for.
func newSigstruct() rats.Verifier {
	d := descriptorOf(formatSigstruct, "signature of an SGX enclave", "formats/sgx.md", func() rats.Claims { return new(signature) }, abi.Codes)
	return document{d, func(e rats.Evidence, _ rats.Inputs) (rats.Verified, error) {
		s, err := abi.ParseSigstruct(e.Body)
		if err == nil {
			err = s.Verify()
		}
		if err != nil {
			return rats.Verified{}, err
		}
		return rats.Verified{Claims: signatureOf(s)}, nil
	}}
}

func signatureOf(s abi.Sigstruct) *signature {
	signer := s.MRSIGNER()
	return &signature{
		MRENCLAVE: hex.EncodeToString(s.EnclaveHash[:]), MRSIGNER: hex.EncodeToString(signer[:]), ISVProdID: s.ISVProdID, ISVSVN: s.ISVSVN, Date: s.DateText(),
		Vendor: fmt.Sprintf("0x%08x", s.Vendor), Debug: s.Attributes.Debug(), Attributes: hex.EncodeToString(s.Attributes.Bytes()), Mask: hex.EncodeToString(s.AttributesMask.Bytes()),
		MiscSelect: s.MiscSelect, MiscMask: s.MiscMask,
	}
}

func inspectSigstruct(b []byte) (any, error) {
	s, err := abi.ParseSigstruct(b)
	if err != nil {
		return nil, err
	}
	return signatureOf(s), nil
}
