// Package node says what state a node is in: a pure function of what is stored of it, of its parent's state, of the
// boot it claims, and of the time. State is derived on every read and never stored, so no timer has to run for a node to
// become stale. The package decides nothing about evidence.
package node

import (
	"errors"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// The kinds of nodes.
const (
	KindHost    = "host"
	KindVM      = "vm"
	KindSandbox = "sandbox"
	KindEnclave = "enclave"
)

// Kinds lists the kinds a node may have.
var Kinds = []string{KindHost, KindVM, KindSandbox, KindEnclave}

// Why a node's state is lower than its last result says.
var (
	CodeEnrolmentPending = rats.CodeInfo{
		Code: "node.enrolment.pending", Title: "nobody has vouched for this node's TPM yet", Slot: rats.InstanceIdentity,
		Hint: "check its EK digest with its owner, then run: assay node approve NODE",
	}
	CodeEnrolmentRevoked = rats.CodeInfo{
		Code: "node.enrolment.revoked", Title: "the node's credential was revoked", Slot: rats.InstanceIdentity,
		Hint: "delete the node and let the machine join again with a new token",
	}
	CodeResultNone = rats.CodeInfo{
		Code: "node.result.none", Title: "the node has not been attested yet", Slot: rats.InstanceIdentity,
		Hint: "start its agent (assay agent run), or run: assay node attest NODE",
	}
	CodeResultExpired = rats.CodeInfo{
		Code: "node.result.expired", Title: "the last result has expired", Slot: rats.InstanceIdentity,
		Hint: "see whether the agent is running and connected, then run: assay node attest NODE",
	}
	CodeBootChanged = rats.CodeInfo{
		Code: "node.boot.changed", Title: "the node has rebooted, or its TPM was reset, since its last result",
		Slot: rats.InstanceIdentity,
		Hint: "a fresh attestation follows by itself; if not, run: assay node attest NODE",
	}
	CodeParentUntrusted = rats.CodeInfo{
		Code: "node.parent.untrusted", Title: "the machine this node runs on is not trusted", Slot: rats.Hardware,
		Hint: "run: assay node explain PARENT",
	}
	CodeParentUnknown = rats.CodeInfo{
		Code: "node.parent.unknown", Title: "the machine this node runs on has no current result", Slot: rats.Hardware,
		Hint: "run: assay node explain PARENT",
	}
	CodeQuarantined = rats.CodeInfo{
		Code: "node.quarantine.set", Title: "the node is in quarantine", Slot: rats.InstanceIdentity,
		Hint: "find out why it was put there; an administrator lifts it with: assay node quarantine NODE --lift",
	}
	CodeResultWithdrawn = rats.CodeInfo{
		Code: "node.result.withdrawn", Title: "the last result no longer counts", Slot: rats.InstanceIdentity,
		Hint: "see the code under 'seen'; a fresh attestation replaces the result",
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeEnrolmentPending, CodeEnrolmentRevoked, CodeResultNone, CodeResultExpired, CodeBootChanged,
	CodeParentUntrusted, CodeParentUnknown, CodeQuarantined, CodeResultWithdrawn,
}

// Status is a node's state with what it rests on.
type Status struct {
	State      rats.State
	Verdict    rats.Verdict
	Since      time.Time // of the tier; zero if there was never a result
	ValidUntil time.Time // zero: there is no current result
	Why        []rats.Reason
}

// StatusOf derives a node's status. parent is the parent's status, nil if the node has none; a node that names a parent
// nobody found must be given a zero Status, which is unknown.
func StatusOf(n store.Node, parent *Status, now time.Time) Status {
	s := own(n, now)
	if parent == nil {
		return s
	}
	switch rats.VerdictOfState(parent.State).Tier {
	case rats.Affirming, rats.Warning:
		if !parent.ValidUntil.IsZero() && !s.ValidUntil.IsZero() && parent.ValidUntil.Before(s.ValidUntil) {
			s.ValidUntil = parent.ValidUntil
		}
		return s
	case rats.Contraindicated:
		return s.lower(rats.StateContraindicated, CodeParentUntrusted.Refuse(n.Parent, "trusted", string(parent.State)))
	default:
		return s.lower(rats.StateUnknown, CodeParentUnknown.At(rats.None, n.Parent, "a current result", string(parent.State)))
	}
}

// lower sets the state unless the node's own is worse already.
func (s Status) lower(to rats.State, why rats.Reason) Status {
	s.Why = append(s.Why, why)
	own, v := rats.VerdictOfState(s.State), rats.VerdictOfState(to)
	if rats.Worse(own.Tier, v.Tier) != own.Tier {
		s.State, s.Verdict, s.ValidUntil = to, v, time.Time{}
	}
	return s
}

func own(n store.Node, now time.Time) Status {
	at := func(st rats.State, why ...rats.Reason) Status {
		return Status{State: st, Verdict: rats.VerdictOfState(st), Since: n.Since, Why: why}
	}
	none := func(c rats.CodeInfo, expected, seen string) Status {
		return at(rats.StateUnknown, c.At(rats.None, n.Name, expected, seen))
	}
	switch {
	case n.Enrolment == store.EnrolmentRevoked:
		return at(rats.StateContraindicated, CodeEnrolmentRevoked.Refuse(n.Name, "approved", n.Enrolment))
	case n.Quarantine != nil:
		return at(rats.StateContraindicated, CodeQuarantined.Refuse(n.Name, "no quarantine", n.Quarantine.By+": "+n.Quarantine.Why))
	case n.Enrolment != store.EnrolmentApproved:
		return none(CodeEnrolmentPending, "approved", n.Enrolment)
	case n.Withdrawn != "":
		return none(CodeResultWithdrawn, "a result in force", n.Withdrawn)
	case n.Last == "":
		return none(CodeResultNone, "a result", "none")
	case Rebooted(n):
		return none(CodeBootChanged, n.LastBoot.String(), n.Boot.String())
	case !now.Before(n.Expires):
		s := at(rats.StateStale, CodeResultExpired.At(rats.None, n.Name, "valid now", "valid until "+n.Expires.UTC().Format(time.RFC3339)))
		return s
	}
	v := rats.VerdictOf(n.LastTier, false)
	return Status{State: v.State, Verdict: v, Since: n.Since, ValidUntil: n.Expires}
}

// Rebooted says whether the boot the agent claimed after the last result differs from the one that result proved (R032).
// The claim is unproven; it can only lower trust.
func Rebooted(n store.Node) bool {
	return !n.Boot.IsZero() && n.BootSeen.After(n.LastAt) && !n.Boot.Equal(n.LastBoot)
}

// maxParents bounds the chain of parents that is followed; a longer one, or a circle, is unknown.
const maxParents = 8

// Resolve derives a node's status with that of its parents.
func Resolve(nodes store.Nodes, n store.Node, now time.Time) (Status, error) {
	return resolve(nodes, n, now, 0)
}

func resolve(nodes store.Nodes, n store.Node, now time.Time, depth int) (Status, error) {
	if n.Parent == "" {
		return StatusOf(n, nil, now), nil
	}
	if depth >= maxParents {
		return StatusOf(n, &Status{}, now), nil
	}
	p, err := nodes.Get(n.Parent)
	if errors.Is(err, store.ErrNotFound) {
		return StatusOf(n, &Status{}, now), nil
	}
	if err != nil {
		return Status{}, err
	}
	parent, err := resolve(nodes, p, now, depth+1)
	if err != nil {
		return Status{}, err
	}
	return StatusOf(n, &parent, now), nil
}
