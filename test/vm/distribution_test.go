package vm

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/rats"
)

// A distribution's own boot: shim and GRUB with the signatures that Microsoft and Debian gave them, Debian's kernel, systemd as
// process 1. All but the certificates is known from files before anything boots; every step is named where it differs.
func TestDistributionsBootIsJudgedStepByStep(t *testing.T) {
	s := newSite(t, Shim)
	s.references()
	s.systemd()
	line := Cmdline + Systemd
	esp := s.distribution(line, nil)
	s.policy(rules{tpm: quoteAll, formats: filesSection + s.distributionSection(line, esp, "authorities: ['*']\n  mok: ['*']")})
	m := s.boot(Config{Tier: Shim, ESP: esp, MemoryMB: systemdMB})
	if out := s.run(m, "cat /proc/1/comm"); out != "systemd" {
		t.Errorf("process 1 is %q", out)
	}
	s.join(m)
	s.agent(m)
	log := claimsOf[eventlog.Claims](t, s.trusted(), eventlog.Format)
	if sb := log.SecureBoot; !sb.Enabled || !sb.Proven || len(log.MOK) == 0 || !strings.Contains(log.SbatLevel, "shim,") {
		t.Errorf("Secure Boot %+v, %d lists of shim, SBAT %q", sb, len(log.MOK), log.SbatLevel)
	}
	if len(log.GrubFiles) != 3 || len(log.CommandLines) != 1 || log.CommandLines[0].Name != "/"+espKernel+" "+line || log.CommandLines[0].Proof != eventlog.ProofDigest {
		t.Errorf("files of GRUB %v, command lines %v", log.GrubFiles, log.CommandLines)
	}

	// The owner pins what he could not compute: who vouched for shim and for the kernel, and shim's lists.
	s.policy(rules{tpm: quoteAll, formats: filesSection + s.distributionSection(line, esp, learned(t, log))})
	s.trusted()
	s.policy(rules{tpm: quoteAll, formats: filesSection + s.distributionSection(line, esp, "sbat_level: '2099010100'")})
	s.refused(eventlog.CodeSbat.Code, "2099010100")
	m.Stop()

	// Whoever writes to the boot disk changes the command line. Secure Boot has nothing to say about that.
	s.policy(rules{tpm: quoteAll, formats: filesSection + s.distributionSection(line, esp, learned(t, log))})
	m = s.boot(Config{Tier: Shim, ESP: s.distribution(line+" systemd.debug_shell", nil), MemoryMB: systemdMB})
	s.agent(m)
	res := s.refused(eventlog.CodeOSEvent.Code, "kernel_cmdline: /"+espKernel, "systemd.debug_shell")
	if !because(res, eventlog.CodeOSEvent.Code, "grub.cfg") || !because(res, eventlog.CodeCommandLine.Code) || because(res, eventlog.CodeImage.Code) {
		t.Errorf("expected the command line and the script of GRUB to be named, and no image:\n%s", reasons(res))
	}
}

// A kernel that somebody else signed does not boot, and a GRUB that shim holds for revoked neither. A person at the console can
// give the machine his key; then it boots, with Secure Boot enabled and proven, and the verdict names the key, shim's lists and
// the kernel.
func TestKernelOfAnotherKeyIsRefusedByShimOrNamedByTheVerdict(t *testing.T) {
	s := newSite(t, Shim)
	s.references()
	kernel, err := os.ReadFile(s.tools.Kernel.Image)
	if err != nil {
		t.Fatal(err)
	}
	kernel[binary.LittleEndian.Uint32(kernel[0x3c:])+8]++ // the time it was linked at: another kernel, that runs as well
	own, err := Resign(t.Context(), s.tools, s.dir, kernel)
	if err != nil {
		t.Fatal(err)
	}
	good := s.distribution(Cmdline, nil)
	esp := s.distribution(Cmdline, own)
	s.stopsAt(esp, "bad shim signature")
	s.variables(func(store []byte) ([]byte, error) {
		return ShimVariable(store, "SbatLevel", []byte("sbat,1,2099010100\nshim,1\ngrub,99\n"))
	})
	s.stopsAt(good, "SBAT", "Security Policy Violation", "Security Violation")

	text, err := os.ReadFile(s.tools.SecureCert)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := pem.Decode(text)
	s.variables(func(store []byte) ([]byte, error) { return EnrolMOK(store, cert.Bytes) })
	s.policy(rules{tpm: quoteAll, formats: filesSection + s.distributionSection(Cmdline, good, "authorities: ['"+microsoftCA+"']\n  mok: []")})
	m := s.boot(Config{Tier: Shim, ESP: esp})
	s.join(m)
	s.agent(m)
	res := s.refused(eventlog.CodeAuthority.Code, rats.SHA256(cert.Bytes).String())
	if !because(res, eventlog.CodeImage.Code, s.authenticode(own).String()) || !because(res, eventlog.CodeMOK.Code, "MokList") ||
		!because(res, eventlog.CodeOSEvent.Code, rats.SHA256(own).String()) || because(res, eventlog.CodeSecureBoot.Code) {
		t.Errorf("expected the key, shim's lists and the kernel to be named, and Secure Boot not:\n%s", reasons(res))
	}
}

// stopsAt expects that a boot ends with one of some texts on the console.
func (s *site) stopsAt(esp map[string][]byte, texts ...string) {
	s.t.Helper()
	m := s.start(Config{Tier: Shim, ESP: esp})
	defer m.Stop()
	said, err := m.AwaitConsole(s.t.Context(), append(texts, initMark)...)
	if err != nil || said == initMark {
		s.t.Fatalf("the console said %q, expected one of %q: %v", said, texts, err)
	}
	s.t.Logf("the boot ended with %q", said)
}

// variables gives the machine the firmware's variables as they were shipped, changed.
func (s *site) variables(change func([]byte) ([]byte, error)) {
	s.t.Helper()
	store, err := os.ReadFile(s.tools.MicrosoftVars)
	if err != nil {
		s.t.Fatal(err)
	}
	if store, err = change(store); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "machine", varsFile), store, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// systemd 252 measures its phases into PCR 11 and keeps no log: the phases are known words, so the register is explained by
// these and by what systemd-stub logged. Later systemd keeps a log, which explains any other word.
func TestPhasesOfSystemdAreProvenAndForeignExtendsNamed(t *testing.T) {
	s := newSite(t, UKI)
	s.tools = Need(t, Shim)
	s.references()
	s.systemd()
	image := s.unified(Cmdline+Systemd, s.initrd())
	section := s.imageSection("any", image)
	s.policy(rules{tpm: quoteAll, formats: filesSection + section + "  phase: ready\n"})
	m := s.boot(Config{Tier: UKI, Image: image, MemoryMB: systemdMB})
	s.join(m)
	s.agent(m)
	log := claimsOf[eventlog.Claims](t, s.trusted(), eventlog.Format)
	if !slices.Equal(log.Phases, []string{"sysinit", "ready"}) || log.Userspace != nil {
		t.Errorf("phases %v, systemd's log %+v", log.Phases, log.Userspace)
	}
	s.policy(rules{tpm: quoteAll, formats: filesSection + section + "  phase: shutdown\n"})
	s.refused(eventlog.CodePhase.Code, "ready")

	// Somebody measures a word of his own. Nothing logs it.
	s.policy(rules{tpm: quoteAll, formats: filesSection + section + "  phase: ready\n"})
	s.run(m, "/lib/systemd/systemd-pcrphase evil")
	s.refused(eventlog.CodeUnexplained.Code, "registers.11")

	// The same, as a systemd with a log has it: explained, and allowed only by name.
	s.systemdLog(m, "sysinit", "ready", "evil")
	res := s.refused(eventlog.CodeSystemdEvent.Code, "evil")
	log = claimsOf[eventlog.Claims](t, res, eventlog.Format)
	if !log.Replayed(11) || log.Userspace == nil || log.Userspace.Records != 3 || len(log.Sections) == 0 {
		t.Errorf("register 11 replayed: %v, systemd's log %+v, sections %v", log.Replayed(11), log.Userspace, log.Sections)
	}
	s.policy(rules{tpm: quoteAll, formats: filesSection + section + "  phase: ready\n  systemd: [evil]\n"})
	s.trusted()
	s.systemdLog(m, "sysinit", "ready", "good")
	s.refused(eventlog.CodeUnexplained.Code, "registers.11")
}

const (
	// quoteAll has every register quoted that these boots extend, or must not.
	quoteAll = "quote: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15]\n"
	// systemdMB is enough for systemd's files in memory.
	systemdMB = 512
	// microsoftCA is the SHA-256 of the certificate of Microsoft Corporation UEFI CA 2011, as Microsoft publishes it.
	microsoftCA = "sha256:48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507"
)

// systemd puts systemd on the disk that the agent comes on.
func (s *site) systemd() {
	s.t.Helper()
	files, err := SystemdFiles(s.tools)
	if err != nil {
		s.t.Fatal(err)
	}
	files[GuestAgent] = s.binary
	if s.payload, err = Payload(files); err != nil {
		s.t.Fatal(err)
	}
}

// systemdLog writes a log as a later systemd would have written it, of words measured into PCR 11.
func (s *site) systemdLog(m *Machine, words ...string) {
	s.t.Helper()
	var b bytes.Buffer
	for _, w := range words {
		sum := sha256.Sum256([]byte(w))
		fmt.Fprintf(&b, "\x1e"+`{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"%s"}],"content_type":"systemd","content":{"eventType":"phase","string":"%s","bootId":"%032x","timestamp":1}}`+"\n",
			hex.EncodeToString(sum[:]), w, 1)
	}
	const file = "/run/log/systemd/tpm2-measure.log"
	s.run(m, "mkdir -p /run/log/systemd && echo "+base64.StdEncoding.EncodeToString(b.Bytes())+" | base64 -d > "+file)
}

func (s *site) distribution(cmdline string, kernel []byte) map[string][]byte {
	s.t.Helper()
	esp, err := Distribution(s.tools, cmdline, kernel, s.initrd())
	if err != nil {
		s.t.Fatal(err)
	}
	return esp
}

// distributionSection judges a distribution's boot from the files on the disk it boots from.
func (s *site) distributionSection(cmdline string, esp map[string][]byte, more string) string {
	s.t.Helper()
	disk := `\(hd0,msdos1\)/EFI/debian`
	commands := []string{ // of the script in GRUB's signed image, then of ours
		`\[ -z ` + disk + ` -o ! -e ` + disk + ` \]`, `\[ -e ` + disk + `/(x86_64-efi/)?grub\.cfg \]`, `source ` + disk + `/grub\.cfg`,
	}
	for l := range strings.Lines(GrubScript(cmdline)) {
		commands = append(commands, regexp.QuoteMeta(strings.TrimSpace(l)))
	}
	return fmt.Sprintf("eventlog:\n  secure_boot: required\n  boot_loaders: ['%s', '%s']\n  kernels: ['%s', '%s']\n  initrds: ['%s']\n  grub_files: ['%s']\n  grub_commands: ['%s']\n  cmdlines: ['/%s %s']\n  %s\n",
		s.authenticode(esp[bootPath]), s.authenticode(esp["EFI/BOOT/grubx64.efi"]),
		s.authenticode(esp[espKernel]), rats.SHA256(esp[espKernel]), rats.SHA256(esp[espInitrd]), rats.SHA256(esp[grubScript]),
		strings.Join(commands, "', '"), espKernel, cmdline, more)
}

// learned are rules that pin what a trusted boot showed of certificates and of shim's lists. Microsoft's certificate must be
// the known one.
func learned(t *testing.T, log eventlog.Claims) string {
	t.Helper()
	var certs, lists []string
	debian := false
	for _, a := range log.Authorities {
		if !a.Certificate.Digest.IsZero() {
			certs = append(certs, a.Certificate.Digest.String())
			debian = debian || a.Certificate.Subject == "CN=Debian Secure Boot CA"
		}
	}
	if len(certs) != 2 || certs[0] != microsoftCA || !debian {
		t.Fatalf("the images were allowed by %+v, expected Microsoft's and Debian's certificates", log.Authorities)
	}
	for _, l := range log.MOK {
		lists = append(lists, l.Digest.String())
	}
	return fmt.Sprintf("authorities: ['%s']\n  mok: ['%s']", strings.Join(certs, "', '"), strings.Join(lists, "', '"))
}
