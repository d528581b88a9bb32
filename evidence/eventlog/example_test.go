package eventlog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/rats"
)

// A log of SHA-1 only, with one separator in PCR 4, is verified against a given register, and judged.
func Example() {
	log := []byte{
		4, 0, 0, 0, 4, 0, 0, 0, // PCR 4, EV_SEPARATOR
		0x90, 0x69, 0xca, 0x78, 0xe7, 0x45, 0x0a, 0x28, 0x51, 0x73, 0x43, 0x1b, 0x3e, 0x52, 0xc5, 0xc2, 0x52, 0x99, 0xe4, 0x73,
		4, 0, 0, 0, 0, 0, 0, 0, // four bytes of data
	}
	params, err := json.Marshal(eventlog.Params{PCRs: map[string]map[string]string{
		"sha1": {"4": "b2a83b0ebf2f8374299a5b2bdfc31ea955ad7236"},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	v, err := eventlog.New().Verify(context.Background(),
		rats.Evidence{Format: eventlog.Format, MediaType: eventlog.MediaType, Body: log}, rats.Inputs{Params: params})
	if err != nil {
		fmt.Println(err)
		return
	}
	claims := v.Claims.(*eventlog.Claims)
	fmt.Println(claims.Measurements[0].Type, claims.Measurements[0].Proof)

	rules := &eventlog.Rules{BootLoaders: []string{"sha256:0000000000000000000000000000000000000000000000000000000000000000"}}
	fmt.Println(rules.Lint())
	for _, r := range rules.Check(claims, nil, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
		fmt.Println(r.Code)
	}
	// Output:
	// EV_SEPARATOR digest
	// []
	// eventlog.bank.weak
	// eventlog.secure-boot.off
}
