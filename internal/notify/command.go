package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// What is kept of a command's output; more is read and dropped.
const maxOutput = 2 << 10

// killTime is how long a command's pipes may stay open after it was ended.
const killTime = 2 * time.Second

// passed is how many events may pass before the place among them is written although none was a command.
const passed = 2000

// commands runs what actions want run, one after another.
func (u *duty) commands(ctx context.Context, b *bell) {
	poke := b.add("")
	defer b.remove(poke)
	after, written := int64(-1), int64(0)
	for ctx.Err() == nil {
		more, err := u.commandRound(ctx, &after, &written)
		switch {
		case errors.Is(err, errLost):
			return
		case err != nil && ctx.Err() == nil:
			u.cfg.Log.Error("running the commands of actions", "namespace", u.namespace, "error", err)
			pause(ctx, time.Second, nil)
		case !more:
			pause(ctx, u.pace.look, poke)
		}
	}
}

type cursor struct {
	After int64 `json:"after"`
}

func (u *duty) commandRound(ctx context.Context, after, written *int64) (more bool, err error) {
	if *after < 0 {
		if err := u.commandPlace(ctx, after); err != nil {
			return false, err
		}
		*written = *after
	}
	var page []store.Event
	err = u.space.View(ctx, func(tx store.Tx) (err error) { page, err = tx.Events().After(*after, pageSize); return err })
	if err != nil {
		return false, err
	}
	for _, e := range page {
		if e.Kind == EventRun {
			if err := u.command(ctx, e); err != nil {
				return false, err
			}
			*written = e.Seq
		}
		*after = e.Seq
	}
	if *after-*written >= passed {
		err = u.update(ctx, func(tx store.Tx) error { return putItem(tx, itemCursor, "commands", cursor{*after}) })
		*written = *after
	}
	return len(page) == pageSize, err
}

// commandPlace is where an earlier holder of the lease, or an earlier run, stopped; at first the newest event.
func (u *duty) commandPlace(ctx context.Context, after *int64) error {
	var at cursor
	err := u.update(ctx, func(tx store.Tx) (err error) {
		at, err = getItem[cursor](tx, itemCursor, "commands")
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if at.After, err = tx.Events().Last(); err != nil {
			return err
		}
		return putItem(tx, itemCursor, "commands", at)
	})
	if err == nil {
		*after = at.After
	}
	return err
}

// ran is the event that says how a command ended.
type ran struct {
	Node     string       `json:"node"`
	Action   string       `json:"action"`
	Command  string       `json:"command"`
	Of       int64        `json:"of"` // the event that wanted it
	Severity string       `json:"severity"`
	Exit     int          `json:"exit"`
	Took     string       `json:"took"`
	Output   string       `json:"output,omitempty"` // the beginning, of both streams
	Reason   *rats.Reason `json:"reason,omitempty"`
}

// command runs what one event wants and writes how it ended. A server that dies meanwhile leaves it to the next one, who
// runs it again.
func (u *duty) command(ctx context.Context, e store.Event) error {
	var want struct {
		Node    string `json:"node"`
		Action  string `json:"action"`
		Command string `json:"command"`
	}
	if err := json.Unmarshal(e.Data, &want); err != nil {
		return fmt.Errorf("decoding event %d: %w", e.Seq, err)
	}
	out := ran{Node: want.Node, Action: want.Action, Command: want.Command, Of: e.Seq, Severity: policy.SeverityInfo}
	facts, err := json.Marshal(map[string]any{"namespace": u.namespace, "seq": e.Seq, "at": e.At.UTC(), "facts": e.Data})
	if err != nil {
		return fmt.Errorf("encoding the facts of event %d: %w", e.Seq, err)
	}
	begin := u.cfg.Now()
	err = u.exec(ctx, want.Command, facts, &out)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	out.Took = u.cfg.Now().Sub(begin).Round(time.Millisecond).String()
	if r, ok := rats.ReasonOf(err); ok {
		out.Reason, out.Severity = &r, policy.SeverityWarning
		u.cfg.Log.Warn("a command of an action failed", "namespace", u.namespace, "action", want.Action, "code", r.Code, "seen", r.Seen)
	} else if err != nil {
		return err
	}
	now := u.cfg.Now().UTC()
	return u.update(ctx, func(tx store.Tx) error {
		if err := emit(tx, now, EventRan, want.Node, out); err != nil {
			return err
		}
		detail := map[string]any{"action": want.Action, "command": want.Command, "of": e.Seq, "exit": out.Exit}
		if out.Reason != nil {
			detail["code"] = out.Reason.Code
		}
		if err := leaf(tx, now, "server", "action.run", want.Node, detail); err != nil {
			return err
		}
		return putItem(tx, itemCursor, "commands", cursor{e.Seq})
	})
}

// exec runs a command of the settings: no shell, nothing of the event in its arguments, its own environment only, bounded
// in time and output. Its errors are coded.
func (d *Dispatcher) exec(ctx context.Context, name string, facts []byte, out *ran) error {
	c, ok := d.settings.Commands[name]
	if !ok {
		return CodeCommandUnknown.Bad("command", "one of the server's settings", clip(name))
	}
	limit := d.limits.times[name]
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(within, c.Argv[0], c.Argv[1:]...)
	cmd.Env = append([]string{}, c.Env...) // not nil, which would be the server's own
	cmd.Dir = "/"
	if c.Dir != "" {
		cmd.Dir = c.Dir
	}
	said := &head{most: maxOutput}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(facts), said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children too
	cmd.WaitDelay = killTime
	err := cmd.Run()
	out.Output = strings.ToValidUTF8(string(said.kept), "?")
	var exit *exec.ExitError
	switch {
	case within.Err() != nil:
		out.Exit = -1
		return CodeCommandTimeout.Bad("command", "its end within "+limit.String(), clip(name))
	case err == nil:
		return nil
	case errors.As(err, &exit):
		out.Exit = exit.ExitCode()
		return CodeCommandFailed.Bad("command", "exit status 0", exit.Error())
	default:
		out.Exit = -1
		return CodeCommandFailed.Bad("command", "a program that can be started", clip(err.Error()))
	}
}

// head keeps the beginning of what is written, and takes the rest.
type head struct {
	kept []byte
	most int
}

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), h.most-len(h.kept))]...)
	return len(p), nil
}
