package boundary

import "github.com/assay-attest/assay/plan"

// The names of the OCALLs that are the six raw operations on the outside, and what crosses with them; an operation that
// fails is refused with its code. A descriptor is of the monitor's own numbering, valid for the enclave it was given to.
const (
	CallOpen   = "assay.open"    // Open → int32
	CallReadAt = "assay.read-at" // ReadAt → bytes, not encoded
	CallStat   = "assay.stat"    // StatOf → Stat
	CallList   = "assay.list"    // List → bytes, not encoded
	CallExec   = "assay.exec"    // Exec → int32
	CallClose  = "assay.close"   // Close → nothing
)

// CallFile is four of the operations in one call, since a call costs more than what it does: stat, and if the file is a
// regular one that fits into the answer, open and read, stat again, close. StatOf → FileHead and the content, not encoded.
// Nobody need offer it: the six operations say the same.
const CallFile = "assay.file"

// FileHead says what a file was before and after it was read.
type FileHead struct {
	Whole         bool // the content follows, all Before.Size bytes of it
	Before, After Stat // After is zero without Whole
}

// MaxPath bounds a path in bytes.
const MaxPath = 4096

// Open opens a file or a directory.
type Open struct {
	Path  []byte
	Flags uint32
}

// ReadAt reads at an offset, as much as there is room for in the answer.
type ReadAt struct {
	FD     int32
	Offset int64
}

// StatOf asks what a path names.
type StatOf struct {
	Path   []byte
	Follow bool
}

// Stat describes a file, with the fields, order and units of internal/measure.Stat, so that one converts to the other.
type Stat struct {
	Mode, UID, GID uint32
	Size, CTime    int64
	Dev, Ino       uint64
}

// List asks for entries of a directory from a cookie on, as many as there is room for in the answer.
type List struct {
	FD     int32
	Cookie uint64
}

// Exec runs a command.
type Exec struct {
	Argv   [][]byte
	Limits plan.Limits
}

// Close closes a descriptor.
type Close struct{ FD int32 }
