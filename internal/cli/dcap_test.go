package cli

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/evidence/dcap"
	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/rats"
)

// bench is a desk before a fake Intel, with files.
type bench struct {
	*desk
	intel *fakevendor.Intel
	roots string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{desk: &desk{dir: t.TempDir(), now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), env: map[string]string{}}}
	b.intel = fakevendor.NewIntel(rand.Reader, func() time.Time { return b.now })
	b.roots = b.write(t, "roots.pem", fakevendor.PEM(b.intel.Root.Cert))
	return b
}

func (b *bench) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.file(name)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.file(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return b.file(name)
}

// collateral writes what Intel says of a machine into a folder.
func (b *bench) collateral(t *testing.T, p *fakevendor.Platform) string {
	t.Helper()
	for i, e := range b.intel.Collateral(p) {
		b.write(t, fmt.Sprintf("collateral/%d", i), e.Body)
	}
	return b.file("collateral")
}

// judged is the part of a verdict that these tests look at.
type judged struct {
	Genuine  bool
	Accepted bool
	Claims   struct {
		Collateral dcap.Used
		TCB        dcap.TCB
	}
	Reasons []struct{ Code rats.Code }
}

func (j judged) has(c rats.CodeInfo) bool {
	return slices.ContainsFunc(j.Reasons, func(r struct{ Code rats.Code }) bool { return r.Code == c.Code })
}

func (b *bench) verify(t *testing.T, file string, args ...string) judged {
	t.Helper()
	_, out, errs := b.run(append([]string{"evidence", "verify", file, "--ca", b.roots, "-o", "json"}, args...)...)
	var j judged
	if err := json.Unmarshal([]byte(out), &j); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	return j
}

// R104, R105: each relaxation is in force up to the moment it names, and refused from then on with a code.
func TestRelaxationsEndAtTheirMoment(t *testing.T) {
	b := newBench(t)
	end := b.now.Add(24 * time.Hour)
	until := end.Format(time.RFC3339)
	p := b.intel.Platform()
	quote := b.write(t, "quote", p.SGX(3, nil))
	debug := b.write(t, "debug", p.SGX(3, nil, func(q *fakevendor.Quote) { q.Enclave.Attributes.Flags |= 2 }))
	all := b.collateral(t, p)
	old := b.file("old")
	stale := b.file("stale")
	for i, e := range b.intel.Collateral(p) {
		if i > 5 {
			break // without the revocation lists
		}
		b.write(t, fmt.Sprintf("bare/%d", i), e.Body)
	}
	outOfDate := b.intel.TCBInfo(p, "SGX", func(d *fakevendor.TCBInfo) {
		d.Levels[0].Status = "OutOfDate"
		d.Levels[0].Advisories = []string{"INTEL-SA-00001"}
	})
	ended := b.intel.TCBInfo(p, "SGX", func(d *fakevendor.TCBInfo) { d.NextUpdate = fakevendor.Stamp(b.now.Add(-time.Hour)) })
	for i, e := range b.intel.Collateral(p) {
		if i != 0 {
			b.write(t, fmt.Sprintf("old/%d", i), e.Body)
			b.write(t, fmt.Sprintf("stale/%d", i), e.Body)
		}
	}
	b.write(t, "old/0", outOfDate)
	b.write(t, "stale/0", ended)
	mrenclave := fmt.Sprintf("%x", rats.SHA256([]byte("enclave")).Sum)
	for name, c := range map[string]struct {
		file, collateral, policy string
		code                     rats.Code
	}{
		"status": {quote, old, "sgx: {accept_status: [{status: OutOfDate, advisories: [INTEL-SA-00001], until: " + until + "}]}", dcap.CodeStatus.Code},
		"lists":  {quote, b.file("bare"), "sgx: {insecure_without_crls_until: " + until + "}", dcap.CodeCRLMissing.Code},
		"expiry": {quote, stale, "sgx: {insecure_expired_collateral: {for: 240h, until: " + until + "}}", dcap.CodeCollateralExpired.Code},
		"debug":  {debug, all, "allow: [debug]\nsgx: {insecure_allow_debug: [{mrenclave: " + mrenclave + ", until: " + until + "}]}", "sgx.enclave.debug"},
	} {
		policy := b.write(t, "policy-"+name, []byte(c.policy))
		for at, want := range map[time.Time]bool{b.now: true, end.Add(-time.Second): true, end: false, end.Add(48 * time.Hour): false} {
			got := b.verify(t, c.file, "--collateral", c.collateral, "--policy", policy, "--at", at.Format(time.RFC3339))
			if !got.Genuine || got.Accepted != want || got.has(rats.CodeInfo{Code: c.code}) == want {
				t.Errorf("%s at %s: %+v", name, at, got)
			}
		}
		if got := b.verify(t, c.file, "--collateral", c.collateral); got.Accepted || !got.has(rats.CodeInfo{Code: c.code}) {
			t.Errorf("%s without a relaxation: %+v", name, got)
		}
	}
}

// R103: the certificate of a key that a quote only names is fetched, or given as collateral; one of another key is refused.
func TestCertificateOfANamedKeyComesFromBesideTheQuote(t *testing.T) {
	b := newBench(t)
	p, other := b.intel.Platform(), b.intel.Platform(func(s *fakevendor.PlatformSpec) { s.PCESVN++ })
	quote := b.write(t, "quote", p.SGX(3, nil, p.WithKeyID(3)))
	dir := b.collateral(t, p)
	if got := b.verify(t, quote, "--collateral", dir); got.Genuine || !got.has(dcap.CodeChainMissing) {
		t.Errorf("without: %+v", got)
	}
	pck, wrong := b.write(t, "pck.pem", fakevendor.PEM(p.PCK.Cert)), b.write(t, "wrong.pem", fakevendor.PEM(other.PCK.Cert))
	if got := b.verify(t, quote, "--collateral", dir, "--collateral", pck); !got.Genuine || !got.Accepted {
		t.Errorf("with: %+v", got)
	}
	if got := b.verify(t, quote, "--collateral", dir, "--collateral", wrong); got.Genuine || !got.has(dcap.CodeChainOther) {
		t.Errorf("another machine's: %+v", got)
	}
	pcs := httptest.NewServer(b.intel.PCS())
	defer pcs.Close()
	exit, out, errs := b.run("collateral", "fetch", quote, "--pcs", pcs.URL, "--roots", b.roots)
	if exit != 0 || strings.Count(out, " ok ") != 5 || !strings.Contains(out, "…&cpusvn=") {
		t.Errorf("exit %d\n%s%s", exit, out, errs)
	}
	if got := b.verify(t, quote, "--collateral", filepath.Join(b.dir, ".cache", "assay", "collateral")); !got.Accepted {
		t.Errorf("fetched: %+v", got)
	}
}

// The early channel has documents of its own, and policy can demand the later evaluation number.
func TestEarlyDocumentsAreFetchedOnDemand(t *testing.T) {
	b := newBench(t)
	pcs := httptest.NewServer(b.intel.PCS())
	defer pcs.Close()
	quote := b.write(t, "quote", b.intel.Platform().TDX(4, false, nil))
	policy := b.write(t, "policy", fmt.Appendf(nil, "tdx: {min_tcb_evaluation_number: %d}", fakevendor.EvaluationNumber+1))
	for channel, want := range map[string]bool{"": false, endorse.Standard: false, endorse.Early: true} {
		dir := b.file("cache-" + channel)
		if exit, out, errs := b.run("collateral", "fetch", quote, "--pcs", pcs.URL, "--roots", b.roots, "--dir", dir, "--update", channel); exit != 0 || strings.Contains(out, "update=early") != want {
			t.Errorf("%s: exit %d\n%s%s", channel, exit, out, errs)
		}
		got := b.verify(t, quote, "--collateral", dir, "--policy", policy)
		if got.Accepted != want || got.has(dcap.CodeEvaluation) == want || got.Claims.TCB.InfoNumber != got.Claims.TCB.IdentityNumber {
			t.Errorf("%s: %+v", channel, got)
		}
	}
	if exit, _, errs := b.run("collateral", "fetch", quote, "--pcs", pcs.URL, "--update", "late"); exit != 1 || !strings.Contains(errs, string(endorse.CodeConfig.Code)) {
		t.Errorf("exit %d: %s", exit, errs)
	}
}

// The identity of Intel's verifier is fetched, verified by itself, and shown with a quote.
func TestIdentityOfIntelsVerifierIsShown(t *testing.T) {
	b := newBench(t)
	pcs := httptest.NewServer(b.intel.PCS())
	defer pcs.Close()
	const key = "intel:/sgx/certification/v4/qve/identity"
	if exit, out, errs := b.run("collateral", "fetch", "--key", key, "--pcs", pcs.URL, "--roots", b.roots); exit != 0 {
		t.Fatalf("%s%s", out, errs)
	}
	_, body, _ := b.run("collateral", "show", key, "--roots", b.roots)
	file, chain := b.write(t, "qve.json", []byte(body)), b.write(t, "chain.pem", b.intel.TCBChain())
	for at, want := range map[time.Time]bool{b.now: true, b.now.AddDate(0, 0, 31): false, b.now.AddDate(0, 0, -1): false} {
		_, out, errs := b.run("evidence", "verify", file, "--ca", b.roots, "--collateral", chain, "-o", "json", "--at", at.Format(time.RFC3339))
		if !strings.Contains(out, `"id": "QVE"`) || !strings.Contains(out, `"genuine": true`) || strings.Contains(out, `"accepted": true`) != want {
			t.Errorf("at %s: %s%s", at, out, errs)
		}
	}
	altered := b.write(t, "altered.json", []byte(strings.Replace(body, `"isvprodid":2`, `"isvprodid":3`, 1)))
	if got := b.verify(t, altered, "--collateral", chain); got.Genuine || !got.has(dcap.CodeCollateralSignature) {
		t.Errorf("altered: %+v", got)
	}
	if _, out, _ := b.run("evidence", "inspect", file, "-o", "json"); !strings.Contains(out, `"id": "QVE"`) || !strings.Contains(out, `"isvsvn": 7`) {
		t.Errorf("%s", out)
	}
	p := b.intel.Platform()
	got := b.verify(t, b.write(t, "quote", p.SGX(3, nil)), "--collateral", b.collateral(t, p), "--collateral", file)
	if q := got.Claims.Collateral.QVE; !got.Accepted || q == nil || q.ISVSVN != 7 {
		t.Errorf("%+v", got)
	}
}
