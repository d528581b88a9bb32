package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	planev "github.com/assay-attest/assay/evidence/plan"
)

// extraModule is a module of the guest's kernel that no guest needs.
const extraModule = "dummy"

// modulesSection asks for the loaded modules, by what the lab captured.
const modulesSection = filesSection + `    - {name: modules, check: modules, reference: lab, deny: ["hidden *"]}
`

// A module that is loaded into the running kernel is found at the next attestation, named with its taint; when it is gone, the
// machine is what it was.
// R035: loaded modules, in a kernel that really loads one.
func TestModuleLoadedIntoARunningKernelIsFound(t *testing.T) {
	s := newSite(t, SeaBIOS)
	s.guest.File("/etc/assay/agent.yaml", 0o644, []byte("allow: {roots: [/usr, /opt, /proc, /sys]}\n"))
	s.guest.File("/"+extraModule+".ko", 0o644, s.module(extraModule))
	s.references()
	m := s.boot(Config{Tier: SeaBIOS, Initrd: s.initrd(), Cmdline: Cmdline})
	s.run(m, GuestAgent+" ref capture lab --check modules --out /tmp/lab.json")
	if _, err := s.admin.PutRefSet(t.Context(), "lab", []byte(s.run(m, "cat /tmp/lab.json"))); err != nil {
		t.Fatal(err)
	}
	s.policy(rules{formats: modulesSection})
	s.join(m)
	s.agent(m)
	s.trusted()

	s.run(m, "insmod /"+extraModule+".ko")
	s.refused(planev.CodeItem.Code, "module "+extraModule)
	s.run(m, "rmmod "+extraModule)
	s.trusted()
}

// module reads a module of the guest's kernel by its name.
func (s *site) module(name string) []byte {
	s.t.Helper()
	dir, _, ok := strings.Cut(s.tools.Kernel.Modules[0], "/kernel/")
	if !ok {
		s.t.Fatalf("no tree of modules around %s", s.tools.Kernel.Modules[0])
	}
	found, err := filepath.Glob(dir + "/kernel/drivers/net/" + name + ".ko")
	if err != nil || len(found) != 1 {
		s.t.Fatalf("module %s: %v, %v", name, found, err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}
