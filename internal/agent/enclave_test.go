package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/internal/monitor/daemon"
	"github.com/assay-attest/assay/internal/testkit/measuringtest"
	"github.com/assay-attest/assay/rats"
)

// serve runs a monitor's daemon on a socket; stop ends it.
func serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	m := measuringtest.Monitor(t, nil)
	go func() { done <- daemon.Serve(ctx, ln, m, daemon.Options{UIDs: []uint32{uint32(os.Geteuid())}}) }()
	return func() {
		cancel()
		<-done
	}
}

// The agent measures in the enclave of the monitor's daemon; when the daemon was restarted the enclave is a new one, with
// other keys (R025), and the agent runs on.
func TestAgentUsesTheEnclaveOfTheMonitor(t *testing.T) {
	dir, err := os.MkdirTemp("", "m") // a short path: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image, sigstruct := measuringtest.Image(t, measuringtest.Options{})
	config := Config{Enclave: Enclave{
		Monitor: filepath.Join(dir, "m.sock"), Image: filepath.Join(dir, "image"), Sigstruct: filepath.Join(dir, "sig"), Mode: "inline",
	}}
	open := func() (enclave, error) {
		s := State{PlanSigner: spkiOf(t, newKey(t).Public()), Namespace: testNS, Node: testNode}
		return openEnclave(t.Context(), s, config, rand.Reader, time.Now, slog.New(slog.DiscardHandler))
	}
	if _, err := open(); codeOf(err) != string(CodeEnclaveFile.Code) {
		t.Errorf("without an image: %v, expected %s", err, CodeEnclaveFile.Code)
	}
	for file, b := range map[string][]byte{config.Enclave.Image: image, config.Enclave.Sigstruct: make([]byte, 4097)} {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(); codeOf(err) != string(CodeEnclaveFile.Code) {
		t.Errorf("with another file for a SIGSTRUCT: %v, expected %s", err, CodeEnclaveFile.Code)
	}
	if err := os.WriteFile(config.Enclave.Sigstruct, sigstruct, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); codeOf(err) != string(daemon.CodeGone.Code) {
		t.Errorf("without a monitor: %v, expected %s", err, daemon.CodeGone.Code)
	}

	stop := serve(t, config.Enclave.Monitor)
	e, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	keys, err := e.Keys(t.Context())
	if err != nil || len(keys) != 3 || keys[0].Use != rats.KeyHPKE {
		t.Fatalf("%v, %v", keys, err)
	}
	stop()
	if _, err := e.(*measuring.Enclave).Quote(t.Context(), nil); err == nil {
		t.Error("a monitor that is gone quotes")
	}
	if _, err := e.Keys(t.Context()); codeOf(err) != string(daemon.CodeGone.Code) {
		t.Errorf("while the monitor is gone: %v", err)
	}
	defer serve(t, config.Enclave.Monitor)()
	again, err := e.Keys(t.Context())
	if err != nil || bytes.Equal(again[0].Public, keys[0].Public) {
		t.Errorf("after a restart of the monitor: %v, %v", again, err)
	}
}
