package enclave

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	evidence "github.com/assay-attest/assay/evidence/enclave"
	evtpm "github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/keeper"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/internal/monitor/daemon"
	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/internal/tpm"
	"github.com/assay-attest/assay/rats"
)

var (
	bg  = context.Background()
	now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
)

// guest is the monitor's test enclave, which quotes whatever report data it is told.
var guest = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-o", file, "../../monitor/testdata/guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(file)
})

var compiler = sync.OnceValues(func() (*monitor.Compiler, error) { return monitor.NewCompiler(bg, monitor.CompilerOptions{}) })

// source is a running enclave over the daemon's socket.
type source struct {
	monitor.Running
	sig []byte
}

func (s source) Sigstruct() []byte { return s.sig }

func (s source) Quote(ctx context.Context, manifest []byte) ([]byte, error) {
	var data [64]byte
	sum := sha256.Sum256(manifest)
	copy(data[:], sum[:])
	return monitor.Call[[64]byte, []byte](ctx, s, "quote", data)
}

// node is a machine with a software TPM, a keeper's events in it, a monitor's daemon and an enclave.
type node struct {
	sw       *swtpm.TPM
	dev      *tpm.Device
	ak       *tpm.AK
	enrolled rats.Endorsement
	source   source
	socket   string
}

// newNode starts a monitor of a root. measure says what is done to the TPM with the event of the monitor's key.
func newNode(t *testing.T, sw *swtpm.TPM, platform abi.Platform, root byte, measure func(extend func(string), key string) []string) *node {
	t.Helper()
	n := &node{sw: sw}
	var err error
	if n.dev, err = tpm.Open(bg, sw.Path()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.dev.Close() })
	if n.ak, err = n.dev.AK(bg, bytes.Repeat([]byte{7}, tpm.UniqueSize)); err != nil {
		t.Fatal(err)
	}
	ek, err := n.dev.EK(bg)
	if err != nil {
		t.Fatal(err)
	}
	enrolment, err := evtpm.Enrol(ek.Public, ek.CertDER, n.ak.Public, now)
	if err != nil {
		t.Fatal(err)
	}
	n.enrolled = enrolment.Endorsement()

	r, err := enclave.ParseRoot(bytes.Repeat([]byte{root}, enclave.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	key, err := r.Monitor(platform.SVN)
	if err != nil {
		t.Fatal(err)
	}
	signing, err := key.AttestationKey(platform, "")
	if err != nil {
		t.Fatal(err)
	}
	public, err := enclave.AttestationPublic(&signing.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	texts := measure(func(text string) {
		if err := n.dev.ExtendPCR(bg, abi.KeyPCR, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}, abi.KeyEvent(public).Text)
	c, err := compiler()
	if err != nil {
		t.Fatal(err)
	}
	m, err := monitor.New(bg, monitor.Config{
		Key: key, Platform: platform, Policy: monitor.Policy{Own: [][32]byte{abi.TestMRSIGNER}}, Rand: rand.Reader, Now: time.Now, Compiler: c,
		Quote: func(_ context.Context, body abi.ReportBody) ([]byte, error) {
			q, err := enclave.Quote(rand.Reader, body, signing)
			return q.Bytes(), err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n.serve(t, m, daemon.Info{Key: public, Platform: platform.CPUSVN(), Event: abi.KeyEvent(public).Text, Events: texts})
	return n
}

// serve runs the daemon and loads the enclave over its socket.
func (n *node) serve(t *testing.T, m *monitor.Monitor, info daemon.Info) {
	t.Helper()
	dir, err := os.MkdirTemp("", "quotes-")
	if err != nil {
		t.Fatal(err)
	}
	n.socket = filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(bg)
	ln, err := daemon.Listen(ctx, n.socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- daemon.Serve(ctx, ln, m, daemon.Options{UIDs: []uint32{uint32(os.Getuid())}, Info: func() daemon.Info { return info }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	module, err := guest()
	if err != nil {
		t.Fatal(err)
	}
	i, err := enclave.New(module, enclave.Options{Heap: 64 << 20, Buffer: 64 << 10, ProductID: 7, SVN: 2})
	if err != nil {
		t.Fatal(err)
	}
	key, err := enclave.TestKey()
	if err != nil {
		t.Fatal(err)
	}
	o := i.Defaults()
	o.Date = now
	s, err := enclave.Sign(i.Measure(), o, key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := daemon.Dial(bg, n.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	e, err := client.Load(bg, i.Encode(), s.Bytes(), monitor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n.source = source{e, s.Bytes()}
}

func (n *node) attester(files fstest.MapFS) rats.Attester {
	return New(Config{Enclave: n.source, Device: n.dev, AK: n.ak, Measured: ByMonitor(n.socket), Root: files})
}

var params, _ = json.Marshal(evidence.Params{PCRs: []int{7, abi.KeyPCR}})

func binding(t *testing.T, nonce byte) rats.Binding {
	t.Helper()
	b, err := rats.Manifest{
		Purpose: rats.PurposeAttest, Namespace: "default", Node: "nd_1", Verifier: rats.SHA256([]byte("verifier")),
		Nonce: bytes.Repeat([]byte{nonce}, 32), Instance: bytes.Repeat([]byte{2}, 16),
		Keys: []rats.BoundKey{{Use: rats.KeyHPKE, Public: []byte("hpke")}}, Formats: []rats.Format{evidence.Format},
	}.Bind()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (n *node) collect(t *testing.T, b rats.Binding, files fstest.MapFS) rats.Evidence {
	t.Helper()
	e, err := n.attester(files).Collect(bg, rats.Ask{Format: evidence.Format, Params: params, Binding: b})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (n *node) verify(e rats.Evidence, b rats.Binding) (*evidence.Claims, rats.Verified, error) {
	v, err := evidence.New().Verify(bg, e, rats.Inputs{Binding: b, Now: now, Params: params, Endorsements: []rats.Endorsement{n.enrolled}})
	if err != nil {
		return nil, v, err
	}
	return v.Claims.(*evidence.Claims), v, nil
}

func wantCode(t *testing.T, what string, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("%s: %v, want %s", what, err, want.Code)
	}
}

var (
	early     = abi.Platform{Mode: abi.ModeInline, Launch: abi.LaunchInitrd, Root: abi.RootInitrdSealed, SVN: 3}
	late      = abi.Platform{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootOSProtected, SVN: 3}
	simulated = abi.Platform{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: 3}
)

// inInitrd is what a keeper of launch initrd measures, between systemd's phases.
func inInitrd(extend func(string), key string) []string {
	texts := []string{
		abi.EventKeeper + rats.SHA256([]byte("keeper")).String(), abi.EventClient + "monitor:3:" + rats.SHA256([]byte("monitor")).String(), key, abi.EventCap,
	}
	for _, text := range slices.Concat([]string{"enter-initrd"}, texts, []string{"leave-initrd", "sysinit"}) {
		extend(text)
	}
	return texts
}

func onlyKey(extend func(string), key string) []string {
	extend(key)
	return []string{key}
}

// R088: report, monitor's signature, TPM quote and log, made by the daemon, a real TPM and this Attester, verify; and say what
// they are worth.
func TestQuoteOfTheDaemonVerifies(t *testing.T) {
	n := newNode(t, swtpm.StartUncertified(t), early, 1, inInitrd)
	b := binding(t, 1)
	c, v, err := n.verify(n.collect(t, b, nil), b)
	if err != nil {
		t.Fatal(err)
	}
	if c.Launch != "initrd" || c.Root != "initrd-sealed" || c.MonitorSVN != 3 || c.ProductID != 7 || c.SVN != 2 || c.MeasuredBy != "tpm" || !c.Log.Capped || len(c.Log.Measured) != 2 {
		t.Errorf("claims %+v", c)
	}
	if !slices.Contains(v.Marks, rats.MarkSoftwareTPM) || !slices.Contains(v.Marks, rats.MarkTestKey) {
		t.Errorf("marks %v", v.Marks)
	}

	user := newNode(t, swtpm.StartUncertified(t), late, 1, onlyKey)
	if c, _, err := user.verify(user.collect(t, b, nil), b); err != nil || c.Launch != "userspace" || c.Root != "os-protected" || c.Log.Capped {
		t.Errorf("from user space: %+v, %v", c, err)
	}
	toy := newNode(t, swtpm.StartUncertified(t), simulated, 1, onlyKey)
	e := toy.collect(t, b, nil)
	if _, v, err := toy.verify(e, b); err != nil || !slices.Contains(v.Marks, rats.MarkSimulated) || len(e.Parts) != 1 {
		t.Errorf("simulated: %v, %v, %d parts", v.Marks, err, len(e.Parts))
	}
}

// R164, R165, R088: parts of two quotes, an old quote, a key that nobody measured, a key measured after the cap.
func TestQuoteThatWasPutTogetherIsRefused(t *testing.T) {
	sw := swtpm.StartUncertified(t)
	n := newNode(t, sw, early, 1, inInitrd)
	old, b := binding(t, 1), binding(t, 2)
	before, after := n.collect(t, old, nil), n.collect(t, b, nil)
	_, _, err := n.verify(before, b)
	wantCode(t, "a replay", err, evidence.CodeReportData)
	spliced := after
	spliced.Parts = slices.Concat(after.Parts[:1], before.Parts[1:])
	_, _, err = n.verify(spliced, b)
	wantCode(t, "the TPM's part of another quote", err, evidence.CodeSpliced)
	other := newNode(t, swtpm.StartUncertified(t), early, 1, inInitrd)
	_, _, err = n.verify(other.collect(t, b, nil), b)
	wantCode(t, "another machine's TPM", err, evidence.CodeOtherAK)
	_ = n.dev.Close()

	// An attacker's monitor, with a root of his own, on the node's TPM: the quote is the TPM's, the log is true.
	forged := newNode(t, sw, early, 9, func(func(string), string) []string { return n.texts(t) })
	e := forged.collect(t, b, nil)
	_, _, err = forged.verify(e, b)
	wantCode(t, "a key that was not measured, beside the one that was", err, evidence.CodeKeyDoubled)
	_, _, err = forged.verify(mute(t, e), b)
	wantCode(t, "a key that was not measured", err, evidence.CodeKeyAbsent)
	_ = forged.dev.Close()
	late := newNode(t, sw, early, 9, func(extend func(string), key string) []string {
		extend("ready")
		extend(key)
		return append(n.texts(t), "leave-initrd", "sysinit", "ready", key)
	})
	_, _, err = late.verify(mute(t, late.collect(t, b, nil)), b)
	wantCode(t, "a key measured by user space", err, evidence.CodeOrder)
}

// mute leaves the texts of a log out, as its sender may.
func mute(t *testing.T, e rats.Evidence) rats.Evidence {
	t.Helper()
	e.Parts = slices.Clone(e.Parts)
	for i, p := range e.Parts {
		if p.Name != evidence.PartEvents {
			continue
		}
		events, err := abi.ParseEvents(p.Data)
		if err != nil {
			t.Fatal(err)
		}
		for j := range events {
			events[j].Text = ""
		}
		e.Parts[i].Data = abi.EncodeEvents(events)
	}
	return e
}

// texts is what the keeper measured on a node.
func (n *node) texts(t *testing.T) []string {
	t.Helper()
	texts, err := ByMonitor(n.socket)(bg)
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// The place of the keeper's events among systemd's is found by the quoted value; a register that somebody else extended has
// no explanation, and then nothing is sent.
func TestLogsAreMergedByTheQuotedValue(t *testing.T) {
	keeperTexts := []string{"assay:keeper:x", "assay:monitor-key:y", keeper.CapEvent}
	var own []abi.Event
	for _, text := range keeperTexts {
		own = append(own, abi.NewEvent(text))
	}
	own1, own2 := abi.NewEvent("enter-initrd"), abi.NewEvent("another of systemd's")
	record := func(pcr int, text string) string {
		return fmt.Sprintf("\x1e{\"pcr\":%d,\"digests\":[{\"hashAlg\":\"sha1\",\"digest\":\"00\"},{\"hashAlg\":\"sha256\",\"digest\":\"%x\"}],\"content_type\":\"systemd\"}\n", pcr, sha256.Sum256([]byte(text)))
	}
	systemd := record(11, "enter-initrd") + record(15, "machine-id") + record(11, "another of systemd's")
	files := fstest.MapFS{pathSystemd: {Data: []byte(systemd)}}
	for name, c := range map[string]struct {
		root fstest.MapFS
		want []abi.Event
	}{
		"nothing else":          {nil, own},
		"systemd's log":         {files, slices.Concat([]abi.Event{own1}, own, []abi.Event{own2})},
		"the keeper first":      {files, slices.Concat(own, []abi.Event{own1, own2})},
		"quoted before the end": {files, slices.Concat(own, []abi.Event{own1})},
		"phases without a log":  {fstest.MapFS{}, slices.Concat([]abi.Event{own1}, own, []abi.Event{abi.NewEvent("leave-initrd")})},
	} {
		root := c.root
		if root == nil {
			root = fstest.MapFS{}
		}
		got, err := explain(replay([32]byte{}, c.want), keeperTexts, root, nil)
		if err != nil || replay([32]byte{}, got) != replay([32]byte{}, c.want) || len(got) != len(c.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	booted := fstest.MapFS{pathFirmware: {Data: []byte("log")}}
	stub := func([]byte, int) ([][32]byte, error) { return [][32]byte{own1.Digest}, nil }
	if got, err := explain(replay([32]byte{}, append([]abi.Event{own1}, own...)), keeperTexts, booted, stub); err != nil || len(got) != len(own)+1 {
		t.Errorf("with a firmware's log: %v, %v", got, err)
	}
	if _, err := explain([32]byte{1}, keeperTexts, nil, nil); !errors.Is(err, errLog) {
		t.Errorf("a register with another value: %v", err)
	}
	for name, b := range map[string][]byte{
		pathSystemd: []byte("\x1e{"), pathFirmware: []byte("no event log"),
	} {
		if _, err := explain([32]byte{}, nil, fstest.MapFS{name: {Data: b}}, func([]byte, int) ([][32]byte, error) { return nil, errors.New("rubbish") }); err == nil {
			t.Errorf("%s: rubbish was accepted", name)
		}
	}
}

func TestAttesterSaysWhatItLacks(t *testing.T) {
	a := New(Config{})
	if r := a.Probe(bg); r.OK || r.Fix == "" {
		t.Errorf("%+v", r)
	}
	if _, err := a.Collect(bg, rats.Ask{Format: evidence.Format, Params: params}); err == nil {
		t.Error("a quote of nothing")
	}
	n := newNode(t, swtpm.StartUncertified(t), late, 1, onlyKey)
	for name, ask := range map[string]rats.Ask{
		"format":   {Format: "tpm", Params: params, Binding: binding(t, 1)},
		"params":   {Format: evidence.Format, Params: []byte(`{"pcrs":[7]}`), Binding: binding(t, 1)},
		"manifest": {Format: evidence.Format, Params: params},
	} {
		if _, err := n.attester(nil).Collect(bg, ask); err == nil {
			t.Errorf("%s: collected", name)
		}
	}
	if _, err := New(Config{Enclave: n.source}).Collect(bg, rats.Ask{Format: evidence.Format, Params: params, Binding: binding(t, 1)}); err == nil {
		t.Error("a root in a TPM, without a TPM")
	}
}

func FuzzSystemdLog(f *testing.F) {
	f.Add([]byte("\x1e{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\"00\"}]}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := systemdEvents(fstest.MapFS{pathSystemd: {Data: b}})
		if err == nil && len(events) > maxOthers {
			t.Errorf("%d events", len(events))
		}
	})
}
