package keeper

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

func newMachineKeys(t *testing.T, m *machine) string {
	t.Helper()
	var err error
	if m.owner, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return ownerPEM(t, &m.owner.PublicKey)
}

// R085: the owner's share brings the root back on another TPM; every step is in the log.
func TestRecoveryBringsTheRootToAnotherTPM(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	k := m.created("linux 1")
	want := derive(t, k)
	m.boot("linux 1")
	k = m.start()
	mustHold(t, k)
	_, err := k.RequestRecovery()
	wantCode(t, err, CodeRecovery) // it isn't lost
	old := m.files(setsDir)

	m.sw = swtpm.StartUncertified(t)
	m.cfg.TPM = m.sw.Path()
	m.boot("linux 1")
	k = m.start()
	mustBeLocked(t, k, CodeOtherTPM)
	r, err := k.RequestRecovery()
	if err != nil {
		t.Fatal(err)
	}
	// The key is in PCR 11 before the cap: it was made by measured early code.
	i := slices.Index(k.boot.Events, Event{PCR: 11, Text: "assay:recovery:" + rats.SHA256(r.Key).String()})
	j := slices.Index(k.boot.Events, Event{PCR: 11, Text: CapEvent})
	if i < 0 || j < i {
		t.Errorf("events %+v", k.boot.Events)
	}
	request, err := r.EncodeJSON()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := sealed.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = AnswerRecovery(request, stranger)
	wantCode(t, err, CodeRecovery)
	answer, err := AnswerRecovery(request, m.recovery)
	if err != nil {
		t.Fatal(err)
	}
	text, err := answer.EncodeJSON()
	if err != nil {
		t.Fatal(err)
	}
	flipped := answer
	flipped.Share = bytes.Clone(answer.Share)
	flipped.Share[40] ^= 1
	bad, _ := flipped.EncodeJSON()
	wantCode(t, k.FinishRecovery(t.Context(), bad), CodeRecovery)

	// An answer is of use in the boot that asked, alone.
	m.boot("linux 1")
	k = m.start()
	wantCode(t, k.FinishRecovery(t.Context(), text), CodeRecovery)
	if r, err = k.RequestRecovery(); err != nil {
		t.Fatal(err)
	}
	request, _ = r.EncodeJSON()
	if answer, err = AnswerRecovery(request, m.recovery); err != nil {
		t.Fatal(err)
	}
	text, _ = answer.EncodeJSON()
	if err := k.FinishRecovery(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(derive(t, k), want) {
		t.Error("another root")
	}
	// Sets of before are void, whatever this TPM's counter says.
	m.restore(old)
	m.boot("linux 1")
	k = m.start()
	mustBeLocked(t, k, CodeNotAuthorised)
	m.authorise(k, nil)
	m.boot("linux 1")
	k = m.start()
	mustHold(t, k)
	if !bytes.Equal(derive(t, k), want) {
		t.Error("another root after the next boot")
	}
	if got := auditEvents(t, m); !slices.Contains(got, "recovery-requested") || !slices.Contains(got, "recovered") {
		t.Errorf("audit log: %v", got)
	}
}

// The revision counter deleted by the machine's administrator costs a recovery, not the root.
func TestDeletedCounterIsSaidAndRecoverable(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	k := m.created("linux 1")
	want := derive(t, k)
	undefine(t, m)
	m.boot("linux 1")
	k = m.start()
	mustBeLocked(t, k, CodeNoCounter)
	r, err := k.RequestRecovery()
	if err != nil {
		t.Fatal(err)
	}
	request, _ := r.EncodeJSON()
	answer, err := AnswerRecovery(request, m.recovery)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := answer.EncodeJSON()
	if err := k.FinishRecovery(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(derive(t, k), want) {
		t.Error("another root")
	}
}

// undefine deletes the counter as any administrator can, with the tools everybody has.
func undefine(t *testing.T, m *machine) {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(m.cfg.TPM, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// TPM2_NV_UndefineSpace(TPM_RH_OWNER, index) with the empty password.
	cmd := []byte{0x80, 0x02, 0, 0, 0, 31, 0, 0, 0x01, 0x22, 0x40, 0, 0, 1, 0x01, 0xa5, 0x5a, 0x70, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0}
	if _, err := conn.Write(cmd); err != nil {
		t.Fatal(err)
	}
	rsp := make([]byte, 10)
	if _, err := io.ReadFull(conn, rsp); err != nil || !bytes.Equal(rsp[6:], make([]byte, 4)) {
		t.Fatalf("got %x, %v", rsp, err)
	}
}

// S15: older is derived from newer, never the other way; nothing that should differ coincides.
func TestDerivationsAreSeparate(t *testing.T) {
	seed := bytes.Repeat([]byte{5}, seedSize)
	if got := expand(rootAt(seed, 5), seedSize, "svn", []byte{0, 4}); !bytes.Equal(got, rootAt(seed, 4)) {
		t.Error("the older root doesn't follow from the newer")
	}
	seen := make(map[string]string)
	see := func(name string, key []byte) {
		t.Helper()
		if was, ok := seen[string(key)]; ok {
			t.Errorf("%s and %s are the same key", name, was)
		}
		seen[string(key)] = name
	}
	see("seed", seed)
	see("id", rootID(seed).Sum)
	see("password", counterPassword(seed))
	see("root 4", rootAt(seed, 4))
	for _, launch := range []Launch{LaunchInitrd, LaunchUserspace} {
		for _, device := range []string{"", NoTPM} {
			v, err := newVault(bytes.Clone(seed))
			if err != nil {
				t.Fatal(err)
			}
			k := &Keeper{cfg: Config{Launch: launch, TPM: device}, seed: v}
			for _, c := range []Client{{Name: "a", SVN: 9}, {Name: "b", SVN: 9}} {
				for _, r := range []Request{
					{Label: "x", Size: 32},
					{Label: "y", Size: 32},
					{Label: "x", Size: 32, SVN: 1},
					{Label: "x", Size: 32, Context: []byte("y")},
					{Label: "xy", Size: 32},
				} {
					if launch == LaunchInitrd && device == NoTPM {
						continue
					}
					key, err := k.Derive(c, r)
					if err != nil {
						t.Fatal(err)
					}
					see(strings.Join([]string{string(launch), device, c.Name, r.Label, string(r.Context)}, "/"), key)
				}
			}
			for _, r := range []Request{{}, {Label: "x"}, {Label: "x", Size: 15}, {Label: "x", Size: MaxDerived + 1}, {Label: strings.Repeat("x", 65), Size: 32}} {
				_, err := k.Derive(Client{SVN: 9}, r)
				wantCode(t, err, CodeRequest)
			}
			v.wipe()
		}
	}
}

// The derivation never changes: what was sealed in one release opens in the next.
func TestDerivationIsStable(t *testing.T) {
	seed := bytes.Repeat([]byte{5}, seedSize)
	if got := hex.EncodeToString(rootAt(seed, 1000)); got != goldenRoot1000 {
		t.Errorf("root(1000) is %s", got)
	}
	if got := rootID(seed).String(); got != goldenID {
		t.Errorf("id is %s", got)
	}
}

// Computed apart, with Python's hmac.
const (
	goldenRoot1000 = "a8c57802ce696315497b88b817d14a7b350f5948382c2fb8fc70cbb12a3d6767"
	goldenID       = "sha256:34658f7cc8bb3ab8f32a6ce3b0265462604be9799163b6067d3e98e3427b54a6"
)

func validSet(t *testing.T) (Set, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := Set{Version: 1, Root: rats.SHA256([]byte("root")), Launch: LaunchInitrd, Epoch: make([]byte, 16), NVIndex: DefaultNVIndex, Revision: 7, PCRs: make(map[int]rats.Digest)}
	for _, p := range initrdPCRs {
		s.PCRs[p] = rats.SHA256([]byte{byte(p)})
	}
	if s, err = Authorise(s, key, rand.Reader); err != nil {
		t.Fatal(err)
	}
	return s, key
}

// Every field of a set is under the owner's signature.
func TestSetWithOneThingChangedIsRefused(t *testing.T) {
	good, key := validSet(t)
	if err := good.Verify(&key.PublicKey); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Set)
		want   rats.CodeInfo
	}{
		"version":   {func(s *Set) { s.Version = 2 }, CodeSet},
		"root":      {func(s *Set) { s.Root = rats.SHA256([]byte("x")) }, CodeSetSignature},
		"no root":   {func(s *Set) { s.Root = rats.Digest{} }, CodeSet},
		"launch":    {func(s *Set) { s.Launch = LaunchUserspace }, CodeSetSignature},
		"no launch": {func(s *Set) { s.Launch = "" }, CodeSet},
		"epoch":     {func(s *Set) { s.Epoch = bytes.Repeat([]byte{1}, 16) }, CodeSetSignature},
		"no epoch":  {func(s *Set) { s.Epoch = nil }, CodeSet},
		"index":     {func(s *Set) { s.NVIndex++ }, CodeSetSignature},
		"bad index": {func(s *Set) { s.NVIndex = 0x01c00002 }, CodeSet},
		"revision":  {func(s *Set) { s.Revision++ }, CodeSetSignature},
		"a PCR":     {func(s *Set) { s.PCRs[7] = rats.SHA256([]byte("x")) }, CodeSetSignature},
		"more PCRs": {func(s *Set) { s.PCRs[8] = rats.SHA256([]byte("x")) }, CodeSetSignature},
		"fewer":     {func(s *Set) { delete(s.PCRs, 9) }, CodeSet},
		"PCR 16":    {func(s *Set) { s.PCRs[16] = rats.SHA256([]byte("x")) }, CodeSet},
		"SHA-384":   {func(s *Set) { s.PCRs[7] = rats.SHA384([]byte("x")) }, CodeSet},
		"signature": {func(s *Set) { s.Signature[9] ^= 1 }, CodeSetSignature},
		"unsigned":  {func(s *Set) { s.Signature = nil }, CodeSetSignature},
		"long":      {func(s *Set) { s.Note = strings.Repeat("x", 300) }, CodeSet},
	} {
		b, _ := good.Encode()
		s, err := ParseSet(b)
		if err != nil {
			t.Fatal(err)
		}
		c.change(&s)
		if err := s.Verify(&key.PublicKey); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Run(name, func(t *testing.T) { wantCode(t, err, c.want) })
		}
	}
	_, err := ParseSet([]byte(`{"version":1,"more":true}`))
	wantCode(t, err, CodeSet)
}

func TestConfigurationIsReadStrictly(t *testing.T) {
	_, key := validSet(t)
	good := Config{Version: 1, Launch: LaunchInitrd, Owner: ownerPEM(t, &key.PublicKey), Clients: []Client{monitor}}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"version":         func(c *Config) { c.Version = 0 },
		"launch":          func(c *Config) { c.Launch = "late" },
		"no owner":        func(c *Config) { c.Owner = "" },
		"owner on P-384":  func(c *Config) { c.Owner = ownerPEM(t, &p384.PublicKey) },
		"simulated":       func(c *Config) { c.TPM = NoTPM },
		"relative state":  func(c *Config) { c.State = "state" },
		"resettable PCR":  func(c *Config) { c.PCRs = []int{16} },
		"IMA's PCR":       func(c *Config) { c.PCRs = []int{10} },
		"the key's PCR":   func(c *Config) { c.Launch, c.PCRs = LaunchUserspace, []int{7, 11} },
		"NV index":        func(c *Config) { c.NVIndex = 1 },
		"recovery key":    func(c *Config) { c.Recovery = []byte{1} },
		"client unnamed":  func(c *Config) { c.Clients[0].Name = "" },
		"client unhashed": func(c *Config) { c.Clients[0].Image = rats.Digest{} },
		"client's SVN":    func(c *Config) { c.Clients[0].SVN = MaxSVN + 1 },
		"client twice":    func(c *Config) { c.Clients = append(c.Clients, c.Clients[0]) },
	} {
		c := good
		c.Clients = slices.Clone(good.Clients)
		change(&c)
		b, err := json.Marshal(c)
		if err != nil {
			continue // a digest that has no text
		}
		if _, err := ParseConfig(b); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantCode(t, err, CodeConfig)
		}
	}
	b, _ := json.Marshal(good)
	c, err := ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.PCRs, initrdPCRs) || c.State != DefaultState || c.Runtime != DefaultRuntime {
		t.Errorf("defaults %+v", c)
	}
	_, err = ParseConfig(append(b, '{'))
	wantCode(t, err, CodeConfig)
}

// What `assay seal plan --pcrs` computes is what the keeper will see.
func TestPredictionAddsWhatTheKeeperMeasures(t *testing.T) {
	m := newMachine(t, LaunchInitrd)
	m.boot("linux 1")
	raw, err := readSeal(t, m)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := make(map[int]rats.Digest)
	for p, v := range raw {
		pcrs[p] = rats.Digest{Alg: "sha256", Sum: v}
	}
	b, _ := json.Marshal(pcrs)
	if pcrs, err = ParsePCRs(b); err != nil {
		t.Fatal(err)
	}
	got, err := Predict(pcrs, m.cfg, rats.SHA256([]byte("keeper")))
	if err != nil {
		t.Fatal(err)
	}
	for p, v := range m.start().boot.Before {
		if !got[p].Equal(v) {
			t.Errorf("PCR %d: predicted %s, is %s", p, got[p], v)
		}
	}
	delete(pcrs, 11)
	_, err = Predict(pcrs, m.cfg, rats.SHA256([]byte("keeper")))
	wantCode(t, err, CodeSet)
	_, err = ParsePCRs([]byte(`{"23":"sha256:00"}`))
	wantCode(t, err, CodeSet)
}

func FuzzParseSet(f *testing.F) {
	f.Add([]byte(`{"version":1,"root":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae","launch":"userspace","epoch":"AAAAAAAAAAAAAAAAAAAAAA==","nv_index":27613808,"revision":1,"pcrs":{"7":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSet(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseSet(again); err != nil {
			t.Errorf("a set that was read doesn't read again: %v", err)
		}
	})
}

func FuzzParsePCRs(f *testing.F) {
	f.Add([]byte(`{"7":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ParsePCRs(b) })
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"version":1,"launch":"initrd","owner":""}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = ParseConfig(b) })
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(`{"op":"derive","derive":{"label":"x","svn":1,"size":32}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseMessage(b); err == nil && m.Op == opDerive && m.Derive == nil {
			t.Error("a derivation of nothing")
		}
	})
}

func FuzzAnswerRecovery(f *testing.F) {
	key, err := sealed.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"version":1,"root":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae","launch":"initrd","escrow":"AAAA","key":"AAAA","boot":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := AnswerRecovery(b, key); err == nil {
			t.Error("an answer to something made up")
		}
	})
}
