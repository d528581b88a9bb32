package agent

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

// remember keeps what the server told of this node, and logs what changed. Own says that it is the result of a submission
// of this process, so sealed to keys of this process.
func (a *agent) remember(t api.Told, own bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !own && a.told != nil && t.At.Before(a.told.At) {
		return // overtaken by the answer to a submission
	}
	before := a.told
	a.told = &t
	if own {
		a.fresh++
		close(a.changed)
		a.changed = make(chan struct{})
	}
	if before == nil || before.State != t.State || before.Verdict != t.Verdict {
		a.logVerdict(t)
	}
	if t.Checkpoint != nil {
		a.keepCheckpoint(*t.Checkpoint)
	}
}

func (a *agent) logVerdict(t api.Told) {
	if t.State == rats.StateTrusted || t.State == rats.StateWarning {
		a.log.Info("verdict", "verdict", clip(t.Verdict), "result", clip(t.ID), "expires", t.Expires)
		return
	}
	codes := make([]string, 0, len(t.Codes))
	for _, c := range t.Codes {
		if len(codes) == 32 {
			break
		}
		codes = append(codes, clip(string(c)))
	}
	a.log.Warn("verdict", "verdict", clip(t.Verdict), "result", clip(t.ID), "codes", codes)
}

func checkpointPath(dir string) string { return filepath.Join(dir, checkpointFile) }

// loadCheckpoint returns the newest head of the audit log this node was told, zero if there is none.
func (a *agent) loadCheckpoint() api.Checkpoint {
	var c api.Checkpoint
	b, err := os.ReadFile(checkpointPath(a.dir))
	if err != nil || json.Unmarshal(b, &c) != nil || c.Hash.Check() != nil {
		return api.Checkpoint{}
	}
	return c
}

// keepCheckpoint keeps the newest head and cries if the log went back or forked (S47). The mutex is held.
func (a *agent) keepCheckpoint(c api.Checkpoint) {
	old := a.checkpoint
	switch {
	case c.Hash.Check() != nil:
		return
	case c.Seq < old.Seq, c.Seq == old.Seq && !old.Hash.IsZero() && !old.Hash.Equal(c.Hash):
		a.log.Error("audit log went back", "code", string(CodeCheckpoint.Code), "kept_seq", old.Seq, "told_seq", c.Seq)
		return
	case c.Seq == old.Seq && !old.Hash.IsZero():
		return
	}
	a.checkpoint = c
	if err := writeJSON(a.dir, checkpointFile, c); err != nil {
		a.log.Error("keeping the checkpoint", "error", err.Error())
	}
}
