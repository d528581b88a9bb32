package attacks

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/internal/testkit/wire"
)

// serverEnv makes this test's binary a server over the data directory it names, so that a test can kill it.
const serverEnv = "ASSAY_TEST_SERVER_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(serverEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	err := server.Run(context.Background(), server.RunOptions{
		Dir: dir, Version: "test", Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Ready: func(addr string) { fmt.Println("https://" + addr) },
	})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// spawn runs the server as a process of its own and returns how to kill it.
func (r *rig) spawn() (kill func()) {
	r.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serverEnv+"="+r.dir+"/data")
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		r.t.Fatalf("the server process did not start: %v", err)
	}
	r.url = strings.TrimSpace(line)
	r.admin = r.owner(r.init.AdminToken)
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill() // SIGKILL: nothing is flushed, nothing is closed
			_ = cmd.Wait()
		})
	}
	r.t.Cleanup(kill)
	return kill
}

// S41: whatever was acknowledged is there after the server was killed in the middle of 1,000 attestations.
func TestKilledServerLosesNoAcknowledgedResult(t *testing.T) {
	const nodes, each = 50, 20
	r := newRig(t)
	r.stop()
	kill := r.spawn()
	machines := make([]*wire.Machine, nodes)
	for i := range machines {
		machines[i] = r.machine(fmt.Sprintf("n%d", i))
	}
	var mu sync.Mutex
	var acked []api.Told
	half := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, m := range machines {
		wg.Go(func() {
			for range each {
				told, err := attestOnce(ctx, m)
				for codeOf(err) == httpapi.CodeRate.Code {
					time.Sleep(50 * time.Millisecond)
					told, err = attestOnce(ctx, m)
				}
				if err != nil {
					return // the server is gone
				}
				mu.Lock()
				if acked = append(acked, told); len(acked) == nodes*each/2 {
					close(half)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-half:
	case <-time.After(2 * time.Minute):
		t.Fatal("500 attestations took more than two minutes")
	}
	kill()
	cancel()
	wg.Wait()
	if len(acked) >= nodes*each {
		t.Fatal("every attestation was over before the server was killed")
	}

	r.spawn()
	last := int64(0)
	kept := map[string]bool{}
	for _, m := range machines {
		results, err := r.admin.Results(t.Context(), m.Joined.Node, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range results {
			kept[v.ID] = true
		}
	}
	for _, told := range acked {
		if !kept[told.ID] {
			t.Fatalf("acknowledged result %s is lost", told.ID)
		}
		last = max(last, told.Checkpoint.Seq)
	}
	leaves := map[int64]string{}
	for after := int64(0); ; {
		page, err := r.admin.Audit(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			leaves[e.Seq] = e.Hash.String()
			after = e.Seq
		}
	}
	for _, told := range acked {
		if leaves[told.Checkpoint.Seq] != told.Checkpoint.Hash.String() {
			t.Fatalf("the audit log no longer holds checkpoint %d of result %s", told.Checkpoint.Seq, told.ID)
		}
	}
	t.Logf("%d results acknowledged before the kill, all present; audit log of %d leaves, last acknowledged %d", len(acked), len(leaves), last)
}

// attestOnce opens a new stream of the machine, answers its first challenge and closes it.
func attestOnce(ctx context.Context, m *wire.Machine) (api.Told, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := rand.Read(m.Instance); err != nil {
		return api.Told{}, err
	}
	c, err := m.Challenge(ctx)
	if err != nil {
		return api.Told{}, err
	}
	return m.Attest(ctx, c)
}
