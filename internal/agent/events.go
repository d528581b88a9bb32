package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/assay-attest/assay/client"
)

// The agent looks at a few things that change when the machine does, and asks to be challenged when one did. It decides
// nothing: the server grants a wish if the policy names the event and the last one is long enough ago. Whoever silences the
// agent, or changes the machine without touching these, is challenged when the node's period is over, as without them.
const (
	lookPause = time.Second
	// settled is how long a thing must have stayed as it is before the agent asks: a package manager writes many times.
	settled = 3 * time.Second
	// unsettled is how long the agent waits for that.
	unsettled = 30 * time.Second
	wishTime  = 10 * time.Second
	wishAgain = 15 * time.Second // after the server said that it was too soon
	maxLook   = 1 << 20
)

// watched is what an event is seen by. Paths of databases are looked at from outside (size, times, inode); files of the
// kernel have no such times and are read, the first word of each line only where lines also hold counters.
type watched struct {
	event  string // of package policy
	stat   []string
	read   []string
	firsts bool
}

var everything = []watched{
	{event: "packages", stat: []string{
		"/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages", "/usr/lib/sysimage/rpm/rpmdb.sqlite",
		"/usr/lib/sysimage/rpm/Packages.db", "/lib/apk/db/installed", "/usr/lib/apk/db/installed", "/var/lib/pacman/local",
	}},
	{event: "modules", read: []string{"/proc/modules"}, firsts: true},
	{event: "kexec", read: []string{"/sys/kernel/kexec_loaded", "/sys/kernel/kexec_crash_loaded"}},
}

// look returns a digest of what is seen now. What isn't there is a state like any other.
func (w watched) look(root string) [32]byte {
	h := sha256.New()
	for _, p := range w.stat {
		info, err := os.Stat(filepath.Join(root, p))
		if err != nil {
			fmt.Fprintf(h, "%s absent\n", p)
			continue
		}
		fmt.Fprintf(h, "%s %d %d %s\n", p, info.Size(), info.ModTime().UnixNano(), inode(info))
	}
	for _, p := range w.read {
		b, err := readSome(filepath.Join(root, p))
		if err != nil {
			fmt.Fprintf(h, "%s absent\n", p)
			continue
		}
		if w.firsts {
			lines := bytes.Split(b, []byte("\n"))
			for i, l := range lines {
				lines[i], _, _ = bytes.Cut(l, []byte(" "))
			}
			slices.SortFunc(lines, bytes.Compare)
			b = bytes.Join(lines, []byte("\n"))
		}
		fmt.Fprintf(h, "%s %d\n", p, len(b))
		h.Write(b)
	}
	return [32]byte(h.Sum(nil))
}

func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxLook))
}

// watching is where one event stands.
type watching struct {
	watched
	last    [32]byte
	changed time.Time // when it last changed and nothing was asked yet; zero: it didn't
	first   time.Time // when it first did
	notTill time.Time // the server was asked too soon
}

// due says whether to ask now, after looking at what is there.
func (w *watching) due(seen [32]byte, now time.Time) bool {
	if seen != w.last {
		w.last, w.changed = seen, now
		if w.first.IsZero() {
			w.first = now
		}
	}
	if w.changed.IsZero() || now.Before(w.notTill) {
		return false
	}
	return now.Sub(w.changed) >= settled || now.Sub(w.first) >= unsettled
}

// watch looks and asks until ctx ends.
func (a *agent) watch(ctx context.Context, root string) error {
	var all []*watching
	for _, w := range everything {
		all = append(all, &watching{watched: w, last: w.look(root)})
	}
	for {
		if err := sleep(ctx, lookPause); err != nil {
			return err
		}
		for _, w := range all {
			if !w.due(w.look(root), a.now()) {
				continue
			}
			err := a.wish(ctx, w.event)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var refused *client.Error
			if err == nil || errors.As(err, &refused) && refused.Problem.Status != http.StatusTooManyRequests {
				w.changed, w.first, w.notTill = time.Time{}, time.Time{}, time.Time{}
				continue
			}
			w.notTill = a.now().Add(wishAgain)
		}
	}
}

// wisher is an upstream that can be told of events.
type wisher interface {
	Wish(ctx context.Context, node, event string) error
}

func wish(ctx context.Context, u upstream, node, event string) error {
	if w, ok := u.(wisher); ok {
		return w.Wish(ctx, node, event)
	}
	return nil
}

func (a *agent) wish(ctx context.Context, event string) error {
	ctx, cancel := context.WithTimeout(ctx, wishTime)
	defer cancel()
	err := wish(ctx, a.upstream(), a.state.Node, event)
	if err != nil {
		a.log.Info("asked for an attestation, not granted", "event", event, "code", codeOf(err))
		return err
	}
	a.log.Info("asked for an attestation", "event", event)
	return nil
}
