package vm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/assay-attest/assay/evidence/tpm"
)

// A kernel that is started with other words is another kernel: PCR 9, whose right value the owner computed from the files
// alone, says so.
func TestAnotherCommandLineIsRefusedByAValueNobodyHadToLearn(t *testing.T) {
	s := newSite(t, OVMF)
	s.references(tool, GuestAgent)
	initrd := s.initrd()
	s.policy(rules{tpm: fmt.Sprintf("pcrs: {9: %s}\n", PCR9(Cmdline, initrd)), formats: filesSection})

	m := s.boot(Config{Tier: OVMF, Initrd: initrd, Cmdline: Cmdline})
	s.join(m)
	s.agent(m)
	claims := claimsOf[tpm.Claims](t, s.trusted(), tpm.Format)
	if got := claims.PCRs["sha256"]["9"]; got != PCR9(Cmdline, initrd) {
		t.Errorf("PCR 9 is %q among the claims", got)
	}
	m.Stop()

	m = s.boot(Config{Tier: OVMF, Initrd: initrd, Cmdline: Cmdline + " init=/bin/sh"})
	s.agent(m)
	s.refused(tpm.CodePCRMismatch.Code, "9")
}

// A unified kernel image carries its command line; the policy knows its PCRs from a first boot, and another image
// has others.
func TestAnotherUnifiedKernelImageIsRefused(t *testing.T) {
	s := newSite(t, UKI)
	s.references(tool, GuestAgent)
	s.policy(rules{tpm: "quote: [4, 9, 11]\n", formats: filesSection})
	initrd := s.initrd()
	m := s.boot(Config{Tier: UKI, Image: s.unified(Cmdline, initrd)})
	s.join(m)
	s.agent(m)
	pcrs := claimsOf[tpm.Claims](t, s.trusted(), tpm.Format).PCRs["sha256"]
	s.policy(rules{tpm: fmt.Sprintf("pcrs: {4: %s, 11: %s}\n", pcrs["4"], pcrs["11"]), formats: filesSection})
	s.trusted()
	m.Stop()

	m = s.boot(Config{Tier: UKI, Image: s.unified(Cmdline+" debug", initrd)})
	s.agent(m)
	s.refused(tpm.CodePCRMismatch.Code, "4")
}

// With Secure Boot firmware starts what is signed with a key it knows, and nothing else.
func TestSecureBootStartsSignedImagesOnly(t *testing.T) {
	s := newSite(t, SecureBoot)
	s.references(tool, GuestAgent)
	s.policy(rules{formats: filesSection})
	image := s.unified(Cmdline, s.initrd())

	m := s.start(Config{Tier: SecureBoot, Image: image})
	if _, err := m.AwaitConsole(t.Context(), "Access Denied", "Security Violation"); err != nil {
		t.Fatalf("an unsigned image: %v", err)
	}
	m.Stop()

	signed, err := Sign(t.Context(), s.tools, s.dir, image)
	if err != nil {
		t.Fatal(err)
	}
	m = s.boot(Config{Tier: SecureBoot, Image: signed})
	if out := s.run(m, "cat /sys/kernel/security/lockdown"); !strings.Contains(out, "[integrity]") {
		t.Errorf("the kernel's lockdown is %q, expected integrity: it was not started with Secure Boot", out)
	}
	s.join(m)
	s.agent(m)
	s.trusted()
}

func (s *site) unified(cmdline string, initrd []byte) []byte {
	s.t.Helper()
	image, err := Unified(s.tools, cmdline, initrd)
	if err != nil {
		s.t.Fatal(err)
	}
	return image
}
