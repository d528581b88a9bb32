package refvalue

import "github.com/assay-attest/assay/rats"

// The problems of reference sets.
var (
	CodeSetSyntax = rats.CodeInfo{
		Code: "refvalue.set.syntax", Title: "not a reference set",
		Hint: "write the native form: {\"type\":\"" + TypeSet + "\",\"name\":…,\"entries\":[…]}", Slot: rats.Executables,
	}
	CodeSetField = rats.CodeInfo{
		Code: "refvalue.set.field", Title: "unknown, doubled or missing field in a reference set",
		Hint: "keep to the fields of the native form; each may stand once", Slot: rats.Executables,
	}
	CodeSetType = rats.CodeInfo{
		Code: "refvalue.set.type", Title: "reference set of an unknown type",
		Hint: "the type is " + TypeSet, Slot: rats.Executables,
	}
	CodeSetEmpty = rats.CodeInfo{
		Code: "refvalue.set.empty", Title: "reference set without entries",
		Hint: "an empty list permits nothing; capture or import the values first", Slot: rats.Executables,
	}
	CodeSetBounds = rats.CodeInfo{
		Code: "refvalue.set.bounds", Title: "reference set too large",
		Hint: "split the set, or leave out what no policy looks up", Slot: rats.Executables,
	}
	CodeSetTime = rats.CodeInfo{
		Code: "refvalue.set.time", Title: "bad time in a reference set",
		Hint: "write times as UTC RFC 3339 (2030-01-31T00:00:00Z); a set expires after it was created", Slot: rats.Executables,
	}
	CodeEntryName = rats.CodeInfo{
		Code: "refvalue.entry.name", Title: "bad name in a reference set",
		Hint: "names are paths in their canonical text form, at most 4096 bytes", Slot: rats.Executables,
	}
	CodeEntryOrder = rats.CodeInfo{
		Code: "refvalue.entry.order", Title: "names of a reference set not in ascending order, or one stands twice",
		Hint: "sort entries by name, bytewise; list several accepted digests in one entry", Slot: rats.Executables,
	}
	CodeEntryDigest = rats.CodeInfo{
		Code: "refvalue.entry.digest", Title: "bad, doubled or missing digest in a reference set",
		Hint: "an entry lists 1 to 64 different digests as alg:hex in lower case", Slot: rats.Executables,
	}
	CodeTiming = rats.CodeInfo{
		Code: "refvalue.timing.malformed", Title: "bad times in a reference set",
		Hint: "let assay ref calibrate write them", Slot: rats.Executables,
	}
	CodeSetMissing = rats.CodeInfo{
		Code: "refvalue.set.missing", Title: "reference set not at hand",
		Hint: "store a reference set of this name, or correct the name in the policy", Slot: rats.Executables,
	}
	CodeSetExpired = rats.CodeInfo{
		Code: "refvalue.set.expired", Title: "reference set expired",
		Hint: "store a newer version of the set", Slot: rats.Executables,
	}
)

// Codes lists every code of this package.
var Codes = []rats.CodeInfo{
	CodeSetSyntax, CodeSetField, CodeSetType, CodeSetEmpty, CodeSetBounds, CodeSetTime,
	CodeEntryName, CodeEntryOrder, CodeEntryDigest, CodeTiming, CodeSetMissing, CodeSetExpired,
}
