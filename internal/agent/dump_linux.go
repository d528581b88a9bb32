package agent

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// noDumps keeps what the agent holds out of core dumps: secrets on their way to programs, and the paths of plans.
func noDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding dumps: %w", err)
	}
	return nil
}
