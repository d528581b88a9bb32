// Package entry is what the inside of the measuring enclave and its host agree on: the entry points, what crosses with them,
// and how the image is built. It guarantees nothing by itself.
package entry

import "github.com/assay-attest/assay/rats"

// The entry points, with what they take and give.
const (
	Start   = "start"   // Setup → Born; once, before all others
	Attest  = "attest"  // Document → Document: a manifest → the platform's quote of its digest
	Begin   = "begin"   // Task → Progress
	Step    = "step"    // None → Progress
	Fetch   = "fetch"   // From → Document: a part of what was sealed
	Abandon = "abandon" // None → None
	Open    = "open"    // Release → Document: the secret
)

// Setup is what the enclave is told of where it runs. The plan signer must be the one its launch configuration names (S05).
type Setup struct {
	PlanSigner      []byte // SubjectPublicKeyInfo
	Namespace, Node string
}

// Born are the public halves of the keys made inside.
type Born struct{ HPKE, Sign []byte }

// Document is something in its own encoding.
type Document struct{ Bytes []byte }

// Task is an order with the manifest of the attestation it is for.
type Task struct{ Manifest, Order []byte }

// Progress says whether a run has ended, and then how many bytes its sealed report has.
type Progress struct {
	Done bool
	Size uint32
}

// From asks for the sealed report from an offset on, at most Chunk bytes.
type From struct{ Offset uint32 }

// Release is a released secret: the fields of api.Release that its seal covers, and the box.
type Release struct {
	Name    string
	Version int64
	Result  string
	Sealed  []byte
}

// Chunk is how much of a sealed report crosses at a time.
const Chunk = 1 << 20

// What the image is built with: room for the outcomes of 250,000 files in memory, and for an order of 1 MiB in the buffer.
const (
	Heap      = 768 << 20
	Buffer    = 2 << 20
	ProductID = 1
	SVN       = 1
)

// What the inside refuses.
var (
	CodeSetup = rats.CodeInfo{Code: "measuring.enclave.setup", Slot: rats.RuntimeOpaque,
		Title: "the enclave was not started, or twice", Hint: "it is told plan signer, namespace and node once, before anything else"}
	CodeSigner = rats.CodeInfo{Code: "measuring.enclave.plan-signer", Slot: rats.RuntimeOpaque,
		Title: "the enclave's launch configuration names another plan signer", Hint: "start it with the SHA-256 of the plan signer as CONFIGID, and KSS among its attributes"}
	CodeIdle = rats.CodeInfo{Code: "measuring.enclave.idle", Slot: rats.RuntimeOpaque,
		Title: "the enclave has nothing of the kind asked for", Hint: "begin a run first, and fetch within its size"}
)

// Codes are all reasons that this package gives.
var Codes = []rats.CodeInfo{CodeSetup, CodeSigner, CodeIdle}
