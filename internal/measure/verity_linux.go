package measure

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/rats"
)

// measureVerity is FS_IOC_MEASURE_VERITY, _IOWR('f', 134, struct fsverity_digest), of linux/fsverity.h.
const measureVerity = 0xc0046686

// openVerity opens what the kernel says is a regular file's fs-verity digest.
func (l local) openVerity(path []byte) (int32, rats.Code) {
	fd, code := l.Open(path, OpenFile)
	if code != "" {
		return -1, code
	}
	defer l.Close(fd)
	var d struct {
		alg, size uint16
		digest    [64]byte
	}
	d.size = uint16(len(d.digest))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), measureVerity, uintptr(unsafe.Pointer(&d)))
	switch {
	case errno == 0 && int(d.size) <= len(d.digest):
		return inMemory(append(binary.LittleEndian.AppendUint16(nil, d.alg), d.digest[:d.size]...))
	case errors.Is(errno, unix.ENODATA), errors.Is(errno, unix.ENOTTY), errors.Is(errno, unix.EOPNOTSUPP), errors.Is(errno, unix.EOVERFLOW):
		return -1, CodeVerity.Code
	default:
		return -1, codeOf(errno)
	}
}
