package snp_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/rats"
)

// A verifier is given a file, reads it in whatever form it has, verifies it with what it has of AMD's collateral, and only then asks
// its own rules. Here the certificate of the chip is missing, which is no verdict: it can be fetched.
func Example() {
	report := snp.Report{Version: 2, Policy: 0x30000, SigAlgo: 1, ChipID: [64]byte{0xc1}}
	evidence, err := snp.Import(report.Bytes())
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = snp.New().Verify(context.Background(), evidence, rats.Inputs{
		Binding: rats.Binding{Profile: rats.ProfileRaw, UserData: []byte("challenge")},
		Now:     time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	})
	reason, _ := rats.ReasonOf(err)
	fmt.Println(reason.Code, reason.Tier)

	rules := snp.Rules{Measurements: []string{strings.Repeat("ab", 48)}, GuestPolicy: snp.GuestPolicyRules{Allow: []string{"smt"}}}
	fmt.Println("wrong with the rules:", rules.Lint())
	for _, reason := range rules.Check(&snp.Claims{Measurement: strings.Repeat("cd", 48), SigningKey: "VCEK", GuestPolicy: snp.GuestPolicy{ABI: "1.51"}}, nil, time.Time{}) {
		fmt.Println(reason.Code)
	}
	// Output:
	// snp.vek.missing none
	// wrong with the rules: []
	// snp.measurement.mismatch
	// snp.tcb.unknown
	// snp.crl.unusable
}
