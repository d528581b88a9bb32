package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

func good(dir string) Config {
	return Config{
		Version: 1, Socket: filepath.Join(dir, "s"), UIDs: []uint32{uint32(os.Getuid())}, Root: Root{Simulated: filepath.Join(dir, "root")}, SVN: 1,
		Own: []rats.Digest{{Alg: "sha256", Sum: abi.TestMRSIGNER[:]}}, Modes: []string{"process"},
	}
}

func TestConfigurationIsReadStrictly(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"version":          func(c *Config) { c.Version = 2 },
		"nobody":           func(c *Config) { c.UIDs = nil },
		"no root":          func(c *Config) { c.Root = Root{} },
		"two roots":        func(c *Config) { c.Root.Keeper = "/run/k" },
		"relative root":    func(c *Config) { c.Root.Simulated = "root" },
		"relative socket":  func(c *Config) { c.Socket = "s" },
		"SVN":              func(c *Config) { c.SVN = 2000 },
		"no mode":          func(c *Config) { c.Modes = nil },
		"unknown mode":     func(c *Config) { c.Modes = []string{"fast"} },
		"simulated, cache": func(c *Config) { c.Cache = "/var/cache/x" },
		"a day and more":   func(c *Config) { c.Seconds = maxSeconds + 1 },
		"image":            func(c *Config) { c.MaxImage = 1 << 30 },
		"calls":            func(c *Config) { c.OCalls = -1 },
		"a short signer":   func(c *Config) { c.Own = []rats.Digest{{Alg: "sha256", Sum: []byte{1}}} },
		"another hash":     func(c *Config) { c.Debug = []rats.Digest{{Alg: "sha512", Sum: make([]byte, 64)}} },
		"many users":       func(c *Config) { c.UIDs = make([]uint32, maxList+1) },
	} {
		c := good("/run/x")
		change(&c)
		b, err := json.Marshal(c)
		if err != nil {
			continue // a digest that has no text
		}
		_, err = ParseConfig(b)
		wantCode(t, name, err, CodeConfig)
	}
	b, err := json.Marshal(good("/run/x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseConfig(b); err != nil {
		t.Error(err)
	}
	for name, b := range map[string][]byte{
		"more": append(slices.Clone(b), '{'), "unknown": []byte(`{"version":1,"uid":3}`), "large": bytes.Repeat([]byte(" "), maxConfig+1), "nothing": nil,
	} {
		_, err := ParseConfig(b)
		wantCode(t, name, err, CodeConfig)
	}
}

// Without mode inline an own signer's enclaves run as foreign ones do: in processes.
func TestPolicyWithoutInlineHasNoOwnSigners(t *testing.T) {
	c := good("/x")
	if p := c.policy(); len(p.Own) != 0 || len(p.Foreign) != 1 {
		t.Errorf("%+v", p)
	}
	c.Modes = append(c.Modes, "inline")
	if p := c.policy(); len(p.Own) != 1 || len(p.Foreign) != 0 {
		t.Errorf("%+v", p)
	}
}

// R096: a simulated root is made once, for its user alone, and says what it is.
func TestSimulatedRootIsKeptAndMarked(t *testing.T) {
	c := good(t.TempDir())
	log := slog.New(slog.DiscardHandler)
	var keys [][64]byte
	for range 2 {
		k, err := openRoot(bg, c, rand.Reader, log)
		if err != nil {
			t.Fatal(err)
		}
		if !k.simulated || k.platform.Root != abi.RootSimulated || k.info().Measured() || k.info().Condition != "" {
			t.Errorf("%+v", k.info())
		}
		keys = append(keys, k.public)
		k.close()
	}
	if keys[0] != keys[1] {
		t.Error("another root at the second start")
	}
	if err := os.Chmod(c.Root.Simulated, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := openRoot(bg, c, rand.Reader, log)
	wantCode(t, "a root that others read", err, CodeConfig)
	if err := os.WriteFile(c.Root.Simulated, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.Root.Simulated, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = openRoot(bg, c, rand.Reader, log)
	wantCode(t, "half a root", err, CodeConfig)
}

func TestProgramSaysWhatItLacks(t *testing.T) {
	var out bytes.Buffer
	env := Env{Err: &out, Now: time.Now, Rand: rand.Reader}
	for _, args := range [][]string{nil, {"m", "walk"}, {"m", "run", "--config", "/nonexistent"}, {"m", "run", "--flag"}} {
		env.Args = args
		if code := Main(context.Background(), env); code != 1 {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
	dir := shortDir(t)
	file := filepath.Join(dir, "s")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(bg, file); err == nil {
		t.Error("a file was taken for an old socket")
	}
	if _, err := readSecret(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
