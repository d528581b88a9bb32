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

// CallFiles is the operations of measuring small files in one call, since a call costs more than what it does: for each
// path in order stat, and if it is a regular file that fits into what is left of the answer, open and read, stat again,
// close. Files → one after another FileHead and the content, not encoded; it may end before the last path. Nobody need
// offer it: the six operations say the same.
const CallFiles = "assay.files"

// Files asks for files by their paths, at most MaxFiles.
type Files struct{ Paths [][]byte }

// MaxFiles bounds the paths of one call.
const MaxFiles = 64

// What a FileHead says of its file.
const (
	FileUnread = 0 // only Before is known: not a regular file, empty, too large, or it can't be read
	FileWhole  = 1 // the content follows, all Before.Size bytes of it
	FileFailed = 2 // it can't be described; asking for it alone says why
)

// FileHead says what a file was before and after it was read.
type FileHead struct {
	State         uint8
	Before, After Stat // After is zero without the content, and where the file can't be described any more
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
