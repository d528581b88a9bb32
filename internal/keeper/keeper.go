package keeper

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

// Options of a keeper. Config, Rand and Now are needed.
type Options struct {
	Config Config // of ParseConfig
	Rand   io.Reader
	Now    func() time.Time
	// Image is the digest of the keeper's own executable, measured with launch initrd.
	Image rats.Digest
	// Measure returns the digest of a client's executable; nil reads it from /proc.
	Measure func(Peer) (rats.Digest, error)
	// Signer authorises a new root of launch userspace at once, for what is running: the owner's key lies on this machine.
	Signer   crypto.Signer
	Hardened Hardened // what Harden reached

	step func(string) error // a test's way to stop between two steps
}

// Keeper holds a root, or the reason why it doesn't. Its methods may be called from several goroutines.
type Keeper struct {
	cfg      Config
	rand     io.Reader
	now      func() time.Time
	measure  func(Peer) (rats.Digest, error)
	step     func(string) error
	signer   crypto.Signer
	image    rats.Digest
	hardened Hardened
	proc     int // open /proc, which moves when the root file system is switched

	state, runtime *disk

	mu        sync.Mutex
	dev       *tpm.Device // a device file stays open for the same reason; a socket serves one at a time
	seed      *vault      // nil: locked
	root      *rootFile   // nil: there is none
	reason    error       // why locked
	boot      Boot
	booted    *Set // what opened the root; nil if made or recovered in this boot
	created   bool
	recovered bool
	recovery  *sealed.Key // of this boot
	software  bool
	pending   []Entry // of the audit log, which can't be written yet
}

// Boot is what the keeper did to the PCRs of this boot, for verifiers to replay: each event extends its PCR, in every bank,
// with the bank's hash of the event's text.
type Boot struct {
	Before map[int]rats.Digest `json:"before"` // SHA-256 PCRs of the seal when the root was to be unsealed
	Events []Event             `json:"events,omitempty"`
	Capped bool                `json:"capped"`
}

// Event is an extend of a PCR.
type Event struct {
	PCR  int    `json:"pcr"`
	Text string `json:"text"`
}

// CapEvent is the text that the cap extends into every PCR of the seal.
const CapEvent = "assay:cap:1"

func capDigest() []byte {
	d := sha256.Sum256([]byte(CapEvent))
	return d[:]
}

// The states of a keeper.
const (
	StateReady  = "ready"
	StateLocked = "locked"
)

// Status says what the keeper holds and what it is worth.
type Status struct {
	State       string       `json:"state"`
	Reason      *rats.Reason `json:"reason,omitempty"` // why locked
	Root        rats.Digest  `json:"root,omitzero"`
	Class       string       `json:"class"`
	Launch      Launch       `json:"launch"`
	Marks       []string     `json:"marks,omitempty"`     // simulated, software-tpm
	Created     bool         `json:"created,omitempty"`   // made in this boot: its launch class is not proven by possession yet
	Recovered   bool         `json:"recovered,omitempty"` // by the escrowed share, in this boot
	Epoch       []byte       `json:"epoch,omitempty"`
	NVIndex     uint32       `json:"nv_index,omitempty"`
	Revision    uint64       `json:"revision,omitempty"`     // the counter now
	SetRevision uint64       `json:"set_revision,omitempty"` // of the set that opened the root
	Newest      uint64       `json:"newest,omitempty"`       // revision of the newest set installed
	Uncommitted bool         `json:"uncommitted,omitempty"`  // older sets still open
	Boot        Boot         `json:"boot"`
	Hardened    Hardened     `json:"hardened"`
	SecretMem   bool         `json:"secret_memory"` // memfd_secret
	CanRecover  bool         `json:"can_recover"`
}

func (k *Keeper) class() string {
	switch {
	case k.cfg.TPM == NoTPM:
		return RootSimulated
	case k.cfg.Launch == LaunchInitrd:
		return RootInitrdSealed
	default:
		return RootOSProtected
	}
}

// withTPM runs f with the TPM open.
func (k *Keeper) withTPM(ctx context.Context, f func(*tpm.Device) error) (err error) {
	if k.dev != nil {
		return f(k.dev)
	}
	dev, err := tpm.Open(ctx, k.cfg.TPM)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(dev.Path(), "unix:") {
		k.dev = dev
		return f(dev)
	}
	k.software = true
	defer func() { err = errors.Join(err, dev.Close()) }()
	return f(dev)
}

// Brief is Status without what only the TPM knows: the counter, and what follows from it.
func (k *Keeper) Brief() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.brief()
}

func (k *Keeper) brief() Status {
	k.catchUp()
	s := Status{
		State: StateLocked, Class: k.class(), Launch: k.cfg.Launch, Boot: k.boot,
		Created: k.created, Recovered: k.recovered, Hardened: k.hardened,
	}
	if k.seed != nil {
		s.State, s.SecretMem = StateReady, k.seed.secret
	} else if r, ok := rats.ReasonOf(k.reason); ok {
		s.Reason = &r
	} else if k.reason != nil {
		s.Reason = &rats.Reason{Title: k.reason.Error()}
	}
	if s.Class == RootSimulated {
		s.Marks = append(s.Marks, rats.MarkSimulated)
	}
	if k.software {
		s.Marks = append(s.Marks, rats.MarkSoftwareTPM)
	}
	if k.root != nil {
		s.Root, s.Epoch, s.NVIndex = k.root.Root, k.root.Epoch, k.root.NVIndex
		s.CanRecover = len(k.root.Escrow) > 0
	}
	if k.booted != nil {
		s.SetRevision = k.booted.Revision
	}
	return s
}

// Status reads the counter, so it talks to the TPM.
func (k *Keeper) Status(ctx context.Context) (Status, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.brief()
	if k.root == nil || s.Class == RootSimulated {
		return s, nil
	}
	sets, err := k.sets(k.root)
	if err != nil {
		return s, err
	}
	if len(sets) > 0 {
		s.Newest = sets[0].Revision
	}
	err = k.withTPM(ctx, func(dev *tpm.Device) error {
		v, err := dev.Counter(ctx, k.root.NVIndex)
		if errors.Is(err, tpm.ErrNoCounter) {
			return nil
		}
		s.Revision = v
		return err
	})
	s.Uncommitted = k.booted != nil && s.Revision < s.SetRevision
	return s, err
}

// Plan returns the set that would open the root at a boot with these PCR values at the moment of unsealing, to be signed
// by the owner; nil values are those of this boot. Once committed it makes every set of before worthless.
func (k *Keeper) Plan(ctx context.Context, pcrs map[int]rats.Digest) (Set, error) {
	st, err := k.Status(ctx)
	if err != nil {
		return Set{}, err
	}
	if st.Root.IsZero() || st.Class == RootSimulated || st.Revision == 0 {
		return Set{}, CodeSet.Missing("root", "a root in this TPM", "none")
	}
	return st.Plan(pcrs)
}

// Plan is Keeper.Plan for a status from elsewhere.
func (s Status) Plan(pcrs map[int]rats.Digest) (Set, error) {
	set := Set{Version: 1, Root: s.Root, Launch: s.Launch, Epoch: s.Epoch, NVIndex: s.NVIndex, PCRs: make(map[int]rats.Digest)}
	set.Revision = max(s.Revision, s.Newest) + 1
	for p, v := range s.Boot.Before {
		set.PCRs[p] = v
	}
	for p, v := range pcrs {
		if _, ok := set.PCRs[p]; !ok {
			return Set{}, CodeSet.Bad(fmt.Sprintf("pcrs.%d", p), "a PCR of the seal", "another")
		}
		set.PCRs[p] = v
	}
	return set, set.check()
}

// Install keeps a set that the owner signed for later boots.
func (k *Keeper) Install(s Set) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.install(s)
}

func (k *Keeper) install(s Set) error {
	if k.root == nil || k.class() == RootSimulated {
		return CodeSet.Missing("root", "a root in this TPM", "none")
	}
	if err := k.belongs(s, k.root); err != nil {
		return err
	}
	have, err := k.sets(k.root)
	if err != nil {
		return err
	}
	if len(have) >= maxSets {
		return CodeSet.Bad(setsDir, fmt.Sprintf("at most %d sets", maxSets), "more; commit, which removes dead ones")
	}
	b, err := s.Encode()
	if err != nil {
		return err
	}
	if err := k.audit("set-installed", s.Root, fmt.Sprintf("revision %d", s.Revision)); err != nil {
		return err
	}
	if err := k.state.root.MkdirAll(setsDir, 0o700); err != nil {
		return fmt.Errorf("making the directory of sets: %w", err)
	}
	return k.state.write(setName(s), b)
}

// maxIncrements bounds what one commit wears the TPM's flash.
const maxIncrements = 16

// Commit says that the set which opened the root in this boot is good: the counter rises to its revision, and sets of
// lower ones never open again. It returns the revision; done twice it does nothing.
func (k *Keeper) Commit(ctx context.Context) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seed == nil {
		return 0, k.locked()
	}
	if k.booted == nil {
		return 0, CodeCommit.Bad("set", "a root that was opened by a set", "one made or recovered in this boot")
	}
	var value uint64
	err := k.withTPM(ctx, func(dev *tpm.Device) (err error) {
		if value, err = dev.Counter(ctx, k.root.NVIndex); err != nil {
			return err
		}
		if value < k.booted.Revision && k.booted.Revision-value > maxIncrements {
			return CodeCommit.Bad("revision", fmt.Sprintf("at most %d above %d", maxIncrements, value), fmt.Sprint(k.booted.Revision))
		}
		password := counterPassword(k.seed.key())
		defer clear(password)
		for value < k.booted.Revision {
			if err := k.audit("commit", k.root.Root, fmt.Sprintf("revision %d to %d", value, value+1)); err != nil {
				return err
			}
			if value, err = dev.IncrementCounter(ctx, k.root.NVIndex, password); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return value, err
	}
	sets, err := k.sets(k.root)
	for _, s := range sets {
		if s.Revision < value {
			err = errors.Join(err, k.state.remove(setName(s)))
		}
	}
	return value, err
}

// Request asks for a derivation.
type Request struct {
	Label   string `json:"label"`             // what the key is for
	Context []byte `json:"context,omitempty"` // which of several
	SVN     uint16 `json:"svn"`               // the client's own, or older
	Size    int    `json:"size"`              // bytes
}

const maxContext = 4 << 10

// Derive returns a key of a client's; the caller wipes it. Keys differ with launch and root class (S15).
func (k *Keeper) Derive(c Client, r Request) ([]byte, error) {
	switch {
	case r.Label == "" || len(r.Label) > maxName || len(r.Context) > maxContext:
		return nil, CodeRequest.Bad("label, context", fmt.Sprintf("1 to %d and at most %d bytes", maxName, maxContext), fmt.Sprintf("%d and %d", len(r.Label), len(r.Context)))
	case r.Size < 16 || r.Size > MaxDerived:
		return nil, CodeRequest.Bad("size", fmt.Sprintf("16 to %d bytes", MaxDerived), fmt.Sprint(r.Size))
	case r.SVN > c.SVN:
		return nil, CodeSVN.Bad("svn", fmt.Sprintf("at most %d", c.SVN), fmt.Sprint(r.SVN))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seed == nil {
		return nil, k.locked()
	}
	root := rootAt(k.seed.key(), r.SVN)
	defer clear(root)
	return k.derived(root, c, r), nil
}

// derived is a key of a client's by the root of a version.
func (k *Keeper) derived(root []byte, c Client, r Request) []byte {
	return expand(root, r.Size, "key", []byte(k.cfg.Launch), []byte(k.class()), []byte(c.Name), []byte(r.Label), r.Context)
}

// locked is why there is no root.
func (k *Keeper) locked() error {
	if k.reason != nil {
		return k.reason
	}
	return CodeLocked.Missing("root", "a root", "the keeper was closed")
}

// client finds who a measured image is.
func (k *Keeper) client(image rats.Digest) (Client, error) {
	i := slices.IndexFunc(k.cfg.Clients, func(c Client) bool { return c.Image.Equal(image) })
	if i < 0 {
		return Client{}, CodeClient.Bad("image", fmt.Sprintf("one of %d in the configuration", len(k.cfg.Clients)), image.String())
	}
	return k.cfg.Clients[i], nil
}

// Close wipes the root. Nobody gets anything afterwards.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wipe()
	var err error
	if k.dev != nil {
		err = k.dev.Close()
		k.dev = nil
	}
	return errors.Join(err, k.state.root.Close(), k.runtime.root.Close(), k.closeProc())
}

func (k *Keeper) wipe() {
	k.seed.wipe()
	k.seed, k.recovery = nil, nil
}
