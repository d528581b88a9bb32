package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

func goodState() State {
	return State{
		Version: stateVersion, Server: "https://s:1", Namespace: "lab", Node: "nd_1", Verifier: rats.SHA256([]byte("v")),
		CAs: [][]byte{{1}}, PlanSigner: []byte{1}, AKUnique: make([]byte, 32), TLSUnique: make([]byte, 32), Certificate: []byte{1},
	}
}

func TestStateIsStoredForItsOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o700)
	if _, err := LoadState(dir); codeOf(err) != string(CodeStateMissing.Code) {
		t.Errorf("%v, expected %s", err, CodeStateMissing.Code)
	}
	if err := goodState().save(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, stateFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if s, err := LoadState(dir); err != nil || s.Node != "nd_1" {
		t.Errorf("%+v, %v", s, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, p := range []string{path, dir} {
		os.Chmod(p, 0o750)
		if _, err := LoadState(dir); codeOf(err) != string(CodeStateOpen.Code) {
			t.Errorf("%s: %v, expected %s", p, err, CodeStateOpen.Code)
		}
		os.Chmod(p, 0o700)
	}
}

func TestStateThatLacksSomethingIsRefused(t *testing.T) {
	for name, change := range map[string]func(*State){
		"version": func(s *State) { s.Version = 2 }, "server": func(s *State) { s.Server = "" }, "node": func(s *State) { s.Node = "" },
		"verifier": func(s *State) { s.Verifier = rats.Digest{} }, "cas": func(s *State) { s.CAs = nil },
		"plan signer": func(s *State) { s.PlanSigner = nil }, "unique": func(s *State) { s.TLSUnique = s.TLSUnique[1:] },
		"certificate": func(s *State) { s.Certificate = nil },
	} {
		s := goodState()
		change(&s)
		if err := s.save(t.TempDir()); codeOf(err) != string(CodeStateMalformed.Code) {
			t.Errorf("%s: %v, expected %s", name, err, CodeStateMalformed.Code)
		}
	}
	for _, b := range []string{"", "{", `{"version":1,"odd":1}`} {
		if _, err := decodeState([]byte(b)); codeOf(err) != string(CodeStateMalformed.Code) {
			t.Errorf("%q: %v, expected %s", b, err, CodeStateMalformed.Code)
		}
	}
}

func TestConfigurationHasSafeDefaults(t *testing.T) {
	c, err := ParseConfig(nil)
	if err != nil || len(c.Allow.Roots) != len(DefaultRoots) || len(c.Allow.Commands) != 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	// Empty is none, not the default.
	if c, err = ParseConfig([]byte("allow: {roots: []}")); err != nil || len(c.Allow.Roots) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = ParseConfig([]byte("server: https://other:1\nsocket: /run/assay/agent.sock\nallow:\n  roots: [/srv]\n  commands:\n  - [/usr/bin/uname, -r]\n"))
	if err != nil || c.Allow.Roots[0] != "/srv" || c.Allow.Commands[0][1] != "-r" || c.SocketPath("/x") != "/run/assay/agent.sock" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestConfigurationNamesTheMeasuringEnclave(t *testing.T) {
	for text, want := range map[string]abi.Mode{"": abi.ModeProcess, ", mode: process": abi.ModeProcess, ", mode: inline": abi.ModeInline} {
		c, err := ParseConfig([]byte("enclave: {monitor: /m, image: /i, sigstruct: /s" + text + "}"))
		if err != nil || c.Enclave.Monitor != "/m" || c.Enclave.mode() != want {
			t.Errorf("%q: %+v, %v", text, c.Enclave, err)
		}
	}
}

func TestConfigurationThatIsNotUnderstoodIsRefused(t *testing.T) {
	for _, y := range []string{
		"alow: {}", "allow: {root: []}", "allow: {roots: [usr]}", "allow: {roots: [/usr/]}", "allow: {roots: [/usr/../etc]}",
		"allow: {commands: [[]]}", "allow: {commands: [[ls]]}", "socket: agent.sock", "a: b\n---\n", "{}\n---\n{}", ": :",
		"allow: {roots: [" + strings.Repeat("/a, ", maxRoots+1) + "]}", strings.Repeat("#", maxConfig+1),
		"enclave: {monitor: /run/m.sock}", "enclave: {monitor: m.sock, image: /i, sigstruct: /s}", "enclave: {image: /i, sigstruct: /s}",
		"enclave: {monitor: /m, image: /i, sigstruct: /s, mode: sgx}", "enclave: {monitor: /m, image: /i, sigstruct: /s, debug: true}",
	} {
		if _, err := ParseConfig([]byte(y)); codeOf(err) != string(CodeConfig.Code) {
			t.Errorf("%.40q: %v, expected %s", y, err, CodeConfig.Code)
		}
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none.yaml")); codeOf(err) != string(CodeConfig.Code) {
		t.Errorf("%v, expected %s", err, CodeConfig.Code)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("allow:\n  roots: [/usr]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseConfig(b); err == nil && c.Allow.check() != nil {
			t.Error("accepted what it refuses")
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeState(b); err == nil && s.check() != nil {
			t.Error("accepted what it refuses")
		}
	})
}
