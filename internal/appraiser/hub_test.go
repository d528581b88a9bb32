package appraiser

import (
	"bytes"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestWhoeverAsksGetsTheOutcomeOfAChallengeIssuedAfterwards(t *testing.T) {
	h := newHub()
	got, forget := h.wait("ns", "nd_1", t0)
	defer forget()
	h.done("ns", "nd_1", outcome{result: "at_before", asked: t0.Add(-time.Second)})
	h.done("ns", "nd_1", outcome{err: CodeTokenForged.Bad("", "", "")}) // of a token nobody knows the age of
	h.done("ns", "nd_2", outcome{result: "at_other", asked: t0.Add(time.Second)})
	select {
	case o := <-got:
		t.Fatalf("told %+v, which says nothing about now", o)
	default:
	}
	h.done("ns", "nd_1", outcome{result: "at_after", asked: t0})
	h.done("ns", "nd_1", outcome{result: "at_later", asked: t0.Add(time.Minute)})
	if o := <-got; o.result != "at_after" {
		t.Errorf("told %+v", o)
	}
}

func TestNewerStreamOfAnInstanceReplacesItsOlderOne(t *testing.T) {
	h := newHub()
	k := nodeKey{"ns", "nd_1"}
	a, others := h.open(k, []byte("one"), rats.Digest{})
	if others != 0 {
		t.Errorf("%d other streams, want none", others)
	}
	_, others = h.open(k, []byte("one"), rats.Digest{})
	if others != 0 {
		t.Errorf("a stream of the same instance counts as another: %d", others)
	}
	select {
	case <-a.cut:
	default:
		t.Error("the older stream of the instance goes on")
	}
	b, others := h.open(k, []byte("two"), rats.Digest{})
	if others != 2 { // the older stream is cut but not closed yet
		t.Errorf("%d other streams, want 2", others)
	}
	h.accepted("ns", "nd_1", lastResult{id: "at_1", instance: []byte("two"), at: t0})
	select {
	case <-b.cut:
		t.Error("the instance that attested was cut")
	default:
	}
	if last, ok := h.last("ns", "nd_1"); !ok || !bytes.Equal(last.instance, []byte("two")) {
		t.Errorf("last %+v, %v", last, ok)
	}
	h.drop("ns", "nd_1", CodeSuperseded.Refuse("", "", ""))
	if _, ok := h.last("ns", "nd_1"); ok {
		t.Error("a dropped node still has a last result")
	}
	<-b.cut
}

func TestAlertsOfOneProblemAreWrittenDownOnceInAWhile(t *testing.T) {
	h := newHub()
	for _, tt := range []struct {
		node string
		code rats.Code
		at   time.Duration
		want bool
	}{
		{"nd_1", "a", 0, true},
		{"nd_1", "a", time.Second, false},
		{"nd_1", "b", time.Second, true},
		{"nd_2", "a", time.Second, true},
		{"nd_1", "a", alertEvery, true},
		{"nd_1", "a", -time.Hour, true}, // a clock that was set back doesn't silence alerts
	} {
		if got := h.alert("ns", tt.node, tt.code, t0.Add(tt.at)); got != tt.want {
			t.Errorf("%s %s after %s: %v, want %v", tt.node, tt.code, tt.at, got, tt.want)
		}
	}
}
