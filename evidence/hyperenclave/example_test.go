package hyperenclave_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/assay-attest/assay/evidence/hyperenclave"
	"github.com/assay-attest/assay/rats"
)

// A stored quote is verified for its time, under an authority that the caller trusts. Genuine is not accepted.
func Example() {
	quote, err := os.ReadFile("testdata/quote.bin")
	if err != nil {
		fmt.Println(err)
		return
	}
	anchor, err := os.ReadFile("testdata/anchor.der")
	if err != nil {
		fmt.Println(err)
		return
	}
	then := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	v, err := hyperenclave.New().Verify(context.Background(),
		rats.Evidence{Format: hyperenclave.Format, MediaType: hyperenclave.MediaType, Body: quote},
		rats.Inputs{
			Binding: rats.Binding{Profile: rats.ProfileNone}, Now: then,
			Endorsements: []rats.Endorsement{{MediaType: hyperenclave.MediaTypeAnchor, Body: anchor}},
		})
	if err != nil {
		fmt.Println(err)
		return
	}
	claims := v.Claims.(*hyperenclave.Claims)
	fmt.Println(claims.ISVProdID, claims.ISVSVN, claims.TPM.Issuer, claims.Legacy)
	for _, r := range hyperenclave.DefaultRules().Check(claims, nil, then) {
		fmt.Println(r.Code)
	}
	// Output:
	// 7 3 CN=SM2 CA true
	// hyperenclave.quote.legacy
	// hyperenclave.enclave.measurement
	// hyperenclave.tpm.registers
}
