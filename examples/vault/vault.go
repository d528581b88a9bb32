// Package vault is what the counter vault's enclave and its untrusted application agree on: the entry points, the OCALL
// and what crosses with them. docs/enclave-sdk.md explains the example line by line.
//
// The vault holds a secret that it shows a limited number of times. It survives a restart as sealed bytes that the
// application keeps; so the application can show it older bytes, and win tries back: sealing alone is no counter that
// can't be turned back. Package vault guarantees nothing by itself.
package vault

import "github.com/assay-attest/assay/rats"

// The entry points, with what they take and give.
const (
	Fill   = "fill"   // Contents → None
	Open   = "open"   // Sealed → Left
	Show   = "show"   // None → Shown
	Target = "target" // None → Paper: the target info by which others make reports for this vault
	Vouch  = "vouch"  // ForTarget → Paper: a report for another vault
	Meet   = "meet"   // Introduced → Peer: checks the report of another vault

	Hello   = "hello"   // None → Paper: begins a key exchange with the server of the launch configuration
	Prove   = "prove"   // Paper (the server's answer) → Paper: the vault's quote, for that server alone
	Receive = "receive" // Paper (a record of Contents) → Paper (a record of Left): fills the vault
)

// The OCALLs: Store hands out the vault's sealed state, Sealed → None; Complete asks for what surrounds a quote on this
// platform, Paper → Paper (JSON of rats.Evidence).
const (
	Store    = "store"
	Complete = "complete"
)

// Provision is the purpose of the vault's key exchange.
const Provision = "assay/example/vault/provision/1"

// Contents is what the vault is filled with.
type Contents struct {
	Secret   []byte
	Times    uint32 // that it may be shown
	ToSigner bool   // who may open the sealed state: newer versions of the vault too, or this very one alone
}

// Sealed is the vault's state as the application keeps it.
type Sealed struct{ State []byte }

// Left says how often the secret may still be shown.
type Left struct{ Times uint32 }

// Shown is the secret, and how often it may be shown again.
type Shown struct {
	Secret []byte
	Times  uint32
}

// Paper is a structure of package abi in its own bytes.
type Paper struct{ Bytes []byte }

// ForTarget asks for a report: for whom, and about what challenge of theirs.
type ForTarget struct {
	Target    []byte
	Challenge [32]byte
}

// Introduced is a report to check and the challenge it must answer.
type Introduced struct {
	Report    []byte
	Challenge [32]byte
}

// Peer is who made a report.
type Peer struct {
	MRENCLAVE, MRSIGNER [32]byte
	Product, SVN        uint16
}

// What the vault refuses.
var (
	CodeEmpty = rats.CodeInfo{Code: "vault.empty", Slot: rats.RuntimeOpaque,
		Title: "the vault holds nothing", Hint: "fill it, or open what it sealed"}
	CodeSpent = rats.CodeInfo{Code: "vault.spent", Slot: rats.RuntimeOpaque,
		Title: "the secret was shown as often as it may be", Hint: "fill the vault anew"}
	CodeStranger = rats.CodeInfo{Code: "vault.stranger", Slot: rats.RuntimeOpaque,
		Title: "the report is not of a vault this one trusts", Hint: "it must be of the same signer and product, without DEBUG, and answer the challenge"}
	CodeNoChannel = rats.CodeInfo{Code: "vault.no-channel", Slot: rats.RuntimeOpaque,
		Title: "the vault has no channel to its server", Hint: "call hello, hand the message on, call prove with the answer, then receive"}
)

// Codes are all reasons that the vault gives.
var Codes = []rats.CodeInfo{CodeEmpty, CodeSpent, CodeStranger, CodeNoChannel}
