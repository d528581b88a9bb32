package monitor_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

var bg = context.Background()

// TestMain lets the test's own program be what mode process starts.
func TestMain(m *testing.M) {
	if monitor.IsChild(os.Args) {
		fmt.Fprintln(os.Stderr, monitor.Child(rand.Reader, time.Now))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// guest is the module of testdata/guest, built once for all tests of a run.
var guest = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w -buildid=", "-o", file, "./testdata/guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(file)
})

// compiler is shared by all tests: compiling takes seconds, and eleven times as long with -race.
var compiler = sync.OnceValues(func() (*monitor.Compiler, error) {
	return monitor.NewCompiler(bg, monitor.CompilerOptions{})
})

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// key is a signer of RSA-3072 with exponent 3, of which Go makes none itself.
func testKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := enclave.TestKey()
	return must(t, k, err)
}

// otherKey is a signer that isn't the test key; openssl makes it.
var otherKey = sync.OnceValues(func() (*rsa.PrivateKey, error) {
	out, err := exec.Command("openssl", "genrsa", "-3", "3072").Output()
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(out)
	if block.Type == "RSA PRIVATE KEY" {
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return k.(*rsa.PrivateKey), nil
})

var software = abi.Platform{Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: 3}

// root returns the key of a monitor on a machine of the given number.
func root(t testing.TB, machine byte, svn uint16) *enclave.MonitorKey {
	t.Helper()
	r, err := enclave.ParseRoot(bytes.Repeat([]byte{machine}, enclave.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	k, err := r.Monitor(svn)
	return must(t, k, err)
}

func config(t testing.TB) monitor.Config {
	t.Helper()
	c, err := compiler()
	if err != nil {
		t.Fatal(err)
	}
	return monitor.Config{
		Key: root(t, 1, software.SVN), Platform: software, Policy: monitor.Policy{Own: [][32]byte{abi.TestMRSIGNER}},
		Rand: rand.Reader, Now: time.Now, Compiler: c, Program: "/proc/self/exe",
	}
}

func newMonitor(t testing.TB, change func(c *monitor.Config)) *monitor.Monitor {
	t.Helper()
	c := config(t)
	if change != nil {
		change(&c)
	}
	m, err := monitor.New(bg, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close(bg) })
	return m
}

// image returns the guest's image and the SIGSTRUCT for it.
func image(t testing.TB, o enclave.Options, change func(o *enclave.SignOptions)) (file, sig []byte) {
	t.Helper()
	module, err := guest()
	if err != nil {
		t.Fatal(err)
	}
	i, err := enclave.New(module, o)
	if err != nil {
		t.Fatal(err)
	}
	return i.Encode(), sign(t, i, testKey(t), change)
}

func sign(t testing.TB, i *enclave.Image, k *rsa.PrivateKey, change func(o *enclave.SignOptions)) []byte {
	t.Helper()
	so := i.Defaults()
	so.Date = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	if change != nil {
		change(&so)
	}
	s, err := enclave.Sign(i.Measure(), so, k)
	if err != nil {
		t.Fatal(err)
	}
	return s.Bytes()
}

var small = enclave.Options{Heap: 64 << 20, Buffer: 64 << 10, ProductID: 7, SVN: 2}

func load(t testing.TB, m *monitor.Monitor, o monitor.Options) *monitor.Instance {
	t.Helper()
	file, sig := image(t, small, nil)
	e, err := m.Load(bg, file, sig, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Destroy() })
	return e
}

func wantCode(t testing.TB, what string, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("%s: %v, want %s", what, err, want.Code)
	}
}

func call[Out, In any](t testing.TB, e *monitor.Instance, entry string, in In) Out {
	t.Helper()
	out, err := monitor.Call[In, Out](bg, e, entry, in)
	if err != nil {
		t.Fatalf("%s: %v", entry, err)
	}
	return out
}

func try[In any](e *monitor.Instance, entry string, in In) error {
	b, err := boundary.Encode(in)
	if err != nil {
		return err
	}
	_, err = e.Enter(bg, entry, b)
	return err
}

type none = struct{}

func TestCallsGoInAndOut(t *testing.T) {
	e := load(t, newMonitor(t, nil), monitor.Options{})
	if got := call[[]byte](t, e, "echo", []byte("hello")); string(got) != "hello" {
		t.Errorf("echo: %q", got)
	}
	wantCode(t, "an error without a code", try(e, "fail", none{}), rats.CodeInfo{Code: "enclave.sdk.entry"})
}

// inBothModes runs a test inline and in a process: the same image, the same MRENCLAVE, the same answers.
func inBothModes(t *testing.T, f func(t *testing.T, mode abi.Mode)) {
	for _, mode := range []abi.Mode{abi.ModeInline, abi.ModeProcess} {
		t.Run(mode.String(), func(t *testing.T) { f(t, mode) })
	}
}
