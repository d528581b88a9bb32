package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/assay-attest/assay/enclave/abi"
)

// DefaultConfig is where the configuration file lies if none is named; it need not exist.
const DefaultConfig = "/etc/assay/agent.yaml"

// Config is the configuration file of an agent: what its owner allows whoever signs plans (S05), and where things are.
type Config struct {
	Server string `yaml:"server"` // instead of the address joined at; the CA stays pinned
	// Servers are all that share one database; the agent goes to another one when its server fails.
	Servers []string `yaml:"servers"`
	TPM     string   `yaml:"tpm"`    // instead of the TPM joined with
	Socket  string   `yaml:"socket"` // empty: agent.sock in the state directory
	Allow   Allow    `yaml:"allow"`
	// Enclave is the measuring enclave. Left out: the native one, in the agent's own process, which is simulated.
	Enclave Enclave `yaml:"enclave"`
}

// Enclave says which image runs plans, and where.
type Enclave struct {
	Monitor   string `yaml:"monitor"`   // socket of the monitor
	Image     string `yaml:"image"`     // file
	Sigstruct string `yaml:"sigstruct"` // file
	Mode      string `yaml:"mode"`      // process (what it is if left out), inline
}

// Allow is what plans may touch on this machine.
type Allow struct {
	// Roots are the directories below which may be read, absolute. Left out: DefaultRoots; an empty list: none.
	Roots []string `yaml:"roots"`
	// Commands are the argument vectors that may be run, exactly as given. Left out or empty: none.
	Commands [][]string `yaml:"commands"`
}

// DefaultRoots is what may be read if the configuration says nothing: where system and boot software lies.
var DefaultRoots = []string{"/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/opt"}

// The bounds of a configuration file.
const (
	maxConfig      = 64 << 10
	maxRoots       = 256
	maxCommands    = 256
	maxCommandArgs = 64
)

// ReadConfig reads a configuration file. With an empty path it reads DefaultConfig, and is satisfied if there is none.
func ReadConfig(file string) (Config, error) {
	name := file
	if name == "" {
		name = DefaultConfig
	}
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && file == "":
		return ParseConfig(nil)
	case errors.Is(err, fs.ErrNotExist):
		return Config{}, CodeConfig.Missing(name, "a configuration file", "nothing")
	case err != nil:
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	return ParseConfig(b)
}

// ParseConfig reads the YAML of a configuration. Unknown fields, relative paths and a second document are refused; what
// is left out has its default.
func ParseConfig(b []byte) (Config, error) {
	if len(b) > maxConfig {
		return Config{}, CodeConfig.Bad("file", fmt.Sprintf("at most %d bytes", maxConfig), "more")
	}
	var c Config
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && err != io.EOF {
		return Config{}, CodeConfig.Bad("file", "YAML with the fields of docs/agent.md", clip(strings.TrimPrefix(err.Error(), "yaml: ")))
	}
	if err := d.Decode(new(yaml.Node)); err != io.EOF {
		return Config{}, CodeConfig.Bad("file", "one document", "more")
	}
	if c.Allow.Roots == nil {
		c.Allow.Roots = DefaultRoots
	}
	if err := c.Allow.check(); err != nil {
		return Config{}, err
	}
	if err := c.Enclave.check(); err != nil {
		return Config{}, err
	}
	if len(c.Servers) > maxServers || slices.Contains(c.Servers, "") {
		return Config{}, CodeConfig.Bad("servers", fmt.Sprintf("at most %d addresses", maxServers), "more, or an empty one")
	}
	if c.Socket != "" && !filepath.IsAbs(c.Socket) {
		return Config{}, CodeConfig.Bad("socket", "an absolute path", clip(c.Socket))
	}
	return c, nil
}

func (e Enclave) check() error {
	if e == (Enclave{}) {
		return nil
	}
	for _, f := range []struct{ name, value string }{{"monitor", e.Monitor}, {"image", e.Image}, {"sigstruct", e.Sigstruct}} {
		if !filepath.IsAbs(f.value) {
			return CodeConfig.Bad("enclave."+f.name, "an absolute path", clip(f.value))
		}
	}
	if e.Mode != "" && e.mode() == 0 {
		return CodeConfig.Bad("enclave.mode", "process or inline", clip(e.Mode))
	}
	return nil
}

// mode returns the mode that is asked for, 0 if there is no such mode.
func (e Enclave) mode() abi.Mode {
	for _, m := range []abi.Mode{abi.ModeProcess, abi.ModeInline} {
		if e.Mode == m.String() || e.Mode == "" {
			return m
		}
	}
	return 0
}

func (a Allow) check() error {
	if len(a.Roots) > maxRoots || len(a.Commands) > maxCommands {
		return CodeConfig.Bad("allow", fmt.Sprintf("at most %d roots and %d commands", maxRoots, maxCommands), "more")
	}
	for i, r := range a.Roots {
		if !path.IsAbs(r) || path.Clean(r) != r {
			return CodeConfig.Bad(fmt.Sprintf("allow.roots[%d]", i), "an absolute path without '.', '..' and trailing '/'", clip(r))
		}
	}
	for i, argv := range a.Commands {
		if len(argv) == 0 || len(argv) > maxCommandArgs || !path.IsAbs(argv[0]) {
			return CodeConfig.Bad(fmt.Sprintf("allow.commands[%d]", i), "an argument vector whose first element is an absolute path", clip(strings.Join(argv, " ")))
		}
	}
	return nil
}

// SocketPath is where the agent with this state directory and configuration has its local socket.
func (c Config) SocketPath(dir string) string {
	if c.Socket != "" {
		return c.Socket
	}
	return filepath.Join(dir, socketFile)
}
