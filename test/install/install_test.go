package install

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// packages are what the root has beside a minimal Debian.
const packages = "systemd,systemd-sysv,dbus,iproute2,swtpm"

// need returns the path of a program; without it the test is skipped, or fails in continuous integration.
func need(t *testing.T, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		stop(t, program+" is not installed (package "+pkg+")")
	}
	return path
}

func stop(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func run(t *testing.T, limit time.Duration, dir, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestPackageInstallsAndItsServicesAttest(t *testing.T) {
	if testing.Short() {
		t.Skip("makes and boots a Debian root: left out of short runs")
	}
	if os.Getuid() != 0 {
		stop(t, "a root file system is made and booted by root only")
	}
	mmdebstrap, nspawn := need(t, "mmdebstrap", "mmdebstrap"), need(t, "systemd-nspawn", "systemd-container")
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, 10*time.Minute, "../..", "make", "deb", "DEBVERSION=0~test")
	debs, err := filepath.Glob("../../dist/assay_0~test_*.deb")
	if err != nil || len(debs) != 1 {
		t.Fatalf("the package: %v, %v", debs, err)
	}
	run(t, 10*time.Minute, "", mmdebstrap, "--quiet", "--variant=minbase", "--include="+packages, "bookworm", root+"/root") // from the suite's own mirror
	copyIn(t, root+"/root", debs[0])

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var console bytes.Buffer
	cmd := exec.CommandContext(ctx, nspawn, "--directory="+root+"/root", "--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe")
	cmd.Stdout, cmd.Stderr = &console, &console
	err = cmd.Run()
	status, _ := os.ReadFile(root + "/root/install/status")
	log, _ := os.ReadFile(root + "/root/install/log")
	if len(status) == 0 && len(log) == 0 {
		stop(t, "the container doesn't boot here: "+console.String())
	}
	if strings.TrimSpace(string(status)) != "exit 0" {
		t.Errorf("%s (%v)\n%s", status, err, log)
	}
	for _, step := range []string{"== install", "== change", "== enclave", "== upgrade", "== done"} {
		if !strings.Contains(string(log), step) {
			t.Errorf("%q never happened", step)
		}
	}
}

// copyIn puts the package into the root, and the script, as a unit that its systemd starts.
func copyIn(t *testing.T, root, deb string) {
	t.Helper()
	const unit = `[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /install/inside.sh
StandardOutput=file:/install/log
StandardError=inherit
Environment=HOME=/root
`
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	wants := root + "/etc/systemd/system/default.target.wants"
	for _, dir := range []string{root + "/install", wants} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, b := range map[string][]byte{
		root + "/install/assay.deb": read(deb), root + "/install/inside.sh": read("testdata/inside.sh"),
		root + "/etc/systemd/system/install.service": []byte(unit),
		root + "/etc/hosts":                          []byte("127.0.0.1 localhost\n"), // an installer writes it; a root made by hand has none
	} {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/systemd/system/install.service", wants+"/install.service"); err != nil {
		t.Fatal(err)
	}
}
