// Package fleet is a load of simulated nodes for sizing a server: each with keys of its own, a TPM made of Go, a real
// connection, real quotes, and plans that are really run, over files in memory.
//
// It guarantees that the server does for a simulated node exactly what it does for a real one; nothing of the protocol or
// its cryptography is left out. It says nothing of what agents cost on their machines: a hundred of them share a core here.
// A server that judges simulated nodes must name the simulator's own CA in a policy; Run removes nodes and policy again.
package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// Options say what to simulate. Server, Admin, Rand and Now are required.
type Options struct {
	Server string
	Admin  *client.Client // with an administrator's token
	// Others are administrators' clients of further servers over the same database: nodes are spread over all of them.
	Others []*client.Client
	// Unique gives every file of every node a checksum of its own, and changes one file of a node before each of its
	// attestations: no judgement, claim or outcome is ever like one before, and no cache that goes by content helps.
	Unique     bool
	Nodes      int
	Duration   time.Duration // that is counted, after every node has attested once
	Every      time.Duration // attestation period of each node
	Files      int           // each node measures
	References int           // names in the reference set; at least Files
	Rand       io.Reader
	Now        func() time.Time
	Progress   func(stage string, done, of int) // nil: nobody wants to know
}

// Report is what was measured.
type Report struct {
	Nodes                  int     `json:"nodes"`
	Files                  int     `json:"files"`
	References             int     `json:"references"`
	Servers                int     `json:"servers"`
	Unique                 bool    `json:"unique"`
	Seconds                float64 `json:"seconds"`
	Attestations           int     `json:"attestations"`
	Failed                 int     `json:"failed"`
	AttestationsPerSecond  float64 `json:"attestations_per_second"`
	AttestationsPerCPU     float64 `json:"attestations_per_server_cpu_second"`
	P50                    float64 `json:"p50_ms"`
	P90                    float64 `json:"p90_ms"`
	P99                    float64 `json:"p99_ms"`
	ServerCPUSeconds       float64 `json:"server_cpu_seconds"`
	ServerRSS              int64   `json:"server_rss_bytes"`
	JoinSeconds            float64 `json:"join_seconds"`
	FirstAttestationsTaken float64 `json:"first_attestations_seconds"`
	ServerRSSBefore        int64   `json:"server_rss_before_bytes"` // before any node joined, reference values stored
}

// The bounds of Options.
const (
	MaxNodes      = 100_000
	MaxFiles      = 10_000
	MaxReferences = 1_000_000
)

// prefix begins the names of everything the simulator makes on a server.
const prefix = "bench-fleet"

func (o Options) check() error {
	switch {
	case o.Admin == nil || o.Rand == nil || o.Now == nil:
		return errors.New("a fleet needs a server, its administrator, randomness and a clock")
	case o.Nodes < 1 || o.Nodes > MaxNodes:
		return fmt.Errorf("a fleet has 1 to %d nodes, not %d", MaxNodes, o.Nodes)
	case o.Files < 1 || o.Files > MaxFiles:
		return fmt.Errorf("a node measures 1 to %d files, not %d", MaxFiles, o.Files)
	case o.Unique && o.Nodes*o.Files > MaxReferences:
		return fmt.Errorf("a reference set has at most %d names: fewer nodes or files", MaxReferences)
	case o.References < o.Files || o.References > MaxReferences:
		return fmt.Errorf("the reference set has %d (the files measured) to %d names, not %d", o.Files, MaxReferences, o.References)
	case o.Duration < time.Second || o.Every < time.Second:
		return errors.New("duration and period are a second at least")
	}
	return nil
}

// fleet is a run.
type fleet struct {
	Options
	vendor   *softtpm.CA
	system   *memory   // of every node
	own      []*memory // Unique: of each
	machines []*wire.Machine

	counting atomic.Bool
	failed   atomic.Int64
	mu       sync.Mutex
	took     []time.Duration
}

// Run joins the nodes, lets each attest once, counts for the duration, and removes what it made.
func Run(ctx context.Context, o Options) (r Report, err error) {
	if err := o.check(); err != nil {
		return Report{}, err
	}
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	f := &fleet{Options: o, vendor: softtpm.NewCA(o.Rand), system: newMemory()}
	for i := range o.Files {
		f.system.add(fmt.Sprintf("%s/f%05d", dir, i), content(i))
	}
	for n := range o.Nodes {
		if !o.Unique {
			break
		}
		m := newMemory()
		for i := range o.Files {
			m.add(uniqueName(n, i), unique(n, i, 0))
		}
		f.own = append(f.own, m)
	}
	defer func() { err = errors.Join(err, f.remove(context.WithoutCancel(ctx))) }()
	if err := f.document(ctx); err != nil {
		return Report{}, err
	}
	idle, err := f.process(ctx)
	if err != nil {
		return Report{}, err
	}
	start := o.Now()
	if err := f.join(ctx); err != nil {
		return Report{}, err
	}
	joined := o.Now()
	r = Report{Nodes: o.Nodes, Files: o.Files, References: o.References, Servers: 1 + len(o.Others), Unique: o.Unique, JoinSeconds: joined.Sub(start).Seconds(), ServerRSSBefore: idle.rss}
	return f.load(ctx, r)
}

// dir is where the simulated files lie.
const dir = "/srv/fleet"

// content is different for every file.
func content(i int) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("assay/fleet/1"), uint64(i)))
	return sum[:]
}

// versions is how many contents the first file of a node has, one after another.
const versions = 32

func uniqueName(node, file int) string { return fmt.Sprintf("%s/n%06d/f%05d", dir, node, file) }

// unique is different for every file of every node, and for its versions.
func unique(node, file, version int) []byte {
	b := []byte("assay/fleet/unique/1")
	for _, n := range []int{node, file, version} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// entry is the i-th of the reference set, in any order.
func (f *fleet) entry(i int) refvalue.Entry {
	name, b := fmt.Sprintf("%s/f%05d", dir, i), content(i)
	switch {
	case f.Unique && i < f.Nodes*f.Files:
		node, file := i/f.Files, i%f.Files
		name, b = uniqueName(node, file), unique(node, file, 0)
		if file == 0 {
			e := refvalue.Entry{Name: name, Size: int64(len(b))}
			for v := range versions {
				e.Digests = append(e.Digests, rats.SHA256(unique(node, 0, v)))
			}
			return e
		}
	case f.Unique || i >= f.Files:
		name = fmt.Sprintf("/usr/share/fleet/%07d", i)
	}
	return refvalue.Entry{Name: name, Digests: []rats.Digest{rats.SHA256(b)}, Size: int64(len(b))}
}

// document puts reference set and policy on the server. What the set holds beyond the files lies in another directory: a
// server of many references, of which each node needs a few.
func (f *fleet) document(ctx context.Context) error {
	missing := ""
	if f.Unique {
		f.References = max(f.References, f.Nodes*f.Files)
		missing = ", missing: ignore" // the set holds the files of all nodes
	}
	entries := make([]refvalue.Entry, f.References)
	for i := range entries {
		entries[i] = f.entry(i)
	}
	set, err := refvalue.New(refvalue.Header{Name: prefix, Source: "assay bench fleet", Created: f.Now()}, entries)
	if err != nil {
		return err
	}
	f.Progress("uploading reference values", 0, f.References)
	if _, err := f.Admin.PutRefSet(ctx, prefix, set.Encode()); err != nil {
		return fmt.Errorf("putting the reference set: %w", err)
	}
	doc := `apiVersion: assay/v1
kind: Policy
metadata: {name: ` + prefix + `}
selector: '"fleet" in node.labels && node.labels["fleet"] == "` + prefix + `"'
priority: 1000
every: ` + f.Every.String() + `
valid_for: ` + (2*f.Every + time.Minute).String() + `
allow: [simulated, software-tpm]
formats:
  tpm:
    ek_cas:
      - |
        ` + strings.ReplaceAll(strings.TrimSpace(f.vendor.PEM()), "\n", "\n        ") + `
  plan:
    tests:
      - {name: files, dir: ` + dir + `, reference: ` + prefix + missing + `}
`
	if _, err := f.Admin.PutPolicy(ctx, prefix, []byte(doc)); err != nil {
		return fmt.Errorf("putting the policy: %w", err)
	}
	return nil
}

// joiners is how many nodes join at the same time.
const joiners = 8

func (f *fleet) join(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.machines = make([]*wire.Machine, f.Nodes)
	var wg sync.WaitGroup
	var next, done atomic.Int64
	for range min(joiners, f.Nodes) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= f.Nodes {
					return
				}
				m, err := f.joinOne(ctx, i)
				if err != nil {
					cancel(fmt.Errorf("joining node %d: %w", i, err))
					return
				}
				f.machines[i] = m
				f.Progress("joining", int(done.Add(1)), f.Nodes)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// joinOne joins a node. A server bounds how many join in a second: the simulator waits.
func (f *fleet) joinOne(ctx context.Context, i int) (*wire.Machine, error) {
	for {
		m, err := f.tryJoin(ctx, i)
		if client.CodeOf(err) != "api.rate.exceeded" {
			return m, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (f *fleet) tryJoin(ctx context.Context, i int) (*wire.Machine, error) {
	admin, server, system := f.Admin, f.Server, f.system
	if n := i % (1 + len(f.Others)); n > 0 {
		admin = f.Others[n-1]
		server = admin.Server()
	}
	if f.Unique {
		system = f.own[i]
	}
	name := fmt.Sprintf("%s-%05d", prefix, i)
	tok, err := admin.CreateToken(ctx, api.TokenRequest{Name: name, Labels: map[string]string{"fleet": prefix}})
	if err != nil {
		return nil, err
	}
	return wire.Join(ctx, wire.Options{
		Server: server, Token: tok.Token, Rand: f.Rand, Now: f.Now, System: system,
		TPM: softtpm.New(f.Rand, softtpm.Options{CA: f.vendor}),
	})
}

// patiently makes a call again while the server bounds how many it takes in a second.
func patiently(call func() error) error {
	for {
		err := call()
		if client.CodeOf(err) != "api.rate.exceeded" {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// remove takes nodes and documents off the server.
func (f *fleet) remove(ctx context.Context) error {
	var failed []error
	for i, m := range f.machines {
		if m == nil {
			continue
		}
		m.Client.Close()
		f.Progress("removing", i+1, len(f.machines))
		err := patiently(func() error { return f.Admin.DeleteNode(ctx, m.Joined.Node) })
		if err != nil && len(failed) < 3 {
			failed = append(failed, fmt.Errorf("removing node %s: %w", m.Joined.Node, err))
		}
	}
	if err := patiently(func() error { return f.Admin.DeletePolicy(ctx, prefix) }); err != nil {
		failed = append(failed, fmt.Errorf("removing the policy: %w", err))
	}
	if err := patiently(func() error { return f.Admin.DeleteRefSet(ctx, prefix) }); err != nil {
		failed = append(failed, fmt.Errorf("removing the reference set: %w", err))
	}
	return errors.Join(failed...)
}
