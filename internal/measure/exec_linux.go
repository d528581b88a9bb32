package measure

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// environment is all a command gets beside what its test names.
var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC"}

// Exec implements System. The command runs in a process group of its own, in /, with no input; its errors are dropped. The
// group is killed when the command ends, whichever way: a daemon it left behind must call setsid to survive.
func (l local) Exec(argv [][]byte, limits plan.Limits) (int32, rats.Code) {
	env, command := cutEnvironment(argv)
	if len(command) == 0 || plan.CheckPath(command[0]) != nil {
		return -1, CodeExec.Code
	}
	most := int64(DefaultOutput)
	if limits.Bytes > 0 {
		most = min(limits.Bytes, plan.MaxCommandOutput)
	}
	within := DefaultCommandTime
	if limits.Time > 0 {
		within = min(limits.Time, DefaultTime)
	}
	cmd := &exec.Cmd{
		Path: string(command[0]), Dir: "/", Env: append([]string(nil), environment...),
		// A thread that ends must not kill the command, so there is no parent-death signal.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	for _, a := range command {
		cmd.Args = append(cmd.Args, string(a))
	}
	for _, e := range env { // the last value of a name counts
		cmd.Env = append(cmd.Env, string(e))
	}
	out, status, code := runBounded(cmd, most, within)
	if code != "" {
		return -1, code
	}
	return inMemory(append(binary.LittleEndian.AppendUint32(nil, uint32(status)), out...))
}

func runBounded(cmd *exec.Cmd, most int64, within time.Duration) ([]byte, int, rats.Code) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, 0, codeOf(err)
	}
	defer r.Close()
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		if code := codeOf(err); code != CodeSystem.Code {
			return nil, 0, code
		}
		return nil, 0, CodeExec.Code
	}
	kill := func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	timed, stop := context.WithTimeout(context.Background(), within)
	defer stop()
	// Whoever inherited the pipe may hold it for ever: when time is up, reading ends too.
	unwatch := context.AfterFunc(timed, func() {
		kill()
		r.Close()
	})
	out, readErr := io.ReadAll(io.LimitReader(r, most+1))
	if int64(len(out)) > most {
		kill()
	}
	// It is awaited without being reaped, so that its number is still its group's when what it left there is killed. One that
	// closed its output and went on is killed when time is up.
	_, _ = retry(func() (int, error) {
		return 0, unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	})
	kill()
	unwatch()
	waitErr := cmd.Wait()
	switch {
	case int64(len(out)) > most:
		return nil, 0, CodeOutput.Code
	case timed.Err() != nil:
		return nil, 0, CodeExecTime.Code
	case readErr != nil:
		return nil, 0, CodeSystem.Code
	}
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		return nil, 0, CodeSystem.Code
	}
	status := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		status = 128 + int(ws.Signal()) // as shells say it
	}
	return out, status, ""
}
