package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/fleet"
	"github.com/assay-attest/assay/internal/server"
)

func (a *app) benchCmd() *cobra.Command {
	return group("bench", "find out what a server can bear", "", a.benchFleetCmd())
}

func (a *app) benchFleetCmd() *cobra.Command {
	var o fleet.Options
	var db string
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "load a server with simulated nodes, and say how many attestations a second it does",
		Long: `Simulates nodes with real cryptography: each has its own keys, its own connection and a TPM made of Go, joins with a token, answers
the server's challenges and runs the plans it is sent, over files in memory. Without --server a server is started in a temporary
directory for it; with --server and an administrator's token another one is loaded, and what was made there is removed afterwards.

The simulator needs about as much processor time as the server: for the limit of a server, run it on another machine. The server's
processor time and memory are its own, from its metrics, and don't include the simulator's.`,
		Example: `  assay bench fleet --nodes 1000 --duration 30s -o json
  assay bench fleet --nodes 500 --unique --references 500000 --db postgres://assay@db.example.org/bench
  assay bench fleet --nodes 5000 --every 30s --server https://attest.example.org:8443 --ca ca.pem --token-file admin-token`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Rand, o.Now, o.Progress = a.env.Rand, a.env.Now, a.progress()
			o.References = max(o.References, o.Files)
			r, err := a.benchFleet(cmd.Context(), o, db)
			if err != nil {
				return err
			}
			return a.show(r, func(w io.Writer) {
				row(w, "nodes", fmt.Sprint(r.Nodes))
				row(w, "attestations", fmt.Sprintf("%d in %.1f s, %d failed", r.Attestations, r.Seconds, r.Failed))
				row(w, "a second", fmt.Sprintf("%.1f", r.AttestationsPerSecond))
				row(w, "per second of the server's processor time", fmt.Sprintf("%.1f", r.AttestationsPerCPU))
				row(w, "p50, p90, p99", fmt.Sprintf("%.1f, %.1f, %.1f ms", r.P50, r.P90, r.P99))
				row(w, "server's memory", fmt.Sprintf("%.0f MiB", float64(r.ServerRSS)/(1<<20)))
			})
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Nodes, "nodes", 100, fmt.Sprintf("how many nodes, at most %d", fleet.MaxNodes))
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to count, once every node has attested")
	f.DurationVar(&o.Every, "every", time.Second, "attestation period of each node")
	f.IntVar(&o.Files, "files", 50, "files that each node measures")
	f.IntVar(&o.References, "references", 0, "names in the reference set; default: as many as files")
	f.BoolVar(&o.Unique, "unique", false, "every checksum of every node is its own, and changes: what caches save is not saved")
	f.StringVar(&db, "db", "", "address of an empty PostgreSQL database for the server that is started; default: SQLite")
	return cmd
}

// progress shows on a terminal how far a long work is, a line that is overwritten.
func (a *app) progress() func(stage string, done, of int) {
	if !a.env.Terminal {
		return nil
	}
	var last time.Time
	return func(stage string, done, of int) {
		if now := a.env.Now(); done == of || now.Sub(last) > 200*time.Millisecond {
			last = now
			end := ""
			if done == of {
				end = "\n"
			}
			fmt.Fprintf(a.env.Err, "\r\033[K%s: %d of %d%s", stage, done, of, end)
		}
	}
}

func (a *app) benchFleet(ctx context.Context, o fleet.Options, db string) (fleet.Report, error) {
	if a.flags.server != "" {
		c, err := a.connect()
		if err != nil {
			return fleet.Report{}, err
		}
		defer c.Close()
		o.Server, o.Admin = a.flags.server, c
		return fleet.Run(ctx, o)
	}
	dir, err := os.MkdirTemp("", "assay-bench-")
	if err != nil {
		return fleet.Report{}, err
	}
	defer os.RemoveAll(dir)
	c, stop, err := a.startServer(ctx, dir, db)
	if err != nil {
		return fleet.Report{}, err
	}
	defer stop()
	defer c.Close()
	o.Server, o.Admin = c.Server(), c
	return fleet.Run(ctx, o)
}

// startServer starts a server of this binary below dir, and returns its administrator's client and what ends it.
func (a *app) startServer(ctx context.Context, dir, db string) (*client.Client, func(), error) {
	data, address := filepath.Join(dir, "server"), filepath.Join(dir, "address")
	made, err := server.Init(ctx, server.InitOptions{Dir: data, Listen: "127.0.0.1:0", Database: db, Rand: a.env.Rand, Now: a.env.Now})
	if err != nil {
		return nil, nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	cmd := exec.Command(a.env.Executable, "server", "run", "--data", data, "--address-file", address)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is this process's to pass on
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting a server: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
		}
	}
	for range 200 {
		b, err := os.ReadFile(address)
		if err == nil {
			cas, err := readCAs(made.CAFile)
			if err == nil {
				var c *client.Client
				if c, err = client.New(client.Options{
					Server: "https://" + strings.TrimSpace(string(b)), CAs: cas, Token: made.AdminToken, Now: a.env.Now, UserAgent: "assay/" + Version,
				}); err == nil {
					return c, stop, nil
				}
			}
			stop()
			return nil, nil, err
		}
		select {
		case err := <-ended:
			said, _ := os.ReadFile(log.Name())
			return nil, nil, fmt.Errorf("the server ended (%v): %s", err, clean(string(said)))
		case <-ctx.Done():
			stop()
			return nil, nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	stop()
	return nil, nil, errors.New("the server didn't start within 10 seconds")
}
