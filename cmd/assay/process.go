package main

import (
	"crypto/rand"
	"os"
	"time"

	"github.com/assay-attest/assay/internal/cli"
)

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
