package vault_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/enclave"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/examples/vault"
	"github.com/assay-attest/assay/examples/vault/untrusted"
	"github.com/assay-attest/assay/internal/monitor"
	"github.com/assay-attest/assay/rats"
)

var bg = context.Background()

// module is the enclave's code as `go build` makes it, once for all tests of a run.
var module = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "vault.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w -buildid=", "-o", file, "./enclave")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(file)
})

var compiler = sync.OnceValues(func() (*monitor.Compiler, error) {
	return monitor.NewCompiler(bg, monitor.CompilerOptions{})
})

// strangerKey is a signer that isn't the test key; Go makes no keys with exponent 3.
var strangerKey = sync.OnceValues(func() (*rsa.PrivateKey, error) {
	out, err := exec.Command("openssl", "genrsa", "-traditional", "-3", "3072").Output()
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(out)
	return x509.ParsePKCS1PrivateKey(block.Bytes)
})

// platform is a monitor on a machine.
type platform struct {
	machine byte
	svn     uint16 // of the monitor
}

func (p platform) monitor(t testing.TB, change func(*monitor.Config)) *monitor.Monitor {
	t.Helper()
	root, err := enclave.ParseRoot(bytes.Repeat([]byte{p.machine}, enclave.RootSize))
	if err != nil {
		t.Fatal(err)
	}
	key, err := root.Monitor(p.svn)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := compiler()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := strangerKey()
	if err != nil {
		t.Fatal(err)
	}
	c := monitor.Config{
		Key: key, Platform: abi.Platform{Launch: abi.LaunchUserspace, Root: abi.RootSimulated, SVN: p.svn},
		Policy: monitor.Policy{Own: [][32]byte{abi.TestMRSIGNER, signerOf(t, stranger)}}, Rand: rand.Reader, Now: time.Now, Compiler: shared,
	}
	if change != nil {
		change(&c)
	}
	m, err := monitor.New(bg, c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func signerOf(t testing.TB, k *rsa.PrivateKey) [32]byte {
	t.Helper()
	s, err := enclave.Sign([32]byte{}, options(enclave.Options{}, 0), k)
	if err != nil {
		t.Fatal(err)
	}
	return s.MRSIGNER()
}

func options(o enclave.Options, flags uint64) enclave.SignOptions {
	return enclave.SignOptions{
		ProductID: o.ProductID, SVN: o.SVN, Date: time.Date(2026, 5, 6, 0, 0, 0, 0, time.UTC),
		Attributes: abi.Attributes{Flags: abi.FlagInit | abi.FlagMode64 | flags, XFRM: enclave.DefaultXFRM},
	}
}

// edition is one way to build and sign the vault.
type edition struct {
	heap     uint64 // another heap is another MRENCLAVE
	product  uint16
	svn      uint16
	flags    uint64
	stranger bool // signs
}

var first = edition{heap: 64 << 20, product: 5, svn: 2}

// start starts an edition of the vault whose state is in file.
func start(t testing.TB, m *monitor.Monitor, e edition, file string) *untrusted.Vault {
	t.Helper()
	code, err := module()
	if err != nil {
		t.Fatal(err)
	}
	o := enclave.Options{Heap: e.heap, Buffer: 64 << 10, ProductID: e.product, SVN: e.svn}
	i, err := enclave.New(code, o)
	if err != nil {
		t.Fatal(err)
	}
	key, err := enclave.TestKey()
	if e.stranger {
		key, err = strangerKey()
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := enclave.Sign(i.Measure(), options(o, e.flags), key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := untrusted.Start(bg, m, i.Encode(), s.Bytes(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Destroy() })
	return v
}

func wantCode(t testing.TB, what string, err error, want rats.CodeInfo) {
	t.Helper()
	r, ok := rats.ReasonOf(err)
	if !ok || r.Code != want.Code {
		t.Errorf("%s: %v, want %s", what, err, want.Code)
	}
}

func TestVaultShowsItsSecretAsOftenAsItMay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	m := platform{machine: 1, svn: 1}.monitor(t, nil)
	v := start(t, m, first, file)
	_, err := v.Show(bg)
	wantCode(t, "an empty vault", err, vault.CodeEmpty)
	if err := v.Fill(bg, vault.Contents{Secret: []byte("gold"), Times: 2}); err != nil {
		t.Fatal(err)
	}
	if s, err := v.Show(bg); err != nil || string(s.Secret) != "gold" || s.Times != 1 {
		t.Errorf("shown %q, %d left, %v", s.Secret, s.Times, err)
	}
	_ = v.Destroy()

	// A restart: another instance opens what the application kept, and the count goes on.
	v = start(t, m, first, file)
	if n, err := v.Open(bg); err != nil || n != 1 {
		t.Errorf("%d left, %v", n, err)
	}
	if _, err := v.Show(bg); err != nil {
		t.Error(err)
	}
	_, err = v.Show(bg)
	wantCode(t, "a third time", err, vault.CodeSpent)
	b, err := os.ReadFile(file)
	if err != nil || bytes.Contains(b, []byte("gold")) {
		t.Errorf("the state is kept in the clear, or not: %v", err)
	}
}

// R112: what is sealed opens for whom the policy names, on its platform, and for nobody else. R087: for an equal or newer
// version, never for an older one; the same holds for the monitor.
func TestSealedStateOpensForWhomThePolicyNames(t *testing.T) {
	edit := func(change func(*edition)) edition {
		e := first
		change(&e)
		return e
	}
	here := platform{machine: 1, svn: 3}
	other := edit(func(e *edition) { e.heap *= 2 })
	newer := edit(func(e *edition) { e.svn++ })
	older := edit(func(e *edition) { e.svn-- })
	product := edit(func(e *edition) { e.product++ })
	stranger := edit(func(e *edition) { e.stranger = true })
	debug := edit(func(e *edition) { e.flags = abi.FlagDebug })
	sealed := map[bool]string{}
	for _, toSigner := range []bool{false, true} {
		sealed[toSigner] = filepath.Join(t.TempDir(), "state")
		v := start(t, here.monitor(t, nil), first, sealed[toSigner])
		if err := v.Fill(bg, vault.Contents{Secret: []byte("gold"), Times: 9, ToSigner: toSigner}); err != nil {
			t.Fatal(err)
		}
		_ = v.Destroy()
	}
	no := monitor.CodeCipher // the bytes are not authentic under the key the opener gets
	for _, c := range []struct {
		what                string
		on                  platform
		as                  edition
		toEnclave, toSigner *rats.CodeInfo // nil: opens
		change              func(*monitor.Config)
	}{
		{what: "itself", on: here, as: first},
		{what: "another enclave of the signer", on: here, as: other, toEnclave: &no},
		{what: "a newer version of it", on: here, as: newer},
		{what: "an older version of it", on: here, as: older, toEnclave: &enclave.CodeKeySVN, toSigner: &enclave.CodeKeySVN},
		{what: "another product", on: here, as: product, toEnclave: &no, toSigner: &no},
		{what: "re-signed by a stranger", on: here, as: stranger, toSigner: &no}, // the code is the same: so MRENCLAVE opens
		{what: "a debug edition", on: here, as: debug, toEnclave: &no, toSigner: &no},
		{what: "another machine", on: platform{2, 3}, as: first, toEnclave: &no, toSigner: &no},
		{what: "a newer monitor", on: platform{1, 4}, as: first},
		{what: "an older monitor", on: platform{1, 2}, as: first, toEnclave: &enclave.CodeKeySVN, toSigner: &enclave.CodeKeySVN},
		{what: "another root class", on: here, as: first, toEnclave: &enclave.CodeKeyPlatform, toSigner: &enclave.CodeKeyPlatform,
			change: func(c *monitor.Config) { c.Platform.Root = abi.RootOSProtected }},
	} {
		m := c.on.monitor(t, func(mc *monitor.Config) {
			mc.Policy.Debug = [][32]byte{measured(t, first)}
			if c.change != nil {
				c.change(mc)
			}
		})
		for toSigner, file := range sealed {
			v := start(t, m, c.as, file)
			want := c.toEnclave
			if toSigner {
				want = c.toSigner
			}
			what := fmt.Sprintf("%s, to signer %t", c.what, toSigner)
			left, err := v.Open(bg)
			if want != nil {
				wantCode(t, what, err, *want)
			} else if err != nil || left != 9 {
				t.Errorf("%s: %d left, %v", what, left, err)
			}
			_ = v.Destroy()
		}
	}
}

func measured(t testing.TB, e edition) [32]byte {
	t.Helper()
	code, err := module()
	if err != nil {
		t.Fatal(err)
	}
	i, err := enclave.New(code, enclave.Options{Heap: e.heap, Buffer: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return i.Measure()
}

// R111: two enclaves of one platform attest one another, A to B and B to A; a report of another platform, of a stranger, of
// a debug enclave, or about another challenge is refused.
func TestVaultsOfOnePlatformMeet(t *testing.T) {
	dir := t.TempDir()
	change := func(c *monitor.Config) { c.Policy.Debug = [][32]byte{measured(t, first)} }
	m := platform{machine: 1, svn: 3}.monitor(t, change)
	second := edition{heap: 128 << 20, product: 5, svn: 7}
	a, b := start(t, m, first, dir+"/a"), start(t, m, second, dir+"/b")
	challenge := [32]byte{1, 2, 3}
	peer, err := a.Introduce(bg, b, challenge)
	if err != nil || peer.MRENCLAVE != b.Identity().MRENCLAVE || peer.MRSIGNER != abi.TestMRSIGNER || peer.SVN != 7 {
		t.Errorf("a meets %+v, %v", peer, err)
	}
	peer, err = b.Introduce(bg, a, challenge)
	if err != nil || peer.MRENCLAVE != a.Identity().MRENCLAVE || peer.SVN != 2 {
		t.Errorf("b meets %+v, %v", peer, err)
	}

	far := start(t, platform{machine: 2, svn: 3}.monitor(t, change), second, dir+"/far")
	_, err = a.Introduce(bg, far, challenge)
	wantCode(t, "a report of another platform", err, enclave.CodeReportMAC)
	for what, e := range map[string]edition{
		"of a stranger's":           {heap: 128 << 20, product: 5, svn: 7, stranger: true},
		"of another product":        {heap: 128 << 20, product: 6, svn: 7},
		"of an enclave in the open": {heap: first.heap, product: 5, svn: 7, flags: abi.FlagDebug},
	} {
		_, err = a.Introduce(bg, start(t, m, e, dir+"/x"), challenge)
		wantCode(t, "a report "+what, err, vault.CodeStranger)
	}

	// A report for another target, and one about another challenge.
	call := func(v *untrusted.Vault, to *untrusted.Vault, c [32]byte) []byte {
		target, err := monitor.Call[struct{}, vault.Paper](bg, to.Running, vault.Target, struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := monitor.Call[vault.ForTarget, vault.Paper](bg, v.Running, vault.Vouch, vault.ForTarget{Target: target.Bytes, Challenge: c})
		if err != nil {
			t.Fatal(err)
		}
		return r.Bytes
	}
	meet := func(report []byte) error {
		_, err := monitor.Call[vault.Introduced, vault.Peer](bg, a.Running, vault.Meet, vault.Introduced{Report: report, Challenge: challenge})
		return err
	}
	if err := meet(call(b, a, challenge)); err != nil {
		t.Error(err)
	}
	wantCode(t, "a report for another", meet(call(a, b, challenge)), enclave.CodeReportMAC)
	wantCode(t, "a report about another challenge", meet(call(b, a, [32]byte{9})), vault.CodeStranger)
	wantCode(t, "a report cut short", meet(call(b, a, challenge)[:431]), abi.CodeLength)
	forged := call(b, a, challenge)
	forged[64] ^= 1 // MRENCLAVE
	wantCode(t, "a report with a changed measurement", meet(forged), enclave.CodeReportMAC)
}
