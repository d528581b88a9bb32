package result_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/result"
)

// A relying party verifies the token a node shows with the verifier's published keys, and lets the verdict decide.
func ExampleVerify() {
	// The verifier's side: a key, its key set, and a token for the audience "door".
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		fmt.Println(err)
		return
	}
	clock := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	token, err := result.Sign(rats.Result{
		ID: "at_1", Subject: rats.Subject(rats.SubjectNode, "nd_1"), Tier: rats.Affirming, Expires: clock.Add(time.Hour),
		Policy: rats.Ref{Name: "base", Version: 3},
	}, key, result.SignOptions{Issuer: "https://verifier.example", Audience: "door", Now: clock, Rand: rand.Reader})
	if err != nil {
		fmt.Println(err)
		return
	}
	jwks, err := result.JWKS(key.Public())
	if err != nil {
		fmt.Println(err)
		return
	}

	// The relying party's side.
	ear, err := result.Verify(token, jwks, result.VerifyOptions{
		Issuer: "https://verifier.example", Audience: "door", Now: clock.Add(time.Minute),
	})
	if err != nil {
		fmt.Println("refused:", err)
		return
	}
	verdict := ear.Verdict(clock.Add(time.Minute))
	fmt.Println(ear.Subject, "is", verdict.Word, "by policy", ear.Policy.Name, ear.Policy.Version)
	fmt.Println(verdict.State == rats.StateTrusted)

	// The same token at another relying party's door.
	_, err = result.Verify(token, jwks, result.VerifyOptions{
		Issuer: "https://verifier.example", Audience: "window", Now: clock.Add(time.Minute),
	})
	fmt.Println(err)
	// Output:
	// node/nd_1 is trusted by policy base 3
	// true
	// result.audience.mismatch at aud: the token is for another audience; expected window; seen door
}
