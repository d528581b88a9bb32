package main

import (
	"crypto/rand"
	"os"
	"time"

	"github.com/assay-attest/assay/internal/monitor/daemon"
)

// process is what the program takes from its process: the real clock and randomness.
func process() daemon.Env {
	return daemon.Env{Args: os.Args, Err: os.Stderr, Now: time.Now, Rand: rand.Reader}
}
