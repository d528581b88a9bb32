package measure

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Local returns the System of this machine, with the rights of this process and without any restriction of its own: wrap
// it with Restrict. It needs openat2 (Linux 5.6) to keep off magic links and does without where a sandbox denies it.
func Local() System { return local{} }

// local is this machine. With permit it looks at the real path of everything it has opened, so that neither a symbolic
// link nor a rename in between leads out of what is permitted.
type local struct{ permit func(real []byte) bool }

// confine implements confiner.
func (l local) confine(permit func(real []byte) bool) System { return local{permit: permit} }

func (l local) Open(path []byte, flags uint32) (int32, rats.Code) {
	if flags&(OpenLink|OpenXattrs) != 0 {
		return l.openTold(path, flags)
	}
	if flags&OpenVerity != 0 {
		return l.openVerity(path)
	}
	fd, _, code := l.OpenDescribed(path, flags)
	return fd, code
}

// OpenDescribed implements describer. Flags that open what is told of a file don't belong here.
func (l local) OpenDescribed(path []byte, flags uint32) (int32, Stat, rats.Code) {
	if bytes.IndexByte(path, 0) >= 0 {
		return -1, Stat{}, CodePath.Code
	}
	want := uint32(unix.S_IFREG)
	how := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	if flags&OpenDir != 0 {
		want = unix.S_IFDIR
		how |= unix.O_DIRECTORY
	}
	if flags&OpenDirect != 0 {
		how |= unix.O_DIRECT
	}
	// Opening a device can have effects, so what it is is asked first; asked again of what was opened, it is certain.
	name := string(path)
	var u unix.Stat_t
	err := unix.Fstatat(unix.AT_FDCWD, name, &u, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	if err != nil || typeCode(u.Mode, want) != "" {
		st, code := l.Stat(path, false) // it takes no magic link, and what lies elsewhere it doesn't tell apart
		if code == "" {
			code = typeCode(st.Mode, want)
		}
		if code != "" {
			return -1, Stat{}, code
		}
	}
	fd, code := l.reach(name, how)
	if code != "" {
		return -1, Stat{}, code
	}
	st, code := l.Describe(int32(fd))
	if code == "" {
		code = typeCode(st.Mode, want)
	}
	if code != "" {
		unix.Close(fd)
		return -1, Stat{}, code
	}
	return int32(fd), st, ""
}

// reach opens what may be read. A path without a symbolic link leads where it says; behind one, where it leads is asked.
func (l local) reach(path string, flags int) (int, rats.Code) {
	if l.permit != nil && l.permit([]byte(path)) {
		fd, err := retry(func() (int, error) {
			return unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_NO_SYMLINKS})
		})
		if err == nil {
			return fd, ""
		}
	}
	fd, err := openat(path, flags)
	if err == unix.EINVAL && flags&unix.O_DIRECT != 0 {
		return -1, CodeDirect.Code
	}
	if err != nil {
		return -1, codeOf(err)
	}
	if code := l.permitted(fd); code != "" {
		unix.Close(fd)
		return -1, code
	}
	return fd, ""
}

func typeCode(mode, want uint32) rats.Code {
	switch mode & unix.S_IFMT {
	case want:
		return ""
	case unix.S_IFLNK:
		return CodeSymlink.Code
	default:
		return CodeIrregular.Code
	}
}

// openat opens without passing through magic links (/proc/…/fd, root, exe), which lead anywhere.
func openat(path string, flags int) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_NO_MAGICLINKS})
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		// An old kernel, or a sandbox that doesn't know the call. A file that denies itself is denied again here.
		return retry(func() (int, error) { return unix.Open(path, flags, 0) })
	}
	return fd, err
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// permitted says whether what fd has open may be read. Where its path can't be told, it may not.
func (l local) permitted(fd int) rats.Code {
	if l.permit == nil {
		return ""
	}
	buf := make([]byte, plan.MaxName+1)
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf)
	if err != nil || n == len(buf) || !l.permit(buf[:n]) {
		return CodePath.Code
	}
	return ""
}

func (l local) ReadAt(fd int32, p []byte, off int64) (int, rats.Code) {
	n, err := retry(func() (int, error) { return unix.Pread(int(fd), p, off) })
	if err != nil {
		return 0, codeOf(err)
	}
	return n, ""
}

func (l local) Stat(path []byte, follow bool) (Stat, rats.Code) {
	if bytes.IndexByte(path, 0) >= 0 {
		return Stat{}, CodePath.Code
	}
	flags := unix.O_PATH | unix.O_CLOEXEC
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	var fd int
	var code rats.Code
	if follow && isExe(path) {
		var err error
		if fd, err = retry(func() (int, error) { return unix.Open(string(path), flags, 0) }); err != nil {
			return Stat{}, codeOf(err)
		}
		if code = l.permitted(fd); code != "" {
			unix.Close(fd)
			return Stat{}, code
		}
	} else if fd, code = l.reach(string(path), flags); code != "" {
		return Stat{}, code
	}
	defer unix.Close(fd)
	return l.Describe(int32(fd))
}

// Describe implements describer.
func (l local) Describe(fd int32) (Stat, rats.Code) {
	var u unix.Stat_t
	if err := unix.Fstat(int(fd), &u); err != nil {
		return Stat{}, codeOf(err)
	}
	return Stat{
		Mode: u.Mode, UID: u.Uid, GID: u.Gid, Size: u.Size, CTime: u.Ctim.Nano(), Dev: uint64(u.Dev), Ino: u.Ino,
	}, ""
}

func (l local) List(fd int32, cookie uint64, buf []byte) (int, rats.Code) {
	if _, err := unix.Seek(int(fd), int64(cookie), 0); err != nil {
		return 0, codeOf(err)
	}
	page := pages.Get().(*[]byte)
	defer pages.Put(page)
	raw := (*page)[:min(len(buf), len(*page))]
	// An entry is shorter in our form than in the kernel's, so what fills raw fits buf. "." and ".." are left out; a
	// page that held nothing else is followed by the next one, since an empty answer means the end.
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(int(fd), raw) })
		if err != nil {
			return 0, codeOf(err)
		}
		if n == 0 {
			return 0, ""
		}
		if out := translate(raw[:n], buf[:0]); len(out) > 0 {
			return len(out), ""
		}
	}
}

// translate turns linux_dirent64 records (getdents64(2)) into entries.
func translate(raw, out []byte) []byte {
	const header = 19 // u64 inode, s64 offset, u16 length, u8 type
	for len(raw) >= header {
		size := int(binary.NativeEndian.Uint16(raw[16:]))
		if size < header || size > len(raw) {
			break
		}
		name := raw[header:size]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		if s := string(name); s != "." && s != ".." && s != "" {
			e := Entry{Next: binary.NativeEndian.Uint64(raw[8:]), Name: name, Type: EntryOther}
			switch raw[18] {
			case unix.DT_UNKNOWN:
				e.Type = EntryUnknown
			case unix.DT_REG:
				e.Type = EntryFile
			case unix.DT_DIR:
				e.Type = EntryDir
			case unix.DT_LNK:
				e.Type = EntrySymlink
			}
			out = e.append(out)
		}
		raw = raw[size:]
	}
	return out
}

func (l local) Close(fd int32) { _ = unix.Close(int(fd)) }

func codeOf(err error) rats.Code {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESRCH):
		return CodeMissing.Code
	case errors.Is(err, unix.ELOOP):
		return CodeSymlink.Code
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EIO):
		return CodeUnreadable.Code
	case errors.Is(err, unix.ENAMETOOLONG):
		return CodeName.Code
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.EISDIR):
		return CodeIrregular.Code
	default:
		return CodeSystem.Code
	}
}
