package policy

import "github.com/assay-attest/assay/rats"

func code(c rats.Code, slot rats.Slot, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Title: title, Hint: hint, Slot: slot}
}

// The problems of policy documents.
var (
	CodeDocumentSize = code("policy.document.size", rats.Configuration, "policy document too large",
		"keep the document below 1 MiB; put lists of values into reference sets")
	CodeDocumentSyntax = code("policy.document.syntax", rats.Configuration, "not a YAML document",
		"mend the YAML; a policy is one mapping")
	CodeDocumentAlias = code("policy.document.alias", rats.Configuration, "anchor, alias, merge key or tag in a policy",
		"write the value out; policies have no anchors, aliases, merge keys and tags")
	CodeDocumentMultiple = code("policy.document.multiple", rats.Configuration, "more than one YAML document",
		"put each policy into a document of its own")
	CodeDocumentDepth = code("policy.document.depth", rats.Configuration, "policy nested too deeply",
		"no policy needs more than 32 levels")
	CodeDocumentKind = code("policy.document.kind", rats.Configuration, "not a policy of this version",
		"write apiVersion: "+APIVersion+" and kind: "+Kind)
	CodeFieldUnknown = code("policy.field.unknown", rats.Configuration, "unknown field",
		"correct the spelling; see the policy reference for the fields")
	CodeFieldDuplicate = code("policy.field.duplicate", rats.Configuration, "field or value stands twice",
		"keep one of the two")
	CodeFieldMissing = code("policy.field.missing", rats.Configuration, "field missing",
		"add the field")
	CodeFieldType = code("policy.field.type", rats.Configuration, "value of the wrong type",
		"write a value of the expected type")
	CodeFieldValue = code("policy.field.value", rats.Configuration, "value not acceptable",
		"write an acceptable value")
	CodeNameBad = code("policy.name.bad", rats.Configuration, "bad name",
		"names are 1 to 63 lower-case letters, digits and hyphens, and start and end with a letter or digit")
	CodeDurationBad = code("policy.duration.bad", rats.Configuration, "not a duration",
		"write durations like 30s, 5m or 1h30m")
	CodeDurationRange = code("policy.duration.range", rats.Configuration, "duration out of its bounds",
		"choose a duration within the bounds")
	CodeMarkUnknown = code("policy.mark.unknown", rats.Configuration, "allowed mark that nothing is known of",
		"correct the spelling; an unknown mark permits nothing")
	CodeSlotUnknown = code("policy.slot.unknown", rats.Configuration, "not an AR4SI slot",
		"use one of the slots of the trustworthiness vector")
	CodeSlotUnjudged = code("policy.slot.unjudged", rats.Configuration, "demanded slot that no section judges",
		"set what judges the slot, or don't demand it: the policy could never be met")
	CodeSeverityUnknown = code("policy.severity.unknown", rats.Configuration, "unknown severity",
		"severity is fail or warning")
	CodeLinkUnknown = code("policy.link.unknown", rats.Configuration, "unknown kind of link",
		"use ak-in-report, pcr-holds-key, sealed-secret or enrolled")
	CodeFormatUnknown = code("policy.format.unknown", rats.Configuration, "unknown format",
		"correct the spelling; see the list of formats of this build")
	CodeConditionSyntax = code("policy.condition.syntax", rats.Configuration, "condition does not compile",
		"correct the CEL expression: names and types come from the claims of the formats")
	CodeConditionType = code("policy.condition.type", rats.Configuration, "condition is not a bool",
		"a condition must be true or false, for example x == y")
	CodeConditionSize = code("policy.condition.size", rats.Configuration, "condition empty or too long",
		"a condition has 1 to 4096 bytes; write true if you mean always")
)

// What lint warns of: these never stop a policy from compiling.
var (
	CodeSelectorBroad = code("policy.selector.broad", rats.Configuration, "selector matches every node",
		"select by kind or labels, unless this is meant as the catch-all")
	CodeSelectorNever = code("policy.selector.never", rats.Configuration, "selector matches no node",
		"the policy can never be active; correct the selector")
	CodeRuleConstant = code("policy.rule.constant", rats.Configuration, "rule does not depend on any claim",
		"remove the rule, or compare with a claim")
	CodeValidLong = code("policy.valid-for.long", rats.Configuration, "result outlives many attestation periods",
		"lower valid_for: a lost node stays trusted that long")
	CodeAllowDanger = code("policy.allow.danger", rats.Configuration, "policy accepts evidence that proves less",
		"allow marks in labs and tests only")
	CodeFormatOptional = code("policy.format.optional", rats.Configuration, "format is optional",
		"a node that leaves the format out is judged without it; make it required if you rely on it")
	CodeSlotsNone = code("policy.slots.none", rats.Configuration, "policy judges nothing",
		"set what the sections shall check; until then no node is trusted under this policy")
)

// The problems of nodes and of evidence under a policy.
var (
	CodeSelectorUnevaluable = code("policy.selector.unevaluable", rats.Configuration, "selector can't be evaluated for this node",
		"guard labels that not every node has: \"env\" in node.labels && node.labels[\"env\"] == \"lab\"")
	CodeFormatMissing = code("policy.format.missing", rats.InstanceIdentity, "no verified evidence of a demanded format",
		"look at why the node doesn't deliver it; only optional: true makes a format optional")
	CodeMarkRefused = code("policy.mark.refused", rats.Hardware, "evidence carries a mark that policy doesn't allow",
		"use hardware, or add the mark to the policy's allow list if this is a lab")
	CodeLinkMissing = code("policy.link.missing", rats.InstanceIdentity, "two formats are not shown to be of one platform",
		"enrol the node so that the link can be checked")
	CodeRuleFailed = code("policy.rule.failed", rats.Configuration, "rule of the policy not met",
		"see the rule")
	CodeRuleUnevaluable = code("policy.rule.unevaluable", rats.Configuration, "rule of the policy can't be evaluated",
		"guard what may be absent with has(format.claim) or present(\"format\")")
	CodeConditionFalse = code("policy.condition.false", rats.Configuration, "condition not met",
		"see the condition")
	CodeConditionUnevaluable = code("policy.condition.unevaluable", rats.Configuration, "condition can't be evaluated",
		"guard what may be absent with has(format.claim) or present(\"format\")")
	CodeEvidenceOld = code("policy.evidence.old", rats.InstanceIdentity, "evidence older than policy accepts",
		"look at what delays the node's answers, or at the server's clock")
	CodeEvidenceUndated = code("policy.evidence.undated", rats.InstanceIdentity, "evidence answers no challenge of known time",
		"attest with a challenge")
	CodeEvidenceExpired = code("policy.evidence.expired", rats.InstanceIdentity, "verification no longer holds",
		"attest again; renew the collateral the verification depends on")
	CodeKeyConflict = code("policy.key.conflict", rats.InstanceIdentity, "formats vouch for different keys of one use",
		"evidence of two machines may have been mixed; look at where it came from")
	CodeLookupFailed = code("policy.lookup.failed", rats.Executables, "reference values can't be read",
		"see the server's log; trying again may help")
	CodeReasonsMore = code("policy.reasons.more", rats.Configuration, "more reasons than are listed",
		"mend those that are listed first")
	CodeGateEmpty = code("policy.gate.empty", rats.InstanceIdentity, "nothing about the platform was verified",
		"a plan leaves only for a platform that some format vouches for; add such a section")
	CodeEnrolmentUnvouched = code("policy.enrolment.unvouched", rats.InstanceIdentity, "no section of the policy can vouch for a joining node",
		"add the section of a format that judges enrolment records")
	CodePlanInvalid = code("policy.plan.invalid", rats.Configuration, "sections yield no valid plan",
		"test ids must be unique; see the sections")
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeDocumentSize, CodeDocumentSyntax, CodeDocumentAlias, CodeDocumentMultiple, CodeDocumentDepth, CodeDocumentKind,
	CodeFieldUnknown, CodeFieldDuplicate, CodeFieldMissing, CodeFieldType, CodeFieldValue, CodeNameBad,
	CodeDurationBad, CodeDurationRange, CodeMarkUnknown, CodeSlotUnknown, CodeSlotUnjudged, CodeSeverityUnknown,
	CodeLinkUnknown, CodeFormatUnknown, CodeConditionSyntax, CodeConditionType, CodeConditionSize,
	CodeSelectorBroad, CodeSelectorNever, CodeRuleConstant, CodeValidLong, CodeAllowDanger, CodeFormatOptional, CodeSlotsNone,
	CodeSelectorUnevaluable, CodeFormatMissing, CodeMarkRefused, CodeLinkMissing,
	CodeRuleFailed, CodeRuleUnevaluable, CodeConditionFalse, CodeConditionUnevaluable,
	CodeEvidenceOld, CodeEvidenceUndated, CodeEvidenceExpired, CodeKeyConflict, CodeLookupFailed, CodeReasonsMore,
	CodeGateEmpty, CodeEnrolmentUnvouched, CodePlanInvalid, CodeActionBad, CodeEventBad,
}
