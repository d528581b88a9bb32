package agent

import (
	"fmt"
	"io/fs"
	"syscall"
)

// inode tells a file that was replaced from one that was not, whatever its times say.
func inode(info fs.FileInfo) string {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprint(s.Dev, " ", s.Ino, " ", s.Ctim.Sec, " ", s.Ctim.Nsec)
	}
	return ""
}
