package monitor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// privateDir is a folder in memory that is mounted nowhere: it has no name in any namespace and is reached through this
// process's descriptor alone. Making it needs the right to mount.
type privateDir struct {
	mount *os.File
	path  string
}

func newPrivateDir() (*privateDir, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a private folder: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "0700"); err != nil {
		return nil, fmt.Errorf("making a private folder: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("making a private folder: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a private folder: %w", err)
	}
	return &privateDir{mount: os.NewFile(uintptr(fd), "private"), path: fmt.Sprintf("/proc/self/fd/%d", fd)}, nil
}

func (d *privateDir) close() { _ = d.mount.Close() }

// file returns the folder's descriptor, which stays its own.
func (d *privateDir) file() *os.File { return d.mount }
