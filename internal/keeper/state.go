package keeper

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/rats"
)

// Files of the state directory.
const (
	rootFileName  = "root.json"
	orderFileName = "create.json" // an operator's order to make a root
	auditFileName = "audit.log"
	setsDir       = "sets"
	maxStateFile  = 64 << 10
	maxAudit      = 16 << 20
	maxSets       = 64
)

// disk is a directory that stays reachable when the root file system is switched under the process.
type disk struct{ root *os.Root }

// forbidden are the permission bits that others must not have.
func openDisk(dir string, forbidden fs.FileMode) (*disk, error) {
	// What lies above is for others too; a directory that is there keeps its mode.
	if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o755), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("making %s: %w", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	info, err := root.Stat(".")
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	if info.Mode().Perm()&forbidden != 0 {
		_ = root.Close()
		return nil, CodeState.Bad(dir, fmt.Sprintf("no permission of %04o", forbidden), fmt.Sprintf("%04o", info.Mode().Perm()))
	}
	return &disk{root: root}, nil
}

// open opens a regular file. Anything else is refused without waiting: whoever wrote to the disk before this boot could
// have left a pipe there, on which the keeper would hang before its cap.
func (d *disk) open(name string, flags int) (*os.File, error) {
	f, err := d.root.OpenFile(name, flags|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = CodeState.Bad(name, "a regular file", info.Mode().Type().String())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// read returns a file's content, nil if there is none.
func (d *disk) read(name string, limit int64) ([]byte, error) {
	f, err := d.open(name, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, CodeState.Bad(name, fmt.Sprintf("at most %d bytes", limit), "more")
	}
	return b, nil
}

// write replaces a file durably: after a crash there is the old content or the new.
func (d *disk) write(name string, content []byte) error {
	pending := name + ".new"
	f, err := d.open(pending, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := d.root.Rename(pending, name); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return d.sync()
}

// sync makes renamings and removals durable.
func (d *disk) sync() error {
	for _, dir := range []string{".", setsDir} {
		f, err := d.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return fmt.Errorf("syncing the state directory: %w", err)
		}
	}
	return nil
}

func (d *disk) remove(name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return d.sync()
}

// rootFile is what remains of a root between boots. Nothing in it opens the root by itself, unless it is simulated.
type rootFile struct {
	Version int         `json:"version"` // 1
	Root    rats.Digest `json:"root"`
	Class   string      `json:"class"`
	Launch  Launch      `json:"launch"`
	Epoch   []byte      `json:"epoch,omitempty"`
	NVIndex uint32      `json:"nv_index,omitempty"`
	Parent  []byte      `json:"parent,omitempty"`  // Name of the storage key
	Public  []byte      `json:"public,omitempty"`  // TPM2B_PUBLIC
	Private []byte      `json:"private,omitempty"` // TPM2B_PRIVATE
	Share   []byte      `json:"share,omitempty"`   // seed ⊕ the share in Escrow
	Escrow  []byte      `json:"escrow,omitempty"`  // the other share, sealed to the owner's recovery key
	Seed    []byte      `json:"seed,omitempty"`    // simulated only: the root itself
	Created time.Time   `json:"created"`
}

func (k *Keeper) readRoot() (*rootFile, error) {
	b, err := k.state.read(rootFileName, maxStateFile)
	if b == nil || err != nil {
		return nil, err
	}
	var r rootFile
	if err := strictJSON(b, &r); err != nil {
		return nil, CodeState.Bad(rootFileName, "JSON of known fields", err.Error())
	}
	want := k.class()
	switch {
	case r.Version != 1:
		return nil, CodeState.Bad(rootFileName, "version 1", fmt.Sprint(r.Version))
	case r.Root.Alg != "sha256" || r.Root.Check() != nil:
		return nil, CodeState.Bad(rootFileName, "a root", clip(r.Root.String()))
	case r.Class != want || r.Launch != k.cfg.Launch:
		return nil, CodeState.Bad(rootFileName, want+" root of launch "+string(k.cfg.Launch), clip(r.Class+" root of launch "+string(r.Launch)))
	case r.Class == RootSimulated && len(r.Seed) != seedSize:
		return nil, CodeState.Bad(rootFileName, "a seed", fmt.Sprintf("%d bytes", len(r.Seed)))
	case r.Class != RootSimulated && (len(r.Epoch) != epochSize || r.NVIndex != k.cfg.NVIndex):
		return nil, CodeState.Bad(rootFileName, fmt.Sprintf("an epoch, and NV index %#x", k.cfg.NVIndex), fmt.Sprintf("%d bytes, NV index %#x", len(r.Epoch), r.NVIndex))
	}
	return &r, nil
}

func (r *rootFile) encode() ([]byte, error) { return json.MarshalIndent(r, "", "  ") }

// Order is an operator's order to make a root at the next start. It replaces exactly the root it names: by default none.
type Order struct {
	Version  int          `json:"version"` // 1
	Replaces *rats.Digest `json:"replaces,omitempty"`
}

// WriteOrder leaves an order in a state directory.
func WriteOrder(dir string, replaces *rats.Digest) error {
	d, err := openDisk(dir, 0o077)
	if err != nil {
		return err
	}
	defer func() { _ = d.root.Close() }()
	b, err := json.Marshal(Order{Version: 1, Replaces: replaces})
	if err != nil {
		return err
	}
	return d.write(orderFileName, b)
}

func (k *Keeper) readOrder() (*Order, error) {
	b, err := k.state.read(orderFileName, maxStateFile)
	if b == nil || err != nil {
		return nil, err
	}
	var o Order
	if err := strictJSON(b, &o); err != nil || o.Version != 1 {
		return nil, CodeCreate.Bad(orderFileName, "an order of version 1", "something else")
	}
	return &o, nil
}

// fits says whether an order is for the root there is.
func (o *Order) fits(r *rootFile) bool {
	if r == nil || o.Replaces == nil {
		return r == nil && o.Replaces == nil
	}
	return o.Replaces.Equal(r.Root)
}

func setName(s Set) string {
	sum := sha256.Sum256(s.Signature)
	return fmt.Sprintf("%s/%020d-%s.json", setsDir, s.Revision, hex.EncodeToString(sum[:8]))
}

// sets returns the installed sets that the owner signed for this root, newest revision first. Others count for nothing.
func (k *Keeper) sets(r *rootFile) ([]Set, error) {
	dir, err := k.state.root.OpenFile(setsDir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the sets: %w", err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(4 * maxSets)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the sets: %w", err)
	}
	var out []Set
	for _, name := range names {
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		b, err := k.state.read(setsDir+"/"+name, maxSet)
		if err != nil {
			continue
		}
		if s, err := ParseSet(b); err == nil && k.belongs(s, r) == nil {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Set) int {
		if a.Revision != b.Revision {
			if a.Revision > b.Revision {
				return -1
			}
			return 1
		}
		return strings.Compare(setName(a), setName(b))
	})
	return out[:min(len(out), maxSets)], nil
}

// belongs says whether a set is signed by the owner and for this sealing of this root.
func (k *Keeper) belongs(s Set, r *rootFile) error {
	switch {
	case !s.Root.Equal(r.Root):
		return CodeSet.Bad("root", r.Root.String(), s.Root.String())
	case s.Launch != r.Launch || s.NVIndex != r.NVIndex || string(s.Epoch) != string(r.Epoch):
		return CodeSet.Bad("launch, nv_index, epoch", "those of this sealing", "others")
	}
	return s.Verify(k.cfg.owner)
}

// Entry is a line of the audit log. Each names the hash of the line before: a line can't be changed or cut out without
// changing all that follow; lines cut off at the end show only beside a copy.
type Entry struct {
	Time   time.Time   `json:"time"`
	Event  string      `json:"event"`
	Root   rats.Digest `json:"root,omitzero"`
	Detail string      `json:"detail,omitempty"`
	Prev   rats.Digest `json:"prev,omitzero"`
}

// maxPending bounds the entries that wait for a disk that can be written.
const maxPending = 16

// audit appends to the log, durably, before the effect that it tells of.
func (k *Keeper) audit(event string, root rats.Digest, detail string) error {
	if err := k.appendAudit(append(slices.Clone(k.pending), k.entry(event, root, detail))); err != nil {
		return err
	}
	k.pending = nil
	return nil
}

// note is an entry on which nothing depends. In the initramfs the root file system is read-only as a rule: then it is written as
// soon as somebody asks the keeper for anything and the disk can be written.
func (k *Keeper) note(event string, root rats.Digest, detail string) {
	if k.audit(event, root, detail) != nil && len(k.pending) < maxPending {
		k.pending = append(k.pending, k.entry(event, root, detail))
	}
}

// catchUp writes the entries that wait.
func (k *Keeper) catchUp() {
	if len(k.pending) > 0 && k.appendAudit(slices.Clone(k.pending)) == nil {
		k.pending = nil
	}
}

func (k *Keeper) entry(event string, root rats.Digest, detail string) Entry {
	return Entry{Time: k.now().UTC(), Event: event, Root: root, Detail: clip(detail)}
}

func (k *Keeper) appendAudit(entries []Entry) error {
	b, err := k.state.read(auditFileName, maxAudit)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	last := lines[len(lines)-1]
	var out []byte
	if len(b) > 0 && b[len(b)-1] != '\n' { // cut short by a crash
		out = append(out, '\n')
	}
	for _, e := range entries {
		if last != "" {
			e.Prev = rats.SHA256([]byte(last))
		}
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		last = string(line)
		out = append(append(out, line...), '\n')
	}
	f, err := k.state.open(auditFileName, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	_, err = f.Write(out)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	return nil
}
