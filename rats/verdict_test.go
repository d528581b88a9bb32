package rats

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"
)

// The verdict table of the architecture document, word for word.
func TestVerdictTable(t *testing.T) {
	for _, row := range []struct {
		tier    Tier
		expired bool
		word    string
		state   State
		secrets bool
		onlyIf  bool
		exit    int
	}{
		{Affirming, false, "trusted", StateTrusted, true, false, 0},
		{Warning, false, "trusted (warning)", StateWarning, true, true, 0},
		{Contraindicated, false, "not trusted", StateContraindicated, false, false, 2},
		{None, false, "unknown", StateUnknown, false, false, 3},
		{Affirming, true, "unknown", StateStale, false, false, 3},
		{Contraindicated, true, "unknown", StateStale, false, false, 3},
		{Tier(77), false, "unknown", StateUnknown, false, false, 3},
	} {
		v := VerdictOf(row.tier, row.expired)
		if v.Word != row.word || v.State != row.state || v.Secrets != row.secrets || v.OnlyIf != row.onlyIf || v.Exit != row.exit {
			t.Errorf("%v expired=%v: %+v", row.tier, row.expired, v)
		}
		if VerdictOfState(row.state) != v {
			t.Errorf("%s has another row by its state", row.state)
		}
	}
	if VerdictOfState("owned").Secrets || len(Verdicts()) != 5 {
		t.Error("an unknown state gets secrets, or a row is missing")
	}
}

func TestZeroResultIsNotTrusted(t *testing.T) {
	var r Result
	if v := r.Verdict(time.Time{}); v.Secrets || v.Exit == 0 {
		t.Errorf("zero result: %+v", v)
	}
	r.Tier = Affirming
	if v := r.Verdict(time.Unix(1, 0)); v.State != StateStale {
		t.Errorf("a result without expiry: %+v", v)
	}
	r.Expires = time.Unix(2, 0)
	if !r.Verdict(time.Unix(1, 0)).Secrets || r.Verdict(time.Unix(2, 0)).Secrets {
		t.Error("the expiry is off by something")
	}
}

func TestVectorIsLoweredNeverRaised(t *testing.T) {
	var v Vector
	if v.Overall(nil) != None || v.Overall([]Slot{Executables}) != None || v.Overall([]Slot{99}) != None {
		t.Error("nobody judged, yet it is trusted")
	}
	v.Lower(Executables, Affirming)
	v.Lower(FileSystem, Warning)
	v.Lower(FileSystem, Affirming)
	if v.Overall([]Slot{Executables}) != Affirming || v.Overall([]Slot{Executables, FileSystem}) != Warning {
		t.Errorf("%v", v)
	}
	if v.Overall([]Slot{Executables, FileSystem, Hardware}) != None {
		t.Error("a slot nobody judged doesn't count")
	}
	v.Lower(Executables, Contraindicated)
	v.Lower(Executables, Affirming)
	if v.Overall([]Slot{Executables, Hardware}) != Contraindicated {
		t.Errorf("%v", v)
	}
}

func TestVectorJSON(t *testing.T) {
	var v Vector
	v.Lower(Executables, Affirming)
	v.Lower(Hardware, Contraindicated)
	b, err := json.Marshal(v)
	if err != nil || string(b) != `{"executables":"affirming","hardware":"contraindicated"}` {
		t.Fatalf("%s, %v", b, err)
	}
	var got Vector
	if err := json.Unmarshal(b, &got); err != nil || got != v {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{`{"soul":"affirming"}`, `{"hardware":"good"}`, `[]`, `{"slot-9":"none"}`} {
		if json.Unmarshal([]byte(bad), &got) == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestTiersAndSlotsSurviveTheirNames(t *testing.T) {
	for _, tier := range []Tier{None, Affirming, Warning, Contraindicated} {
		var got Tier
		if b, _ := tier.MarshalText(); got.UnmarshalText(b) != nil || got != tier {
			t.Errorf("%s", b)
		}
		if Worse(tier, tier) != tier {
			t.Errorf("worse than itself: %s", tier)
		}
	}
	for s := range Slot(SlotCount) {
		var got Slot
		if b, _ := s.MarshalText(); got.UnmarshalText(b) != nil || got != s {
			t.Errorf("%s", b)
		}
	}
	if Slot(200).String() != "slot-200" {
		t.Error("an unknown slot has a name")
	}
	if Worst(nil) != Affirming || Worst([]Reason{{Tier: None}, {Tier: Warning}}) != None || Worse(None, Contraindicated) != Contraindicated {
		t.Error("order of tiers")
	}
}

func TestErrorsHaveThreeClasses(t *testing.T) {
	c := CodeInfo{Code: "a.b.c", Title: "title", Hint: "hint", Slot: Hardware}
	bad := fmt.Errorf("verifying: %w", c.Bad("p", "e", "s"))
	if r, ok := ReasonOf(bad); !ok || r.Tier != Contraindicated || r.Slot != Hardware || r.Hint != "hint" {
		t.Errorf("%+v", r)
	}
	missing := c.Missing("p", "e", "s")
	if r, ok := ReasonOf(missing); !ok || r.Tier != None {
		t.Errorf("%+v", r)
	}
	if _, ok := ReasonOf(errors.New("disk")); ok {
		t.Error("a malfunction has a reason")
	}
	if got := missing.Error(); got != "a.b.c at p: title; expected e; seen s" {
		t.Errorf("%q", got)
	}
}

func TestSubjects(t *testing.T) {
	for _, kind := range []string{SubjectNode, SubjectSession, SubjectFile} {
		if k, id, err := ParseSubject(Subject(kind, "x/y")); err != nil || k != kind || id != "x/y" {
			t.Errorf("%s %s %v", k, id, err)
		}
	}
	for _, s := range []string{"", "node", "node/", "user/x", "/x"} {
		if _, _, err := ParseSubject(s); err == nil {
			t.Errorf("%q is a subject", s)
		}
	}
}
