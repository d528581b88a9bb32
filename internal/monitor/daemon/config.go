package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

// Where a daemon that is told nothing else finds its configuration and makes its socket.
const (
	DefaultConfig = "/etc/assay/monitor.json"
	DefaultSocket = "/run/assay-monitor/monitor.sock"
)

// Config is the daemon's configuration. Lists that are empty allow nothing.
type Config struct {
	Version int      `json:"version"` // 1
	Socket  string   `json:"socket,omitempty"`
	UIDs    []uint32 `json:"uids"` // users who may connect
	Root    Root     `json:"root"`
	SVN     uint16   `json:"svn"` // security version of this monitor, as the keeper's configuration has it

	Own     []rats.Digest `json:"own,omitempty"`     // MRSIGNERs of the operator's own enclaves
	Foreign []rats.Digest `json:"foreign,omitempty"` // MRSIGNERs of others: mode process only
	Debug   []rats.Digest `json:"debug,omitempty"`   // exact MRENCLAVEs that may run with DEBUG
	Modes   []string      `json:"modes"`             // inline, process

	Cache       string `json:"cache,omitempty"`        // directory of compiled modules; empty: memory only
	Memory      uint64 `json:"memory,omitempty"`       // bytes of an enclave's heap
	Seconds     int    `json:"seconds,omitempty"`      // of one call
	OCalls      int    `json:"ocalls,omitempty"`       // of one call
	MaxEnclaves int    `json:"max_enclaves,omitempty"` // of one connection
	MaxImage    int    `json:"max_image,omitempty"`    // bytes
}

// Root says where the monitor's key comes from: one of the two.
type Root struct {
	Keeper    string `json:"keeper,omitempty"`    // socket of the root keeper
	Simulated string `json:"simulated,omitempty"` // a file, made if it isn't there: marked simulated
}

const (
	maxConfig  = 64 << 10
	maxList    = 256
	maxSeconds = 24 * 3600
)

// ParseConfig reads a configuration strictly and fills in the defaults.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	if len(b) > maxConfig {
		return c, CodeConfig.Bad("", fmt.Sprintf("at most %d bytes", maxConfig), fmt.Sprint(len(b)))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(&c)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			err = nil
		} else {
			err = errors.New("more after the end")
		}
	}
	if err != nil {
		return Config{}, CodeConfig.Bad("", "JSON of known fields", err.Error())
	}
	if c.Socket == "" {
		c.Socket = DefaultSocket
	}
	return c, c.check()
}

func (c *Config) check() error {
	bad := func(path, expected string, seen any) error {
		return CodeConfig.Bad(path, expected, fmt.Sprintf("%.200v", seen))
	}
	for path, file := range map[string]string{"socket": c.Socket, "root.keeper": c.Root.Keeper, "root.simulated": c.Root.Simulated, "cache": c.Cache} {
		if file != "" && !filepath.IsAbs(file) {
			return bad(path, "an absolute path", file)
		}
	}
	switch {
	case c.Version != 1:
		return bad("version", "1", c.Version)
	case len(c.UIDs) == 0 || len(c.UIDs) > maxList:
		return bad("uids", fmt.Sprintf("1 to %d users", maxList), len(c.UIDs))
	case (c.Root.Keeper == "") == (c.Root.Simulated == ""):
		return bad("root", "either a keeper or a simulated root", c.Root)
	case c.SVN > enclave.MaxMonitorSVN:
		return bad("svn", fmt.Sprintf("at most %d", enclave.MaxMonitorSVN), c.SVN)
	case c.Root.Simulated != "" && c.Cache != "":
		return bad("cache", "none: whoever reads a simulated root could forge compiled modules", c.Cache)
	case len(c.Modes) == 0:
		return bad("modes", "inline, process", "none")
	case c.Seconds < 0 || c.Seconds > maxSeconds:
		return bad("seconds", fmt.Sprintf("0 to %d", maxSeconds), c.Seconds)
	case c.OCalls < 0 || c.MaxEnclaves < 0 || c.MaxImage < 0 || c.MaxImage > DefaultImage:
		return bad("ocalls, max_enclaves, max_image", fmt.Sprintf("none below 0, an image up to %d", DefaultImage), fmt.Sprint(c.OCalls, c.MaxEnclaves, c.MaxImage))
	}
	for _, m := range c.Modes {
		if m != abi.ModeInline.String() && m != abi.ModeProcess.String() {
			return bad("modes", "inline, process", m)
		}
	}
	for path, list := range map[string][]rats.Digest{"own": c.Own, "foreign": c.Foreign, "debug": c.Debug} {
		if len(list) > maxList {
			return bad(path, fmt.Sprintf("at most %d", maxList), len(list))
		}
		for i, d := range list {
			if d.Alg != "sha256" || d.Check() != nil {
				return bad(fmt.Sprintf("%s[%d]", path, i), "sha256:…", d)
			}
		}
	}
	return nil
}

func (c Config) has(m abi.Mode) bool { return slices.Contains(c.Modes, m.String()) }

// policy is the launch policy. Without inline, own signers are treated as foreign ones: mode process is what both have.
func (c Config) policy() monitor.Policy {
	sums := func(list []rats.Digest) (out [][32]byte) {
		for _, d := range list {
			out = append(out, [32]byte(d.Sum))
		}
		return out
	}
	p := monitor.Policy{Own: sums(c.Own), Foreign: sums(c.Foreign), Debug: sums(c.Debug)}
	if !c.has(abi.ModeInline) {
		p.Own, p.Foreign = nil, append(p.Foreign, p.Own...)
	}
	return p
}
