package measure

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// maxXattrs bounds the extended attributes of one file; the kernel's own bound is 64 KiB of names and of each value.
const maxXattrs = 1 << 20

// openTold opens what is told of a path: a link's target, or extended attributes. It is read from memory.
func (l local) openTold(path []byte, flags uint32) (int32, rats.Code) {
	if bytes.IndexByte(path, 0) >= 0 {
		return -1, CodePath.Code
	}
	// With O_PATH and O_NOFOLLOW it is the link itself, a magic one too, and nothing happens to what is opened.
	fd, err := openat(string(path), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return -1, codeOf(err)
	}
	defer unix.Close(fd)
	if code := l.permitted(fd); code != "" {
		return -1, code
	}
	var data []byte
	if flags&OpenLink != 0 {
		var u unix.Stat_t
		if err := unix.Fstat(fd, &u); err != nil {
			return -1, codeOf(err)
		}
		if u.Mode&unix.S_IFMT != unix.S_IFLNK {
			return -1, CodeIrregular.Code
		}
		buf := make([]byte, plan.MaxName+1)
		n, err := unix.Readlinkat(fd, "", buf)
		switch {
		case err != nil:
			return -1, codeOf(err)
		case n == len(buf):
			return -1, CodeName.Code
		}
		data = buf[:n]
	} else if data, err = xattrs("/proc/self/fd/" + strconv.Itoa(fd)); err != nil {
		return -1, codeOf(err)
	}
	return inMemory(data)
}

// inMemory returns a descriptor of data.
func inMemory(data []byte) (int32, rats.Code) {
	fd, err := unix.MemfdCreate("assay", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, codeOf(err)
	}
	for len(data) > 0 {
		n, err := retry(func() (int, error) { return unix.Write(fd, data) })
		if err != nil {
			unix.Close(fd)
			return -1, codeOf(err)
		}
		data = data[n:]
	}
	return int32(fd), ""
}

// xattrs returns the extended attributes of path in OpenXattrs' form. One that vanishes meanwhile is ENODATA: a changed file.
func xattrs(path string) ([]byte, error) {
	names, err := sized(func(b []byte) (int, error) { return unix.Listxattr(path, b) })
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := bytes.Split(bytes.TrimSuffix(names, []byte{0}), []byte{0})
	slices.SortFunc(list, bytes.Compare)
	var out []byte
	for _, name := range list {
		if len(name) == 0 {
			continue
		}
		value, err := sized(func(b []byte) (int, error) { return unix.Getxattr(path, string(name), b) })
		if err != nil {
			return nil, err
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(len(name)))
		out = append(out, name...)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(value)))
		out = append(out, value...)
		if len(out) > maxXattrs {
			return nil, unix.E2BIG
		}
	}
	return out, nil
}

// sized asks for something whose size is asked for first, again if it grew in between.
func sized(get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		buf := make([]byte, n)
		if n, err = get(buf); err != unix.ERANGE {
			return buf[:max(n, 0)], err
		}
	}
}

// isExe says whether path is /proc/PID/exe, whose target may be described though not opened: what a process runs is known
// by the file itself, not by the name it had.
func isExe(path []byte) bool {
	rest, ok := bytes.CutPrefix(path, []byte("/proc/"))
	pid, ok2 := bytes.CutSuffix(rest, []byte("/exe"))
	if !ok || !ok2 || len(pid) == 0 {
		return false
	}
	for _, c := range pid {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
