// Command assay is the whole of Assay: server, agent and command line in one static binary.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/assay-attest/assay/internal/cli"
	"github.com/assay-attest/assay/internal/monitor"
)

func main() {
	if monitor.IsChild(os.Args) { // `assay enclave monitor` starts a process for each enclave of mode process
		env := process()
		fmt.Fprintln(os.Stderr, monitor.Child(env.Rand, env.Now))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, process())
	stop()
	os.Exit(code)
}
