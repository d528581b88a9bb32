// Package measuring is the measuring enclave as its host sees it: the plan runner of package measure as an enclave image
// that a monitor runs.
//
// It guarantees that plans are verified and decrypted inside: the host hands boxes in and out and sees the arguments of
// OCALLs, nothing else of a plan before its turn. The keys are born inside and are new with every start (R025). A run is
// cut into calls of bounded length, so that no plan exceeds what a monitor grants to a call, and a long run can be given
// up between two of them. An enclave that was stopped, for a fault or a budget, is started anew with new keys.
//
// It makes nothing true that isn't: whose word the enclave's isolation is, and what it is worth, is in the evidence of
// format enclave. What is inside is in folder inside.
package measuring

import "github.com/assay-attest/assay/rats"

// The entry points, with what they take and give.
const (
	entryStart   = "start"   // Setup → Born; once, before all others
	entryAttest  = "attest"  // Document → Document: a manifest → the platform's quote of its digest
	entryBegin   = "begin"   // Task → Progress
	entryStep    = "step"    // None → Progress
	entryFetch   = "fetch"   // From → Document: a part of what was sealed
	entryAbandon = "abandon" // None → None
	entryOpen    = "open"    // Release → Document: the secret
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
