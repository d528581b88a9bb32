package enclave_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/internal/testkit/softenclave"
	"github.com/assay-attest/assay/rats"
)

// The quote of a software enclave is verified with what the format tpm vouches for in the same collection (its facts) and
// the node's enrolment record, and judged by rules. The monitor here is the tests' own, over a TPM made of Go.
func Example() {
	monitor := softenclave.New(rand.Reader, softenclave.Options{})
	manifest := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("verifier")), Nonce: make([]byte, 32),
		Instance: make([]byte, 16), Keys: []rats.BoundKey{{Use: rats.KeyHPKE, Public: []byte("key")}}, Formats: []rats.Format{"tpm", enclave.Format},
	}
	binding, err := manifest.Bind()
	if err != nil {
		fmt.Println(err)
		return
	}
	pcrs := []int{4, 9, 11}
	asked, err := json.Marshal(enclave.Params{PCRs: pcrs})
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v, err := enclave.New().Verify(context.Background(), monitor.Quote(binding, pcrs), rats.Inputs{
		Binding: binding, Now: now, Params: asked, Facts: monitor.Boot(), Endorsements: []rats.Endorsement{monitor.Endorsement()},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	claims := v.Claims.(*enclave.Claims)
	fmt.Println(claims.Mode, claims.Launch, claims.Root, claims.Link, v.Marks)

	// An initrd launch counts for something only with register values of the policy's own, known from elsewhere than the
	// evidence: without them the section itself is refused.
	rules := &enclave.Rules{
		MRENCLAVE: []string{claims.MRENCLAVE.String()}, Modes: []string{"process"}, Launches: []string{"initrd"}, Roots: []string{"initrd-sealed"},
		AcceptSameOS: true,
	}
	for _, r := range rules.Lint() {
		fmt.Println(r.Code)
	}
	// These would come from a build, or from a machine that is known to be good.
	rules.PCRs = map[string]enclave.Strings{"4": {claims.TPM.PCRs["4"]}, "9": {claims.TPM.PCRs["9"]}}
	fmt.Println(rules.Lint(), rules.Check(claims, nil, now))
	// Output:
	// process initrd initrd-sealed pcr-holds-key [test-key]
	// enclave.rule.no-baseline
	// [] []
}
