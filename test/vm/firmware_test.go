package vm

import (
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/rats"
)

// A kernel that is started with other words is another kernel. The owner knew the right ones from the files alone, as the
// value of PCR 9 and as what the event log must say.
func TestAnotherCommandLineIsRefusedByValueAndByFact(t *testing.T) {
	s := newSite(t, OVMF)
	s.references()
	initrd := s.initrd()
	s.policy(rules{
		tpm: fmt.Sprintf("pcrs: {9: %s}\nquote: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12]\n", PCR9(Cmdline, initrd)),
		// QEMU patches the kernel it hands over, so that its digest depends on the machine: here any will do.
		formats: filesSection + fmt.Sprintf("eventlog:\n  secure_boot: any\n  boot_loaders: ['*']\n  initrds: ['%s']\n  cmdlines: ['%s']\n",
			rats.SHA256(initrd), Cmdline+" initrd=initrd"),
	})
	m := s.boot(Config{Tier: OVMF, Initrd: initrd, Cmdline: Cmdline})
	s.join(m)
	s.agent(m)
	res := s.trusted()
	if got := claimsOf[tpm.Claims](t, res, tpm.Format).PCRs["sha256"]["9"]; got != PCR9(Cmdline, initrd) {
		t.Errorf("PCR 9 is %q among the claims", got)
	}
	log := claimsOf[eventlog.Claims](t, res, eventlog.Format)
	if len(log.CommandLines) == 0 || !log.Replayed(9) || log.SecureBoot.Enabled {
		t.Errorf("command lines %v, register 9 replayed: %v, Secure Boot %+v", log.CommandLines, log.Replayed(9), log.SecureBoot)
	}
	m.Stop()

	m = s.boot(Config{Tier: OVMF, Initrd: initrd, Cmdline: Cmdline + " init=/bin/evil rdinit=/init"})
	s.agent(m)
	res = s.refused(tpm.CodePCRMismatch.Code, "9")
	if !because(res, eventlog.CodeOSEvent.Code, "LoadOptions") || !because(res, eventlog.CodeCommandLine.Code) {
		t.Errorf("the facts of the log say nothing of the other command line:\n%s", reasons(res))
	}
}

// A unified kernel image is known by the digest that is computed of its file. One that nobody signed boots where Secure
// Boot is off, which is a fact; another image, be it only of another command line, is named.
func TestUnsignedAndOtherUnifiedKernelImagesAreRefusedByFacts(t *testing.T) {
	s := newSite(t, UKI)
	s.references()
	initrd := s.initrd()
	image := s.unified(Cmdline, initrd)
	s.policy(rules{tpm: quoteBoot, formats: filesSection + s.imageSection("any", image)})
	m := s.boot(Config{Tier: UKI, Image: image})
	s.join(m)
	s.agent(m)
	s.trusted()

	s.policy(rules{tpm: quoteBoot, formats: filesSection + s.imageSection("required", image)})
	s.refused(eventlog.CodeSecureBoot.Code)

	// To an owner who expects another image, this one is the other.
	other := s.unified(Cmdline+" debug", initrd)
	s.policy(rules{tpm: quoteBoot, formats: filesSection + s.imageSection("any", other)})
	s.refused(eventlog.CodeImage.Code, s.authenticode(image).String())
}

// With Secure Boot firmware starts what is signed with a key it knows, and nothing else; that it was so is proven by the
// log, with the certificate that let the image run.
func TestSecureBootStartsSignedImagesOnlyAndIsProven(t *testing.T) {
	s := newSite(t, SecureBoot)
	s.references()
	image := s.unified(Cmdline, s.initrd())
	signed, err := Sign(t.Context(), s.tools, s.dir, image)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.tools.SecureCert)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := pem.Decode(text)
	authority := fmt.Sprintf("  authorities: ['%s']\n", rats.SHA256(cert.Bytes))
	s.policy(rules{tpm: quoteBoot, formats: filesSection + s.imageSection("required", signed) + authority})

	m := s.start(Config{Tier: SecureBoot, Image: image})
	if _, err := m.AwaitConsole(t.Context(), "Access Denied", "Security Violation"); err != nil {
		t.Fatalf("an unsigned image: %v", err)
	}
	m.Stop()

	m = s.boot(Config{Tier: SecureBoot, Image: signed})
	if out := s.run(m, "cat /sys/kernel/security/lockdown"); !strings.Contains(out, "[integrity]") {
		t.Errorf("the kernel's lockdown is %q, expected integrity: it was not started with Secure Boot", out)
	}
	s.join(m)
	s.agent(m)
	log := claimsOf[eventlog.Claims](t, s.trusted(), eventlog.Format)
	if !log.SecureBoot.Enabled || !log.SecureBoot.Proven {
		t.Errorf("Secure Boot among the claims: %+v", log.SecureBoot)
	}
}

// quoteBoot has every register quoted that firmware, loader and kernel extend.
const quoteBoot = "quote: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]\n"

// imageSection judges what was started: one unified kernel image, with the kernel in it.
func (s *site) imageSection(secureBoot string, image []byte) string {
	s.t.Helper()
	kernel, err := os.ReadFile(s.tools.Kernel.Image)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("eventlog:\n  secure_boot: %s\n  boot_loaders: ['%s']\n  kernels: ['%s']\n", secureBoot, s.authenticode(image), s.authenticode(kernel))
}

func (s *site) authenticode(image []byte) rats.Digest {
	s.t.Helper()
	d, err := Authenticode(image)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *site) unified(cmdline string, initrd []byte) []byte {
	s.t.Helper()
	image, err := Unified(s.tools, cmdline, initrd)
	if err != nil {
		s.t.Fatal(err)
	}
	return image
}
