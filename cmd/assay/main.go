// Command assay is the whole of Assay: server, agent and command line in one static binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/assay-attest/assay/internal/cli"
)

func main() {
	enclave()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, process())
	stop()
	os.Exit(code)
}
