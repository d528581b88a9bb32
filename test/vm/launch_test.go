package vm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/assay-attest/assay/internal/keeper"
	"github.com/assay-attest/assay/rats"
)

// R082, R084, R098: the initramfs that update-initramfs makes, with the hooks installed, starts the keeper before it switches to the
// root file system: the root is made in the first boot because an operator ordered it, and opens in the next.
// R081, S13: the quote of an enclave, judged by values the owner knows, proves that keeper, monitor's key and cap came in this
// order in the initrd phase of this boot.
// R085, S12: after an authorised update of kernel and command line the root opens and so does what was sealed; after the
// commit the old kernel gets nothing, and nothing new is made.
func TestRootOpensInTheInitramfsOverAnUpdateAndNotForTheOldKernel(t *testing.T) {
	s := newLaunchSite(t, UKI)
	initrd := s.initramfs(InitramfsTools, s.hooks())
	image := s.unified(launchLine, initrd)

	m, st := s.booted(image)
	if st.State != keeper.StateReady || !st.Created || !st.Boot.Capped || st.Class != keeper.RootInitrdSealed {
		t.Fatalf("the first boot: %+v", st)
	}
	t.Log(s.run(m, startMonitor))
	s.authorise(m, GuestAgent+" seal plan")
	s.run(m, "probe seal "+secretFile+" gold")
	s.off(m)

	m, again := s.booted(image)
	if again.State != keeper.StateReady || again.Created || !again.Root.Equal(st.Root) {
		t.Fatalf("the second boot: %+v", again)
	}
	s.run(m, startMonitor)
	if got := s.run(m, "probe open "+secretFile); got != "gold" {
		t.Errorf("after a reboot the enclave opens %q", got)
	}
	before := s.predict(m, nil)
	res, claims := s.judged(m, s.launchPolicy(again.Boot, before[11]))
	if res.Tier != rats.Affirming || claims == nil || claims.Link != rats.LinkPCRHoldsKey || !claims.Log.Capped {
		t.Errorf("the verdict is %v: %v\nclaims %+v", res.Tier, res.Reasons, claims)
	}

	// The owner predicts the updated machine from files and from the boot log, and authorises it before it ever booted.
	updated, predicted := s.update(m, image, initrd)
	if err := m.Put(t.Context(), "/tmp/predicted.json", predicted); err != nil {
		t.Fatal(err)
	}
	s.authorise(m, GuestAgent+" seal plan --pcrs /tmp/predicted.json --config /etc/assay/keeper.json --keeper /usr/lib/assay/assay-keeper")
	s.off(m)

	m, st = s.booted(updated)
	if st.State != keeper.StateReady || st.Created || !st.Root.Equal(again.Root) || !st.Uncommitted {
		t.Fatalf("the updated machine: %+v", st)
	}
	s.run(m, startMonitor)
	if got := s.run(m, "probe open "+secretFile); got != "gold" {
		t.Errorf("after the update the enclave opens %q", got)
	}
	s.run(m, GuestAgent+" seal commit")
	s.secondKeeperGetsNothing(m)
	s.off(m)

	m, st = s.booted(image)
	wantLocked(t, "the old kernel", st, keeper.CodeRevoked)
	if out := s.run(m, startMonitor); !strings.Contains(out, string(keeper.CodeRevoked.Code)) {
		t.Errorf("the monitor of the old kernel says %q", out)
	}
	if out, err := m.Run(t.Context(), "probe open "+secretFile); err == nil {
		t.Errorf("the old kernel's enclave opens %q", out)
	}
	if st.Created || !st.Root.Equal(again.Root) {
		t.Errorf("the old kernel made something: %+v", st)
	}
	if log := s.run(m, "cat "+keeperState+"/audit.log"); strings.Count(log, `"created"`) != 1 {
		t.Errorf("the audit log:\n%s", log)
	}
}

// secondKeeperGetsNothing starts another keeper from user space, with the configuration of the initramfs and the state on the disk.
// R163: after the cap nobody unseals, root and the very same program included.
func (s *launchSite) secondKeeperGetsNothing(m *Machine) {
	s.t.Helper()
	out := s.run(m, "cp -a "+keeperState+" /tmp/state && mkdir -p /tmp/run && sed 's,{,{\"runtime\":\"/tmp/run/k\"\\,,' /etc/assay/keeper.json >/tmp/keeper.json\n"+
		"timeout 10 /usr/lib/assay/assay-keeper run --config /tmp/keeper.json --state /tmp/state 2>&1; true")
	if !strings.Contains(out, string(keeper.CodeLocked.Code)) {
		s.t.Errorf("a second keeper after the cap says %q", out)
	}
}

func wantLocked(t *testing.T, what string, st keeper.Status, want rats.CodeInfo) {
	t.Helper()
	if st.State != keeper.StateLocked || st.Reason == nil || st.Reason.Code != want.Code || !st.Boot.Capped {
		t.Errorf("%s: %s because %v, capped %t; want %s", what, st.State, st.Reason, st.Boot.Capped, want.Code)
	}
}

// update makes the image of an update: another kernel and another command line. It returns the PCRs that it will have before the
// keeper starts, in the form that `assay seal plan --pcrs` takes.
func (s *launchSite) update(m *Machine, image, initrd []byte) (updated, predicted []byte) {
	s.t.Helper()
	const line = launchLine + " assay.update=1"
	old, err := os.ReadFile(s.tools.Kernel.Image)
	if err != nil {
		s.t.Fatal(err)
	}
	kernel := bytes.Clone(old)
	kernel[binary.LittleEndian.Uint32(kernel[0x3c:])+8]++ // the time it was linked at: another kernel, that runs as well
	other := s.tools
	other.Kernel.Image = filepath.Join(s.dir, "vmlinuz")
	if err := os.WriteFile(other.Kernel.Image, kernel, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if updated, err = Unified(other, line, initrd); err != nil {
		s.t.Fatal(err)
	}
	// What firmware, systemd's stub and the kernel's measure: images, sections, command line.
	exchanged := map[string]rats.Digest{
		s.authenticode(image).String(): s.authenticode(updated), s.authenticode(old).String(): s.authenticode(kernel),
		rats.SHA256(old).String(): rats.SHA256(kernel), rats.SHA256([]byte(launchLine)).String(): rats.SHA256([]byte(line)),
		rats.SHA256(wide(launchLine)).String(): rats.SHA256(wide(line)),
	}
	if predicted, err = json.Marshal(s.predict(m, exchanged)); err != nil {
		s.t.Fatal(err)
	}
	return updated, predicted
}

// wide is a command line as the kernel's stub measures it: UTF-16 with a terminator.
func wide(line string) (out []byte) {
	for _, c := range utf16.Encode([]rune(line + "\x00")) {
		out = binary.LittleEndian.AppendUint16(out, c)
	}
	return out
}
