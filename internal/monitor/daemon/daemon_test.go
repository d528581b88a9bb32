package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

var bg = context.Background()

// TestMain lets the test's own program be what mode process starts.
func TestMain(m *testing.M) {
	if monitor.IsChild(os.Args) {
		fmt.Fprintln(os.Stderr, monitor.Child(rand.Reader, time.Now))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// built is an enclave's code and every program, built once for all tests of a run.
func built(args ...string) func() ([]byte, error) {
	return sync.OnceValues(func() ([]byte, error) {
		dir, err := os.MkdirTemp("", "built")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "guest.wasm")
		cmd := exec.Command("go", append([]string{"build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w -buildid=", "-o", file}, args...)...)
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, out)
		}
		return os.ReadFile(file)
	})
}

var guest = built("../testdata/guest")

var compiler = sync.OnceValues(func() (*monitor.Compiler, error) { return monitor.NewCompiler(bg, monitor.CompilerOptions{}) })

// signed returns an image of a module and its SIGSTRUCT.
func signed(t testing.TB, module []byte, o enclave.Options, change func(*enclave.SignOptions)) (image, sigstruct []byte) {
	t.Helper()
	i, err := enclave.New(module, o)
	if err != nil {
		t.Fatal(err)
	}
	so := i.Defaults()
	so.Date = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	if change != nil {
		change(&so)
	}
	key, err := enclave.TestKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := enclave.Sign(i.Measure(), so, key)
	if err != nil {
		t.Fatal(err)
	}
	return i.Encode(), s.Bytes()
}

func image(t testing.TB) (file, sig []byte) {
	t.Helper()
	module, err := guest()
	if err != nil {
		t.Fatal(err)
	}
	return signed(t, module, enclave.Options{Heap: 64 << 20, Buffer: 256 << 10, ProductID: 7, SVN: 2}, nil)
}

// serve starts a daemon in this process and returns its socket.
func serve(t testing.TB, change func(*Options)) string {
	t.Helper()
	c, err := compiler()
	if err != nil {
		t.Fatal(err)
	}
	root, err := enclave.ParseRoot(bytes.Repeat([]byte{1}, enclave.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	mk, err := root.Monitor(3)
	if err != nil {
		t.Fatal(err)
	}
	m, err := monitor.New(bg, monitor.Config{
		Key: mk, Platform: abi.Platform{Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: 3},
		Policy: monitor.Policy{Own: [][32]byte{abi.TestMRSIGNER}}, Rand: rand.Reader, Now: time.Now, Compiler: c, Program: self,
		Budget: monitor.Budget{OCalls: 1 << 30},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{UIDs: []uint32{uint32(os.Getuid())}}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(bg)
	ln, err := Listen(ctx, filepath.Join(shortDir(t), "monitor.sock"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, m, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
		_ = m.Close(bg)
	})
	return ln.Addr().String()
}

// shortDir is a directory whose sockets have names short enough.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "monitor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func dial(t testing.TB, socket string) *Client {
	t.Helper()
	c, err := Dial(bg, socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func load(t testing.TB, c *Client, o monitor.Options) *Enclave {
	t.Helper()
	file, sig := image(t)
	e, err := c.Load(bg, file, sig, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func wantCode(t testing.TB, what string, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("%s: %v, want %s", what, err, want.Code)
	}
}

type none = struct{}

// outcall is what the guest's entry ocall takes.
type outcall struct {
	Name string
	In   []byte
	Room uint32
	Many uint32
}

func try[In any](ctx context.Context, e monitor.Running, entry string, in In) error {
	b, err := boundary.Encode(in)
	if err != nil {
		return err
	}
	_, err = e.Enter(ctx, entry, b)
	return err
}

// S18: what an enclave does in the monitor's own process it does over the socket: calls, OCALLs, refusals, its end.
func TestEnclaveIsTheSameOverTheSocket(t *testing.T) {
	for _, mode := range []abi.Mode{abi.ModeInline, abi.ModeProcess} {
		t.Run(mode.String(), func(t *testing.T) { sameOverTheSocket(t, dial(t, serve(t, nil)), mode) })
	}
}

func sameOverTheSocket(t *testing.T, c *Client, mode abi.Mode) {
	closed := 0
	var e *Enclave
	coded := rats.CodeInfo{Code: "test.refused", Title: "no"}
	host := map[string]monitor.HostCall{
		"double": func(_ context.Context, in, out []byte) (int, error) { return copy(out, append(in, in...)), nil },
		"plain":  func(context.Context, []byte, []byte) (int, error) { return 0, errors.New("the password is hush") },
		"coded":  func(context.Context, []byte, []byte) (int, error) { return 0, coded.Bad("here", "", "") },
		"long":   func(_ context.Context, _, out []byte) (int, error) { return len(out) + 1, nil },
		"again":  func(ctx context.Context, _, _ []byte) (int, error) { return 0, try(ctx, e, "empty", none{}) },
		"beside": func(context.Context, []byte, []byte) (int, error) { return 0, try(bg, e, "empty", none{}) },
		"end":    func(context.Context, []byte, []byte) (int, error) { return 0, e.Destroy() },
	}
	start := enclave.Start{}
	e = load(t, c, monitor.Options{Mode: mode, Host: host, Start: start, Close: func() { closed++ }})
	file, _ := image(t)
	parsed, err := enclave.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if e.Identity().MRENCLAVE != parsed.Measure() || e.Identity().MRSIGNER != abi.TestMRSIGNER || e.Identity().ISVSVN != 2 || e.Platform().Mode != mode {
		t.Errorf("identity %+v, platform %+v", e.Identity(), e.Platform())
	}
	big := bytes.Repeat([]byte("parameters"), 20000)
	if got, err := monitor.Call[[]byte, []byte](bg, e, "echo", big); err != nil || !bytes.Equal(got, big) {
		t.Errorf("echo of %d bytes: %d bytes, %v", len(big), len(got), err)
	}
	got, err := monitor.Call[outcall, []byte](bg, e, "ocall", outcall{Name: "double", In: []byte("ab"), Room: 100})
	if err != nil || string(got) != "abab" {
		t.Errorf("OCALL: %q, %v", got, err)
	}
	for name, want := range map[string]rats.CodeInfo{
		"plain": monitor.CodeOCall, "coded": coded, "long": monitor.CodeResult, "again": monitor.CodeReentry, "beside": monitor.CodeBusy,
		"end": monitor.CodeBusy, "unknown": monitor.CodeHost,
	} {
		err := try(bg, e, "ocall", outcall{Name: name, Room: 16})
		wantCode(t, name, err, want)
		if strings.Contains(fmt.Sprint(err), "hush") {
			t.Errorf("%s: words of the application crossed: %v", name, err)
		}
	}
	_, err = e.Enter(bg, "echo", make([]byte, 1<<20))
	wantCode(t, "parameters too large", err, monitor.CodeInput)
	wantCode(t, "no such entry", try(bg, e, "nothing", none{}), monitor.CodeEntry)
	_, err = e.Enter(bg, strings.Repeat("x", maxEntry+1), nil)
	wantCode(t, "a long name", err, monitor.CodeEntry)
	wantCode(t, "a trap", try(bg, e, "panics", none{}), monitor.CodeTrap)
	wantCode(t, "after it", try(bg, e, "empty", none{}), monitor.CodePoisoned)
	for range 2 {
		if err := e.Destroy(); err != nil || closed != 1 {
			t.Errorf("destroyed: %v, closed %d times", err, closed)
		}
	}
	wantCode(t, "after its end", try(bg, e, "empty", none{}), monitor.CodeState)
}

// A call that is cancelled is ended by the monitor, and the connection goes on.
func TestCancelledCallEndsTheEnclaveAndNothingElse(t *testing.T) {
	c := dial(t, serve(t, nil))
	slow := make(chan struct{})
	host := map[string]monitor.HostCall{"wait": func(ctx context.Context, _, _ []byte) (int, error) {
		close(slow)
		<-ctx.Done()
		return 0, ctx.Err()
	}}
	other, hangs, waits := load(t, c, monitor.Options{}), load(t, c, monitor.Options{Mode: abi.ModeProcess}), load(t, c, monitor.Options{Host: host})
	ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
	defer cancel()
	wantCode(t, "a hang", try(ctx, hangs, "hang", none{}), monitor.CodeTime)
	ctx, stop := context.WithCancel(bg)
	go func() {
		<-slow
		stop()
	}()
	if err := try(ctx, waits, "ocall", outcall{Name: "wait"}); err == nil {
		t.Error("a cancelled OCALL answered")
	}
	if err := try(ctx, other, "empty", none{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a call whose context has ended: %v", err)
	}
	if err := try(bg, other, "empty", none{}); err != nil {
		t.Errorf("another enclave: %v", err)
	}
}

// The user is the kernel's word; whoever isn't named gets nothing.
func TestUserWhoIsNotNamedIsRefused(t *testing.T) {
	for _, uids := range [][]uint32{nil, {uint32(os.Getuid()) + 1}} {
		c := dial(t, serve(t, func(o *Options) { o.UIDs = uids }))
		_, err := c.Info(bg)
		if r, ok := rats.ReasonOf(err); !ok || r.Code != CodePeer.Code && r.Code != CodeGone.Code {
			t.Errorf("%v: %v", uids, err)
		}
		file, sig := image(t)
		if _, err := c.Load(bg, file, sig, monitor.Options{}); err == nil {
			t.Error("a stranger loaded an enclave")
		}
	}
}

func TestLimitsHoldForEachConnection(t *testing.T) {
	socket := serve(t, func(o *Options) { o.MaxEnclaves = 1 })
	c := dial(t, socket)
	e := load(t, c, monitor.Options{})
	file, sig := image(t)
	_, err := c.Load(bg, file, sig, monitor.Options{})
	wantCode(t, "one too many", err, CodeLimit)
	if err := e.Destroy(); err != nil {
		t.Fatal(err)
	}
	load(t, c, monitor.Options{})
	load(t, dial(t, socket), monitor.Options{}) // another's

	sig[200] ^= 1
	if _, err := dial(t, socket).Load(bg, file, sig, monitor.Options{}); err == nil {
		t.Error("a SIGSTRUCT that was changed")
	}
	small := dial(t, serve(t, func(o *Options) { o.MaxImage = 1 << 10 }))
	if _, err := small.Load(bg, file, sig, monitor.Options{}); err == nil {
		t.Error("an image too large")
	}
}

// children are the processes of enclaves that this process has.
func children(t *testing.T) (n int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		b, _ := os.ReadFile(file)
		_, rest, _ := bytes.Cut(b, []byte(") "))
		var state string
		var parent int
		if _, err := fmt.Sscan(string(rest), &state, &parent); err == nil && parent == os.Getpid() && state != "Z" {
			n++
		}
	}
	return n
}

// A client that vanishes, in a call or out of it, takes its enclaves with it, and nobody else's.
func TestVanishedClientTakesItsEnclavesWithIt(t *testing.T) {
	socket := serve(t, nil)
	stays := dial(t, socket)
	mine := load(t, stays, monitor.Options{Mode: abi.ModeProcess})
	before := children(t)
	goes := dial(t, socket)
	load(t, goes, monitor.Options{Mode: abi.ModeProcess})
	busy := load(t, goes, monitor.Options{Mode: abi.ModeProcess})
	if n := children(t); n != before+2 {
		t.Fatalf("%d processes, want %d", n, before+2)
	}
	failed := make(chan error, 1)
	go func() { failed <- try(bg, busy, "hang", none{}) }()
	time.Sleep(20 * time.Millisecond) // no event tells that the call is inside; out of it the test holds too
	_ = goes.Close()
	wantCode(t, "the call", <-failed, CodeGone)
	deadline := time.Now().Add(10 * time.Second)
	for children(t) != before && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if n := children(t); n != before {
		t.Errorf("%d processes are left, want %d", n, before)
	}
	if err := try(bg, mine, "empty", none{}); err != nil {
		t.Errorf("another client's enclave: %v", err)
	}
}

// raw is a client that keeps to no protocol.
func raw(t *testing.T, socket string, frames ...[]byte) []frame {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, f := range frames {
		if _, err := c.Write(f); err != nil {
			break // it was cut off already
		}
	}
	_ = c.(*net.UnixConn).CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var got []frame
	for {
		f, err := readFrame(c, 0)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection stays open")
			}
			return got
		}
		got = append(got, f)
	}
}

func TestHostileFramesEndTheConnectionAlone(t *testing.T) {
	socket := serve(t, nil)
	e := load(t, dial(t, socket), monitor.Options{})
	load := func(id uint32, l loading, image, sig []byte) []byte {
		head, err := boundary.Encode(l)
		if err != nil {
			t.Fatal(err)
		}
		return frame{op: opLoad, id: id, a: uint32(len(image)), b: uint32(len(head)), payload: append(append(head, image...), sig...)}.bytes()
	}
	many := make([]string, maxHost+1)
	for name, f := range map[string][][]byte{
		"a length of 4 GiB":     {{0xff, 0xff, 0xff, 0xff, opInfo, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		"a length below a head": {{0, 0, 0, 1, opInfo, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		"an unknown operation":  {frame{op: 99}.bytes()},
		"an answer of a daemon": {frame{op: opLoaded, id: 1}.bytes()},
		"lengths past the end":  {frame{op: opLoad, id: 1, a: 1 << 31, b: 1 << 31, payload: []byte("x")}.bytes()},
		"no description":        {frame{op: opLoad, id: 1, b: 3, payload: []byte("abc")}.bytes()},
		"too many OCALLs":       {load(1, loading{Host: many}, nil, nil)},
		"an OCALL's long name":  {load(1, loading{Host: []string{strings.Repeat("x", maxName+1)}}, nil, nil)},
		"the number 0":          {load(0, loading{}, nil, nil)},
		"an enclave of others":  {frame{op: opEnter, id: 1, payload: []byte("empty")}.bytes()},
		"a call of nothing":     {frame{op: opCancel, id: 5}.bytes(), frame{op: opAnswer, id: 5}.bytes(), frame{op: opRefused, id: 5}.bytes(), frame{op: opDestroy, id: 5}.bytes()},
		"rubbish for an image":  {load(1, loading{Host: []string{"a"}}, []byte("rubbish"), []byte("rubbish"))},
		"half a frame":          {{0, 0, 1, 0, opInfo}},
	} {
		for _, got := range raw(t, socket, f...) {
			if got.op != opRefused {
				t.Errorf("%s: answered with operation %d", name, got.op)
			}
		}
		if err := try(bg, e, "empty", none{}); err != nil {
			t.Fatalf("after %s: %v", name, err)
		}
	}
}

// A client that answers with more than there is room for, or twice, or too early, harms its own call alone.
func TestHostileAnswersAreNotBelieved(t *testing.T) {
	socket := serve(t, nil)
	file, sig := image(t)
	head, _ := boundary.Encode(loading{Host: []string{"ping"}})
	c := dial(t, socket)
	from := c.open(1)
	if _, err := c.ask(bg, frame{op: opLoad, id: 1, a: uint32(len(file)), b: uint32(len(head)), payload: append(append(head, file...), sig...)}, from, opLoaded); err != nil {
		t.Fatal(err)
	}
	mem, err := mapGiven(c.fds[0], 256<<10)
	if err != nil {
		t.Fatal(err)
	}
	c.fds = nil
	in, _ := boundary.Encode(outcall{Name: "ping", Room: 64})
	for _, answer := range []frame{{op: opAnswer, id: 1, a: 1 << 30}, {op: opAnswer, id: 1, a: 65}} {
		_ = c.send(frame{op: opAnswer, id: 1}) // to nothing
		n := copy(mem, in)
		if err := c.send(frame{op: opEnter, id: 1, a: uint32(n), payload: []byte("ocall")}); err != nil {
			t.Fatal(err)
		}
		if f, err := c.wait(from); err != nil || f.op != opOCall {
			t.Fatalf("%+v, %v", f, err)
		}
		_ = c.send(answer)
		_ = c.send(answer)
		f, err := c.wait(from)
		if err != nil || f.op != opRefused {
			t.Fatalf("%+v, %v", f, err)
		}
		wantCode(t, fmt.Sprint(answer.a), refusalIn(f), monitor.CodeResult)
	}
	if err := c.send(frame{op: opEnter, id: 1, a: 1 << 20, payload: []byte("empty")}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.wait(from); err == nil {
		t.Error("parameters past the shared memory")
	}
}

// What calls itself a monitor is no more believed than a client: a frame outside the shared memory, or of no meaning.
func TestHostileMonitorIsNotBelieved(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	answers := make(chan []byte)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := readFrame(c, DefaultImage); err == nil {
				_, _ = c.Write(<-answers)
				_, _ = io.Copy(io.Discard, c)
			}
			_ = c.Close()
		}
	}()
	for name, answer := range map[string][]byte{
		"another operation": frame{op: opDone, id: 1}.bytes(),
		"no memory":         frame{op: opLoaded, id: 1}.bytes(),
		"no frame":          append(binary.BigEndian.AppendUint32(nil, 1<<31), make([]byte, headSize)...),
		"a broken refusal":  frame{op: opRefused, id: 1, payload: []byte("x")}.bytes(),
	} {
		c := dial(t, path)
		go func() { answers <- answer }()
		if _, err := c.Load(bg, []byte("image"), nil, monitor.Options{}); err == nil {
			t.Errorf("%s: accepted", name)
		} else if r, ok := rats.ReasonOf(err); !ok || r.Code != CodeFrame.Code && r.Code != CodeGone.Code {
			t.Errorf("%s: %v", name, err)
		}
		_ = c.Close()
	}
	wantCode(t, "nobody there", func() error { _, err := Dial(bg, path+".none"); return err }(), CodeGone)
	wantCode(t, "a refusal without a code", refusalIn(refusedFrame(1, errors.New("secret"))), CodeInternal)
}

func FuzzFrames(f *testing.F) {
	head, _ := boundary.Encode(loading{Host: []string{"assay.open"}})
	f.Add(frame{op: opLoad, id: 1, a: 5, b: uint32(len(head)), payload: append(head, "image"...)}.bytes())
	f.Add(frame{op: opInfo}.bytes())
	f.Add(refusedFrame(3, CodeLimit.Bad("a", "b", "c")).bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			got, err := readFrame(r, 1<<20)
			if err != nil {
				return
			}
			if !bytes.Contains(b, got.bytes()) {
				t.Fatalf("a frame of %x has other bytes: %x", b, got.bytes())
			}
			_ = refusalIn(got)
			if l, image, sig, err := parseLoad(got); err == nil && (len(l.Host) > maxHost || len(image)+len(sig) > len(got.payload)) {
				t.Fatalf("%+v", l)
			}
		}
	})
}
