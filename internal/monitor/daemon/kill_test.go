package daemon

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/examples/vault"
	"github.com/assay-attest/assay/internal/keeper"
)

// kills is how often the monitor is killed.
const kills = 30

// S18 and "killing the monitor at any moment loses nothing": the counter vault counts without pause while its monitor is
// killed at moments that nobody chose, in the middle of sealing, of storing, between calls. Whenever it comes back what was
// sealed opens, no count that was acknowledged is taken back, at most the one that was under way is counted as well, and
// the secret is never shown more often than it may.
func TestKilledMonitorLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the monitor thirty times")
	}
	m := newMachine(t, keeper.LaunchUserspace)
	m.install()
	m.startMonitor()
	file := filepath.Join(m.dir, "counter")
	now := edition{svn: 2}
	const all = 1 << 30
	c, v := m.vault(now, file, abi.ModeProcess)
	if err := v.Fill(bg, vault.Contents{Secret: []byte("gold"), Times: all}); err != nil {
		t.Fatal(err)
	}
	left, shown, within, began := uint32(all), 0, 0, 0
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for kill := range kills {
		acknowledged := make(chan uint32, 1<<16)
		ended := make(chan error, 1)
		first := make(chan struct{})
		go func() {
			defer close(acknowledged)
			for n := 0; ; n++ {
				s, err := v.Show(bg)
				if err != nil {
					ended <- err
					return
				}
				if string(s.Secret) != "gold" {
					t.Errorf("kill %d: it shows %q", kill, s.Secret)
				}
				acknowledged <- s.Times
				if n == 0 {
					close(first)
				}
			}
		}()
		<-first
		time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond)))) // real time: another process is killed
		m.monitor.kill()
		wantCode(t, "the call that was inside", <-ended, CodeGone)
		for n := range acknowledged {
			if n != left-1 {
				t.Errorf("kill %d: after %d left came %d", kill, left, n)
			}
			left = n
			shown++
		}
		_ = c.Close()

		m.startMonitor()
		c, v = m.vault(now, file, abi.ModeProcess)
		opened, err := v.Open(bg)
		if err != nil {
			t.Fatalf("kill %d: what was sealed doesn't open: %v\n%s", kill, err, m.monitor.out)
		}
		switch opened {
		case left:
			began++
		case left - 1: // it was counted and stored, and the answer didn't get out
			within++
			left = opened
		default:
			t.Fatalf("kill %d: %d left were acknowledged, %d opened", kill, left, opened)
		}
	}
	if shown > all-int(left) {
		t.Errorf("shown %d times, counted %d", shown, all-left)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	t.Logf("%d kills, %d counts; %d kills were between storing and answering, %d elsewhere", kills, all-left, within, began)
}
