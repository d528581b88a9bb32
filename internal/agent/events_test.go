package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func writeUnder(t *testing.T, root, path, content string) {
	t.Helper()
	file := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// R020: what the agent asks for an attestation for.
func TestTheAgentSeesPackagesModulesAndKexec(t *testing.T) {
	root := t.TempDir()
	const modules = "ext4 1 2 - Live 0x0\nloop 1 0 - Live 0x0\n"
	writeUnder(t, root, "/proc/modules", modules)
	writeUnder(t, root, "/sys/kernel/kexec_loaded", "0\n")
	writeUnder(t, root, "/var/lib/dpkg/status", "Package: a\n")
	look := func() map[string][32]byte {
		m := map[string][32]byte{}
		for _, w := range everything {
			m[w.event] = w.look(root)
		}
		return m
	}
	for name, tt := range map[string]struct {
		path, content, event string
	}{
		"a package was installed":        {"/var/lib/dpkg/status", "Package: a\nPackage: b\n", "packages"},
		"a module was loaded":            {"/proc/modules", "evil 1 0 - Live 0x0\n" + modules, "modules"},
		"a module is used more often":    {"/proc/modules", "ext4 1 9 - Live 0x0\nloop 1 0 - Live 0x0\n", ""},
		"another kernel waits":           {"/sys/kernel/kexec_loaded", "1\n", "kexec"},
		"a file that says nothing of it": {"/etc/passwd", "x", ""},
		"another package manager comes":  {"/lib/apk/db/installed", "P:a\n", "packages"},
	} {
		writeUnder(t, root, "/proc/modules", modules)
		writeUnder(t, root, "/sys/kernel/kexec_loaded", "0\n")
		before := look()
		writeUnder(t, root, tt.path, tt.content)
		for event, now := range look() {
			if changed := now != before[event]; changed != (event == tt.event) {
				t.Errorf("%s: %s changed: %v", name, event, changed)
			}
		}
	}
}

func TestTheAgentAsksOnceWhatChangesHasSettled(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	w := &watching{}
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	a, b := [32]byte{1}, [32]byte{2}
	if w.due([32]byte{}, at(0)) || w.due(a, at(1)) || w.due(a, at(2)) || w.due(b, at(3)) || w.due(b, at(5)) {
		t.Error("asked before it settled")
	}
	if !w.due(b, at(6)) {
		t.Error("not asked when it had")
	}
	w = &watching{}
	for s := range 40 { // never at rest
		if due := w.due([32]byte{byte(s + 1)}, at(s)); due != (s >= 30) {
			t.Errorf("second %d: %v", s, due)
		}
	}
	w.notTill = at(100)
	if w.due(a, at(60)) || !w.due(a, at(110)) {
		t.Error("the server's time is not kept")
	}
}
