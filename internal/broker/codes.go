package broker

import (
	"errors"

	"github.com/assay-attest/assay/rats"
)

// Codes of what an owner asks for.
var (
	CodeName = rats.CodeInfo{
		Code: "broker.secret.name", Title: "not a name of a secret",
		Hint: "use 1 to 128 of a-z 0-9 . _ / -, beginning with a letter or digit, and no empty part between slashes", Slot: rats.Configuration,
	}
	CodeSize = rats.CodeInfo{
		Code: "broker.secret.size", Title: "the secret is empty or too long",
		Hint: "store at most 64 KiB; encrypt what is larger and store its key", Slot: rats.Configuration,
	}
	CodeRuleEmpty = rats.CodeInfo{
		Code: "broker.rule.empty", Title: "the secret has no release rule",
		Hint: "say which nodes may have it; nothing is released without a rule, and 'true' is a rule too", Slot: rats.Configuration,
	}
	CodeRule = rats.CodeInfo{
		Code: "broker.rule.invalid", Title: "the release rule can't be used",
		Hint: "correct the rule as the reasons say", Slot: rats.Configuration,
	}
	CodeAge = rats.CodeInfo{
		Code: "broker.age.invalid", Title: "not an age of results to release to",
		Hint: "give a duration above zero and up to 10m, for example 60s", Slot: rats.Configuration,
	}
	CodeUnknown = rats.CodeInfo{
		Code: "broker.secret.unknown", Title: "there is no such secret in this namespace",
		Hint: "look the name up in the list of secrets; a deleted secret is never released again", Slot: rats.Configuration,
	}
)

// Codes of a release that is refused.
var (
	CodeNode = rats.CodeInfo{
		Code: "broker.node.unknown", Title: "there is no such node in this namespace",
		Hint: "join the node to the namespace the secret belongs to", Slot: rats.InstanceIdentity,
	}
	CodePending = rats.CodeInfo{
		Code: "broker.node.pending", Title: "the node's enrolment is not approved",
		Hint: "approve the node, after comparing its endorsement key", Slot: rats.InstanceIdentity,
	}
	CodeRevoked = rats.CodeInfo{
		Code: "broker.node.revoked", Title: "the node's enrolment was revoked",
		Hint: "join the node again if it is to come back", Slot: rats.InstanceIdentity,
	}
	CodeQuarantined = rats.CodeInfo{
		Code: "broker.node.quarantined", Title: "the node is in quarantine",
		Hint: "find out why; an administrator lifts it with: assay node quarantine NODE --lift", Slot: rats.InstanceIdentity,
	}
	CodeWithheld = rats.CodeInfo{
		Code: "broker.node.withheld", Title: "an action of the policy withholds secrets from the node",
		Hint: "the action named under 'seen' ends by itself once its condition is gone for as long as it had to hold", Slot: rats.InstanceIdentity,
	}
	CodeRequester = rats.CodeInfo{
		Code: "broker.requester.mismatch", Title: "the connection's key is not the node's",
		Hint: "ask over the connection of the node that the secret is for", Slot: rats.InstanceIdentity,
	}
	CodeNoResult = rats.CodeInfo{
		Code: "broker.result.missing", Title: "the node has no attestation result",
		Hint: "attest the node, then ask again", Slot: rats.InstanceIdentity,
	}
	CodeWithdrawn = rats.CodeInfo{
		Code: "broker.result.withdrawn", Title: "the node's result no longer counts",
		Hint: "attest the node, then ask again", Slot: rats.InstanceIdentity,
	}
	CodeStale = rats.CodeInfo{
		Code: "broker.result.stale", Title: "the node's result is too old for this secret",
		Hint: "attest the node, then ask again", Slot: rats.InstanceIdentity,
	}
	CodeNoKey = rats.CodeInfo{
		Code: "broker.result.keyless", Title: "the node's result binds no key to seal the secret to",
		Hint: "attest the node with an hpke key in its manifest", Slot: rats.RuntimeOpaque,
	}
	CodeVerdict = rats.CodeInfo{
		Code: "broker.verdict.refused", Title: "the node is not trusted enough for this secret",
		Hint: "see the node's reasons; a secret goes to a node with warnings only if it was stored so", Slot: rats.InstanceIdentity,
	}
	CodeDenied = rats.CodeInfo{
		Code: "broker.rule.denied", Title: "the secret's rule says no for this node",
		Hint: "compare the rule with the node's claims", Slot: rats.Configuration,
	}
	CodeUnevaluable = rats.CodeInfo{
		Code: "broker.rule.unevaluable", Title: "the secret's rule can't be answered for this node",
		Hint: "the rule names what this node's result doesn't hold: change the rule, or what the policy asks for", Slot: rats.Configuration,
	}
	CodeRefused = rats.CodeInfo{
		Code: "broker.release.refused", Title: "the secret is not released to this node",
		Hint: "give the reference to the owner of the namespace, who sees why", Slot: rats.Configuration,
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeName, CodeSize, CodeRuleEmpty, CodeRule, CodeAge, CodeUnknown,
	CodeNode, CodePending, CodeRevoked, CodeQuarantined, CodeWithheld, CodeRequester, CodeNoResult, CodeWithdrawn, CodeStale, CodeNoKey, CodeVerdict,
	CodeDenied, CodeUnevaluable, CodeRefused,
}

// Refusal is the error of everything the broker refuses. It is a *rats.BadEvidence.
type Refusal struct {
	Reason    rats.Reason   // for owners
	Causes    []rats.Reason // why the rule is wrong or can't be answered, for owners
	Reference string        // where the audit log has it, "audit/SEQ"; empty if nothing was recorded
}

func refuse(c rats.CodeInfo, path, expected, seen string) *Refusal {
	return &Refusal{Reason: c.Refuse(path, expected, seen)}
}

func (r *Refusal) Error() string { return r.Reason.String() }

// Unwrap makes the refusal a *rats.BadEvidence.
func (r *Refusal) Unwrap() error { return &rats.BadEvidence{Reason: r.Reason} }

// Told returns what a node may be told: a code, without what was looked at or expected. Whether there is no such
// secret, or its rule says no, or can't be answered, looks the same, so a node can't list what it may not have.
func (r *Refusal) Told() rats.CodeInfo {
	for _, secret := range []rats.CodeInfo{CodeUnknown, CodeDenied, CodeUnevaluable} {
		if r.Reason.Code == secret.Code {
			return CodeRefused
		}
	}
	for _, c := range Codes {
		if r.Reason.Code == c.Code {
			return c
		}
	}
	return CodeRefused
}

// AttestFirst says whether a refusal may end once the node has attested again.
func AttestFirst(err error) bool {
	var r *Refusal
	if !errors.As(err, &r) {
		return false
	}
	switch r.Reason.Code {
	case CodeNoResult.Code, CodeWithdrawn.Code, CodeStale.Code, CodeNoKey.Code:
		return true
	}
	return false
}
