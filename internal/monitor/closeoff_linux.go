package monitor

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/enclave/abi"
)

// closeOff gives up what the process of an enclave doesn't need, for all its threads and for good, and returns what is true
// of it afterwards. Seccomp and no-new-privs are a condition. Landlock is where the kernel has it, and where the program is
// built without cgo, which keeps the runtime from speaking for all threads. readable is a folder that stays readable, or
// negative; what comes of it ends with closeFiles.
func closeOff(readable int) (abi.Isolation, error) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return 0, fmt.Errorf("forbidding dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("forbidding dumps: %w", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil { // seccomp makes it so for the other threads
		return 0, fmt.Errorf("giving up new privileges: %w", err)
	}
	facts := abi.IsolationNoNewPrivs | abi.IsolationSeccomp
	if err := landlock(readable); err == nil {
		facts |= abi.IsolationLandlock
	} else if !errors.Is(err, errNoLandlock) && !errors.Is(err, unix.EOPNOTSUPP) { // with cgo
		return 0, err
	}
	return facts, seccomp(readable >= 0)
}

// closeFiles ends the opening of files, before any code of the enclave is run.
func closeFiles() error { return seccomp(false) }

// All rights of Landlock's first version, and the one to truncate of its third: asking for a right that the kernel doesn't
// know is refused, and seccomp denies what later versions added (sockets, device control, signals).
const (
	landlockFirst    = 1<<13 - 1
	landlockTruncate = 1<<14 | 1<<13 // refer, truncate
	landlockReadable = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
)

var errNoLandlock = errors.New("there is no Landlock")

// landlock forbids all files but those below readable, which can be read.
func landlock(readable int) error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return fmt.Errorf("%w: %w", errNoLandlock, errno) // EPERM: a container's own filter forbids to ask
	}
	handled := uint64(landlockFirst)
	if version >= 3 {
		handled |= landlockTruncate
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		return fmt.Errorf("giving up new privileges: %w", errno)
	}
	rules, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if errno != 0 {
		return fmt.Errorf("making Landlock's rules: %w", errno)
	}
	defer unix.Close(int(rules))
	if readable >= 0 {
		path := unix.LandlockPathBeneathAttr{Allowed_access: landlockReadable, Parent_fd: int32(readable)}
		if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, rules, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&path)), 0, 0, 0); errno != 0 {
			return fmt.Errorf("making Landlock's rules: %w", errno)
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0, 0); errno != 0 {
		return fmt.Errorf("restricting files: %w", errno)
	}
	return nil
}

// allowed are the system calls that the Go runtime and the engine make in a process that computes and nothing else.
var allowed = append([]uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_CLOSE, unix.SYS_FUTEX, unix.SYS_MMAP, unix.SYS_MUNMAP,
	unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP,
	unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_SET_ROBUST_LIST,
	unix.SYS_RSEQ, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RESTART_SYSCALL, unix.SYS_GETRANDOM, unix.SYS_FCNTL,
	unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2, unix.SYS_FSTAT, unix.SYS_LSEEK, unix.SYS_SECCOMP, unix.SYS_BRK, unix.SYS_MREMAP, unix.SYS_GETTIMEOFDAY, unix.SYS_SET_TID_ADDRESS,
}, allowedHere...)

// opening are the calls by which the engine finds compiled code.
var opening = append([]uint32{unix.SYS_OPENAT, unix.SYS_READLINKAT}, openingHere...)

// harmless are calls of the runtime that are denied without ending the process.
var harmless = []uint32{unix.SYS_PRCTL, unix.SYS_PRLIMIT64, unix.SYS_OPENAT, unix.SYS_FADVISE64, unix.SYS_MEMBARRIER, unix.SYS_SYSINFO, unix.SYS_UNAME}

// Parts of seccomp's data (linux/seccomp.h): number, architecture, then instruction pointer and arguments.
const (
	dataNumber = 0
	dataArch   = 4
	dataFlags  = 16 // the low half of the first argument
)

// seccomp ends the process at the first system call that isn't in the lists. New threads are let be, processes aren't.
func seccomp(files bool) error {
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	ret := func(what uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what}
	}
	unless := func(op uint16, k uint32) unix.SockFilter { // skips the next instruction unless it holds
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jf: 1, K: k}
	}
	const kill, allow = unix.SECCOMP_RET_KILL_PROCESS, unix.SECCOMP_RET_ALLOW
	p := []unix.SockFilter{
		load(dataArch), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: auditArch}, ret(kill),
		load(dataNumber),
	}
	numbers := allowed
	if files {
		numbers = append(append([]uint32(nil), allowed...), opening...)
	}
	for _, n := range numbers {
		p = append(p, unless(unix.BPF_JEQ, n), ret(allow))
	}
	for _, n := range harmless {
		p = append(p, unless(unix.BPF_JEQ, n), ret(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)))
	}
	// The flags of clone3 lie in memory; who is told that there is no such call uses clone.
	p = append(p, unless(unix.BPF_JEQ, unix.SYS_CLONE3), ret(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: unix.SYS_CLONE}, ret(kill),
		load(dataFlags), unless(unix.BPF_JSET, unix.CLONE_THREAD), ret(allow), ret(kill))
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(p)
	if errno != 0 {
		return fmt.Errorf("filtering system calls: %w", errno)
	}
	return nil
}
