package notify

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Settings are what the owner of a server permits webhooks and actions (server.json, notify). The zero value permits
// https to public addresses, and no command.
type Settings struct {
	// AllowHTTP permits webhooks without TLS. Bodies can then be read and changed on the way; signatures still show changes.
	AllowHTTP bool `json:"allow_http,omitempty"`
	// AllowNetworks are prefixes (10.1.0.0/16) of private addresses that webhooks may lead to.
	AllowNetworks []string `json:"allow_networks,omitempty"`
	// CAFile holds the authorities of webhooks' certificates, PEM; empty: the system's.
	CAFile string `json:"ca_file,omitempty"`
	// Commands are what actions may run, by name.
	Commands map[string]Command `json:"commands,omitempty"`
	// GiveUp is how old an event may be before a webhook that fails is no longer waited for; empty: 6h.
	GiveUp string `json:"give_up,omitempty"`
}

// Command is a command that actions may run: facts come on its standard input as JSON, never in its arguments.
type Command struct {
	Argv    []string `json:"argv"`              // the absolute path of a program, and its arguments
	Env     []string `json:"env,omitempty"`     // NAME=value; nothing else is in its environment
	Dir     string   `json:"dir,omitempty"`     // empty: /
	Timeout string   `json:"timeout,omitempty"` // empty: 30s; at most 5m
}

const (
	defaultGiveUp  = 6 * time.Hour
	defaultCommand = 30 * time.Second
	maxCommandTime = 5 * time.Minute
	maxCommands    = 100
)

var (
	commandName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	envName     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
)

// limits are checked settings.
type limits struct {
	networks []netip.Prefix
	roots    *x509.CertPool
	giveUp   time.Duration
	times    map[string]time.Duration
}

// check refuses settings that can't be used, rather than to find out when something has to be told.
func (s Settings) check() (limits, error) {
	l := limits{giveUp: defaultGiveUp, times: map[string]time.Duration{}}
	for _, n := range s.AllowNetworks {
		p, err := netip.ParsePrefix(n)
		if err != nil || p.Masked() != p {
			return l, CodeSettings.Bad("notify.allow_networks", "prefixes such as 10.1.0.0/16", clip(n))
		}
		l.networks = append(l.networks, p)
	}
	if s.GiveUp != "" {
		d, err := time.ParseDuration(s.GiveUp)
		if err != nil || d < 0 || d > 7*24*time.Hour {
			return l, CodeSettings.Bad("notify.give_up", "a duration up to 168h", clip(s.GiveUp))
		}
		l.giveUp = d
	}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return l, fmt.Errorf("reading the authorities of webhooks: %w", err)
		}
		l.roots = x509.NewCertPool()
		if !l.roots.AppendCertsFromPEM(pem) {
			return l, CodeSettings.Bad("notify.ca_file", "PEM certificates", "none")
		}
	}
	if len(s.Commands) > maxCommands {
		return l, CodeSettings.Bad("notify.commands", fmt.Sprintf("at most %d", maxCommands), fmt.Sprint(len(s.Commands)))
	}
	for name, c := range s.Commands {
		d, err := c.check(name)
		if err != nil {
			return l, err
		}
		l.times[name] = d
	}
	return l, nil
}

func (c Command) check(name string) (time.Duration, error) {
	at := "notify.commands." + clip(name)
	if !commandName.MatchString(name) {
		return 0, CodeSettings.Bad(at, "a name of letters, digits and hyphens", clip(name))
	}
	if len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0]) || strings.ContainsRune(strings.Join(c.Argv, ""), 0) {
		return 0, CodeSettings.Bad(at+".argv", "the absolute path of a program, and its arguments", clip(strings.Join(c.Argv, " ")))
	}
	for _, e := range c.Env {
		if !envName.MatchString(e) || strings.ContainsRune(e, 0) {
			return 0, CodeSettings.Bad(at+".env", "NAME=value", "something else")
		}
	}
	if c.Dir != "" && !filepath.IsAbs(c.Dir) {
		return 0, CodeSettings.Bad(at+".dir", "an absolute path", clip(c.Dir))
	}
	if c.Timeout == "" {
		return defaultCommand, nil
	}
	d, err := time.ParseDuration(c.Timeout)
	if err != nil || d <= 0 || d > maxCommandTime {
		return 0, CodeSettings.Bad(at+".timeout", "a duration up to "+maxCommandTime.String(), clip(c.Timeout))
	}
	return d, nil
}
