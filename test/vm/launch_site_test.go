package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	evidence "github.com/assay-attest/assay/evidence/enclave"
	"github.com/assay-attest/assay/evidence/eventlog"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/keeper"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// launchBinaries are what a guest with a root keeper runs, built once for all tests, and the enclave.
var launchBinaries = sync.OnceValues(func() (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "assay-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := make(map[string][]byte)
	for _, b := range []struct {
		name, pkg string
		env, flag []string
	}{
		{"assay-keeper", "./cmd/assay-keeper", []string{"GOOS=linux", "GOARCH=amd64"}, nil},
		{"assay-monitor", "./cmd/assay-monitor", []string{"GOOS=linux", "GOARCH=amd64"}, nil},
		{"probe", "./test/vm/testdata/probe", []string{"GOOS=linux", "GOARCH=amd64"}, nil},
		{"enclave.wasm", "./internal/monitor/testdata/guest", []string{"GOOS=wasip1", "GOARCH=wasm"}, []string{"-buildmode=c-shared"}},
	} {
		args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", filepath.Join(dir, b.name)}, append(b.flag, b.pkg)...)
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Env = "../..", append(append(os.Environ(), "CGO_ENABLED=0"), b.env...)
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w: %s", b.name, err, text)
		}
		if out[b.name], err = os.ReadFile(filepath.Join(dir, b.name)); err != nil {
			return nil, err
		}
	}
	return out, nil
})

// Where things are in a guest with a root keeper.
const (
	keeperState = "/var/lib/assay-keeper"
	secretFile  = "/var/lib/secret"
	// launchLine has the root file system mounted as a distribution does it.
	launchLine = "console=ttyS0 quiet root=/dev/vda rootfstype=ext4 ro init=/sbin/init tsc=reliable no_timer_check"
	launchMB   = 160 // of the disk
)

// rootInit is process 1 of the real root file system: it starts where the initramfs left off, and becomes the shell.
const rootInit = `#!/bin/busybox sh
export PATH=/bin:/usr/bin
/bin/busybox mount -o remount,rw /
/bin/busybox --install -s /bin
mount -t securityfs securityfs /sys/kernel/security
echo "@@init $(cat /proc/uptime)" > /dev/console
exec /shell
`

// startMonitor starts the monitor as its service would, under its own user, and waits for its socket or its end.
const startMonitor = `mkdir -p /run/assay-monitor /var/cache/assay-monitor && chown 990 /run/assay-monitor /var/cache/assay-monitor
su -s /bin/sh assay-monitor -c 'exec /usr/lib/assay/assay-monitor run' >/run/monitor.log 2>&1 &
monitor=$!
while [ ! -S /run/assay-monitor/monitor.sock ] && kill -0 $monitor 2>/dev/null; do usleep 50000; done
cat /run/monitor.log`

// launchSite is a machine whose root keeper runs in the initramfs, and the owner of its root.
type launchSite struct {
	*site
	bin      map[string][]byte
	owner    string // directory with the owner's keys
	image    *enclave.Image
	sig      []byte
	config   []byte // of the keeper
	answered tpm.Enrolment
}

func newLaunchSite(t *testing.T, tier Tier) *launchSite {
	t.Helper()
	s := &launchSite{site: &site{t: t, tools: Need(t, tier)}}
	NeedDebian(t)
	var err error
	if s.dir, err = os.MkdirTemp("", "vm-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	if s.tpm, err = NewTPM(t.Context(), filepath.Join(s.dir, "tpm")); err != nil {
		t.Fatal(err)
	}
	if s.bin, err = launchBinaries(); err != nil {
		t.Fatal(err)
	}
	if s.binary, err = agentBinary(); err != nil {
		t.Fatal(err)
	}
	s.owner = filepath.Join(s.dir, "owner")
	s.assay("seal", "key", "--out", s.owner)
	key, err := os.ReadFile(filepath.Join(s.owner, "owner.pub"))
	if err != nil {
		t.Fatal(err)
	}
	uid := uint32(990)
	if s.config, err = json.Marshal(keeper.Config{
		Version: 1, Launch: keeper.LaunchInitrd, Owner: string(key), UID: &uid,
		Clients: []keeper.Client{{Name: keeper.ClientMonitor, Image: rats.SHA256(s.bin["assay-monitor"]), SVN: 3}},
	}); err != nil {
		t.Fatal(err)
	}
	s.sign()
	if err := os.MkdirAll(filepath.Join(s.dir, "machine"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := RootDisk(t.Context(), s.disk(), launchMB, s.rootFiles()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *launchSite) disk() string { return filepath.Join(s.dir, "machine", diskFile) }

// assay runs the project's binary on the host: where the owner is.
func (s *launchSite) assay(args ...string) []byte {
	s.t.Helper()
	file := filepath.Join(s.dir, "assay")
	if _, err := os.Stat(file); err != nil {
		if err := os.WriteFile(file, s.binary, 0o755); err != nil { //nolint:gosec // a program
			s.t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(s.t.Context(), file, args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("assay %s: %v: %s", strings.Join(args, " "), err, complaint.String())
	}
	return out
}

// sign makes the enclave of the guest.
func (s *launchSite) sign() {
	s.t.Helper()
	var err error
	if s.image, err = enclave.New(s.bin["enclave.wasm"], enclave.Options{Heap: 64 << 20, Buffer: 64 << 10, ProductID: 7, SVN: 2}); err != nil {
		s.t.Fatal(err)
	}
	key, err := enclave.TestKey()
	if err != nil {
		s.t.Fatal(err)
	}
	o := s.image.Defaults()
	o.Date = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	sig, err := enclave.Sign(s.image.Measure(), o, key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.sig = sig.Bytes()
}

func (s *launchSite) rootFiles() map[string]File {
	s.t.Helper()
	busybox, err := os.ReadFile(s.tools.Busybox)
	if err != nil {
		s.t.Fatal(err)
	}
	monitor := fmt.Sprintf(`{"version": 1, "uids": [0], "root": {"keeper": "/run/assay-keeper/keeper.sock"}, "svn": 3, "own": ["%s"], "modes": ["process"], "cache": "/var/cache/assay-monitor"}`,
		rats.Digest{Alg: "sha256", Sum: abi.TestMRSIGNER[:]})
	files := map[string]File{
		"/bin/busybox":                 {0o755, busybox},
		"/sbin/init":                   {0o755, []byte(rootInit)},
		"/shell":                       {0o755, []byte(shellScript)},
		"/etc/passwd":                  {0o644, []byte("root:x:0:0:root:/root:/bin/sh\nassay-monitor:x:990:990::/:/bin/false\n")},
		"/etc/group":                   {0o644, []byte("root:x:0:\nassay-monitor:x:990:\n")},
		GuestAgent:                     {0o755, s.binary},
		"/usr/bin/probe":               {0o755, s.bin["probe"]},
		"/usr/lib/assay/assay-keeper":  {0o755, s.bin["assay-keeper"]},
		"/usr/lib/assay/assay-monitor": {0o755, s.bin["assay-monitor"]},
		"/usr/lib/assay/enclave.image": {0o644, s.image.Encode()},
		"/usr/lib/assay/enclave.sig":   {0o644, s.sig},
		"/etc/assay/keeper.json":       {0o644, s.config},
		"/etc/assay/monitor.json":      {0o644, []byte(monitor)},
		keeperState:                    {0o700 | os.ModeDir, nil},
		keeperState + "/create.json":   {0o600, []byte(`{"version": 1}`)}, // as `assay seal init` leaves it
	}
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/root"} {
		files[d] = File{0o755 | os.ModeDir, nil}
	}
	files["/tmp"] = File{0o777 | os.ModeDir, nil}
	return files
}

// hooks are the files that a machine has with the hooks installed as deploy/initramfs/README.md says.
func (s *launchSite) hooks() map[string]File {
	s.t.Helper()
	files := map[string]File{
		"/usr/lib/assay/assay-keeper": {0o755, s.bin["assay-keeper"]},
		"/etc/assay/keeper.json":      {0o644, s.config},
	}
	for to, from := range map[string]string{
		"/usr/share/assay/initramfs/keeper-step.sh":                "keeper-step.sh",
		"/etc/initramfs-tools/hooks/assay-keeper":                  "initramfs-tools/hook",
		"/etc/initramfs-tools/scripts/init-bottom/assay-keeper":    "initramfs-tools/init-bottom",
		"/etc/initramfs-tools/scripts/panic/assay-keeper":          "initramfs-tools/panic",
		"/usr/lib/dracut/modules.d/90assay-keeper/module-setup.sh": "dracut/90assay-keeper/module-setup.sh",
		"/usr/lib/dracut/modules.d/90assay-keeper/pre-pivot.sh":    "dracut/90assay-keeper/pre-pivot.sh",
		"/usr/lib/dracut/modules.d/90assay-keeper/emergency.sh":    "dracut/90assay-keeper/emergency.sh",
	} {
		b, err := os.ReadFile(filepath.Join("../../deploy/initramfs", from))
		if err != nil {
			s.t.Fatal(err)
		}
		files[to] = File{0o755, b}
	}
	return files
}

func (s *launchSite) initramfs(by Generator, files map[string]File) []byte {
	s.t.Helper()
	began := time.Now()
	b, err := Initramfs(s.t.Context(), s.tools, by, s.dir, files)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("%s made an initramfs of %d bytes in %.1f s", by, len(b), time.Since(began).Seconds())
	return b
}

// booted starts a machine and returns what the keeper says of itself.
func (s *launchSite) booted(image []byte) (*Machine, keeper.Status) {
	s.t.Helper()
	m := s.boot(Config{Tier: UKI, Image: image})
	return m, s.status(m)
}

func (s *launchSite) status(m *Machine) keeper.Status {
	s.t.Helper()
	out := s.run(m, GuestAgent+" seal status -o json 2>/dev/null || true") // locked is an exit code too
	var st keeper.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		log, _ := m.Run(s.t.Context(), "dmesg | tail -n 30; ls -laR /run/assay-keeper /var/lib/assay-keeper")
		s.t.Fatalf("the keeper's status is %q: %v\n%s", out, err, log)
	}
	return st
}

// off shuts a machine down.
func (s *launchSite) off(m *Machine) {
	s.t.Helper()
	s.run(m, "sync")
	s.stop(m)
}

func (s *launchSite) stop(m *Machine) {
	s.t.Helper()
	m.Stop()
	s.t.Logf("this boot took %.1f s of processor time", m.Processor().Seconds())
}

// authorise carries a plan to the owner and the signed set back.
func (s *launchSite) authorise(m *Machine, plan string) {
	s.t.Helper()
	text := s.run(m, plan+" >/tmp/plan.json && cat /tmp/plan.json")
	file := filepath.Join(s.dir, "plan.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := m.Put(s.t.Context(), "/tmp/set.json", s.assay("seal", "authorise", file, "--key", filepath.Join(s.owner, "owner.key"))); err != nil {
		s.t.Fatal(err)
	}
	s.run(m, GuestAgent+" seal install /tmp/set.json")
}

// predict returns the PCRs that another image of the same machine will have before the keeper starts: those that the boot log
// of the running one gives, with other digests in place of what was exchanged.
func (s *launchSite) predict(m *Machine, exchanged map[string]rats.Digest) map[int]rats.Digest {
	s.t.Helper()
	raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(s.run(m, "base64 "+GuestEventLog), "\n", ""))
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := eventlog.Parse(raw, false)
	if err != nil {
		s.t.Fatal(err)
	}
	used := make(map[string]bool)
	for i := range log.Events {
		for j := range log.Events[i].Digests {
			d := &log.Events[i].Digests[j]
			from := rats.Digest{Alg: "sha256", Sum: d.Sum}.String()
			if to, ok := exchanged[from]; ok {
				used[from] = true
				d.Sum = to.Sum
			}
		}
	}
	for from := range exchanged {
		if !used[from] {
			s.t.Errorf("the boot log has nothing with the digest %s, which changes", from)
		}
	}
	values, err := log.Replay("sha256", eventlog.KindPCR)
	if err != nil {
		s.t.Fatal(err)
	}
	out := make(map[int]rats.Digest)
	for _, n := range []int{0, 2, 4, 7, 9, 11, 12} {
		out[n] = rats.Digest{Alg: "sha256", Sum: values[n]}
	}
	return out
}

// launchPolicy judges the launch by values that the owner has from the boot he authorised.
func (s *launchSite) launchPolicy(boot keeper.Boot, beforeKey rats.Digest, image []byte) *policy.Policy {
	s.t.Helper()
	capped := func(n int) string { return hex.EncodeToString(keeper.Extend(boot.Before[n], keeper.CapEvent).Sum) }
	var cas strings.Builder
	for _, der := range s.tpm.CACerts() {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		cas.WriteString("      - |\n        " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n        ") + "\n")
	}
	measured := s.image.Measure()
	doc := fmt.Sprintf(`apiVersion: assay/v1
kind: Policy
metadata: {name: launch}
selector: 'true'
allow: [software-tpm, test-key]
links: [{from: enclave, to: tpm, kind: pcr-holds-key}]
formats:
  tpm:
    ek_cas:
%s    %s  %s  enclave:
    mrenclave: "%s"
    modes: [process]
    launches: [initrd]
    roots: [initrd-sealed]
    min_monitor_svn: 3
    pcrs: {"4": "%s", "7": "%s", "9": "%s"}
    before_key: "%s"
    measured: ["assay:keeper:%s", "assay:client:monitor:3:%s"]
    accept_same_os: true
`, cas.String(), quoteBoot, strings.ReplaceAll(s.imageSection("any", image), "\n  ", "\n    "), rats.Digest{Alg: "sha256", Sum: measured[:]}, capped(4), capped(7), capped(9), hex.EncodeToString(beforeKey.Sum),
		rats.SHA256(s.bin["assay-keeper"]), rats.SHA256(s.bin["assay-monitor"]))
	p, reasons := policy.Compile([]byte(doc), launchEngine().Descriptors())
	if p == nil {
		s.t.Fatalf("%v\n%s", reasons, doc)
	}
	return p
}

// launchFormats are what a launch is judged by, in the order of their names.
var launchFormats = []rats.Format{evidence.Format, eventlog.Format, tpm.Format}

func launchEngine() *appraise.Engine { return appraise.New(tpm.New(), eventlog.New(), evidence.New()) }

// judged has the guest attest and judges it, by the record of the node's enrolment, which is made at the first time. opened is
// what the same enclave opens of the sealed secret, "" if it can't.
func (s *launchSite) judged(m *Machine, p *policy.Policy) (_ rats.Result, _ *evidence.Claims, opened string) {
	s.t.Helper()
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		s.t.Fatal(err)
	}
	b, err := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("verifier")), Nonce: nonce,
		Instance: bytes.Repeat([]byte{2}, 16), Keys: []rats.BoundKey{{Use: rats.KeyHPKE, Public: []byte("hpke")}}, Formats: launchFormats,
	}.Bind()
	if err != nil {
		s.t.Fatal(err)
	}
	params := make(map[rats.Format][]byte)
	for _, a := range p.Asks() {
		params[a.Format] = a.Params
	}
	request, err := json.Marshal(map[string]any{"binding": b, "asks": p.Asks()})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := m.Put(s.t.Context(), "/tmp/request.json", request); err != nil {
		s.t.Fatal(err)
	}
	var answer struct {
		Evidence []rats.Evidence `json:"evidence"`
		EK       []byte          `json:"ek"`
		EKCert   []byte          `json:"ek_cert"`
		AK       []byte          `json:"ak"`
		Opened   string          `json:"opened"`
	}
	if err := json.Unmarshal([]byte(s.run(m, "probe attest /tmp/request.json "+secretFile+" 2>/tmp/probe.log")), &answer); err != nil {
		s.t.Fatal(err)
	}
	now := time.Now()
	if s.answered.AK == nil {
		if s.answered, err = tpm.Enrol(answer.EK, answer.EKCert, answer.AK, now); err != nil {
			s.t.Fatal(err)
		}
	}
	set, err := launchEngine().Verify(s.t.Context(), rats.Collection{Binding: b, Evidence: answer.Evidence}, launchFormats, func(f rats.Format) rats.Inputs {
		return rats.Inputs{Now: now, Params: params[f], Endorsements: []rats.Endorsement{s.answered.Endorsement()}}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	res := p.Appraise(policy.In{Set: set, Now: now, Challenged: now.Add(-time.Second), Node: policy.NodeFacts{Name: "guest", Kind: "vm"}})
	var claims *evidence.Claims
	for _, v := range set.Verified {
		if c, ok := v.Claims.(*evidence.Claims); ok {
			claims = c
		}
	}
	return res, claims, answer.Opened
}
