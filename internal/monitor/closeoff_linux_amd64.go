package monitor

import "golang.org/x/sys/unix"

// What this architecture has besides, or in place of others.
const auditArch = unix.AUDIT_ARCH_X86_64

var (
	allowedHere = []uint32{unix.SYS_EPOLL_WAIT}
	openingHere = []uint32{unix.SYS_NEWFSTATAT}
)
