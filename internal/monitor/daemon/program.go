package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

// Env is what the program takes from its process.
type Env struct {
	Args []string // with the program's name
	Err  io.Writer
	Now  func() time.Time
	Rand io.Reader
}

// Main is the program assay-monitor. It serves until ctx ends.
//
//	run [--config FILE]
func Main(ctx context.Context, env Env) int {
	if monitor.IsChild(env.Args) { // this process runs one enclave
		fmt.Fprintln(env.Err, monitor.Child(env.Rand, env.Now))
		return 1
	}
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.SetOutput(env.Err)
	file := flags.String("config", DefaultConfig, "configuration")
	err := errors.New("expected run")
	if len(env.Args) > 1 && env.Args[1] == "run" {
		if err = flags.Parse(env.Args[2:]); err == nil {
			err = Run(ctx, *file, env)
		}
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(env.Err, "assay-monitor: %v\n", err)
	return 1
}

// self is what mode process starts: this very program, even if its file was replaced meanwhile.
const self = "/proc/self/exe"

// watchEvery is how often the monitor looks whether the keeper is still there.
const watchEvery = 30 * time.Second

// Run is the daemon of a configuration file. The process is hardened before it has a key.
func Run(ctx context.Context, file string, env Env) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return errors.Join(CodeConfig.Bad(file, "a readable file", "none"), err)
	}
	c, err := ParseConfig(text)
	if err != nil {
		return err
	}
	facts, err := harden()
	if err != nil {
		return err
	}
	debug.SetTraceback("none") // a dump of stacks could show what an enclave holds
	log := slog.New(slog.NewTextHandler(env.Err, nil))
	root, err := openRoot(ctx, c, env.Rand, log)
	if err != nil {
		return err
	}
	defer root.close()
	if !slices.Contains(c.UIDs, uint32(os.Geteuid())) {
		facts |= abi.IsolationOwnUser
	}
	root.platform.Isolation = facts
	m, closed, err := newMonitor(ctx, c, root, env, log)
	if err != nil {
		return err
	}
	defer closed()
	ln, err := Listen(ctx, c.Socket)
	if err != nil {
		return err
	}
	log.Info("the monitor is ready", "socket", c.Socket, "root", root.platform.Root.String(), "launch", root.platform.Launch.String(),
		"version", c.SVN, "key", rats.SHA256(root.public[:]).String())
	if root.keeper != nil {
		go root.keeper.watch(ctx, watchEvery)
	}
	return Serve(ctx, ln, m, Options{UIDs: c.UIDs, MaxEnclaves: c.MaxEnclaves, MaxImage: c.MaxImage, Log: log, Info: root.info})
}

func (k *keyring) info() Info {
	return Info{Key: k.public, Platform: k.platform.CPUSVN(), Event: abi.KeyEvent(k.public).Text, Events: k.events, Condition: k.keeper.condition()}
}

// newMonitor makes the monitor of a configuration. What it signs as quotes are reports that enclaves asked for by their own
// leaf function: the application has no way to choose their report data.
func newMonitor(ctx context.Context, c Config, root *keyring, env Env, log *slog.Logger) (*monitor.Monitor, func(), error) {
	o := monitor.CompilerOptions{Log: log}
	if c.Cache != "" && !root.simulated {
		var err error
		if o.Key, err = monitor.CacheKey(root.key); err != nil {
			return nil, nil, err
		}
		o.Dir = c.Cache
	}
	compiler, err := monitor.NewCompiler(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	mc := monitor.Config{
		Key: root.key, Platform: root.platform, Policy: c.policy(), Compiler: compiler, Rand: env.Rand, Now: env.Now, Log: log, Debug: env.Err,
		Budget: monitor.Budget{Memory: c.Memory, Time: time.Duration(c.Seconds) * time.Second, OCalls: c.OCalls},
		Quote: func(_ context.Context, body abi.ReportBody) ([]byte, error) {
			q, err := enclave.Quote(env.Rand, body, root.signing)
			return q.Bytes(), err
		},
	}
	if c.has(abi.ModeProcess) {
		mc.Program = self
	}
	m, err := monitor.New(ctx, mc)
	if err != nil {
		return nil, nil, errors.Join(err, compiler.Close(ctx))
	}
	return m, func() {
		end := context.WithoutCancel(ctx)
		_ = m.Close(end)
		_ = compiler.Close(end)
	}, nil
}

// Listen makes the socket. Whoever may reach it may connect; who is heard is decided by the user the kernel names.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("making the monitor's socket: %s is there and is no socket", path)
		}
		var d net.Dialer
		if c, err := d.DialContext(ctx, "unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("making the monitor's socket: a monitor listens at %s", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing the old socket: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the monitor's socket: %w", err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the monitor's socket: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("making the monitor's socket: %w", err)
	}
	return ln, nil
}

// harden makes this process undumpable, forbids cores and new privileges, and keeps its memory out of the swap where the
// limit of locked memory allows; and says what is true of it and of the processes it starts.
func harden() (abi.Isolation, error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("making the process undumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return 0, fmt.Errorf("forbidding cores: %w", err)
	}
	var facts abi.Isolation
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	switch {
	case errno == 0:
		facts |= abi.IsolationNoNewPrivs
	case errno != syscall.ENOTSUP: // built with cgo, whose threads the runtime doesn't speak for: then it isn't claimed
		return 0, fmt.Errorf("forbidding new privileges: %w", errno)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return 0, fmt.Errorf("reading the limit of locked memory: %w", err)
	}
	// Under a finite limit MCL_FUTURE would make a later allocation fail, and with it the process. It is no claim: processes
	// of enclaves don't inherit it, and say for themselves what is locked.
	if limit.Cur == unix.RLIM_INFINITY {
		_ = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	}
	return facts, nil
}
