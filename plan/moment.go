package plan

import "time"

// FirstTurn is the first id of tests that take turns: those of a plan that measures a part of what its rules name, this
// time. Tests below it are in every plan of a policy.
const FirstTurn uint32 = 1 << 20

// Moment is what the tests of a plan may depend on besides the policy and the reference values. The verifier rebuilds it
// from the challenge, so that no server has to remember which tests it ordered.
type Moment struct {
	// Seed is fresh for every challenge; nobody but the verifier knows it before the challenge is issued.
	Seed [32]byte
	// At is when the exchange began. Zero: nothing takes turns, and everything is measured.
	At time.Time
	// Every is the longest time from one attestation of the node to the next by schedule.
	Every time.Duration
	// Turn returns a key for a label, of this node and policy, that only verifiers know. Nil: nothing takes turns.
	Turn func(label string) [32]byte
}

// Turns says whether tests may take turns at this moment.
func (m Moment) Turns() bool { return !m.At.IsZero() && m.Turn != nil && m.Every > 0 }
