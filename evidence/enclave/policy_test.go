package enclave_test

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/softenclave"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// document is a policy for one machine and one enclave.
func document(e *softenclave.Enclave, allow string) string {
	pcr := func(n int) string { return hex.EncodeToString(e.TPM.PCR("sha256", n)) }
	return fmt.Sprintf(`apiVersion: assay/v1
kind: Policy
metadata: {name: enclaves}
selector: 'true'
allow: [%s]
links: [{from: enclave, to: tpm, kind: pcr-holds-key}]
formats:
  tpm:
    ek_cas: |
      %s
    quote: [0, 7]
  enclave:
    signers:
      - {mrsigner: "%s", product_id: 7, min_svn: 3}
    modes: [process]
    launches: [initrd]
    roots: [initrd-sealed]
    min_monitor_svn: 5
    pcrs: {"4": "%s", "9": "%s"}
    before_key: "%s"
    accept_same_os: true
rules:
  - {name: version, require: 'enclave.svn >= 3u && enclave.log.capped && enclave.tpm.pcrs["4"] == "%s"', slot: executables}
`, allow, strings.ReplaceAll(strings.TrimSpace(e.TPM.CA().PEM()), "\n", "\n      "), digestOf(e.Identity.MRSIGNER), pcr(4), pcr(9), softenclaveBefore(), pcr(4))
}

// appraised runs the whole way: both formats verified, then judged by a policy.
func appraised(t *testing.T, allow string, o softenclave.Options, other *softenclave.Enclave) rats.Result {
	t.Helper()
	x := fresh(t, o)
	engine := appraise.New(tpm.New(), enclave.New())
	p, reasons := policy.Compile([]byte(document(x.enclave, allow)), engine.Descriptors())
	if p == nil {
		t.Fatal(reasons)
	}
	asks := map[rats.Format][]byte{}
	for _, a := range p.Asks() {
		asks[a.Format] = a.Params
	}
	machine := x.enclave
	if other != nil {
		machine = other
	}
	b := x.inputs.Binding
	quote, err := machine.TPM.Quote("sha256", []int{0, 7}, b.UserData)
	if err != nil {
		t.Fatal(err)
	}
	c := rats.Collection{Binding: b, Evidence: []rats.Evidence{quote, x.enclave.Quote(b, []int{4, 9, abi.KeyPCR})}}
	set, err := engine.Verify(t.Context(), c, []rats.Format{tpm.Format, enclave.Format}, func(f rats.Format) rats.Inputs {
		return rats.Inputs{Now: now, Params: asks[f], Endorsements: []rats.Endorsement{x.enclave.Endorsement(), machine.Endorsement()}}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.Appraise(policy.In{Set: set, Now: now, Challenged: now.Add(-time.Second), Node: policy.NodeFacts{Name: "h1", Kind: "host"}})
}

func has(r rats.Result, code rats.Code) bool {
	return slices.ContainsFunc(r.Reasons, func(x rats.Reason) bool { return x.Code == code })
}

// R022, R089, R106, R174: enclave and tpm evidence of one machine, judged by one policy.
func TestPolicyJudgesEnclaveAndTPMTogether(t *testing.T) {
	if r := appraised(t, "test-key", softenclave.Options{}, nil); r.Tier != rats.Affirming || !slices.Equal(r.Marks, []string{enclave.MarkTestKey}) {
		t.Errorf("tier %s, marks %v: %v", r.Tier, r.Marks, r.Reasons)
	}
	if r := appraised(t, "", softenclave.Options{}, nil); r.Tier != rats.Contraindicated || !has(r, policy.CodeMarkRefused.Code) {
		t.Errorf("the test key is trusted: %v", r.Reasons)
	}
	if r := appraised(t, "test-key", softenclave.Options{ProductID: 7, SVN: 2}, nil); r.Tier != rats.Contraindicated || !has(r, enclave.CodeSVN.Code) {
		t.Errorf("an older version: %v", r.Reasons)
	}
	user := abi.Platform{Mode: abi.ModeProcess, Launch: abi.LaunchUserspace, Root: abi.RootOSProtected, SVN: 5}
	if r := appraised(t, "test-key", softenclave.Options{Platform: user}, nil); r.Tier != rats.Contraindicated || !has(r, enclave.CodeLaunch.Code) || !has(r, policy.CodeLinkMissing.Code) {
		t.Errorf("a launch from user space: %v", r.Reasons)
	}
	other := softenclave.New(rand.Reader, softenclave.Options{})
	if r := appraised(t, "test-key", softenclave.Options{}, other); r.Tier != rats.Contraindicated || !has(r, enclave.CodeOtherTPM.Code) {
		t.Errorf("TPM evidence of another machine: %v", r.Reasons)
	}
}
