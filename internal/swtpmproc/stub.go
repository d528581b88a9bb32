// Package swtpmproc runs a software TPM process.
package swtpmproc

import (
	"context"
	"errors"
)

// Options of a process.
type Options struct{}

// Process is a running swtpm.
type Process struct{}

func StartProcess(ctx context.Context, dir string, opt Options) (*Process, error) {
	return nil, errors.New("not built yet")
}
func (p *Process) Path() string      { return "" }
func (p *Process) CACerts() [][]byte { return nil }
func (p *Process) Reset() error      { return nil }
func (p *Process) Stop() error       { return nil }
