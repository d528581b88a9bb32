package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/rats"
)

// DefaultDir is the state directory of an agent that is told none.
const DefaultDir = "/var/lib/assay/agent"

const (
	stateFile      = "state.json"
	checkpointFile = "checkpoint.json"
	lockFile       = "lock"
	socketFile     = "agent.sock"
	maxState       = 1 << 20
)

// State is what an agent remembers of having joined. It holds no private key.
type State struct {
	Version     int         `json:"version"` // of this form: 1
	Server      string      `json:"server"`
	Namespace   string      `json:"namespace"`
	Node        string      `json:"node"` // id
	Name        string      `json:"name"`
	Verifier    rats.Digest `json:"verifier"`
	CAs         [][]byte    `json:"cas"`         // DER, the pinned set
	PlanSigner  []byte      `json:"plan_signer"` // SubjectPublicKeyInfo
	AKUnique    []byte      `json:"ak_unique"`   // of the AK's template: the TPM makes the same key again
	TLSUnique   []byte      `json:"tls_unique"`
	Certificate []byte      `json:"certificate"` // DER
	TPM         string      `json:"tpm,omitempty"`
}

const stateVersion = 1

// uniqueSize is the size in bytes of a template's unique value.
const uniqueSize = 32

func (s State) check() error {
	switch {
	case s.Version != stateVersion:
		return CodeStateMalformed.Bad("version", fmt.Sprint(stateVersion), fmt.Sprint(s.Version))
	case s.Server == "" || s.Namespace == "" || s.Node == "":
		return CodeStateMalformed.Bad("server, namespace, node", "all three", "an empty one")
	case s.Verifier.Check() != nil:
		return CodeStateMalformed.Bad("verifier", "a digest", clip(s.Verifier.String()))
	case len(s.CAs) == 0:
		return CodeStateMalformed.Bad("cas", "at least one certificate", "none")
	case len(s.PlanSigner) == 0:
		return CodeStateMalformed.Bad("plan_signer", "a public key", "none")
	case len(s.AKUnique) != uniqueSize || len(s.TLSUnique) != uniqueSize:
		return CodeStateMalformed.Bad("ak_unique, tls_unique", fmt.Sprintf("%d bytes", uniqueSize), "another size")
	case len(s.Certificate) == 0:
		return CodeStateMalformed.Bad("certificate", "DER", "nothing")
	}
	return nil
}

// LoadState reads the state of an agent that has joined. It refuses state that others than its owner can touch.
func LoadState(dir string) (State, error) {
	path := filepath.Join(dir, stateFile)
	for _, p := range []string{dir, path} {
		info, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return State{}, CodeStateMissing.Missing(path, "the state of a joined agent", "nothing")
		case err != nil:
			return State{}, fmt.Errorf("looking at the agent's state: %w", err)
		case info.Mode().Perm()&0o077 != 0:
			return State{}, CodeStateOpen.Bad(p, "no access for group and others", info.Mode().Perm().String())
		case info.Size() > maxState && p == path:
			return State{}, CodeStateMalformed.Bad(path, fmt.Sprintf("at most %d bytes", maxState), fmt.Sprint(info.Size()))
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return State{}, fmt.Errorf("reading the agent's state: %w", err)
	}
	return decodeState(b)
}

func decodeState(b []byte) (State, error) {
	var s State
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return State{}, CodeStateMalformed.Bad(stateFile, "JSON of an agent's state", clip(err.Error()))
	}
	if err := s.check(); err != nil {
		return State{}, err
	}
	return s, nil
}

// save replaces the state; after a crash there is the old one or the new one.
func (s State) save(dir string) error {
	if err := s.check(); err != nil {
		return err
	}
	return writeJSON(dir, stateFile, s)
}

// writeJSON replaces a file of the state directory: mode 0600, complete and durable or not at all.
func writeJSON(dir, name string, v any) (err error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	f, err := os.CreateTemp(dir, "."+name+"-*") // 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", name, err)
		}
	}()
	if _, err = f.Write(append(b, '\n')); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lock keeps a second agent from running with the same identity. The lock ends with the process.
func lock(dir string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the agent's state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, CodeStateLocked.Bad(dir, "no other agent", "a running one")
		}
		return nil, fmt.Errorf("locking the agent's state: %w", err)
	}
	return func() { f.Close() }, nil
}
