//go:build !linux

package monitor

import (
	"errors"
	"os"
)

// privateDir is a folder that only this process reaches; here there is none.
type privateDir struct{ path string }

func newPrivateDir() (*privateDir, error) {
	return nil, errors.New("this system has no folder that one process alone reaches")
}

func (d *privateDir) close() {}

func (d *privateDir) file() *os.File { return nil }
