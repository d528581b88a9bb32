package monitor

import (
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// Errors of the system interface (WASI preview 1, errno).
const (
	errnoSuccess = 0
	errnoBadF    = 8
	errnoInval   = 28
	errnoNoSys   = 52
)

// wasi is the system interface as an enclave has it: the functions that a Go program can't do without, answered by the
// monitor, and all others denied. There are no files, arguments, variables or sockets; time and randomness are those of
// the leaf functions.
var wasi = denied(map[string]string{
	"clock_res_get": "ii", "fd_advise": "iIIi", "fd_allocate": "iII", "fd_close": "i", "fd_datasync": "i",
	"fd_fdstat_get": "ii", "fd_fdstat_set_flags": "ii", "fd_fdstat_set_rights": "iII", "fd_filestat_get": "ii",
	"fd_filestat_set_size": "iI", "fd_filestat_set_times": "iIIi", "fd_pread": "iiiIi", "fd_prestat_get": "ii",
	"fd_prestat_dir_name": "iii", "fd_pwrite": "iiiIi", "fd_read": "iiii", "fd_readdir": "iiiIi", "fd_renumber": "ii",
	"fd_seek": "iIii", "fd_sync": "i", "fd_tell": "ii", "path_create_directory": "iii", "path_filestat_get": "iiiii",
	"path_filestat_set_times": "iiiiIIi", "path_link": "iiiiiii", "path_open": "iiiiiIIii", "path_readlink": "iiiiii",
	"path_remove_directory": "iii", "path_rename": "iiiiii", "path_symlink": "iiiii", "path_unlink_file": "iii",
	"proc_raise": "i", "sock_accept": "iii", "sock_recv": "iiiiii", "sock_send": "iiiii", "sock_shutdown": "ii",
})

func denied(signatures map[string]string) map[string]function {
	m := map[string]function{
		"args_sizes_get":    leaf("ii", "i", nothing),
		"args_get":          leaf("ii", "i", func(context.Context, *guest, []uint64) uint64 { return errnoSuccess }),
		"environ_sizes_get": leaf("ii", "i", nothing),
		"environ_get":       leaf("ii", "i", func(context.Context, *guest, []uint64) uint64 { return errnoSuccess }),
		"clock_time_get":    leaf("iIi", "i", clock),
		"random_get":        leaf("ii", "i", random),
		"fd_write":          leaf("iiii", "i", write),
		"poll_oneoff":       leaf("iiii", "i", poll),
		"sched_yield":       leaf("", "i", func(context.Context, *guest, []uint64) uint64 { return errnoSuccess }),
		"proc_exit": leaf("i", "", func(_ context.Context, _ *guest, a []uint64) uint64 {
			trap(exited(api.DecodeI32(a[0])))
			return 0
		}),
	}
	for name, params := range signatures {
		errno := uint64(errnoNoSys)
		if name[:3] == "fd_" { // also how a Go program learns that it was given no folder
			errno = errnoBadF
		}
		m[name] = leaf(params, "i", func(context.Context, *guest, []uint64) uint64 { return errno })
	}
	return m
}

// exited is the code by which a program ended itself; a Go program that panics exits with 2.
type exited int32

func (e exited) Error() string { return "the program inside ended itself" }

// nothing writes two counts of zero.
func nothing(_ context.Context, t *guest, a []uint64) uint64 {
	clear(t.view(a[0], 4))
	clear(t.view(a[1], 4))
	return errnoSuccess
}

// clock answers every clock by the monitor's.
func clock(_ context.Context, t *guest, a []uint64) uint64 {
	binary.LittleEndian.PutUint64(t.view(a[2], 8), uint64(t.now().UnixNano()))
	return errnoSuccess
}

// write takes what the program prints: shown of an enclave with DEBUG, dropped of any other, since words of a panic can
// hold what the enclave keeps secret.
func write(_ context.Context, t *guest, a []uint64) uint64 {
	if a[0] != 1 && a[0] != 2 || a[2] > 1024 {
		return errnoBadF
	}
	list, total := t.view(a[1], 8*a[2]), uint32(0)
	for ; len(list) > 0; list = list[8:] {
		b := t.view(uint64(binary.LittleEndian.Uint32(list)), uint64(binary.LittleEndian.Uint32(list[4:])))
		total += uint32(len(b))
		if t.debug != nil {
			_, _ = t.debug.Write(b) // nobody may be listening
		}
	}
	binary.LittleEndian.PutUint32(t.view(a[3], 4), total)
	return errnoSuccess
}

// Layouts of poll_oneoff.
const (
	subscriptionSize = 48
	eventSize        = 32
	maxSubscriptions = 1024
)

// poll waits for the earliest of the clocks that are waited for, or the end of the call. Files have nothing to wait for.
func poll(ctx context.Context, t *guest, a []uint64) uint64 {
	if a[2] == 0 || a[2] > maxSubscriptions {
		return errnoInval
	}
	in, out := t.view(a[0], subscriptionSize*a[2]), t.view(a[1], eventSize*a[2])
	clear(out)
	start := time.Duration(t.now().UnixNano())
	due := func(s []byte) time.Duration { // from start; a file is answered at once
		if s[8] != 0 {
			return 0
		}
		d := time.Duration(min(binary.LittleEndian.Uint64(s[24:]), math.MaxInt64))
		if s[40]&1 != 0 { // a point in time
			d -= start
		}
		return d
	}
	wait := time.Duration(math.MaxInt64)
	for s := in; len(s) > 0; s = s[subscriptionSize:] {
		wait = min(wait, due(s))
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done(): // the code ends at its next look at the context
		}
	}
	n := uint32(0)
	for s := in; len(s) > 0; s = s[subscriptionSize:] {
		if due(s) > wait {
			continue
		}
		e := out[eventSize*n:]
		copy(e, s[:8])
		e[10] = s[8]
		if s[8] != 0 {
			binary.LittleEndian.PutUint16(e[8:], errnoBadF)
		}
		n++
	}
	binary.LittleEndian.PutUint32(t.view(a[3], 4), n)
	return errnoSuccess
}
