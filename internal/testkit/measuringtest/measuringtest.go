// Package measuringtest builds the measuring enclave for tests, signed with the published test key, and runs it in a monitor
// of a simulated root. Nothing of it is fit for production.
package measuringtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/internal/monitor"
)

// Build builds the module of the enclave's inside as `make build` does, in a folder of the project, with more arguments.
func Build(folder string, more ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "measuring")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "measuring.wasm")
	args := append([]string{"build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", file}, more...)
	cmd := exec.Command("go", append(args, "github.com/assay-attest/assay/internal/measuring/inside")...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(file)
}

var module = sync.OnceValues(func() ([]byte, error) { return Build("") })

// Options change the image and its signature.
type Options struct {
	Image enclave.Options            // zero: those that are shipped
	Sign  func(*enclave.SignOptions) // nil: as shipped
}

// Image returns an image and its SIGSTRUCT, signed with the published test key.
func Image(t testing.TB, o Options) (image, sigstruct []byte) {
	t.Helper()
	code, err := module()
	if err != nil {
		t.Fatal(err)
	}
	if o.Image == (enclave.Options{}) {
		o.Image = measuring.Options()
	}
	i, err := enclave.New(code, o.Image)
	if err != nil {
		t.Fatal(err)
	}
	key, err := enclave.TestKey()
	if err != nil {
		t.Fatal(err)
	}
	sign := i.Defaults()
	sign.Date = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	if o.Sign != nil {
		o.Sign(&sign)
	}
	s, err := enclave.Sign(i.Measure(), sign, key)
	if err != nil {
		t.Fatal(err)
	}
	return i.Encode(), s.Bytes()
}

// compiler is shared: compiling is most of the time of a test.
var compiler = sync.OnceValues(func() (*monitor.Compiler, error) {
	return monitor.NewCompiler(context.Background(), monitor.CompilerOptions{})
})

// Monitor starts a monitor of a simulated root in this process, which quotes and lets enclaves of the published test key
// run. change may be nil.
func Monitor(t testing.TB, change func(*monitor.Config)) *monitor.Monitor {
	t.Helper()
	shared, err := compiler()
	if err != nil {
		t.Fatal(err)
	}
	root, err := enclave.ParseRoot(bytes.Repeat([]byte{7}, enclave.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	key, err := root.Monitor(1)
	if err != nil {
		t.Fatal(err)
	}
	p := abi.Platform{Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: 1}
	attestation, err := key.AttestationKey(p, "")
	if err != nil {
		t.Fatal(err)
	}
	c := monitor.Config{
		Key: key, Platform: p, Policy: monitor.Policy{Own: [][32]byte{abi.TestMRSIGNER}}, Rand: rand.Reader, Now: time.Now, Compiler: shared,
		Quote: func(_ context.Context, body abi.ReportBody) ([]byte, error) {
			q, err := enclave.Quote(rand.Reader, body, attestation)
			return q.Bytes(), err
		},
	}
	if change != nil {
		change(&c)
	}
	m, err := monitor.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
