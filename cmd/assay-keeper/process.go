package main

import (
	"crypto/rand"
	"os"
	"time"

	"github.com/assay-attest/assay/internal/keeper"
)

// process is what the program takes from its process: the real clock, randomness and terminal.
func process() keeper.Env {
	// Without its path the keeper can't measure itself, and says so.
	executable, _ := os.Executable()
	return keeper.Env{
		Args: os.Args[1:], Name: os.Args[0], Executable: executable,
		Err: os.Stderr, Now: time.Now, Rand: rand.Reader,
	}
}
