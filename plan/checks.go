package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kinds of tests that measure something else than files' contents.
const (
	KindCommand = "command" // what a program prints
	KindCheck   = "check"   // one of the named checks of Checks
)

// Bounds of commands and checks.
const (
	MaxArgv          = 64   // elements of a command
	MaxArgvBytes     = 2048 // of them all
	MaxPattern       = 1024 // bytes of a pattern
	MaxCommandOutput = 16 << 20
	MaxValue         = 4096 // bytes of an outcome's value
)

// CommandArgs are the arguments of KindCommand: a program by its absolute path and its arguments, run without a shell, with
// an environment of PATH and Env alone. With Match the outcome says whether the RE2 pattern is found in the output, and
// nothing else of it; without, it is the output's digest.
type CommandArgs struct {
	Argv   []string      `json:"argv"`
	Env    []string      `json:"env,omitempty"`    // NAME=value; names: LANG, LC_ALL, TZ
	Match  string        `json:"match,omitempty"`  // RE2
	Status bool          `json:"status,omitempty"` // the exit status is part of what is measured; else one above 0 is an error
	Bytes  int64         `json:"bytes,omitempty"`  // most it may print; 0: 1 MiB
	Time   time.Duration `json:"time,omitempty"`   // most it may take; 0: 10 s
}

// Environment is the allow-list of variables a command may be given.
var Environment = []string{"LANG", "LC_ALL", "TZ"}

// CheckArgs are the arguments of KindCheck. Which of them a check takes is in Checks.
type CheckArgs struct {
	Check    string   `json:"check"`
	Paths    []string `json:"paths,omitempty"`   // absolute, clean, text form
	Exclude  []string `json:"exclude,omitempty"` // likewise; anchored
	Names    []string `json:"names,omitempty"`
	Switches []string `json:"switches,omitempty"` // ascending
	Disclose bool     `json:"disclose,omitempty"` // values leave the machine too, up to MaxValue bytes each
}

// CheckInfo describes a named check.
type CheckInfo struct {
	Title    string
	Paths    bool     // takes paths and exclude
	Names    bool     // needs names
	Switches []string // that it knows, ascending
}

// Checks are the named checks, by name.
var Checks = map[string]CheckInfo{
	"authorized-keys":   {Title: "SSH keys that may log in", Paths: true},
	"bpf":               {Title: "BPF programs held by processes or pinned", Paths: true},
	"code":              {Title: "code segments of running processes against their files", Switches: []string{"disk", "mapped"}},
	"command-line":      {Title: "the kernel's command line, by parameter"},
	"executables":       {Title: "processes whose program was deleted or replaced", Switches: []string{"list"}},
	"listening-sockets": {Title: "sockets that wait for peers", Switches: []string{"owners", "raw", "udp", "unix"}},
	"modules":           {Title: "kernel modules with taint, source version and build id; lockdown and taint of the kernel"},
	"mounts":            {Title: "what is mounted where, and how", Paths: true},
	"preload":           {Title: "libraries forced on processes by ld.so.preload, LD_PRELOAD or LD_AUDIT"},
	"setuid-files":      {Title: "files that run with another's rights", Paths: true, Switches: []string{"capabilities"}},
	"sysctls":           {Title: "kernel parameters", Names: true},
	"systemd-units":     {Title: "unit files, drop-ins and the links that enable them", Paths: true},
	"uid-0-users":       {Title: "accounts with all rights", Paths: true},
}

// CheckNames returns the names of all checks, ascending.
func CheckNames() []string { return slices.Sorted(maps.Keys(Checks)) }

// NewCommand makes a test of KindCommand.
func NewCommand(id uint32, alg string, a CommandArgs) (Test, error) {
	return newTest(id, KindCommand, alg, a)
}

// NewCheck makes a test of KindCheck. Switches may come in any order.
func NewCheck(id uint32, alg string, a CheckArgs) (Test, error) {
	a.Switches = slices.Sorted(slices.Values(a.Switches))
	return newTest(id, KindCheck, alg, a)
}

func newTest(id uint32, kind, alg string, args any) (Test, error) {
	b, err := json.Marshal(args)
	if err != nil {
		return Test{}, fmt.Errorf("encoding a test's arguments: %w", err)
	}
	t := Test{ID: id, Kind: kind, Alg: alg, Args: b}
	_, err = t.Scope()
	return t, err
}

// commandScope reads the arguments of a command.
func commandScope(args json.RawMessage) (Scope, error) {
	a := new(CommandArgs)
	if err := strict(args, a); err != nil {
		return Scope{}, err
	}
	size := 0
	for _, s := range append(slices.Clone(a.Argv), a.Env...) {
		if strings.IndexByte(s, 0) >= 0 {
			return Scope{}, fmt.Errorf("a zero byte in an argument")
		}
		size += len(s)
	}
	switch {
	case len(a.Argv) == 0 || len(a.Argv) > MaxArgv || len(a.Env) > len(Environment) || size > MaxArgvBytes:
		return Scope{}, fmt.Errorf("%d arguments of %d bytes; 1 to %d of at most %d", len(a.Argv), size, MaxArgv, MaxArgvBytes)
	case CheckPath([]byte(a.Argv[0])) != nil:
		return Scope{}, fmt.Errorf("program %q: %w", clip(a.Argv[0]), CheckPath([]byte(a.Argv[0])))
	case a.Bytes < 0 || a.Bytes > MaxCommandOutput || a.Time < 0:
		return Scope{}, fmt.Errorf("limits of %d bytes and %s; at most %d bytes", a.Bytes, a.Time, MaxCommandOutput)
	case len(a.Match) > MaxPattern:
		return Scope{}, fmt.Errorf("pattern of %d bytes, at most %d", len(a.Match), MaxPattern)
	}
	for i, e := range a.Env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || !slices.Contains(Environment, name) || slices.ContainsFunc(a.Env[:i], func(o string) bool { return strings.HasPrefix(o, name+"=") }) {
			return Scope{}, fmt.Errorf("environment %q: once each, of %s", clip(e), strings.Join(Environment, ", "))
		}
	}
	if _, err := a.Pattern(); err != nil {
		return Scope{}, fmt.Errorf("pattern: %w", err)
	}
	return Scope{Kind: KindCommand, Path: []byte("command:" + label(append(slices.Clone(a.Env), a.Argv...))), Command: a}, nil
}

// Pattern returns Match as it is meant: ^ and $ stand at the ends of lines, for output has lines.
func (a *CommandArgs) Pattern() (*regexp.Regexp, error) { return regexp.Compile("(?m)" + a.Match) }

// label writes words so that different words have different labels.
func label(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "" || strings.ContainsAny(w, " \"\\'") || strconv.Quote(w) != `"`+w+`"` {
			out[i] = strconv.Quote(w)
		}
	}
	return strings.Join(out, " ")
}

// checkScope reads the arguments of a named check.
func checkScope(args json.RawMessage) (Scope, error) {
	a := new(CheckArgs)
	if err := strict(args, a); err != nil {
		return Scope{}, err
	}
	info, ok := Checks[a.Check]
	switch {
	case !ok:
		return Scope{}, fmt.Errorf("%w: check %q; there are %s", ErrUnknown, clip(a.Check), strings.Join(CheckNames(), ", "))
	case !info.Paths && len(a.Paths)+len(a.Exclude) > 0:
		return Scope{}, fmt.Errorf("check %s takes no paths", a.Check)
	case info.Names != (len(a.Names) > 0) || len(a.Names) > MaxExcludes:
		return Scope{}, fmt.Errorf("check %s: %d names", a.Check, len(a.Names))
	case len(a.Paths) > MaxExcludes || len(a.Exclude) > MaxExcludes:
		return Scope{}, fmt.Errorf("%d paths and %d excludes, at most %d", len(a.Paths), len(a.Exclude), MaxExcludes)
	}
	for i, s := range a.Switches {
		if !slices.Contains(info.Switches, s) || i > 0 && a.Switches[i-1] >= s {
			return Scope{}, fmt.Errorf("switch %q of check %s: once each, ascending, of %s", clip(s), a.Check, strings.Join(info.Switches, ", "))
		}
	}
	s := Scope{Kind: KindCheck, Path: []byte(a.Check + ":"), Check: a}
	for _, text := range a.Paths {
		if _, err := ParsePath(text); err != nil {
			return Scope{}, err
		}
	}
	for _, text := range a.Exclude {
		p, err := ParsePath(text)
		if err != nil {
			return Scope{}, fmt.Errorf("exclude: %w", err)
		}
		s.Exclude = append(s.Exclude, p)
	}
	for _, n := range a.Names {
		if n == "" || len(n) > 256 || strings.ContainsAny(n, "\x00\n") || strings.Contains("/"+strings.ReplaceAll(n, ".", "/")+"/", "//") {
			return Scope{}, fmt.Errorf("name %q", clip(n))
		}
	}
	return s, nil
}

// Has says whether a switch is on.
func (a *CheckArgs) Has(name string) bool { return slices.Contains(a.Switches, name) }

// Attributes that tests of files can measure beside contents.
const (
	AttrLinks  = "links"  // targets of symbolic links
	AttrMode   = "mode"   // permission bits, set-id and sticky bits
	AttrOwner  = "owner"  // uid and gid
	AttrXattrs = "xattrs" // all extended attributes: capabilities, labels, access lists
)

func checkAttributes(list []string) error {
	known := []string{AttrLinks, AttrMode, AttrOwner, AttrXattrs}
	for i, a := range list {
		if !slices.Contains(known, a) || i > 0 && list[i-1] >= a {
			return fmt.Errorf("attribute %q: once each, ascending, of %s", clip(a), strings.Join(known, ", "))
		}
	}
	return nil
}
