package daemon

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/keeper"
	"github.com/assay-attest/assay/rats"
)

// ConditionLocked is what a monitor says whose root keeper is gone: it goes on with the key it has, but nobody gets a key
// again before the machine, or with launch userspace the keeper, is started anew.
const ConditionLocked = "root-locked-until-reboot"

// keyring is where a monitor's key comes from.
type keyring struct {
	key       *enclave.MonitorKey
	platform  abi.Platform // with mode inline
	signing   *ecdsa.PrivateKey
	public    [64]byte
	events    []string // what the keeper measured into abi.KeyPCR, in this order
	simulated bool
	keeper    *keeperLink // nil: simulated
}

// openRoot gets the monitor's key.
func openRoot(ctx context.Context, c Config, random io.Reader, log *slog.Logger) (*keyring, error) {
	var k *keyring
	var err error
	if c.Root.Simulated != "" {
		k, err = simulatedRoot(c, random)
	} else {
		k, err = keptRoot(ctx, c, log)
	}
	if err != nil {
		return nil, err
	}
	if k.signing, err = k.key.AttestationKey(k.platform, ""); err != nil {
		return nil, err
	}
	k.public, err = enclave.AttestationPublic(&k.signing.PublicKey)
	return k, err
}

func (k *keyring) close() {
	k.key.Wipe()
	if k.keeper != nil {
		k.keeper.close()
	}
}

// simulatedRoot reads the root of a file, or makes the file.
func simulatedRoot(c Config, random io.Reader) (*keyring, error) {
	b, err := readSecret(c.Root.Simulated)
	if errors.Is(err, fs.ErrNotExist) {
		if b, err = makeSecret(c.Root.Simulated, random); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	defer clear(b)
	root, err := enclave.ParseRoot(b)
	if err != nil {
		return nil, CodeConfig.Bad("root.simulated", fmt.Sprintf("a file of %d bytes", enclave.RootSize), fmt.Sprint(len(b)))
	}
	defer root.Wipe()
	key, err := root.Monitor(c.SVN)
	if err != nil {
		return nil, err
	}
	p := abi.Platform{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: c.SVN}
	return &keyring{key: key, platform: p, simulated: true}, nil
}

func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading the simulated root: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the simulated root: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, CodeConfig.Bad("root.simulated", "a file of mode 0600", fmt.Sprintf("%04o", info.Mode().Perm()))
	}
	return io.ReadAll(io.LimitReader(f, enclave.RootSize+1))
}

// makeSecret writes a new root. Of two that are made at once one stays, and both are told which.
func makeSecret(file string, random io.Reader) ([]byte, error) {
	root, err := enclave.NewRoot(random)
	if err != nil {
		return nil, err
	}
	b := root.Bytes()
	root.Wipe()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("making a simulated root: %w", err)
	}
	pending, err := os.CreateTemp(filepath.Dir(file), ".root-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("making a simulated root: %w", err)
	}
	defer func() { _ = os.Remove(pending.Name()) }()
	_, err = pending.Write(b)
	clear(b)
	if err = errors.Join(err, pending.Sync(), pending.Close()); err != nil {
		return nil, fmt.Errorf("making a simulated root: %w", err)
	}
	if err := os.Link(pending.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making a simulated root: %w", err)
	}
	return readSecret(file)
}

// keptRoot asks the root keeper.
func keptRoot(ctx context.Context, c Config, log *slog.Logger) (*keyring, error) {
	l := &keeperLink{ctx: context.WithoutCancel(ctx), socket: c.Root.Keeper, log: log}
	status, err := l.status(ctx)
	if err == nil && status.State != keeper.StateReady && status.Reason != nil {
		err = &rats.MissingInput{Reason: *status.Reason}
	}
	if err != nil {
		l.close()
		return nil, err
	}
	k := &keyring{keeper: l}
	for _, e := range status.Boot.Events {
		if e.PCR == abi.KeyPCR {
			k.events = append(k.events, e.Text)
		}
	}
	if k.platform, err = status.Platform(); err == nil {
		k.key, err = l.monitorKey(c.SVN)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	k.platform.SVN = c.SVN
	k.simulated = k.platform.Root == abi.RootSimulated
	return k, nil
}

// keeperLink is the connection to the keeper. With launch userspace the keeper may be started again, so it is made anew.
type keeperLink struct {
	ctx    context.Context // of derivations: it doesn't end
	socket string
	log    *slog.Logger

	mu   sync.Mutex
	conn *keeper.Conn
	lost bool
}

const askLimit = 30 * time.Second

// with runs f on the connection, once more on a new one if it broke.
func (l *keeperLink) with(ctx context.Context, f func(ctx context.Context, c *keeper.Conn) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	err := error(nil)
	for range 2 {
		if l.conn == nil {
			if l.conn, err = keeper.Dial(ctx, l.socket); err != nil {
				l.conn = nil
				break
			}
		}
		if err = f(ctx, l.conn); !isLocked(err) && ctx.Err() == nil {
			break
		}
		_ = l.conn.Close()
		l.conn = nil
	}
	was := l.lost
	l.lost = isLocked(err)
	switch {
	case l.lost && !was:
		l.log.Error("the root keeper is gone", "condition", ConditionLocked, "code", keeper.CodeLocked.Code, "error", err)
	case !l.lost && was:
		l.log.Info("the root keeper answers again")
	}
	return err
}

func isLocked(err error) bool {
	r, ok := rats.ReasonOf(err)
	return ok && r.Code == keeper.CodeLocked.Code
}

func (l *keeperLink) status(ctx context.Context) (s keeper.Status, err error) {
	err = l.with(ctx, func(ctx context.Context, c *keeper.Conn) (err error) {
		s, err = c.Brief(ctx)
		return err
	})
	return s, err
}

// monitorKey returns the monitor's key, which asks for older versions' keys through this link.
func (l *keeperLink) monitorKey(svn uint16) (*enclave.MonitorKey, error) {
	return enclave.KeptMonitorKey(svn, func(svn uint16) (b []byte, err error) {
		err = l.with(l.ctx, func(ctx context.Context, c *keeper.Conn) (err error) {
			b, err = c.MonitorBytes(ctx, svn)
			return err
		})
		return b, err
	})
}

// condition looks after the keeper and says what is wrong with the root, "" if nothing is.
func (l *keeperLink) condition() string {
	if l == nil {
		return ""
	}
	_, _ = l.status(l.ctx) // which notes what it finds
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return ConditionLocked
	}
	return ""
}

// watch looks after the keeper until ctx ends, so that its loss is known before somebody needs it.
func (l *keeperLink) watch(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			_, _ = l.status(ctx) // which notes what it finds
		}
	}
}

func (l *keeperLink) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
}
