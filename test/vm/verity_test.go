package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	planev "github.com/assay-attest/assay/evidence/plan"
)

// veritySection asks for the kernel's own digest of a file.
const veritySection = filesSection + `    - {name: immutable, file: /state/app/program, verity: true, reference: lab}
`

// veritySet is the policy that the lab captures by.
const veritySet = `apiVersion: assay/v1
kind: Policy
metadata: {name: lab}
selector: 'true'
formats:
  plan:
    tests:
      - {name: immutable, file: /state/app/program, verity: true, reference: lab}
`

// The kernel's fs-verity digest is what the lab's was as long as nobody puts another file there; the file itself can't be
// written.
// R043: fs-verity digests, in a kernel that has them.
func TestVerityDigestOfTheKernelIsCompared(t *testing.T) {
	s := newSite(t, SeaBIOS)
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Skip("no file system with fs-verity without mke2fs (package e2fsprogs)")
	}
	dir := filepath.Join(s.dir, "machine")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), mke2fs, "-q", "-t", "ext4", "-b", "4096", "-O", "verity", filepath.Join(dir, diskFile), "32M").CombinedOutput(); err != nil {
		t.Fatalf("making a file system: %v: %s", err, out)
	}
	tool := filepath.Join(s.dir, "verity")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", tool, "./testdata/verity")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the tool: %v: %s", err, out)
	}
	b, err := os.ReadFile(tool)
	if err != nil {
		t.Fatal(err)
	}
	if s.payload, err = Payload(map[string][]byte{GuestAgent: s.binary, "/usr/bin/verity": b, "/tmp/lab.yaml": []byte(veritySet)}); err != nil {
		t.Fatal(err)
	}
	s.guest.File("/etc/assay/agent.yaml", 0o644, []byte("allow: {roots: [/usr, /opt, /state]}\n"))
	s.references()
	m := s.boot(Config{Tier: SeaBIOS, Initrd: s.initrd(), Cmdline: Cmdline})
	s.run(m, "mkdir -p /state/app && cp /bin/busybox /state/app/program && sync && verity /state/app/program")
	if out := s.run(m, "echo more >> /state/app/program || echo immutable"); out == "" {
		t.Error("a file with fs-verity was written")
	}
	s.run(m, GuestAgent+" ref capture lab --policy /tmp/lab.yaml --out /tmp/lab.json")
	if _, err := s.admin.PutRefSet(t.Context(), "lab", []byte(s.run(m, "cat /tmp/lab.json"))); err != nil {
		t.Fatal(err)
	}
	s.policy(rules{formats: veritySection})
	s.join(m)
	s.agent(m)
	s.trusted()

	s.run(m, "cd /state/app && cp program evil && echo more >> evil && sync && verity evil && mv evil program")
	s.refused(planev.CodeChanged.Code, "/state/app/program")
	s.run(m, "cd /state/app && cp /bin/busybox plain && mv plain program") // the right content, but nothing holds it
	s.refused(planev.CodeUnreadable.Code, "/state/app/program", "measure.file.verity")
}
