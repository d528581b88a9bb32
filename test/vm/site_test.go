package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// agentBinary is the agent, built once for all tests.
var agentBinary = sync.OnceValues(func() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return Agent(ctx, "../..")
})

// tool is the program of the guests whose digest policies ask for.
const tool, toolText = "/opt/app/tool", "#!/bin/sh\necho the good tool\n"

// site is a server with an owner, and one machine.
type site struct {
	t               *testing.T
	tools           Tools
	dir             string
	addr            string // of the server, on the loopback
	admin           *client.Client
	tpm             *TPM
	guest           *Archive
	binary, payload []byte // the agent, and the disk it comes on
	node            string
}

// newSite starts a server and manufactures a TPM. Machines are booted by boot.
func newSite(t *testing.T, tier Tier) *site {
	t.Helper()
	s := &site{t: t, tools: Need(t, tier), node: "guest"}
	// Not t.TempDir: with a sentence for a name its path is longer than a socket's may be.
	var err error
	if s.dir, err = os.MkdirTemp("", "vm-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	s.serve()
	if s.tpm, err = NewTPM(t.Context(), filepath.Join(s.dir, "tpm")); err != nil {
		t.Fatal(err)
	}
	if s.binary, err = agentBinary(); err != nil {
		t.Fatal(err)
	}
	if s.payload, err = Payload(map[string][]byte{GuestAgent: s.binary}); err != nil {
		t.Fatal(err)
	}
	if s.guest, err = Guest(s.tools); err != nil {
		t.Fatal(err)
	}
	s.guest.File(tool, 0o755, []byte(toolText))
	return s
}

func (s *site) serve() {
	t := s.t
	data := filepath.Join(s.dir, "server")
	made, err := server.Init(t.Context(), server.InitOptions{
		Dir: data, Listen: "127.0.0.1:0", Names: []string{GuestServerIP}, Rand: rand.Reader, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	log := io.Discard
	if os.Getenv("ASSAY_VM_LOG") != "" {
		log = os.Stderr
	}
	go func() {
		done <- server.Run(ctx, server.RunOptions{
			Dir: data, Version: "test", Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil)),
			Ready: func(a string) { ready <- a },
		})
	}()
	select {
	case s.addr = <-ready:
	case err := <-done:
		t.Fatalf("starting the server: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stopping the server: %v", err)
		}
	})
	ca, err := os.ReadFile(made.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	s.admin, err = client.New(client.Options{Server: "https://" + s.addr, CAs: [][]byte{block.Bytes}, Token: made.AdminToken, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
}

// initrd returns the guest's initramfs.
func (s *site) initrd() []byte {
	s.t.Helper()
	var b bytes.Buffer
	if _, err := s.guest.WriteTo(&b); err != nil {
		s.t.Fatal(err)
	}
	return b.Bytes()
}

// boot starts a machine with the site's TPM and disk, and waits until it is ready.
func (s *site) boot(c Config) *Machine {
	s.t.Helper()
	m := s.start(c)
	times, err := m.Ready(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.report(c.Tier, times)
	return m
}

func (s *site) start(c Config) *Machine {
	s.t.Helper()
	c.Tools, c.Dir, c.TPM, c.Server, c.Payload = s.tools, filepath.Join(s.dir, "machine"), s.tpm, s.addr, s.payload
	m, err := Start(s.t.Context(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(m.Stop)
	return m
}

func (s *site) report(tier Tier, times Times) {
	s.t.Logf("boot, %s: console after %.1f s, init after %.1f s, ready after %.1f s", tier,
		times.Firmware.Seconds(), times.Init.Seconds(), times.Ready.Seconds())
}

// run runs a script in the guest that must not fail.
func (s *site) run(m *Machine, script string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	out, err := m.Run(ctx, script)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// join makes the guest a node.
func (s *site) join(m *Machine) {
	s.t.Helper()
	tok, err := s.admin.CreateToken(s.t.Context(), api.TokenRequest{Name: s.node, Kind: "vm"})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := m.Put(s.t.Context(), "/tmp/token", []byte(tok.Token)); err != nil {
		s.t.Fatal(err)
	}
	s.run(m, GuestAgent+" agent join --server "+GuestServer+" --join-token /tmp/token --data "+GuestState+"/agent")
	n, err := s.admin.GetNode(s.t.Context(), s.node)
	if err != nil {
		s.t.Fatal(err)
	}
	if n.Enrolment != "approved" {
		s.t.Fatalf("the guest joined as %s: %v", n.Enrolment, n.Reasons)
	}
}

// agent starts the agent in the guest, and waits until it is connected.
func (s *site) agent(m *Machine) {
	s.t.Helper()
	s.run(m, GuestAgent+" agent run --data "+GuestState+"/agent >/run/agent.log 2>&1 &")
	s.await("the agent to connect", func() bool {
		n, err := s.admin.GetNode(s.t.Context(), s.node)
		if err != nil {
			s.t.Fatal(err)
		}
		return n.Connected
	})
}

func (s *site) await(what string, ok func() bool) {
	s.t.Helper()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-limit:
			s.t.Fatalf("waited a minute for %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// attest challenges the guest now and returns the result with its claims.
func (s *site) attest() api.ResultView {
	s.t.Helper()
	asked := time.Now()
	res, err := s.admin.Attest(s.t.Context(), s.node, time.Minute)
	for err == nil && res.Challenged.Before(asked) { // of another attestation that was under way
		res, err = s.admin.Attest(s.t.Context(), s.node, time.Minute)
	}
	if err != nil {
		s.t.Fatalf("attesting: %v", err)
	}
	if res, err = s.admin.ResultClaims(s.t.Context(), res.ID); err != nil {
		s.t.Fatal(err)
	}
	return res
}

// trusted attests the guest and expects it to be trusted.
func (s *site) trusted() api.ResultView {
	s.t.Helper()
	res := s.attest()
	if res.State != rats.StateTrusted {
		s.t.Fatalf("the verdict is %s, expected trusted:\n%s", res.Verdict, reasons(res))
	}
	return res
}

// refused attests the guest and expects it not to be trusted, for a reason with this code whose text has these words.
func (s *site) refused(code rats.Code, words ...string) api.ResultView {
	s.t.Helper()
	res := s.attest()
	if res.State != rats.StateContraindicated {
		s.t.Fatalf("the verdict is %s, expected not trusted:\n%s", res.Verdict, reasons(res))
	}
	if !because(res, code, words...) {
		s.t.Fatalf("no reason %s with %q among:\n%s", code, words, reasons(res))
	}
	return res
}

// because says whether one of a result's reasons has this code and all of these words.
func because(res api.ResultView, code rats.Code, words ...string) bool {
	return slices.ContainsFunc(res.Reasons, func(r rats.Reason) bool {
		return r.Code == code && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(r.String(), w) })
	})
}

func reasons(res api.ResultView) string {
	var b strings.Builder
	for _, r := range res.Reasons {
		b.WriteString("  " + r.String() + "\n")
	}
	return b.String()
}

// references puts the digests of the guest's files in force. Nothing is booted for that: the host made the files.
func (s *site) references() {
	s.t.Helper()
	entries := []refvalue.Entry{{Name: GuestAgent, Digests: []rats.Digest{rats.SHA256(s.binary)}, Size: int64(len(s.binary))}}
	for _, f := range s.guest.Files() {
		b := s.guest.Content(f)
		entries = append(entries, refvalue.Entry{Name: rats.EscapePath([]byte(f)), Digests: []rats.Digest{rats.SHA256(b)}, Size: int64(len(b))})
	}
	set, err := refvalue.New(refvalue.Header{Name: "guest", Source: "the initramfs", Created: time.Now()}, entries)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.admin.PutRefSet(s.t.Context(), "guest", set.Encode()); err != nil {
		s.t.Fatal(err)
	}
}

// rules are what a policy says besides whom to trust.
type rules struct {
	tpm     string // lines of the section "tpm", besides ek_cas
	formats string // further sections
	allow   string // marks; software-tpm and simulated if empty
}

// policy puts a policy for the guest in force.
func (s *site) policy(r rules) {
	s.t.Helper()
	if r.allow == "" {
		r.allow = "software-tpm, simulated"
	}
	var doc strings.Builder
	fmt.Fprintf(&doc, `apiVersion: assay/v1
kind: Policy
metadata: {name: vm}
selector: 'node.kind == "vm"'
priority: 10
every: 1h
valid_for: 2h
allow: [%s]
formats:
  tpm:
    ek_cas:
`, r.allow)
	for _, der := range s.tpm.CACerts() {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		doc.WriteString("      - |\n        " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n        ") + "\n")
	}
	for _, part := range []struct{ text, indent string }{{r.tpm, "    "}, {r.formats, "  "}} {
		for l := range strings.Lines(part.text) {
			doc.WriteString(part.indent + strings.TrimSuffix(l, "\n") + "\n")
		}
	}
	if _, err := s.admin.PutPolicy(s.t.Context(), "vm", []byte(doc.String())); err != nil {
		s.t.Fatalf("applying the policy: %v\n%s", err, doc.String())
	}
}

// filesSection asks for the guest's programs by a plan.
const filesSection = `plan:
  tests:
    - {name: app, dir: /opt/app, reference: guest}
    - {name: agent, file: /usr/bin/assay, reference: guest}
`

// claimsOf decodes a format's claims of a result.
func claimsOf[T any](t *testing.T, res api.ResultView, f rats.Format) T {
	t.Helper()
	var c T
	b := res.Claims[f]
	if len(b) == 0 {
		t.Fatalf("the result has no claims of %s", f)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}
