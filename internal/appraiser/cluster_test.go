package appraiser

import (
	"testing"

	"github.com/assay-attest/assay/rats"
)

// S40: a server that lost its database ends every stream, and forgets what it knew of the nodes.
func TestAServerThatIsCutOffEndsItsStreams(t *testing.T) {
	h := newHub()
	k := nodeKey{"ns", "nd_1"}
	s, _ := h.open(k, []byte("one"), rats.Digest{})
	h.remember("ns", "nd_1", lastResult{id: "at_1"})
	h.endAll(CodeCutOff.At(rats.None, "stream", "a server with a database", "one without"))
	select {
	case <-s.cut:
	default:
		t.Fatal("the stream goes on")
	}
	if s.cutWhy.Code != CodeCutOff.Code {
		t.Errorf("it ended with %s", s.cutWhy.Code)
	}
	if _, ok := h.last("ns", "nd_1"); ok {
		t.Error("the last result is remembered")
	}
}

// S07
func TestAnInstanceThatProvedItselfElsewhereCutsTheOthersHere(t *testing.T) {
	h := newHub()
	k := nodeKey{"ns", "nd_1"}
	one, _ := h.open(k, []byte("one"), rats.Digest{})
	two, _ := h.open(k, []byte("two"), rats.Digest{})
	h.acceptedElsewhere("ns", "nd_1", rats.SHA256([]byte("two")))
	h.acceptedElsewhere("ns", "nd_2", rats.SHA256([]byte("three")))
	select {
	case <-one.cut:
	default:
		t.Error("the other instance's stream goes on")
	}
	select {
	case <-two.cut:
		t.Error("the stream of the instance that proved itself was cut")
	default:
	}
}

func TestWhoAskedOnAnotherServerIsToldOnce(t *testing.T) {
	a := newAsks()
	got := a.add("ask_1")
	a.done("ask_2", outcome{result: "at_2"})
	a.done("ask_1", outcome{result: "at_1"})
	a.done("ask_1", outcome{result: "at_3"})
	if o := <-got; o.result != "at_1" {
		t.Errorf("told %+v", o)
	}
	a.add("ask_4")
	a.forget("ask_4")
	a.done("ask_4", outcome{})
	if len(a.waiting) != 0 {
		t.Errorf("%d still wait", len(a.waiting))
	}
}
