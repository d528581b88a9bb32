// Package quickstart shows the whole idea on one machine: a server, an agent and a software TPM as separate processes, this
// machine's own files, one trusted and one broken attestation, and a secret that follows the verdict.
//
// It guarantees that everything it makes lies in one temporary directory and is gone when it ends, however it ends, and that
// its server listens on the loopback only. What it shows is real but for three things, which its policy allows by name and
// every verdict carries as marks: the TPM is a program, the monitor's root key is a file, and the measuring enclave is signed
// with a key that everybody has. Without an image of that enclave beside the binary the agent measures in its own process.
package quickstart

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/swtpmproc"
	"github.com/assay-attest/assay/rats"
)

// MinFiles is how many real files are measured at least.
const MinFiles = 2000

// Options say how to run. Binary, Rand and Now are required.
type Options struct {
	Binary string     // of assay, started for server, agent and commands
	Report func(Step) // called when a step is done; nil: nobody watches
	Rand   io.Reader
	Now    func() time.Time
	// Wait is called with the outcome when all steps are done and everything still runs; nil: it ends at once.
	Wait func(context.Context, Outcome)
}

// Step is one step of the run.
type Step struct {
	Name    string        `json:"name"`
	Seconds float64       `json:"seconds"`
	Detail  string        `json:"detail,omitempty"`
	Verdict string        `json:"verdict,omitempty"` // of attestations, the word
	Formats []rats.Format `json:"formats,omitempty"`
	Marks   []string      `json:"marks,omitempty"`
	Reasons []rats.Reason `json:"reasons,omitempty"`
	// Highlights are facts of the evidence that belong to the verdict.
	Highlights map[rats.Format][]rats.Highlight `json:"highlights,omitempty"`
}

// Outcome is the whole run.
type Outcome struct {
	Steps    []Step   `json:"steps"`
	Seconds  float64  `json:"seconds"`
	API      string   `json:"api"`
	Files    int      `json:"files"` // measured
	Commands []string `json:"commands"`
}

const (
	nodeName   = "this-machine"
	policyName = "quickstart"
	setName    = "quickstart"
	secretName = "demo"
	rule       = `node.labels["quickstart"] == "yes"`
)

// run is the state of one run.
type run struct {
	Options
	dir     string
	scratch []string // copies that may be changed
	files   files
	tpm     *swtpmproc.Process
	enclave measuringImage
	procs   []*process
	owner   *client.Client
	secret  string
	out     Outcome
}

// Run runs every step. On an error the outcome holds what was done so far, and the error ends with what the processes logged
// last.
func Run(ctx context.Context, o Options) (out Outcome, err error) {
	dir, err := os.MkdirTemp("", "assay-quickstart-")
	if err != nil {
		return Outcome{}, fmt.Errorf("making a temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	// The agent compares real paths with what it may read.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return Outcome{}, fmt.Errorf("resolving the temporary directory: %w", err)
	}
	r := &run{Options: o, dir: dir}
	defer r.stop()
	start := o.Now()
	for _, s := range r.steps() {
		since := o.Now()
		step := Step{Name: s.name}
		if err := s.do(ctx, &step); err != nil {
			if ctx.Err() != nil {
				return r.out, ctx.Err()
			}
			return r.out, fmt.Errorf("step %q: %w%s", s.name, err, r.lastWords())
		}
		step.Seconds = seconds(o.Now().Sub(since))
		r.out.Steps = append(r.out.Steps, step)
		if o.Report != nil {
			o.Report(step)
		}
	}
	r.out.Seconds = seconds(o.Now().Sub(start))
	if o.Wait != nil {
		o.Wait(ctx, r.out)
	}
	return r.out, nil
}

func seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond)) / float64(time.Second)
}

type step struct {
	name string
	do   func(context.Context, *Step) error
}

func (r *run) steps() []step {
	return []step{
		{"prepare", r.prepare},
		{"software TPM", r.startTPM},
		{"server", r.startServer},
		{"policy", r.applyPolicy},
		{"join", r.join},
		{"capture", r.capture},
		{"monitor", r.startMonitor},
		{"agent", r.startAgent},
		{"attest", func(ctx context.Context, s *Step) error { return r.attest(ctx, s, rats.ExitOK) }},
		{"secret released", r.released},
		{"change a file", r.change},
		{"attest again", func(ctx context.Context, s *Step) error { return r.attest(ctx, s, rats.ExitNotTrusted) }},
		{"secret refused", r.refused},
		{"restore the file", r.restore},
		{"attest once more", func(ctx context.Context, s *Step) error { return r.attest(ctx, s, rats.ExitOK) }},
	}
}

// prepare copies a few programs that may be changed, and looks for files to measure.
func (r *run) prepare(_ context.Context, s *Step) error {
	scratch := filepath.Join(r.dir, "scratch")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"cat", "ls", "env", "id"} {
		from := filepath.Join("/usr/bin", name)
		to := filepath.Join(scratch, name)
		if err := copyFile(from, to); err != nil {
			continue // a machine without ls is still a machine
		}
		r.scratch = append(r.scratch, to)
	}
	if len(r.scratch) == 0 {
		return errors.New("copying programs to change: none of cat, ls, env and id could be read in /usr/bin")
	}
	var err error
	if r.files, err = findFiles(scratch); err != nil {
		return err
	}
	if r.enclave, err = findImage(r.Binary); err != nil {
		return err
	}
	s.Detail = fmt.Sprintf("%d files below %s", r.files.count, strings.Join(r.files.roots(), ", "))
	return nil
}

func (r *run) startTPM(ctx context.Context, s *Step) error {
	var err error
	// Its end is decided in stop, after those who use it ended.
	r.tpm, err = swtpmproc.StartProcess(context.WithoutCancel(ctx), r.path("swtpm"), swtpmproc.Options{})
	if err != nil {
		return err
	}
	s.Detail = "swtpm, a TPM 2.0 that is a program, with an endorsement certificate of a CA of its own"
	return nil
}

func (r *run) startServer(ctx context.Context, s *Step) error {
	if _, err := r.command(ctx, nil, "server", "init", "--data", r.path("server"), "--listen", "127.0.0.1:0",
		"--client-config", r.path("owner", "init.yaml")); err != nil {
		return err
	}
	if err := r.start("server", "server", "run", "--data", r.path("server"), "--address-file", r.path("address")); err != nil {
		return err
	}
	addr, err := r.await(ctx, r.path("address"))
	if err != nil {
		return err
	}
	r.out.API = "https://" + strings.TrimSpace(addr)
	cfg := fmt.Sprintf("server: %s\nca: ca.pem\ntoken_file: admin-token\n", r.out.API)
	if err := os.WriteFile(r.config(), []byte(cfg), 0o600); err != nil {
		return err
	}
	if r.owner, err = r.connect(); err != nil {
		return err
	}
	for _, c := range []string{"node explain " + nodeName, "node history " + nodeName, "policy show " + policyName} {
		r.out.Commands = append(r.out.Commands, r.Binary+" --config "+r.config()+" "+c)
	}
	s.Detail = r.out.API
	return r.owner.Health(ctx)
}

func (r *run) applyPolicy(ctx context.Context, s *Step) error {
	doc, err := policyDocument(r.files, r.tpm.CACerts(), r.enclave.mrenclave)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path("policy.yaml"), doc, 0o644); err != nil {
		return err
	}
	p, err := r.owner.PutPolicy(ctx, policyName, doc)
	if err != nil {
		return err
	}
	s.Detail = fmt.Sprintf("%s v%d; it allows %s by name, else nothing here could be trusted", p.Name, p.Version, strings.Join(p.Allow, ", "))
	return nil
}

func (r *run) join(ctx context.Context, s *Step) error {
	token, err := r.owner.CreateToken(ctx, api.TokenRequest{Name: nodeName, Labels: map[string]string{"quickstart": "yes"}, TTL: "10m"})
	if err != nil {
		return err
	}
	if _, err := r.command(ctx, []byte(token.Token), "agent", "join", "--server", r.out.API, "--join-token", "-",
		"--tpm-device", r.tpm.Path(), "--data", r.path("agent")); err != nil {
		return err
	}
	n, err := r.owner.GetNode(ctx, nodeName)
	if err != nil {
		return err
	}
	if n.Enrolment != "approved" {
		return fmt.Errorf("joining: the node is %s, expected approved by the endorsement CA that policy names", n.Enrolment)
	}
	s.Detail = fmt.Sprintf("%s is node %s: its attestation key lives in the TPM with endorsement key %.19s…", n.Name, n.ID, n.EK)
	return nil
}

func (r *run) capture(ctx context.Context, s *Step) error {
	if _, err := r.command(ctx, nil, "ref", "capture", setName, "--policy", r.path("policy.yaml"), "--upload"); err != nil {
		return err
	}
	set, err := r.owner.GetRefSet(ctx, setName)
	if err != nil {
		return err
	}
	if r.out.Files = set.Entries; set.Entries < MinFiles {
		return fmt.Errorf("capturing reference values: %d files, expected %d or more", set.Entries, MinFiles)
	}
	s.Detail = fmt.Sprintf("digests of %d files of this machine, as reference set %s v%d", set.Entries, set.Name, set.Version)
	return nil
}

func (r *run) startAgent(ctx context.Context, s *Step) error {
	allow := fmt.Sprintf("allow:\n  roots: [%s]\n", quoted(r.files.roots())) + r.agentEnclave()
	if err := os.WriteFile(r.path("agent.yaml"), []byte(allow), 0o600); err != nil {
		return err
	}
	if err := r.start("agent", "agent", "run", "--data", r.path("agent"), "--agent-config", r.path("agent.yaml")); err != nil {
		return err
	}
	for {
		n, err := r.owner.GetNode(ctx, nodeName)
		if err != nil {
			return err
		}
		if n.Connected {
			s.Detail = "connected; it listens on no port and may read what its own configuration allows"
			return nil
		}
		if err := r.pause(ctx); err != nil {
			return err
		}
	}
}

// attest challenges the node and expects a verdict with this exit code.
func (r *run) attest(ctx context.Context, s *Step, exit int) error {
	asked := r.Now()
	res, err := r.owner.Attest(ctx, nodeName, 30*time.Second)
	for err == nil && res.Challenged.Before(asked) {
		// Another attestation was under way, and what it measured may be from before the last step.
		res, err = r.owner.Attest(ctx, nodeName, 30*time.Second)
	}
	if err != nil {
		return err
	}
	s.Verdict, s.Formats, s.Marks, s.Reasons = res.Verdict, res.Formats, res.Marks, res.Reasons
	s.Highlights = make(map[rats.Format][]rats.Highlight)
	for f, p := range res.Parts {
		if len(p.Highlights) > 0 {
			s.Highlights[f] = p.Highlights
		}
	}
	if v := res.Result.Verdict(r.Now()); v.Exit != exit {
		var b strings.Builder
		for _, reason := range res.Reasons {
			b.WriteString("\n  " + reason.String())
		}
		return fmt.Errorf("attesting: the verdict is %q, which this step doesn't expect%s", res.Verdict, b.String())
	}
	return nil
}

func (r *run) released(ctx context.Context, s *Step) error {
	random := make([]byte, 16)
	if _, err := io.ReadFull(r.Rand, random); err != nil {
		return fmt.Errorf("reading randomness: %w", err)
	}
	r.secret = hex.EncodeToString(random)
	if _, err := r.owner.PutSecret(ctx, secretName, api.SecretPut{Value: []byte(r.secret), Rule: rule}); err != nil {
		return err
	}
	got, err := r.agentSecret(ctx)
	if err != nil {
		return err
	}
	if got != r.secret {
		return errors.New("releasing the secret: the node received another value")
	}
	s.Detail = fmt.Sprintf("%q reached the node, sealed to the key of its last result", secretName)
	return nil
}

func (r *run) change(_ context.Context, s *Step) error {
	f, err := os.OpenFile(r.scratch[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString("\x00"); err != nil {
		f.Close()
		return err
	}
	s.Detail = "one byte more in " + r.scratch[0]
	return f.Close()
}

func (r *run) refused(ctx context.Context, s *Step) error {
	got, err := r.agentSecret(ctx)
	if err == nil {
		clear([]byte(got))
		return errors.New("refusing the secret: it was released to a node that is not trusted")
	}
	var failed *commandError
	if !errors.As(err, &failed) || failed.code == "" {
		return err
	}
	s.Detail = "refused with " + string(failed.code)
	told, err := r.agentState(ctx)
	if err != nil {
		return err
	}
	s.Detail += "; the agent was told: " + told
	return nil
}

func (r *run) restore(_ context.Context, s *Step) error {
	info, err := os.Stat(r.scratch[0])
	if err != nil {
		return err
	}
	s.Detail = r.scratch[0] + " is as it was"
	return os.Truncate(r.scratch[0], info.Size()-1)
}
