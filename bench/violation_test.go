package bench

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// scene is a server with one machine of 50 files that answers challenges as they come.
type scene struct {
	*testing.B
	files string
	admin *client.Client
	m     *wire.Machine
}

func newScene(b *testing.B, every time.Duration) *scene {
	b.Helper()
	s := &scene{B: b, files: b.TempDir()}
	dir := filepath.Join(b.TempDir(), "data")
	made, err := server.Init(b.Context(), server.InitOptions{Dir: dir, Listen: "127.0.0.1:0", Rand: rand.Reader, Now: time.Now})
	s.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- server.Run(ctx, server.RunOptions{
			Dir: dir, Version: "bench", Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler), Ready: func(a string) { ready <- a },
		})
	}()
	b.Cleanup(func() { cancel(); <-done })
	url := "https://" + <-ready
	ca, err := os.ReadFile(made.CAFile)
	s.must(err)
	block, _ := pem.Decode(ca)
	s.admin, err = client.New(client.Options{Server: url, CAs: [][]byte{block.Bytes}, Token: made.AdminToken, Now: time.Now})
	s.must(err)
	var entries []refvalue.Entry
	for i := range 50 {
		name := fmt.Sprintf("%s/f%02d", s.files, i)
		content := []byte(fmt.Sprint("content of ", i))
		s.must(os.WriteFile(name, content, 0o600))
		entries = append(entries, refvalue.Entry{Name: rats.EscapePath([]byte(name)), Digests: []rats.Digest{rats.SHA256(content)}, Size: int64(len(content))})
	}
	set, err := refvalue.New(refvalue.Header{Name: "files", Source: "bench", Created: time.Now()}, entries)
	s.must(err)
	_, err = s.admin.PutRefSet(b.Context(), "files", set.Encode())
	s.must(err)
	vendor := softtpm.NewCA(rand.Reader)
	policy := fmt.Sprintf(`apiVersion: assay/v1
kind: Policy
metadata: {name: bench}
selector: 'node.kind == "host"'
every: %s
valid_for: 1h
allow: [simulated, software-tpm]
formats:
  tpm:
    quote: [0, 7]
    ek_cas:
      - |
        %s
  plan:
    tests:
      - {name: files, dir: %s, reference: files}
`, every, strings.ReplaceAll(strings.TrimSpace(vendor.PEM()), "\n", "\n        "), s.files)
	_, err = s.admin.PutPolicy(b.Context(), "bench", []byte(policy))
	s.must(err)
	_, err = s.admin.PutSecret(b.Context(), "s", api.SecretPut{Value: []byte("hush"), Rule: "true"})
	s.must(err)
	token, err := s.admin.CreateToken(b.Context(), api.TokenRequest{Name: "machine"})
	s.must(err)
	s.m, err = wire.Join(b.Context(), wire.Options{
		Server: url, Token: token.Token, Rand: rand.Reader, Now: time.Now,
		System: measure.Restrict(measure.Local(), []string{s.files}, nil), TPM: softtpm.New(rand.Reader, softtpm.Options{CA: vendor}),
	})
	s.must(err)
	go s.answer(ctx)
	s.until(rats.StateTrusted)
	return s
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// answer attests whenever the machine is challenged.
func (s *scene) answer(ctx context.Context) {
	for ctx.Err() == nil {
		for e, err := range s.m.Stream(ctx) {
			if err != nil {
				break
			}
			if e.Challenge != nil {
				_, _ = s.m.Attest(ctx, *e.Challenge)
			}
		}
	}
}

func (s *scene) until(want rats.State) {
	s.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		st, err := s.admin.Status(s.Context(), s.m.Joined.Node)
		s.must(err)
		if st.State == want {
			return
		}
	}
	s.Fatalf("never %s", want)
}

// refusedNow waits until the server refuses the secret by its verdict.
func (s *scene) refusedNow() {
	s.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := s.m.Client.ReleaseSecret(s.Context(), s.m.Joined.Node, "s"); client.CodeOf(err) == "broker.verdict.refused" {
			return
		}
	}
	s.Fatal("never refused")
}

// R192: from changing a file to the verdict and to the refused secret: when an administrator or an event asks at once, and
// when nobody does and the node's period (2 s here) has to come. In both the whole exchange takes place: challenge, quote,
// 50 files, verification, commit.
func BenchmarkViolation(b *testing.B) {
	for _, tt := range []struct {
		name  string
		every time.Duration
		ask   bool
	}{{"asked", time.Hour / 2, true}, {"period=2s", 2 * time.Second, false}} {
		b.Run(tt.name, func(b *testing.B) {
			s := newScene(b, tt.every)
			file := s.files + "/f07"
			good, err := os.ReadFile(file)
			s.must(err)
			var verdict, refused time.Duration
			n := 0
			for b.Loop() {
				n++
				s.must(os.WriteFile(file, []byte("evil"), 0o600))
				begin := time.Now()
				if tt.ask {
					_, err := s.admin.Attest(b.Context(), s.m.Joined.Node, time.Minute)
					s.must(err)
				}
				s.until(rats.StateContraindicated)
				verdict += time.Since(begin)
				s.refusedNow()
				refused += time.Since(begin)
				b.StopTimer()
				s.must(os.WriteFile(file, good, 0o600))
				_, err := s.admin.Attest(b.Context(), s.m.Joined.Node, time.Minute)
				s.must(err)
				s.until(rats.StateTrusted)
				b.StartTimer()
			}
			b.ReportMetric(float64(verdict.Microseconds())/1000/float64(n), "ms-to-verdict")
			b.ReportMetric(float64(refused.Microseconds())/1000/float64(n), "ms-to-refused-secret")
		})
	}
}
