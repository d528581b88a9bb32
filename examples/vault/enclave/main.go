//go:build wasip1

// Command enclave is the inside of the counter vault. Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -o vault.wasm ./examples/vault/enclave
package main

import (
	"crypto/sha256"
	"fmt"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/examples/vault"
)

// What is inside. There is one thread, so there are no locks.
var (
	secret *sdk.Secret // nil: the vault is empty
	left   uint32      // times
	policy uint16      // of sealing
)

// purpose separates this sealed state from everything else the enclave may ever seal.
var purpose = []byte("vault state 1")

// The entry points. Each is one line: Serve copies and decodes the parameters, calls the function, and sends its result.

//go:wasmexport fill
func fill(n int32) int32 { return sdk.Serve(n, doFill) }

//go:wasmexport open
func open(n int32) int32 { return sdk.Serve(n, doOpen) }

//go:wasmexport show
func show(n int32) int32 { return sdk.Serve(n, doShow) }

//go:wasmexport target
func target(n int32) int32 { return sdk.Serve(n, doTarget) }

//go:wasmexport vouch
func vouch(n int32) int32 { return sdk.Serve(n, doVouch) }

//go:wasmexport meet
func meet(n int32) int32 { return sdk.Serve(n, doMeet) }

//go:wasmexport hello
func hello(n int32) int32 { return sdk.Serve(n, doHello) }

//go:wasmexport prove
func prove(n int32) int32 { return sdk.Serve(n, doProve) }

//go:wasmexport receive
func receive(n int32) int32 { return sdk.Serve(n, doReceive) }

func doFill(c vault.Contents) (sdk.None, error) {
	if secret != nil {
		secret.Wipe()
	}
	secret, left, policy = sdk.NewSecret(c.Secret), c.Times, sdk.ToEnclave
	if c.ToSigner {
		policy = sdk.ToSigner
	}
	return sdk.None{}, store()
}

// state is what is sealed.
type state struct {
	Policy uint16
	Left   uint32
	Secret []byte
}

// store seals the state and hands it out. What the application does with it is beyond the vault.
func store() (err error) {
	var plain []byte
	secret.Use(func(b []byte) { plain, err = boundary.Encode(state{policy, left, b}) })
	if err != nil {
		return err
	}
	defer clear(plain)
	box, err := sdk.Seal(policy, purpose, plain)
	if err != nil {
		return err
	}
	_, err = sdk.Call[vault.Sealed, sdk.None](vault.Store, vault.Sealed{State: box})
	return err
}

func doOpen(in vault.Sealed) (vault.Left, error) {
	plain, err := sdk.Unseal(purpose, in.State)
	if err != nil {
		return vault.Left{}, err
	}
	defer clear(plain)
	var s state
	if err := boundary.Decode(plain, &s); err != nil {
		return vault.Left{}, err
	}
	if secret != nil {
		secret.Wipe()
	}
	secret, left, policy = sdk.NewSecret(s.Secret), s.Left, s.Policy
	return vault.Left{Times: left}, nil
}

// doShow counts first, hands out the counted state, and shows the secret last: whoever stops in between has lost a try,
// not won one.
func doShow(sdk.None) (out vault.Shown, err error) {
	if secret == nil {
		return out, vault.CodeEmpty.Missing("vault", "", "")
	}
	if left == 0 {
		return out, vault.CodeSpent.Bad("vault", "", "")
	}
	left--
	if err := store(); err != nil {
		return out, err
	}
	secret.Use(func(b []byte) { out.Secret = append(out.Secret, b...) })
	out.Times = left
	return out, nil
}

func doTarget(sdk.None) (vault.Paper, error) {
	t, err := sdk.Target()
	return vault.Paper{Bytes: t.Bytes()}, err
}

// answer is what a report says about a challenge.
func answer(challenge [32]byte) (data [64]byte) {
	sum := sha256.Sum256(append([]byte("vault meets vault\x00"), challenge[:]...))
	copy(data[:], sum[:])
	return data
}

func doVouch(in vault.ForTarget) (vault.Paper, error) {
	t, err := abi.ParseTargetInfo(in.Target)
	if err != nil {
		return vault.Paper{}, err
	}
	r, err := sdk.Report(t, answer(in.Challenge))
	return vault.Paper{Bytes: r.Bytes()}, err
}

// doMeet trusts vaults of its own signer and product, and no debugger. That the report verifies says only that it was made
// on this platform for this enclave.
func doMeet(in vault.Introduced) (vault.Peer, error) {
	r, err := abi.ParseReport(in.Report)
	if err != nil {
		return vault.Peer{}, err
	}
	if err := sdk.VerifyReport(r); err != nil {
		return vault.Peer{}, err
	}
	self, err := sdk.Self()
	if err != nil {
		return vault.Peer{}, err
	}
	b := r.Body
	if b.MRSIGNER != self.MRSIGNER || b.ISVProdID != self.ISVProdID || b.Attributes.Debug() || b.ReportData != answer(in.Challenge) {
		return vault.Peer{}, vault.CodeStranger.Bad("report", fmt.Sprintf("product %d", self.ISVProdID), fmt.Sprintf("product %d, debug %t", b.ISVProdID, b.Attributes.Debug()))
	}
	return vault.Peer{MRENCLAVE: b.MRENCLAVE, MRSIGNER: b.MRSIGNER, Product: b.ISVProdID, SVN: b.ISVSVN}, nil
}

func main() {} // nothing runs by itself
