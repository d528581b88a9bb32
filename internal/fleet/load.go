package fleet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/testkit/wire"
)

// load lets every node attest, whenever the server asks, and counts.
func (f *fleet) load(ctx context.Context, r Report) (Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := f.Now()
	first := make(chan struct{}, len(f.machines))
	for i, m := range f.machines {
		go f.serve(ctx, i, m, first)
	}
	limit := time.NewTimer(time.Minute + 20*time.Millisecond*time.Duration(len(f.machines)))
	defer limit.Stop()
	for i := range f.machines {
		select {
		case <-first:
			f.Progress("attesting for the first time", i+1, len(f.machines))
		case <-limit.C:
			return r, fmt.Errorf("only %d of %d nodes attested once: the server is overloaded, or refuses (assay events)", i, len(f.machines))
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
	r.FirstAttestationsTaken = f.Now().Sub(start).Seconds()
	before, err := f.process(ctx)
	if err != nil {
		return r, err
	}
	start = f.Now()
	f.counting.Store(true)
	if err := f.wait(ctx); err != nil {
		return r, err
	}
	f.counting.Store(false)
	r.Seconds = f.Now().Sub(start).Seconds()
	after, err := f.process(ctx)
	if err != nil {
		return r, err
	}
	r.ServerCPUSeconds, r.ServerRSS = after.cpu-before.cpu, after.rss
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sum(r)
}

func (f *fleet) sum(r Report) (Report, error) {
	if len(f.took) == 0 {
		return r, errors.New("no attestation ended within the duration: give it more time, or fewer nodes")
	}
	slices.Sort(f.took)
	at := func(percent int) float64 { return float64(f.took[(len(f.took)-1)*percent/100].Microseconds()) / 1000 }
	r.P50, r.P90, r.P99 = at(50), at(90), at(99)
	r.Attestations, r.Failed = len(f.took), int(f.failed.Load())
	r.AttestationsPerSecond = float64(r.Attestations) / r.Seconds
	if r.ServerCPUSeconds > 0 {
		r.AttestationsPerCPU = float64(r.Attestations) / r.ServerCPUSeconds
	}
	return r, nil
}

// wait lets the duration pass, and says how much of it is over.
func (f *fleet) wait(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	end := f.Now().Add(f.Duration)
	for left := f.Duration; left > 0; left = end.Sub(f.Now()) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			f.Progress("counting", int((f.Duration - left).Seconds()), int(f.Duration.Seconds()))
		case <-time.After(left):
		}
	}
	return nil
}

// serve answers the challenges of one node until ctx ends; a stream that breaks is opened again.
func (f *fleet) serve(ctx context.Context, i int, m *wire.Machine, first chan<- struct{}) {
	warm, version := false, 0
	for ctx.Err() == nil {
		for e, err := range m.Stream(ctx) {
			if err != nil {
				break
			}
			if e.Challenge == nil {
				continue
			}
			if f.Unique {
				version++
				f.own[i].files[uniqueName(i, 0)] = unique(i, 0, version%versions)
			}
			start := f.Now()
			_, err := m.Attest(ctx, *e.Challenge)
			if err != nil {
				if f.counting.Load() && ctx.Err() == nil {
					f.failed.Add(1)
				}
				continue
			}
			if !warm {
				warm = true
				first <- struct{}{}
			}
			if f.counting.Load() {
				d := f.Now().Sub(start)
				f.mu.Lock()
				f.took = append(f.took, d)
				f.mu.Unlock()
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second + rand.N(time.Second)):
		}
	}
}

// process is what a server says of itself.
type process struct {
	cpu float64 // seconds
	rss int64   // bytes
}

// process asks the servers' metrics, and adds them up.
func (f *fleet) process(ctx context.Context) (sum process, err error) {
	for _, admin := range append([]*client.Client{f.Admin}, f.Others...) {
		page, err := admin.Metrics(ctx)
		if err != nil {
			return sum, fmt.Errorf("reading the server's metrics: %w", err)
		}
		p, err := parseProcess(page)
		if err != nil {
			return sum, err
		}
		sum.cpu, sum.rss = sum.cpu+p.cpu, sum.rss+p.rss
	}
	return sum, nil
}

func parseProcess(page []byte) (p process, err error) {
	found := 0
	for s := bufio.NewScanner(bytes.NewReader(page)); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "process_cpu_seconds_total":
			p.cpu, found = v, found+1
		case "process_resident_memory_bytes":
			p.rss, found = int64(v), found+1
		}
	}
	if found != 2 {
		return p, errors.New("the server's metrics don't tell its processor time and memory")
	}
	return p, nil
}
