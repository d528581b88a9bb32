// Command assay-keeper holds a machine's root key for one boot and serves derivations from it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/assay-attest/assay/internal/keeper"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := keeper.Main(ctx, process())
	stop()
	os.Exit(code)
}
