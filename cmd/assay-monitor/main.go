// Command assay-monitor runs software enclaves for other programs of this machine.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/assay-attest/assay/internal/monitor/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := daemon.Main(ctx, process())
	stop()
	os.Exit(code)
}
