package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/internal/fakevendor"
)

// desk is somebody at the command line, in front of fake vendors.
type desk struct {
	dir string
	now time.Time
	env map[string]string
}

func (d *desk) run(args ...string) (exit int, out, err string) {
	var o, e bytes.Buffer
	exit = Main(context.Background(), Env{
		Args: args, In: strings.NewReader(""), Out: &o, Err: &e, Now: func() time.Time { return d.now }, Rand: rand.Reader,
		Getenv: func(name string) string { return d.env[name] }, Home: d.dir,
	})
	return exit, o.String(), e.String()
}

func (d *desk) file(name string) string { return filepath.Join(d.dir, name) }

// TestCollateralGoesFromTheServicesToAMachineWithoutNetwork is the story of docs/collateral.md.
//
// R115: collateral is fetched, cached, and exported as an offline bundle with validity times.
func TestCollateralGoesFromTheServicesToAMachineWithoutNetwork(t *testing.T) {
	d := &desk{dir: t.TempDir(), now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), env: map[string]string{}}
	now := func() time.Time { return d.now }
	intel, amd := fakevendor.NewIntel(rand.Reader, now), fakevendor.NewAMD(rand.Reader, now)
	pcs, kds := httptest.NewServer(intel.PCS()), httptest.NewServer(amd.KDS())
	defer pcs.Close()
	defer kds.Close()
	write := func(name string, b []byte) string {
		t.Helper()
		if err := os.WriteFile(d.file(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return d.file(name)
	}
	quote := write("quote.hex", []byte(hex.EncodeToString(intel.Platform().SGX(3, nil))))
	report := write("report.bin", amd.Chip(fakevendor.Genoa).Report(3, nil))
	roots := write("roots.pem", fakevendor.PEM(intel.Root.Cert, amd.Line(fakevendor.Genoa).ARK.Cert))

	expect := func(want int, text string, args ...string) string {
		t.Helper()
		exit, out, errs := d.run(append([]string{"collateral"}, args...)...)
		if exit != want || !strings.Contains(out+errs, text) {
			t.Errorf("assay collateral %s: exit %d, expected %d and %q\n%s%s", strings.Join(args, " "), exit, want, text, out, errs)
		}
		return out
	}
	expect(1, "--pcs", "fetch", quote, "--roots", roots) // the error says what to give
	expect(1, string(endorse.CodeChain.Code), "fetch", quote, "--pcs", pcs.URL)
	expect(1, string(endorse.CodeServiceURL.Code), "fetch", quote, "--pcs", "http://pcs.example")
	expect(1, "other bytes", "fetch", roots, "--pcs", pcs.URL)
	expect(0, "intel:/sgx/certification/v4/tcb", "fetch", quote, "--pcs", pcs.URL, "--roots", roots)
	d.env["ASSAY_KDS"] = kds.URL
	expect(0, "amd:/vcek/v1/Genoa/", "fetch", report, "--roots", roots)

	var ages []endorse.Age
	if err := json.Unmarshal([]byte(expect(0, "", "show", "-o", "json", "--roots", roots)), &ages); err != nil || len(ages) != 7 {
		t.Errorf("%d documents, %v", len(ages), err)
	}
	expect(0, `"enclaveIdentity":`, "show", "intel:/sgx/certification/v4/qe/identity", "--roots", roots)
	expect(0, `"fetched"`, "show", "amd:/vcek/v1/Genoa/crl", "--roots", roots, "-o", "json")
	expect(1, "fetch --key", "show", "amd:/vcek/v1/Milan/crl", "--roots", roots)
	expect(0, "fresh", "age", "--roots", roots)
	expect(3, "fresh", "age", "--roots", roots, "--within", "1000h")
	expect(0, "passed over", "show") // Intel's own root doesn't know them

	bundle, key := d.file("bundle.json"), d.file("bundle.key")
	expect(1, "--out", "export")
	expect(1, "bundle.key", "export", "--out", bundle, "--key", key, "--roots", roots)
	expect(0, "wrote 7 documents", "export", "--out", bundle, "--key", key, "--new-key", "--roots", roots)
	expect(1, "new file", "export", "--out", bundle, "--key", key, "--new-key", "--roots", roots)
	expect(0, "wrote 1 documents", "export", "amd:/vcek/v1/Genoa/crl", "--out", d.file("one.json"), "--key", key, "--roots", roots)
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode: %v, %v", info, err)
	}
	// The bundle, and the cache's own directory, are collateral as they are.
	for _, collateral := range []string{bundle, filepath.Join(d.dir, ".cache", "assay", "collateral")} {
		_, out, errs := d.run("evidence", "verify", quote, "--collateral", collateral, "--ca", roots, "-o", "json")
		if !strings.Contains(out, `"genuine": true`) || !strings.Contains(out, `"status": "UpToDate"`) {
			t.Errorf("with %s: %s%s", filepath.Base(collateral), out, errs)
		}
	}
	other := []string{"--dir", d.file("offline"), "--roots", roots}
	expect(1, string(endorse.CodeBundleSigner.Code), append([]string{"import", bundle}, other...)...)
	expect(1, "public key", append([]string{"import", bundle, "--signer", key}, other...)...)
	expect(0, "took 7 documents", append([]string{"import", bundle, "--signer", key + ".pub"}, other...)...)
	expect(0, "fresh", append([]string{"age"}, other...)...)
	expect(1, "documents to export", "export", "--out", bundle, "--key", key, "--dir", d.file("empty"))

	d.now = d.now.Add(31 * 24 * time.Hour)
	expect(3, "expired", append([]string{"age"}, other...)...)
	expect(1, string(endorse.CodeService.Code), "fetch", "--roots", roots, "-o", "json")
	expect(0, "ok", "fetch", "--roots", roots, "--pcs", pcs.URL)
	expect(0, "fresh", "age", "--roots", roots)
	expect(1, "12 hex digits", "fetch", "--fmspc", "00")
	expect(1, string(endorse.CodeNotFound.Code), "fetch", "--fmspc", "000000000000", "--pcs", pcs.URL, "--roots", roots)
	expect(1, string(endorse.CodeKey.Code), "fetch", "--key", "x")
	expect(0, "ok", "fetch", "--key", "intel:/sgx/certification/v4/rootcacrl", "--refresh", "--pcs", pcs.URL, "--roots", roots)
}
