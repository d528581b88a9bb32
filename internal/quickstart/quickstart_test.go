package quickstart_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/quickstart"
	"github.com/assay-attest/assay/internal/testkit/measuringtest"
)

// binary builds assay once per test run.
func binary(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the binary and runs a whole system; runs without -short")
	}
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed: apt-get install swtpm swtpm-tools")
	}
	file := filepath.Join(t.TempDir(), "assay")
	out, err := exec.Command("go", "build", "-o", file, "github.com/assay-attest/assay/cmd/assay").CombinedOutput()
	if err != nil {
		t.Fatalf("building assay: %v\n%s", err, out)
	}
	return file
}

// beside puts the measuring enclave beside the binary, as `make build` does.
func beside(t *testing.T, binary string) string {
	t.Helper()
	image, sigstruct := measuringtest.Image(t, measuringtest.Options{})
	for name, b := range map[string][]byte{"assay-measuring.enclave": image, "assay-measuring.sig": sigstruct} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(binary), name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return binary
}

// leftovers returns the temporary directories of quickstarts.
func leftovers(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.TempDir(), "assay-quickstart-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A whole run: server, agent, monitor, enclave and TPM as processes, this machine's files, trusted, not trusted, trusted.
//
// R021, R022, R042, R126, R146: the plan leaves for an attested node only, references are captured by one command, a secret
// follows the verdict, and the refusal names file, expected and seen digest.
func TestTheQuickstartEndsTrustedAfterOneRefusal(t *testing.T) {
	t.Setenv("TMPDIR", shortTemp(t))
	out, err := quickstart.Run(t.Context(), quickstart.Options{Binary: beside(t, binary(t)), Rand: rand.Reader, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	var verdicts []string
	for _, s := range out.Steps {
		if s.Verdict == "" {
			continue
		}
		verdicts = append(verdicts, s.Verdict)
		if len(s.Formats) != 3 || !slices.Equal(s.Marks, []string{"simulated", "software-tpm", "test-key"}) {
			t.Errorf("step %q: formats %v, marks %v", s.Name, s.Formats, s.Marks)
		}
		shown := s.Highlights["enclave"]
		if len(shown) != 4 || shown[0].Value != "simulated" || shown[1].Value != "userspace" || shown[2].Value != "process" || !strings.HasPrefix(shown[3].Value, "sha256:") {
			t.Errorf("step %q: the verdict shows %v, want root, launch, mode and MRENCLAVE", s.Name, shown)
		}
		if s.Verdict != "not trusted" {
			continue
		}
		named := false
		for _, r := range s.Reasons {
			named = named || strings.Contains(r.Path, "/scratch/") && r.Expected != "" && r.Seen != "" && r.Rule != "" && r.Hint != ""
		}
		if !named {
			t.Errorf("no reason names the changed file with rule, expected, seen and hint: %+v", s.Reasons)
		}
	}
	if want := []string{"trusted", "not trusted", "trusted"}; !slices.Equal(verdicts, want) {
		t.Errorf("verdicts %v, expected %v", verdicts, want)
	}
	if out.Files < quickstart.MinFiles {
		t.Errorf("%d files measured, expected %d or more", out.Files, quickstart.MinFiles)
	}
	if left := leftovers(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAnInterruptedQuickstartLeavesNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", shortTemp(t))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := quickstart.Run(ctx, quickstart.Options{
		Binary: binary(t), Rand: rand.Reader, Now: time.Now,
		Report: func(s quickstart.Step) {
			if s.Name == "agent" {
				cancel() // server, agent and TPM are up
			}
		},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, expected that it was cancelled", err)
	}
	if left := leftovers(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// shortTemp is a temporary directory whose path leaves room for the names of sockets.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "qs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
