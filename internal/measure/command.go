package measure

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Most a command gets if its limits don't say less.
const (
	DefaultOutput      = 1 << 20
	DefaultCommandTime = 10 * time.Second
)

// The values of a command with a pattern.
const (
	valueMatch   = "match"
	valueNoMatch = "no match"
)

// command runs a program and measures what it prints.
func (r *run) command(t plan.Test, s plan.Scope, files int64) section {
	if files < 1 {
		return whole(t, CodeFiles.Code)
	}
	o := plan.Outcome{Name: s.Path}
	start := r.clock()
	value, code := r.output(s.Command)
	o.Nanos = max(int64(r.clock().Sub(start)), 0)
	switch {
	case code != "":
		o.Err = code
	case s.Command.Match != "":
		o.Value = value // one of two: it tells no more than its digest
		fallthrough
	default:
		o.Digest, o.Size = r.sum(t.Alg, value), int64(len(value))
	}
	return section{outcomes: []plan.Outcome{o}}
}

// output returns what is measured of a command: its output, or whether the pattern is found in it; after a line "status N"
// if the status is asked for.
func (r *run) output(a *plan.CommandArgs) ([]byte, rats.Code) {
	pattern, err := a.Pattern()
	if err != nil {
		return nil, CodeKind.Code
	}
	var argv [][]byte
	for _, list := range [][]string{a.Env, a.Argv} {
		for _, s := range list {
			argv = append(argv, []byte(s))
		}
	}
	limits := plan.Limits{Bytes: a.Bytes, Time: a.Time}
	if limits.Time == 0 {
		limits.Time = DefaultCommandTime
	}
	if r.now != nil {
		left := r.deadline.Sub(r.now())
		if left <= 0 {
			return nil, CodeTime.Code
		}
		limits.Time = min(limits.Time, left)
	}
	limits.Time = min(limits.Time, r.limits.Time)
	fd, code := r.system.Exec(argv, limits)
	if code != "" {
		return nil, code
	}
	defer r.system.Close(fd)
	out, code := r.drain(fd, plan.MaxCommandOutput+4)
	if code != "" {
		return nil, code
	}
	if len(out) < 4 {
		return nil, CodeSystem.Code
	}
	status, out := binary.LittleEndian.Uint32(out), out[4:]
	if status != 0 && !a.Status {
		return nil, CodeStatus.Code
	}
	if a.Match != "" {
		found := pattern.Match(out)
		out = []byte(valueNoMatch)
		if found {
			out = []byte(valueMatch)
		}
	}
	if a.Status {
		out = append(fmt.Appendf(nil, "status %d\n", status), out...)
	}
	return out, ""
}
