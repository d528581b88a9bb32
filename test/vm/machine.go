package vm

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says what machine to start. Tools, Dir and TPM are required.
type Config struct {
	Tools Tools
	Tier  Tier
	// Dir is where the machine's files are kept: disk, firmware variables, logs. Its path must be short, as it holds
	// sockets.
	Dir string
	TPM *TPM
	// Initrd and Cmdline are what the kernel is started with, on tiers SeaBIOS and OVMF.
	Initrd  []byte
	Cmdline string
	// Image is the unified kernel image that tiers UKI and SecureBoot load.
	Image []byte
	// ESP are the files of the disk that tier Shim boots from, as Distribution makes them.
	ESP map[string][]byte
	// Payload is what Payload packed; nil: nothing.
	Payload []byte
	// Server is the address (127.0.0.1:port) the guest reaches as GuestServer; empty: the guest reaches nothing.
	Server string
	// MemoryMB is 320 if zero. OVMF's PCR 0 depends on it: reference values hold for one size only.
	MemoryMB int
}

// Times says when the first byte came over the console (zero after a reboot, of which the old kernel has the first word),
// when process 1 ran and when the guest was ready, from power-on or from the reboot.
type Times struct{ Firmware, Init, Ready time.Duration }

// Machine is a running virtual machine. Its methods are for one goroutine.
type Machine struct {
	cfg   Config
	qemu  *exec.Cmd
	tpm   *exec.Cmd
	gone  chan struct{} // closed when QEMU ended
	ended error
	stop  context.CancelFunc
	shell net.Conn
	lines chan string // of the shell
	keys  io.Writer   // what is typed at the console

	mu      sync.Mutex
	console bytes.Buffer
	from    time.Time // of the present boot
	mark    int       // where its console output begins
	times   Times
}

// Bounds of a machine's life.
const (
	bootLimit  = 3 * time.Minute // a boot takes seconds; a busy machine may take longer
	stopLimit  = 10 * time.Second
	maxConsole = 4 << 20
	maxLine    = 1 << 20
)

// Start starts a machine and returns as soon as its processes run; Ready waits for the guest. The machine ends with Stop,
// or with ctx.
func Start(ctx context.Context, c Config) (_ *Machine, err error) {
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("preparing a virtual machine: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &Machine{cfg: c, gone: make(chan struct{}), lines: make(chan string, 1024), stop: cancel, from: time.Now()}
	log, err := os.Create(filepath.Join(c.Dir, "qemu.log"))
	if err != nil {
		cancel()
		return nil, err
	}
	defer log.Close()
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	if m.tpm, err = c.TPM.run(ctx, log); err != nil {
		return nil, err
	}
	go func() { _ = m.tpm.Wait() }() // it ends when QEMU does
	if err := await(ctx, c.TPM.control()); err != nil {
		return nil, fmt.Errorf("waiting for swtpm: %w", err)
	}
	m.qemu = exec.CommandContext(ctx, c.Tools.QEMU, c.arguments()...)
	m.qemu.Stderr = log
	m.qemu.WaitDelay = stopLimit
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches it through Stop
	out, err := m.qemu.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if m.keys, err = m.qemu.StdinPipe(); err != nil {
		return nil, err
	}
	if err := m.qemu.Start(); err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	go func() {
		m.watch(out)
		m.ended = m.qemu.Wait()
		close(m.gone)
	}()
	if err := m.connect(ctx); err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

// await waits until a file is there.
func await(ctx context.Context, file string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not there: %w", filepath.Base(file), ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// watch keeps what comes over the console.
func (m *Machine) watch(r io.Reader) {
	b := make([]byte, 4096)
	for {
		n, err := r.Read(b)
		m.mu.Lock()
		if m.times.Firmware == 0 && n > 0 && m.mark == 0 {
			m.times.Firmware = time.Since(m.from)
		}
		if m.console.Len() < maxConsole {
			m.console.Write(b[:n])
		}
		if m.times.Init == 0 && bytes.Contains(m.console.Bytes()[m.mark:], []byte(initMark)) {
			m.times.Init = time.Since(m.from)
		}
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// connect opens the second serial line.
func (m *Machine) connect(ctx context.Context) error {
	socket := filepath.Join(m.cfg.Dir, shellSocket)
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			m.shell = conn
			go m.read(conn)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.gone:
			return m.failure("starting QEMU")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// read cuts the shell's output into lines.
func (m *Machine) read(r io.Reader) {
	defer close(m.lines)
	var rest []byte
	b := make([]byte, 4096)
	for {
		n, err := r.Read(b)
		rest = append(rest, b[:n]...)
		for {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 && len(rest) < maxLine {
				break
			}
			if i < 0 {
				i = len(rest) - 1
			}
			m.lines <- strings.TrimSuffix(string(rest[:i]), "\r")
			rest = rest[i+1:]
		}
		if err != nil {
			return
		}
	}
}

// ErrEnded is the machine's end where something else was waited for.
var ErrEnded = errors.New("the machine ended")

// ErrPanic is the guest's kernel giving up.
var ErrPanic = errors.New("the guest's kernel panicked")

// line returns the shell's next line.
func (m *Machine) line(ctx context.Context) (string, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case l, ok := <-m.lines:
			if !ok {
				<-m.gone
				return "", ErrEnded
			}
			return l, nil
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
			m.mu.Lock()
			lost := bytes.Contains(m.console.Bytes()[m.mark:], []byte(panicMark))
			m.mu.Unlock()
			if lost {
				return "", ErrPanic
			}
		}
	}
}

// Ready waits until the guest has booted and returns how long that took.
func (m *Machine) Ready(ctx context.Context) (Times, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		l, err := m.line(ctx)
		if err != nil {
			return Times{}, fmt.Errorf("%w%s", m.failure("waiting for the guest to boot", err), m.lastWords())
		}
		if strings.Contains(l, readyMark) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.times.Ready = time.Since(m.from)
			return m.times, nil
		}
	}
}

// ExitError is a guest's command that ended with something else than 0.
type ExitError struct {
	Script string // its beginning
	Code   string
	Output string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("running %q in the guest: exit code %s: %s", e.Script, e.Code, e.Output)
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Run runs a script in the guest's shell and returns what it printed, on either output. Each script has a
// shell of its own; what it starts in the background stays.
func (m *Machine) Run(ctx context.Context, script string) (string, error) {
	return m.run(ctx, clip(script), script)
}

// Put writes a file in the guest, readable for root. What it holds is in no error.
func (m *Machine) Put(ctx context.Context, path string, data []byte) error {
	text := base64.StdEncoding.EncodeToString(data)
	_, err := m.run(ctx, "writing "+path, fmt.Sprintf("umask 077 && echo %s | base64 -d > '%s'", text, path))
	return err
}

// run runs a script that errors call by a name.
func (m *Machine) run(ctx context.Context, name, script string) (string, error) {
	if _, err := io.WriteString(m.shell, base64.StdEncoding.EncodeToString([]byte(script))+"\n"); err != nil {
		return "", m.failure("sending a script to the guest", err)
	}
	var out strings.Builder
	for {
		l, err := m.line(ctx)
		if err != nil {
			return out.String(), fmt.Errorf("%w%s", m.failure("running "+name+" in the guest", err), m.lastWords())
		}
		if code, ok := strings.CutPrefix(l, doneMark); ok {
			text := strings.TrimRight(out.String(), "\n")
			if code != "0" {
				return text, &ExitError{name, code, text}
			}
			return text, nil
		}
		out.WriteString(l + "\n")
	}
}

// Reboot resets the machine from inside: the same disk, the same TPM, another boot. It waits until the guest is ready.
func (m *Machine) Reboot(ctx context.Context) (Times, error) {
	m.mu.Lock()
	m.from, m.mark, m.times = time.Now(), m.console.Len(), Times{}
	m.mu.Unlock()
	if _, err := io.WriteString(m.shell, base64.StdEncoding.EncodeToString([]byte("sync; reboot -f"))+"\n"); err != nil {
		return Times{}, m.failure("rebooting the guest", err)
	}
	return m.Ready(ctx)
}

// Console returns what came over the console since power-on.
func (m *Machine) Console() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.console.String()
}

// Type types a line at the console, where an emergency shell may listen.
func (m *Machine) Type(line string) error {
	_, err := io.WriteString(m.keys, line+"\n")
	return err
}

// AwaitConsole waits until the console shows one of some texts, and returns it.
func (m *Machine) AwaitConsole(ctx context.Context, texts ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		seen := m.Console()
		for _, text := range texts {
			if strings.Contains(seen, text) {
				return text, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the console to say one of %q: %w%s", texts, ctx.Err(), m.lastWords())
		case <-m.gone:
			return "", m.failure("waiting for the console")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop pulls the plug. It may be called more than once; files on the guest's disk that were synced stay.
func (m *Machine) Stop() {
	if m.qemu != nil && m.qemu.Process != nil {
		_ = m.qemu.Process.Signal(syscall.SIGTERM) // it may have ended by itself
		select {
		case <-m.gone:
		case <-time.After(stopLimit):
			_ = m.qemu.Process.Kill()
			<-m.gone
		}
	}
	if m.shell != nil {
		_ = m.shell.Close()
	}
	m.stop()
}

// Processor returns the processor time that a stopped machine used: about what it takes on cores of its own.
func (m *Machine) Processor() time.Duration {
	if m.qemu == nil || m.qemu.ProcessState == nil {
		return 0
	}
	return m.qemu.ProcessState.UserTime() + m.qemu.ProcessState.SystemTime()
}

// failure is an error with what QEMU said before it ended, if it did.
func (m *Machine) failure(doing string, why ...error) error {
	err := errors.Join(why...)
	select {
	case <-m.gone:
		log, _ := os.ReadFile(filepath.Join(m.cfg.Dir, "qemu.log")) // it only helps to understand
		return fmt.Errorf("%s: %w: %v: %s", doing, ErrEnded, m.ended, bytes.TrimSpace(log))
	default:
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// lastWords returns the end of the console.
func (m *Machine) lastWords() string {
	text := m.Console()
	if len(text) > 2000 {
		text = "…" + text[len(text)-2000:]
	}
	return "\nconsole:\n" + text
}
