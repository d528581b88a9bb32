package measure

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/sealed"
)

func TestReleaseOpensOnlyUnderItsOwnInfo(t *testing.T) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEnclave(Config{
		System: Local(), Rand: rand.Reader, Now: time.Now, PlanSigner: spki, Namespace: "lab", Node: "nd_1",
	})
	if err != nil {
		t.Fatal(err)
	}
	seal := func(info []byte) []byte {
		box, err := sealed.Seal(e.Keys()[0].Public, info, []byte("hush"))
		if err != nil {
			t.Fatal(err)
		}
		return box
	}
	r := api.Release{Name: "s", Version: 3, Result: "at_1", Sealed: seal(api.ReleaseInfo("lab", "nd_1", "s", 3, "at_1"))}
	if got, err := e.OpenRelease(r); err != nil || !bytes.Equal(got, []byte("hush")) {
		t.Fatalf("%q, %v", got, err)
	}
	for name, change := range map[string]func(*api.Release){
		"other name":    func(r *api.Release) { r.Name = "t" },
		"other version": func(r *api.Release) { r.Version = 2 },
		"other result":  func(r *api.Release) { r.Result = "at_2" },
		"other node":    func(r *api.Release) { r.Sealed = seal(api.ReleaseInfo("lab", "nd_2", "s", 3, "at_1")) },
		"no info":       func(r *api.Release) { r.Sealed = seal(nil) },
	} {
		x := r
		change(&x)
		if _, err := e.OpenRelease(x); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
