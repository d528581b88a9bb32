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
		{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootSoftware},
		{Mode: abi.ModeProcess, Launch: abi.LaunchInitrd, Root: abi.RootInitrdSealed, SVN: 513, Isolation: abi.IsolationSecretMemory | abi.IsolationOwnUser},
	} {
		if got, err := abi.ParsePlatform(p.CPUSVN()); err != nil || got != p {
			t.Errorf("got %+v, %v, want %+v", got, err, p)
		}
	}
	good := abi.Platform{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootSoftware}.CPUSVN()
	for at, v := range map[int]byte{0: 2, 1: 3, 2: 3, 3: 4, 7: 1, 8: 1, 15: 1} {
		b := good
		b[at] = v
		_, err := abi.ParsePlatform(b)
		refusedWith(t, "changed", err, abi.CodePlatform)
	}
	for _, p := range []abi.Platform{
		{Mode: abi.ModeInline, Launch: abi.LaunchUserspace, Root: abi.RootInitrdSealed},
		{Mode: abi.ModeInline, Launch: abi.LaunchInitrd, Root: abi.RootSoftware},
		{Launch: abi.LaunchInitrd, Root: abi.RootOSProtected}, {Mode: abi.ModeInline, Root: abi.RootOSProtected}, {Mode: abi.ModeInline, Launch: abi.LaunchUserspace},
	} {
		_, err := abi.ParsePlatform(p.CPUSVN())
		refusedWith(t, p.Launch.String()+" with "+p.Root.String(), err, abi.CodePlatform)
	}
}

func TestLogOfTheKeyRegisterSurvivesItsBytes(t *testing.T) {
	events := []abi.Event{{Digest: [32]byte{1}}, abi.NewEvent(abi.EventMonitorImage, make([]byte, 32)), abi.KeyEvent([64]byte{2}), abi.NewEvent(abi.EventCap, []byte{abi.CapOrderly})}
	b := abi.EncodeEvents(events)
	got, err := abi.ParseEvents(b)
	if err != nil || !bytes.Equal(abi.EncodeEvents(got), b) || len(got) != 4 {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, _, ok := got[0].Kind(); ok {
		t.Error("an event of others is one of ours")
	}
	if kind, payload, ok := got[2].Kind(); !ok || kind != abi.EventMonitorKey || len(payload) != 32 {
		t.Error("the key's event is not recognised")
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
	for _, e := range []abi.Event{abi.NewEvent(9, nil), abi.NewEvent(abi.EventCap, nil), abi.NewEvent(abi.EventMonitorKey, []byte{1}), {Data: []byte("other")}} {
		if _, _, ok := e.Kind(); ok {
			t.Errorf("%x is an event of ours", e.Data)
		}
	}
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
