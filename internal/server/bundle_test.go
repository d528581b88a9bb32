package server

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/testkit/pg"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func shared(t *testing.T) (o InitOptions, file, key string) {
	t.Helper()
	tmp := t.TempDir()
	o = InitOptions{Dir: tmp + "/a", Listen: "127.0.0.1:0", Database: pg.URL(t), Rand: rand.Reader, Now: func() time.Time { return now }}
	if _, err := Init(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	file, key = tmp+"/bundle", tmp+"/key"
	if err := Export(o.Dir, file, key, rand.Reader, now); err != nil {
		t.Fatal(err)
	}
	return o, file, key
}

// R041
func TestAServerJoinsWithABundle(t *testing.T) {
	o, file, key := shared(t)
	second := InitOptions{Dir: t.TempDir() + "/b", Listen: "127.0.0.1:0", Join: file, JoinKey: key, Rand: rand.Reader, Now: o.Now}
	r, err := Init(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	if r.AdminToken != "" {
		t.Error("a joining server made a token of its own")
	}
	for _, name := range []string{"ca.pem", "access.json", "keys/ca.key", "keys/tokens.key", "keys/results.key", "keys/kek.key", "keys/verifier.key", "keys/plan-signer.key"} {
		a, err1 := os.ReadFile(filepath.Join(o.Dir, name))
		b, err2 := os.ReadFile(filepath.Join(second.Dir, name))
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s is not the same: %v, %v", name, err1, err2)
		}
		if info, err := os.Stat(filepath.Join(second.Dir, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", name, err)
		}
	}
	s1, _ := ReadSettings(o.Dir)
	s2, err := ReadSettings(second.Dir)
	if err != nil || s2.Database != s1.Database || s2.URL != s1.URL {
		t.Errorf("settings %+v, want the first's address and database: %v", s2, err)
	}
}

func TestABundleAloneIsWorthNothing(t *testing.T) {
	_, file, key := shared(t)
	for _, f := range []string{file, key} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, info.Mode())
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("ASSAY CA KEY")) || bytes.Contains(raw, []byte("postgres")) {
		t.Error("the bundle shows its content")
	}
	write := func(b []byte) string {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	changed := bytes.Clone(raw)
	changed[len(changed)-20] ^= 1
	_, otherFile, otherKey := shared(t)
	for name, tt := range map[string]struct {
		file, key string
		at        time.Time
		want      string
	}{
		"changed":          {write(changed), key, now, "changed"},
		"cut off":          {write(raw[:len(raw)-1]), key, now, "changed"},
		"another's key":    {file, otherKey, now, "another bundle's"},
		"another's bundle": {otherFile, key, now, "another bundle's"},
		"a day later":      {file, key, now.Add(25 * time.Hour), "good until"},
		"no bundle":        {write([]byte("x")), key, now, "is not one"},
		"too large":        {write(make([]byte, bundleMax+1)), key, now, "more than"},
		"no key":           {file, write([]byte("x")), now, "holds none"},
		"absent":           {file + "x", key, now, "no such file"},
	} {
		if _, err := openBundle(tt.file, tt.key, tt.at); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if _, err := openBundle(file, key, now); err != nil {
		t.Error(err)
	}
}

func TestABundleHoldsFilesOfADataDirectoryOnly(t *testing.T) {
	tmp := t.TempDir()
	for _, name := range []string{"../x", "keys/../../x", "/etc/x", "keys/a/b", "server.json", "assay.db"} {
		key := make([]byte, 32)
		aead, err := bundleAEAD(key)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := json.Marshal(bundle{Expires: now.Add(time.Hour), Files: map[string][]byte{name: {1}}})
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile(tmp+"/bundle", append([]byte(bundleMagic), aead.Seal(nil, nil, plain, []byte(bundleMagic))...), 0o600)
		os.WriteFile(tmp+"/key", []byte("-----BEGIN ASSAY BUNDLE KEY-----\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END ASSAY BUNDLE KEY-----\n"), 0o600)
		if _, err := openBundle(tmp+"/bundle", tmp+"/key", now); err == nil || !strings.Contains(err.Error(), "holds a file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADatabaseIsNotTakenFromItsServersUnasked(t *testing.T) {
	o, _, _ := shared(t)
	other := o
	other.Dir = t.TempDir() + "/b"
	if _, err := Init(t.Context(), other); err == nil || !strings.Contains(err.Error(), "--join") {
		t.Errorf("a server with other keys over the same database: %v", err)
	}
	if err := Export(t.TempDir(), "x", "y", rand.Reader, now); err == nil {
		t.Error("exported no server")
	}
	single := InitOptions{Dir: t.TempDir() + "/c", Rand: rand.Reader, Now: o.Now}
	if _, err := Init(t.Context(), single); err != nil {
		t.Fatal(err)
	}
	if err := Export(single.Dir, single.Dir+"/x", single.Dir+"/y", rand.Reader, now); err == nil || !strings.Contains(err.Error(), "--db") {
		t.Errorf("exporting a server with a file of its own: %v", err)
	}
}

func TestRetentionIsReadFromTheSettings(t *testing.T) {
	var s Settings
	if err := json.Unmarshal([]byte(`{"retention": {"records": "8760h", "events": "1h"}}`), &s); err != nil {
		t.Fatal(err)
	}
	if time.Duration(s.Retention.Records) != 8760*time.Hour || time.Duration(s.Retention.Events) != time.Hour || s.Retention.Tokens != 0 {
		t.Errorf("%+v", s.Retention)
	}
	for _, bad := range []string{`{"retention": {"records": "-1h"}}`, `{"retention": {"records": "soon"}}`} {
		if json.Unmarshal([]byte(bad), &s) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}
