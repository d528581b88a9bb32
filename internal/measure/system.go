// Package measure runs plans: it reads what a plan names through six raw operations ([System]) and answers with digests,
// and it is the enclave that receives orders and signs what came of them ([Enclave]).
//
// It guarantees that outcomes are complete and in a fixed order: whatever a test should have read and didn't is an
// outcome with an error code, never left out (R034); that only files below the roots its owner allows are read; and that
// nothing but digests, sizes, names and codes leaves. The enclave of this package is a native one: it lives in an ordinary
// process, so whoever administers the machine can lie through it, and its reports say so (simulated). Its keys live in
// memory only and are new with every creation (R025).
//
// Everything but Local is code over System and builds for wasip1, so the same runner works inside an enclave whose System
// crosses to an untrusted host.
package measure

import (
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// System is the outside world as a runner sees it: raw operations only, every check is code over them. Paths are bytes.
// A code that is not empty says why an operation failed. Implementations are safe for concurrent use, but one descriptor
// is used by one goroutine at a time.
type System interface {
	// Open opens a regular file (OpenFile) or a directory (OpenDir) for reading; a symbolic link as the last element,
	// a device, FIFO or socket is refused. OpenLink and OpenXattrs open what is told of anything that has a path.
	Open(path []byte, flags uint32) (fd int32, code rats.Code)
	// ReadAt reads up to len(p) bytes at an offset; 0 bytes without a code is the end.
	ReadAt(fd int32, p []byte, off int64) (n int, code rats.Code)
	// Stat describes what a path names, following a symbolic link as the last element if told to. The one magic link that
	// is followed is /proc/PID/exe.
	Stat(path []byte, follow bool) (Stat, rats.Code)
	// List fills buf (at least ListBuffer bytes) with entries of a directory from a cookie on, 0 being the start; 0 bytes
	// without a code is the end. See Entry for the records.
	List(fd int32, cookie uint64, buf []byte) (n int, code rats.Code)
	// Exec runs a command (leading elements NAME=value are its environment) to its end, within the limits of bytes and time,
	// and returns a descriptor of u32 exit status, little-endian, ‖ its standard output.
	Exec(argv [][]byte, l plan.Limits) (fd int32, code rats.Code)
	// Close closes a descriptor.
	Close(fd int32)
}

// Flags of Open.
const (
	OpenFile   uint32 = 0
	OpenDir    uint32 = 1
	OpenLink   uint32 = 2 // what is read is the target of the symbolic link itself
	OpenXattrs uint32 = 4 // what is read is u16 length, name ‖ u32 length, value (little-endian) per extended attribute, by name
	OpenDirect uint32 = 8 // a regular file past the page cache: buffers, offsets and lengths are multiples of DirectAlign
)

// OpenVerity is one more flag of Open: what is read is u16 algorithm (1 SHA-256, 2 SHA-512; little-endian) ‖ digest, as
// fs-verity has it of a regular file.
const OpenVerity uint32 = 16

// DirectAlign is what reads past the page cache are aligned to, in bytes.
const DirectAlign = 4096

// Stat describes a file. Mode is as in stat(2), with the file type; times are nanoseconds since 1970.
type Stat struct {
	Mode, UID, GID uint32
	Size, CTime    int64
	Dev, Ino       uint64
}

// File types within Stat.Mode.
const (
	ModeType    = 0o170000
	ModeRegular = 0o100000
	ModeDir     = 0o040000
	ModeSymlink = 0o120000
)

// Codes of outcomes: why there is no digest.
var (
	CodeMissing    = outcome("measure.file.missing", "no such file", "the path does not exist, or vanished while the plan ran")
	CodeUnreadable = outcome("measure.file.unreadable", "file can't be read", "the agent needs the right to read what policy measures; check its user, its capabilities and the disk")
	CodeSymlink    = outcome("measure.file.symlink", "path is a symbolic link", "name the file the link leads to: links are not followed")
	CodeIrregular  = outcome("measure.file.irregular", "neither a regular file nor, where one is needed, a directory", "devices, FIFOs and sockets are never opened")
	CodeChanged    = outcome("measure.file.changed-while-read", "file changed while it was read", "measure again; exclude files that change all the time")
	CodePath       = outcome("measure.path.refused", "path lies outside what this machine lets be read", "the node's own list of readable roots decides; a symbolic link may lead out of them")
	CodeName       = outcome("measure.path.too-long", "path is longer than 4096 bytes", "exclude the directory")
	CodeFiles      = outcome("measure.limit.files", "test finds more files than the limits allow", "raise the policy's limit of files, or exclude directories")
	CodeBytes      = outcome("measure.limit.bytes", "more bytes to read than the limits allow", "raise the policy's limit of bytes, or exclude directories")
	CodeTime       = outcome("measure.limit.time", "time was up before the file was read", "raise the policy's limit of time, or measure less")
	CodeExec       = outcome("measure.exec.refused", "command is not allowed on this machine", "the node's own list of commands decides")
	CodeSystem     = outcome("measure.system.failed", "operating system failed the operation", "see the agent's log; too many open files or a broken disk")
	CodeStatus     = outcome("measure.exec.status", "command failed", "run it by hand; if its exit status is what you want to measure, set status")
	CodeOutput     = outcome("measure.exec.output", "command printed more than its limit", "raise the test's limit of bytes, or have it print less")
	CodeExecTime   = outcome("measure.exec.time", "command took longer than its limit", "it and its process group were killed; raise the test's limit of time")
	CodeDirect     = outcome("measure.file.direct", "file system can't be read past the page cache", "tmpfs and some others can't; leave direct or disk out")
	CodeContent    = outcome("measure.check.malformed", "what the system says of itself can't be understood", "update the agent; the kernel may be newer than the check, or lie")
	CodeKind       = outcome("measure.test.unsupported", "test of a kind or algorithm this runner doesn't know", "update the agent")
	CodePlatform   = outcome("measure.system.unsupported", "this build can't read the machine", "use the linux build")
)

func outcome(code rats.Code, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: code, Title: title, Hint: hint, Slot: rats.FileSystem}
}

// Codes lists what this package refuses with.
var Codes = []rats.CodeInfo{
	CodeMissing, CodeUnreadable, CodeSymlink, CodeIrregular, CodeChanged, CodePath, CodeName, CodeFiles, CodeBytes, CodeTime,
	CodeExec, CodeStatus, CodeOutput, CodeExecTime, CodeDirect, CodeChunks, CodeVerity, CodeContent, CodeSystem, CodeKind, CodePlatform,
	CodeManifest, CodeBusy,
}

// closed is a System that can do nothing.
type closed struct{}

func (closed) Open([]byte, uint32) (int32, rats.Code)        { return -1, CodePlatform.Code }
func (closed) ReadAt(int32, []byte, int64) (int, rats.Code)  { return 0, CodePlatform.Code }
func (closed) Stat([]byte, bool) (Stat, rats.Code)           { return Stat{}, CodePlatform.Code }
func (closed) List(int32, uint64, []byte) (int, rats.Code)   { return 0, CodePlatform.Code }
func (closed) Exec([][]byte, plan.Limits) (int32, rats.Code) { return -1, CodePlatform.Code }
func (closed) Close(int32)                                   {}
