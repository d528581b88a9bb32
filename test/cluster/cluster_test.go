package cluster

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// size is how many nodes there are: ASSAY_CLUSTER_NODES, else nodes, fewer in a hurry.
func size() int {
	if n, err := strconv.Atoi(os.Getenv("ASSAY_CLUSTER_NODES")); err == nil && n > 0 {
		return n
	}
	if testing.Short() {
		return 60
	}
	return nodes
}

// R041, R038, S40, S41: two servers, one database, 500 nodes (fewer under the race detector); one server is killed, and when it is back the other one is
// cut off from the database. No result that a node was told is lost, nothing is accepted under an older policy after a
// newer one was put, and no node is unattended for longer than its period.
func TestServersDieAndNothingIsLost(t *testing.T) {
	const every = 12 * time.Second
	r := newRig(t, every)
	a, b := r.servers[0], r.servers[1]
	began := time.Now()
	agents := r.join(size())
	t.Logf("%d nodes joined after %s", len(agents), time.Since(began).Round(time.Millisecond))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, g := range agents {
		running.Go(func() { g.run(ctx) })
	}
	defer running.Wait()
	defer cancel()
	for _, g := range agents {
		select {
		case <-g.first:
		case <-time.After(30 * time.Second):
			t.Fatal("a node got no first result")
		}
	}
	t.Logf("all attested after %s", time.Since(began).Round(time.Millisecond))

	time.Sleep(time.Second)
	a.kill()
	t.Logf("first server killed after %s", time.Since(began).Round(time.Millisecond))
	time.Sleep(every/4 + time.Second)
	a.start(a.addr)
	time.Sleep(time.Second)
	r.between.Cut()
	t.Logf("second server cut off after %s", time.Since(began).Round(time.Millisecond))
	cut := time.Now()
	within(t, lease, "the server without database says that it isn't ready", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return b.admin.Health(ctx) != nil
	})
	t.Logf("it says so after %s", time.Since(cut).Round(time.Millisecond))
	time.Sleep(every / 4)
	r.policy(every + time.Second) // on the first server, while the second knows nothing
	if _, err := b.admin.Status(t.Context(), agents[0].Joined.Node); err == nil {
		t.Error("a server without its database tells a node's state")
	}
	time.Sleep(every)
	r.between.Restore()
	within(t, 4*lease, "the second server is back", func() bool { return b.admin.Health(t.Context()) == nil })
	cancel()
	running.Wait()
	stopped := time.Now()
	judge(t, r, b.admin, agents, every+time.Second, stopped)
	t.Logf("%s in all", time.Since(began).Round(time.Millisecond))
}

// judge looks at what is in the database, through a server.
func judge(t *testing.T, r *rig, admin *client.Client, agents []*agent, period time.Duration, stopped time.Time) {
	t.Helper()
	results := map[string][]time.Time{}
	known := map[string]bool{}
	newest := int64(0)
	for after := int64(0); ; {
		entries, err := admin.Audit(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if after++; e.Seq != after {
				t.Fatalf("audit entry %d follows %d", e.Seq, after-1)
			}
			switch e.Verb {
			case "policy.put":
				newest++
			case "result.accept":
				var d struct {
					Result string   `json:"result"`
					Policy rats.Ref `json:"policy"`
				}
				if err := json.Unmarshal(detail(t, e), &d); err != nil {
					t.Fatal(err)
				}
				if d.Policy.Version != newest {
					t.Errorf("result %s was accepted under policy version %d when %d was in force", d.Result, d.Policy.Version, newest)
				}
				known[d.Result] = true
				results[e.Object] = append(results[e.Object], e.At)
			}
		}
		if len(entries) < 1000 {
			break
		}
	}
	if newest != 2 {
		t.Errorf("%d policies were applied, want 2", newest)
	}
	told, longest, worst := 0, time.Duration(0), []time.Time(nil)
	for _, g := range agents {
		for _, id := range g.told {
			told++
			if !known[id] {
				t.Errorf("result %s, which its node was told, is lost", id)
			}
		}
		at := append(results[rats.Subject(rats.SubjectNode, g.Joined.Node)], stopped)
		slices.SortFunc(at, time.Time.Compare)
		for i := 1; i < len(at); i++ {
			if d := at[i].Sub(at[i-1]); d > longest {
				longest, worst = d, at
			}
		}
	}
	t.Logf("%d results, %d of them told; longest time between two of one node %s, period %s", len(known), told, longest.Round(time.Millisecond), period)
	if longest > period+starved {
		t.Errorf("a node was unattended for %s, longer than its period of %s: results at %v, stopped %v", longest, period, clocks(worst), clocks([]time.Time{stopped}))
	}
}

func detail(t *testing.T, e api.AuditEntry) []byte {
	t.Helper()
	b, err := json.Marshal(e.Detail)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// S07, R041: any server serves any node, and what one does the others know.
func TestServersActTogether(t *testing.T) {
	r := newRig(t, time.Hour)
	a, b := r.servers[0], r.servers[1]
	agents := r.join(2)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	here, there := agents[0], agents[1] // connected to a and to b
	for _, g := range agents {
		running.Go(func() { g.run(ctx) })
		<-g.first
	}
	node := func(admin *client.Client, g *agent) api.Node {
		t.Helper()
		return must[api.Node](t)(admin.GetNode(t.Context(), g.Joined.Node))
	}
	for _, g := range agents {
		for i, p := range r.servers {
			if n := node(p.admin, g); !n.Connected || n.State != rats.StateTrusted {
				t.Errorf("server %d says of %s: connected %t, %s", i, n.Name, n.Connected, n.State)
			}
		}
	}
	// Asked on one server, answered over the other's stream.
	for _, admin := range []*client.Client{a.admin, b.admin} {
		for _, g := range agents {
			before := node(admin, g).LastResult
			res, err := admin.Attest(t.Context(), g.Joined.Node, 10*time.Second)
			if err != nil || res.ID == before || node(admin, g).LastResult != res.ID {
				t.Errorf("attesting across servers: %v, %v", res.ID, err)
			}
		}
	}
	// A policy put on one makes the nodes of the other attest.
	before := node(a.admin, there).LastResult
	r.policy(time.Hour + time.Second)
	within(t, 10*time.Second, "a node of the other server attests under the new policy", func() bool { return node(a.admin, there).LastResult != before })
	// Revoked on one, cut on the other.
	must[api.Node](t)(a.admin.RevokeNode(t.Context(), there.Joined.Node))
	within(t, 10*time.Second, "the revoked node's stream ends", func() bool { return !node(a.admin, there).Connected && !node(b.admin, there).Connected })
	twins(t, r, here)
}

// twins has a copy of a node's credential open a stream on the other server: both are noticed, both are asked to attest, and
// the one that proves itself stays.
func twins(t *testing.T, r *rig, g *agent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan rats.Code, 1)
	asked := make(chan struct{}, 1)
	go func() {
		copied := make([]byte, 32)
		for e, err := range g.servers[1].Stream(ctx, g.Joined.Node, copied, g.Boot()) {
			switch {
			case err != nil:
				return
			case e.Challenge != nil:
				select {
				case asked <- struct{}{}:
				default:
				}
			case e.Bye != nil:
				ended <- e.Bye.Code
				return
			}
		}
	}()
	select {
	case <-asked:
	case <-ctx.Done():
		t.Fatal("the copy was not asked to attest")
	}
	select {
	case code := <-ended:
		if code != "node.stream.superseded" {
			t.Errorf("the copy's stream ended with %s", code)
		}
	case <-ctx.Done():
		t.Fatal("the copy's stream goes on, although the node proved itself on the other server")
	}
	seen := false
	entries := must[[]api.AuditEntry](t)(r.servers[1].admin.Audit(t.Context(), 0, 1000))
	for _, e := range entries {
		seen = seen || e.Verb == "stream.double"
	}
	if !seen {
		t.Error("the second stream of a node isn't in the audit log")
	}
}

func clocks(at []time.Time) (list []string) {
	for _, t := range at {
		list = append(list, t.UTC().Format("04:05.000"))
	}
	return list
}
