// Command assay-keeper holds a machine's root key for one boot and serves derivations from it.
package main

import (
	"context"
	"crypto/rand"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/assay-attest/assay/internal/keeper"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	exe, _ := os.Executable()
	env := keeper.Env{Args: os.Args[1:], Name: os.Args[0], Executable: exe, Err: os.Stderr, Now: time.Now, Rand: rand.Reader}
	defer stop()
	os.Exit(keeper.Main(ctx, env))
}
