package tpm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/rats"
)

// A machine joins, is asked for two PCRs, and its answer is verified and judged.
func Example() {
	machine := softtpm.New(rand.Reader)
	joined := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

	// Once, when the node joins: what ties the attestation key to the TPM. MakeCredential proves that both are in one.
	record, err := tpm.Enrol(machine.EKPublic(), machine.EKCert(), machine.AKPublic(), joined)
	if err != nil {
		fmt.Println(err)
		return
	}

	// The policy's section says whose TPMs are trusted, and what must be asked.
	rules := &tpm.Rules{EKCAs: tpm.Strings{machine.CA().PEM()}, Quote: []int{0, 7}}
	if reasons := rules.Lint(); len(reasons) > 0 {
		fmt.Println(reasons)
		return
	}
	var params tpm.Params
	if err := json.Unmarshal(rules.Params(), &params); err != nil {
		fmt.Println(err)
		return
	}

	// One exchange: the binding holds the challenge.
	binding := rats.Binding{Profile: rats.ProfileRaw, UserData: bytes.Repeat([]byte{42}, 32)}
	evidence, err := machine.Quote(params.Bank, params.PCRs, binding.UserData)
	if err != nil {
		fmt.Println(err)
		return
	}
	verified, err := tpm.New().Verify(context.Background(), evidence, rats.Inputs{
		Binding: binding, Now: joined, Params: rules.Params(), Endorsements: []rats.Endorsement{record.Endorsement()},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("registers:", len(verified.Facts.Registers[0].Values))
	fmt.Println("against it:", rules.Check(verified.Claims, nil, joined))

	// The same evidence answers no other challenge.
	binding.UserData = bytes.Repeat([]byte{43}, 32)
	_, err = tpm.New().Verify(context.Background(), evidence, rats.Inputs{
		Binding: binding, Now: joined, Params: rules.Params(), Endorsements: []rats.Endorsement{record.Endorsement()},
	})
	reason, _ := rats.ReasonOf(err)
	fmt.Println("replayed:", reason.Code)
	// Output:
	// registers: 2
	// against it: []
	// replayed: tpm.quote.user-data
}
