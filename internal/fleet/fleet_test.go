package fleet

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/server"
)

func admin(t *testing.T) *client.Client {
	t.Helper()
	made, err := server.Init(t.Context(), server.InitOptions{Dir: t.TempDir() + "/data", Listen: "127.0.0.1:0", Rand: rand.Reader, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	address, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.RunOptions{
			Dir: made.Dir, Version: "test", Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler),
			Ready: func(a string) { address <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	ca, err := os.ReadFile(made.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	select {
	case a := <-address:
		c, err := client.New(client.Options{Server: "https://" + a, CAs: [][]byte{block.Bytes}, Token: made.AdminToken, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	case err := <-ended:
		t.Fatal(err)
		return nil
	}
}

func TestFleetAttestsAndLeavesNothingBehind(t *testing.T) {
	c := admin(t)
	stages := map[string]bool{}
	r, err := Run(t.Context(), Options{
		Server: c.Server(), Admin: c, Nodes: 5, Duration: 2 * time.Second, Every: time.Second, Files: 3, References: 100,
		Rand: rand.Reader, Now: time.Now,
		Progress: func(stage string, _, _ int) {
			if stage != "joining" { // is called from several goroutines
				stages[stage] = true
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Attestations == 0 || r.Failed != 0 || r.AttestationsPerSecond <= 0 || r.ServerRSS == 0 || r.P50 <= 0 || r.P99 < r.P50 {
		t.Errorf("%+v", r)
	}
	if !stages["counting"] || !stages["attesting for the first time"] {
		t.Errorf("%v", stages)
	}
	nodes, err := c.ListNodes(t.Context(), "", 10)
	if err != nil || len(nodes.Nodes) != 0 {
		t.Errorf("nodes are left: %v, %v", nodes, err)
	}
	policies, err := c.ListPolicies(t.Context())
	if err != nil || len(policies) != 0 {
		t.Errorf("policies are left: %v, %v", policies, err)
	}
}

func TestOptionsThatCannotBeRunAreRefusedBeforeAnythingIsMade(t *testing.T) {
	good := Options{Admin: &client.Client{}, Nodes: 1, Duration: time.Second, Every: time.Second, Files: 1, References: 1, Rand: rand.Reader, Now: time.Now}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"administrator":      func(o *Options) { o.Admin = nil },
		"nodes":              func(o *Options) { o.Nodes = MaxNodes + 1 },
		"measures":           func(o *Options) { o.Files = 0 },
		"reference set":      func(o *Options) { o.References = 0 },
		"duration and perio": func(o *Options) { o.Every = 0 },
	} {
		o := good
		change(&o)
		if err := o.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestMetricsWithoutAProcessAreNoFigures(t *testing.T) {
	p, err := parseProcess([]byte("# HELP\nprocess_cpu_seconds_total 1.5\nother 3\nprocess_resident_memory_bytes 1e+06\n"))
	if err != nil || p.cpu != 1.5 || p.rss != 1_000_000 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := parseProcess([]byte("process_cpu_seconds_total 1.5\n")); err == nil {
		t.Error("half a page was taken")
	}
}
