// Command assay-monitor runs software enclaves for other programs of this machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/internal/monitor/daemon"
)

func main() {
	env := process()
	if monitor.IsChild(os.Args) { // the process of one enclave
		fmt.Fprintln(os.Stderr, monitor.Child(env.Rand, env.Now))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := daemon.Main(ctx, env)
	stop()
	os.Exit(code)
}
