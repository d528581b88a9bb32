package node

import (
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// R032: a VM is untrusted at first sight and after every boot, until a fresh attestation passes.
func TestStateIsDerivedFromResultBootParentAndTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	boot1, boot2 := rats.SHA256([]byte("boot 1")), rats.SHA256([]byte("boot 2"))
	good := store.Node{
		ID: "nd_1", Name: "web", Enrolment: store.EnrolmentApproved, Last: "at_1", LastTier: rats.Affirming,
		LastAt: now.Add(-time.Minute), Expires: now.Add(time.Minute), LastBoot: boot1,
	}
	trusted := &Status{State: rats.StateTrusted, ValidUntil: now.Add(time.Second)}
	tests := []struct {
		name   string
		change func(*store.Node)
		parent *Status
		want   rats.State
		code   rats.Code
	}{
		{"a fresh affirming result is trusted", func(*store.Node) {}, nil, rats.StateTrusted, ""},
		{"a warning stays a warning", func(n *store.Node) { n.LastTier = rats.Warning }, nil, rats.StateWarning, ""},
		{"a refusal is contraindicated", func(n *store.Node) { n.LastTier = rats.Contraindicated }, nil, rats.StateContraindicated, ""},
		{"a node never attested is unknown", func(n *store.Node) { n.Last = "" }, nil, rats.StateUnknown, CodeResultNone.Code},
		{"an unapproved node is unknown", func(n *store.Node) { n.Enrolment = store.EnrolmentPending }, nil, rats.StateUnknown, CodeEnrolmentPending.Code},
		{"a zero enrolment is unknown", func(n *store.Node) { n.Enrolment = "" }, nil, rats.StateUnknown, CodeEnrolmentPending.Code},
		{"a revoked node is contraindicated", func(n *store.Node) { n.Enrolment = store.EnrolmentRevoked }, nil, rats.StateContraindicated, CodeEnrolmentRevoked.Code},
		{"an expired result is stale", func(n *store.Node) { n.Expires = now }, nil, rats.StateStale, CodeResultExpired.Code},
		{"a withdrawn result is unknown", func(n *store.Node) { n.Withdrawn = "node.stream.cloned" }, nil, rats.StateUnknown, CodeResultWithdrawn.Code},
		{"another boot claimed since makes it unknown", func(n *store.Node) { n.Boot, n.BootSeen = boot2, now }, nil, rats.StateUnknown, CodeBootChanged.Code},
		{"the same boot claimed since changes nothing", func(n *store.Node) { n.Boot, n.BootSeen = boot1, now }, nil, rats.StateTrusted, ""},
		{"another boot claimed before the result is history", func(n *store.Node) { n.Boot, n.BootSeen = boot2, now.Add(-time.Hour) }, nil, rats.StateTrusted, ""},
		{"a trusted parent keeps it trusted", func(*store.Node) {}, trusted, rats.StateTrusted, ""},
		{"an untrusted parent drags it down", func(*store.Node) {}, &Status{State: rats.StateContraindicated}, rats.StateContraindicated, CodeParentUntrusted.Code},
		{"an unknown parent makes it unknown", func(*store.Node) {}, &Status{State: rats.StateStale}, rats.StateUnknown, CodeParentUnknown.Code},
		{"an unknown parent doesn't whitewash", func(n *store.Node) { n.LastTier = rats.Contraindicated }, &Status{}, rats.StateContraindicated, CodeParentUnknown.Code},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := good
			tt.change(&n)
			s := StatusOf(n, tt.parent, now)
			if s.State != tt.want || s.Verdict.State != tt.want {
				t.Fatalf("state %s (verdict %s), want %s", s.State, s.Verdict.State, tt.want)
			}
			if tt.code == "" && len(s.Why) != 0 {
				t.Errorf("reasons %v, want none", s.Why)
			}
			if tt.code != "" && (len(s.Why) == 0 || s.Why[len(s.Why)-1].Code != tt.code) {
				t.Errorf("reasons %v, want %s", s.Why, tt.code)
			}
		})
	}
	if s := StatusOf(good, trusted, now); !s.ValidUntil.Equal(trusted.ValidUntil) {
		t.Errorf("valid until %v, want the parent's %v", s.ValidUntil, trusted.ValidUntil)
	}
}
