package abi_test

import (
	"bytes"
	"testing"

	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/rats"
)

func refusedWith(t *testing.T, what string, err error, want rats.CodeInfo) {
	t.Helper()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != want.Code {
		t.Errorf("%s: got %v, want %s", what, err, want.Code)
	}
}

func TestPlatformSurvivesItsField(t *testing.T) {
	for _, p := range []abi.Platform{
		{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootSimulated},
		{Mode: abi.ModeProcess, Launch: abi.LaunchInitrd, Root: abi.RootInitrdSealed, SVN: 513, Isolation: abi.IsolationSecretMemory | abi.IsolationOwnUser},
	} {
		if got, err := abi.ParsePlatform(p.CPUSVN()); err != nil || got != p {
			t.Errorf("got %+v, %v, want %+v", got, err, p)
		}
	}
	good := abi.Platform{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootSimulated}.CPUSVN()
	for at, v := range map[int]byte{0: 2, 1: 3, 2: 3, 3: 4, 7: 1, 8: 1, 15: 1} {
		b := good
		b[at] = v
		_, err := abi.ParsePlatform(b)
		refusedWith(t, "changed", err, abi.CodePlatform)
	}
	for _, p := range []abi.Platform{
		{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootInitrdSealed},
		{Mode: abi.ModeInline, Launch: abi.LaunchInitrd, Root: abi.RootSimulated},
		{Launch: abi.LaunchInitrd, Root: abi.RootOSProtected}, {Mode: abi.ModeInline, Root: abi.RootOSProtected}, {Mode: abi.ModeInline, Launch: abi.LaunchUserspace},
	} {
		_, err := abi.ParsePlatform(p.CPUSVN())
		refusedWith(t, p.Launch.String()+" with "+p.Root.String(), err, abi.CodePlatform)
	}
}

func TestLogOfTheKeyRegisterSurvivesItsBytes(t *testing.T) {
	events := []abi.Event{{Digest: [32]byte{1}}, abi.NewEvent(abi.EventKeeper + "sha256:00"), abi.KeyEvent([64]byte{2}), abi.NewEvent(abi.EventCap)}
	b := abi.EncodeEvents(events)
	got, err := abi.ParseEvents(b)
	if err != nil || !bytes.Equal(abi.EncodeEvents(got), b) || len(got) != 4 {
		t.Fatalf("got %v, %v", got, err)
	}
	if got[0].Text != "" || got[2].Text != abi.EventKey+rats.SHA256(append([]byte{2}, make([]byte, 63)...)).String() {
		t.Errorf("texts %q and %q", got[0].Text, got[2].Text)
	}
	changed := bytes.Clone(b)
	changed[len(changed)-1] ^= 1
	_, err = abi.ParseEvents(changed)
	refusedWith(t, "data of another digest", err, abi.CodeEvents)
	for n := 1; n < len(b); n++ {
		if _, err := abi.ParseEvents(b[:n]); err != nil {
			refusedWith(t, "truncated", err, abi.CodeEvents)
		}
	}
	_, err = abi.ParseEvents(make([]byte, 33*513))
	refusedWith(t, "too many", err, abi.CodeEvents)
}

func TestMonitorQuoteSurvivesItsBytes(t *testing.T) {
	b := make([]byte, abi.MonitorQuoteSize)
	for i := range b {
		b[i] = byte(i)
	}
	q, err := abi.ParseMonitorQuote(b)
	if err != nil || !bytes.Equal(q.Bytes(), b) || q.Verify() {
		t.Error("other bytes, or no signature verifies")
	}
	_, err = abi.ParseMonitorQuote(b[1:])
	refusedWith(t, "short", err, abi.CodeLength)
	r := q
	r.Signature[0] ^= 1
	if r.Extra() == q.Extra() {
		t.Error("the TPM quote would not bind the monitor's signature")
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(abi.EncodeEvents([]abi.Event{{Digest: [32]byte{1}}, abi.KeyEvent([64]byte{2})}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if events, err := abi.ParseEvents(b); err == nil && !bytes.Equal(abi.EncodeEvents(events), b) {
			t.Error("an accepted log is written differently")
		}
	})
}
