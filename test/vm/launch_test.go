package vm

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	evidence "github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/internal/keeper"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// R082, R084, R098: the initramfs that mkinitramfs makes, with the hooks installed, starts the keeper before it switches to the
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
	s.run(m, startMonitor)
	s.authorise(m, GuestAgent+" seal plan")
	s.run(m, "probe seal "+secretFile+" gold")
	s.off(m)

	m, again := s.booted(image)
	if again.State != keeper.StateReady || again.Created || !again.Root.Equal(st.Root) {
		t.Fatalf("the second boot: %+v", again)
	}
	s.run(m, startMonitor)
	p := s.launchPolicy(again.Boot, s.predict(m, nil)[11], image)
	res, claims, opened := s.judged(m, p)
	if res.Tier != rats.Affirming || claims == nil || claims.Link != rats.LinkPCRHoldsKey || !claims.Log.Capped || !claims.Isolation.OwnUser {
		t.Errorf("the verdict is %v: %v\nclaims %+v", res.Tier, res.Reasons, claims)
	}
	if opened != "gold" {
		t.Errorf("after a reboot the enclave opens %q", opened)
	}

	// The owner predicts the updated machine from files and from the boot log, and authorises it before it ever booted.
	updated, predicted := s.update(m, image, initrd)
	if err := m.Put(t.Context(), "/tmp/predicted.json", predicted); err != nil {
		t.Fatal(err)
	}
	s.authorise(m, GuestAgent+" seal plan --pcrs /tmp/predicted.json --config /etc/assay/keeper.json --keeper /usr/lib/assay/assay-keeper")
	s.run(m, "cp -a "+keeperState+"/sets /root/sets") // root keeps what was once signed
	s.off(m)

	m, st = s.booted(updated)
	if st.State != keeper.StateReady || st.Created || !st.Root.Equal(again.Root) || !st.Uncommitted {
		t.Fatalf("the updated machine: %+v", st)
	}
	s.run(m, startMonitor)
	if got := s.run(m, "probe open "+secretFile); got != "gold" {
		t.Errorf("after the update the enclave opens %q", got)
	}
	s.run(m, GuestAgent+" seal commit && cp -a /root/sets/* "+keeperState+"/sets/")
	s.secondKeeperGetsNothing(m)
	s.off(m)

	m, st = s.booted(image)
	wantLocked(t, "the old kernel", st, keeper.CodeRevoked)
	if out := s.run(m, startMonitor); !strings.Contains(out, string(keeper.CodeRevoked.Code)) {
		t.Errorf("the monitor of the old kernel says %q", out)
	}
	log := s.run(m, "cat "+keeperState+"/audit.log")
	if !st.Root.Equal(again.Root) || strings.Count(log, `"root-created"`) != 1 || !strings.Contains(log, `"locked"`) || !strings.Contains(log, `"unsealed"`) {
		t.Errorf("the old kernel: %+v\nthe audit log:\n%s", st, log)
	}
	state := s.run(m, "tar cf - "+keeperState+" 2>/dev/null | base64")
	s.off(m)

	s.rootWithoutKeeperForgesNothing(p)
	s.emergencyShellIsCapped(updated, state)
}

// rootWithoutKeeperForgesNothing boots an initramfs without the keeper's step. Root then does by hand, from user space, what the keeper
// would have done, with the same program: the same constants are extended, a key is measured, the cap follows.
// R178, R083: the genuine root doesn't open, and the quote by a root of his own, good in form, is refused by the owner's values.
func (s *launchSite) rootWithoutKeeperForgesNothing(p *policy.Policy) {
	s.t.Helper()
	m := s.boot(Config{Tier: UKI, Image: s.unified(launchLine, s.initramfs(InitramfsTools, nil))})
	defer s.stop(m)
	run := "/usr/lib/assay/assay-keeper run --config /etc/assay/keeper.json --state "
	s.run(m, "mkdir -m 700 /tmp/own && echo '{\"version\": 1}' >/tmp/own/create.json\n"+
		run+"/tmp/own >/tmp/keeper.log 2>&1 &\nkeeper=$!\nwhile [ ! -e /run/assay-keeper/capped ] && kill -0 $keeper; do usleep 50000; done; "+startMonitor)
	if st := s.status(m); st.State != keeper.StateReady || st.Launch != keeper.LaunchInitrd {
		s.t.Fatalf("root's own keeper: %+v", st)
	}
	res, claims, opened := s.judged(m, p)
	if claims == nil || claims.Launch != "initrd" || res.Tier != rats.Contraindicated {
		s.t.Fatalf("root's own launch: %v, %v, claims %+v", res.Tier, res.Reasons, claims)
	}
	for _, path := range []string{"tpm.pcrs.4", "tpm.pcrs.9", "log.before_key"} {
		if !slices.ContainsFunc(res.Reasons, func(r rats.Reason) bool {
			return r.Code == evidence.CodePCRMismatch.Code && strings.HasSuffix(r.Path, path)
		}) {
			s.t.Errorf("no reason %s at %s among %v", evidence.CodePCRMismatch.Code, path, res.Reasons)
		}
	}
	if opened != "" {
		s.t.Errorf("with a root of root's own the enclave opens %q", opened)
	}
	// The genuine root, as soon as the record of the cap is out of the way.
	out := s.run(m, "kill -9 $(pidof @assay-keeper assay-keeper) 2>/dev/null; rm -rf /run/assay-keeper\ntimeout 10 "+run+keeperState+" 2>&1; true")
	if !strings.Contains(out, string(keeper.CodeNotAuthorised.Code)) {
		s.t.Errorf("the genuine root, opened from user space: %q", out)
	}
}

// emergencyShellIsCapped boots the authorised image with a root file system that can't be mounted, so that the initramfs gives
// up and offers a shell before the keeper's step. Whoever sits there has the state of the keeper with him.
// R163, S10: the hook capped before the shell; the very program that would open the root gets nothing.
func (s *launchSite) emergencyShellIsCapped(image []byte, state string) {
	s.t.Helper()
	disk, err := os.OpenFile(s.disk(), os.O_WRONLY, 0)
	if err == nil {
		_, err = disk.WriteAt(make([]byte, 14<<10), 2<<10) // behind the superblock: descriptors that don't add up
		err = errors.Join(err, disk.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if s.payload, err = base64.StdEncoding.DecodeString(strings.ReplaceAll(state, "\n", "")); err != nil {
		s.t.Fatal(err)
	}
	m := s.start(Config{Tier: UKI, Image: image})
	defer s.stop(m)
	if _, err := m.AwaitConsole(s.t.Context(), "(initramfs)"); err != nil {
		s.t.Fatal(err)
	}
	if err := m.Type("mkdir /x; tar xf /dev/vdb -C /x; /usr/lib/assay/assay-keeper run --config /etc/assay/keeper.json --state /x" + keeperState); err != nil {
		s.t.Fatal(err)
	}
	said, err := m.AwaitConsole(s.t.Context(), "assay-keeper: locked", "assay-keeper: ready", "not found")
	if err != nil || said != "assay-keeper: locked" {
		s.t.Fatalf("the emergency shell's keeper: %q, %v", said, err)
	}
	if _, err := m.AwaitConsole(s.t.Context(), string(keeper.CodeLocked.Code)); err != nil {
		s.t.Error(err)
	}
}

// R098: the same with dracut's own initramfs, here with the command line and the initramfs in PCR 9.
func TestDracutStartsTheKeeperBeforeTheRootFileSystem(t *testing.T) {
	s := newLaunchSite(t, OVMF)
	m := s.boot(Config{Tier: OVMF, Initrd: s.initramfs(Dracut, s.hooks()), Cmdline: launchLine})
	st := s.status(m)
	if st.State != keeper.StateReady || !st.Created || !st.Boot.Capped || st.Class != keeper.RootInitrdSealed {
		t.Fatalf("%+v", st)
	}
	for n, before := range st.Boot.Before {
		if n == 11 {
			continue
		}
		want := hex.EncodeToString(keeper.Extend(before, keeper.CapEvent).Sum)
		if got := s.run(m, fmt.Sprintf("cat /sys/class/tpm/tpm0/pcr-sha256/%d", n)); !strings.EqualFold(got, want) {
			t.Errorf("PCR %d is %s, want %s: what it was, capped once", n, got, want)
		}
	}
	s.stop(m)
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
