//go:build wasip1

package main

import (
	"context"
	"fmt"
	"hash"

	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/measuring/entry"
)

// task is a run. It goes on in calls of step, each of which lets it make a number of OCALLs.
type task struct {
	cancel context.CancelFunc
	turn   chan struct{} // the run's goroutine may go on
	rest   chan struct{} // it wants its next turn, or has ended
	left   int           // OCALLs of this turn
	until  int64         // end of this turn, by the monitor's clock
	ended  bool
	box    []byte
	err    error
}

// What one turn may take. A monitor grants a call a million OCALLs and a minute.
const (
	turnCalls = 100_000
	turnNanos = 2e9
)

func doBegin(in entry.Task) (entry.Progress, error) {
	if err := started(); err != nil {
		return entry.Progress{}, err
	}
	if job != nil && !job.ended {
		return entry.Progress{}, measure.CodeBusy.Missing("enclave", "", "")
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &task{cancel: cancel, turn: make(chan struct{}), rest: make(chan struct{})}
	manifest, order := append([]byte(nil), in.Manifest...), append([]byte(nil), in.Order...)
	job = t
	go func() {
		<-t.turn
		t.box, t.err = enclave.Run(ctx, manifest, order)
		t.ended = true
		t.rest <- struct{}{}
	}()
	return doStep(sdk.None{})
}

func doStep(sdk.None) (entry.Progress, error) {
	if job == nil || job.ended {
		return entry.Progress{}, entry.CodeIdle.Missing("run", "one that goes on", "none")
	}
	job.resume()
	if !job.ended {
		return entry.Progress{}, nil
	}
	if err := job.err; err != nil {
		job = nil
		return entry.Progress{}, err
	}
	return entry.Progress{Done: true, Size: uint32(len(job.box))}, nil
}

// resume gives the run one turn.
func (t *task) resume() {
	t.left, t.until = turnCalls, sdk.Now().UnixNano()+turnNanos
	t.turn <- struct{}{}
	<-t.rest
}

func doFetch(in entry.From) (out entry.Document, err error) {
	if job == nil || !job.ended || int64(in.Offset) >= int64(len(job.box)) {
		return out, entry.CodeIdle.Missing("report", "an offset within one", fmt.Sprint(in.Offset))
	}
	rest := job.box[in.Offset:]
	out.Bytes = rest[:min(len(rest), entry.Chunk)]
	if len(rest) <= entry.Chunk {
		job = nil // it was handed out
	}
	return out, nil
}

// doAbandon ends a run that nobody waits for: it looks at its context before every file and every read.
func doAbandon(sdk.None) (out sdk.None, err error) {
	for job != nil && !job.ended {
		job.cancel()
		job.resume()
	}
	job = nil
	return out, nil
}

// spend counts an OCALL of the run, and waits for its next turn when this one is used up.
func spend() {
	t := job
	if t == nil {
		return
	}
	if t.left--; t.left > 0 && (t.left%64 != 0 || sdk.Now().UnixNano() < t.until) {
		return
	}
	t.rest <- struct{}{}
	<-t.turn
}

// free are running hashes of the monitor's that are not in use.
var free = make(map[string][]*pooled)

// pooled is a hash that is used again when it was closed.
type pooled struct {
	hash.Hash
	alg string
}

func newHash(alg string) hash.Hash {
	if n := len(free[alg]); n > 0 {
		h := free[alg][n-1]
		free[alg] = free[alg][:n-1]
		h.Reset()
		return h
	}
	return &pooled{sdk.NewHash(alg), alg}
}

// Close implements io.Closer.
func (h *pooled) Close() error {
	free[h.alg] = append(free[h.alg], h)
	return nil
}
