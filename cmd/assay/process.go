package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"github.com/assay-attest/assay/internal/cli"
	"github.com/assay-attest/assay/internal/monitor"
)

// enclave is what this process is if a monitor started it to run one enclave; it doesn't return then.
func enclave() {
	if monitor.IsChild(os.Args) {
		fmt.Fprintln(os.Stderr, monitor.Child(rand.Reader, time.Now))
		os.Exit(ended)
	}
}

// ended is the exit code of an enclave's process that could not begin.
const ended = 1

// process returns the environment of the running process: the one place where the real clock and randomness enter.
func process() cli.Env {
	home, _ := os.UserHomeDir() // "" if there is none
	exe, _ := os.Executable()   // "" only where /proc is missing: what needs it says so
	info, err := os.Stderr.Stat()
	return cli.Env{
		Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Now: time.Now, Rand: rand.Reader,
		Getenv: os.Getenv, Home: home, Executable: exe, UID: os.Getuid(),
		Terminal: err == nil && info.Mode()&os.ModeCharDevice != 0,
	}
}
