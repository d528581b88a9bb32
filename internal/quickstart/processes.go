package quickstart

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// How long processes may take to come up, commands to run, and processes to go down.
const (
	startLimit   = 20 * time.Second
	commandLimit = 2 * time.Minute
	stopLimit    = 10 * time.Second
)

// process is a server or agent that runs in the background.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
}

func (r *run) path(elements ...string) string {
	return filepath.Join(append([]string{r.dir}, elements...)...)
}

func (r *run) config() string { return r.path("owner", "config.yaml") }

// environment is that of the processes: nothing of the caller's that could lead them elsewhere.
func environment() []string {
	var out []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "ASSAY_") {
			out = append(out, e)
		}
	}
	return out
}

// start runs the binary in the background; what it says goes to a log file.
func (r *run) start(name string, args ...string) error {
	log, err := os.Create(r.path(name + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(r.Binary, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, environment()
	// A group of its own: Ctrl-C reaches this process only, which ends the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the %s: %w", name, err)
	}
	p := &process{name: name, log: log.Name(), cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // its log says why it ended
	}()
	r.procs = append(r.procs, p)
	return nil
}

// pause waits a moment; it fails if ctx or a process ended.
func (r *run) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(50 * time.Millisecond):
	}
	for _, p := range r.procs {
		select {
		case <-p.done:
			return fmt.Errorf("the %s ended: %s", p.name, p.cmd.ProcessState)
		default:
		}
	}
	return nil
}

// await returns the content of a file as soon as it is there.
func (r *run) await(ctx context.Context, file string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		b, err := os.ReadFile(file)
		if err == nil {
			return string(b), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if err := r.pause(ctx); err != nil {
			return "", fmt.Errorf("waiting for %s: %w", filepath.Base(file), err)
		}
	}
}

// commandError is a command that exited non-zero.
type commandError struct {
	args []string
	exit int
	code rats.Code
	text string
}

func (e *commandError) Error() string {
	return fmt.Sprintf("running assay %s: exit code %d: %s", strings.Join(e.args, " "), e.exit, e.text)
}

// command runs the binary with -o json as the owner would, and returns what it printed.
func (r *run) command(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	full := append(append([]string(nil), args...), "-o", "json")
	if _, err := os.Stat(r.config()); err == nil {
		full = append(full, "--config", r.config())
	}
	cmd := exec.CommandContext(ctx, r.Binary, full...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = environment()
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exited *exec.ExitError
	if !errors.As(err, &exited) {
		return stdout.Bytes(), err
	}
	failed := &commandError{args: args, exit: exited.ExitCode(), text: strings.TrimSpace(stderr.String())}
	var said struct {
		Code rats.Code `json:"code"`
	}
	if json.Unmarshal(lastLine(stderr.Bytes()), &said) == nil {
		failed.code = said.Code
	}
	return stdout.Bytes(), failed
}

func lastLine(b []byte) []byte {
	b = bytes.TrimSpace(b)
	return b[bytes.LastIndexByte(b, '\n')+1:]
}

// agentSecret asks the running agent for the secret, as a program on the node would.
func (r *run) agentSecret(ctx context.Context) (string, error) {
	out, err := r.command(ctx, nil, "agent", "secret", "get", secretName, "--data", r.path("agent"), "--agent-config", r.path("agent.yaml"))
	return string(out), err
}

// agentState returns the verdict the agent was told last.
func (r *run) agentState(ctx context.Context) (string, error) {
	out, err := r.command(ctx, nil, "agent", "status", "--data", r.path("agent"), "--agent-config", r.path("agent.yaml"))
	var failed *commandError
	if err != nil && !(errors.As(err, &failed) && failed.exit == rats.ExitNotTrusted) {
		return "", err
	}
	var status struct {
		Told struct {
			Verdict string `json:"verdict"`
		} `json:"told"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return "", fmt.Errorf("reading the agent's status: %w", err)
	}
	return status.Told.Verdict, nil
}

// connect returns a client with the owner's token.
func (r *run) connect() (*client.Client, error) {
	ca, err := os.ReadFile(r.path("owner", "ca.pem"))
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(r.path("owner", "admin-token"))
	if err != nil {
		return nil, err
	}
	o := client.Options{Server: r.out.API, Token: strings.TrimSpace(string(token)), Now: r.Now, UserAgent: "assay-quickstart"}
	for {
		var block *pem.Block
		if block, ca = pem.Decode(ca); block == nil {
			break
		}
		o.CAs = append(o.CAs, block.Bytes)
	}
	return client.New(o)
}

// stop ends everything, the last first.
func (r *run) stop() {
	if r.owner != nil {
		r.owner.Close()
	}
	for i := len(r.procs) - 1; i >= 0; i-- {
		p := r.procs[i]
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		select {
		case <-p.done:
		case <-time.After(stopLimit):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
	if r.tpm != nil {
		_ = r.tpm.Stop() // nothing of its state is kept
	}
}

// lastWords returns the ends of the logs.
func (r *run) lastWords() string {
	var b strings.Builder
	for _, p := range r.procs {
		text, err := os.ReadFile(p.log)
		if err != nil || len(text) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "\n%s log:\n  %s", p.name, strings.Join(lines[max(0, len(lines)-5):], "\n  "))
	}
	return b.String()
}
