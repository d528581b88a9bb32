package rats

import (
	"encoding/json"
	"fmt"
)

// Tier is an AR4SI trustworthiness tier (draft-ietf-rats-ar4si section 2.3). The zero value is none: not trusted.
type Tier int8

// The tiers, with the numbers that EAR carries.
const (
	None            Tier = 0
	Affirming       Tier = 2
	Warning         Tier = 32
	Contraindicated Tier = 96
)

// State is the state of a node as people and relying parties see it.
type State string

// The node states of the verdict table. StateStale is any result after its expiry.
const (
	StateTrusted         State = "trusted"
	StateWarning         State = "warning"
	StateContraindicated State = "contraindicated"
	StateUnknown         State = "unknown"
	StateStale           State = "stale"
)

// Exit codes of the command line that are not a verdict.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitNotTrusted  = 2
	ExitUnknown     = 3
	ExitUnreachable = 4
)

// Verdict is one row of the verdict table: how a tier is named, stored, rewarded and reported.
type Verdict struct {
	Tier     Tier
	TierName string // the AR4SI name, as EAR and policies write it
	Word     string // the word for people and JSON
	State    State  // of a node whose current result has this tier
	Secrets  bool   // whether a release rule may release at all
	OnlyIf   bool   // whether the rule must say so (warning)
	Exit     int    // process exit code
}

// verdicts is THE verdict table; CLI, API, EAR and exit codes all read it.
var verdicts = [...]Verdict{
	{Affirming, "affirming", "trusted", StateTrusted, true, false, ExitOK},
	{Warning, "warning", "trusted (warning)", StateWarning, true, true, ExitOK},
	{Contraindicated, "contraindicated", "not trusted", StateContraindicated, false, false, ExitNotTrusted},
	{None, "none", "unknown", StateUnknown, false, false, ExitUnknown},
}

// stale is the row of any tier after its result expired.
var stale = Verdict{None, "none", "unknown", StateStale, false, false, ExitUnknown}

// VerdictOf returns the row of the verdict table for a result's tier. Unknown tiers are none.
func VerdictOf(t Tier, expired bool) Verdict {
	if expired {
		return stale
	}
	for _, v := range verdicts {
		if v.Tier == t {
			return v
		}
	}
	return verdicts[len(verdicts)-1]
}

// VerdictOfState returns the row of the verdict table for a node state. Unknown states are unknown.
func VerdictOfState(s State) Verdict {
	if s == StateStale {
		return stale
	}
	for _, v := range verdicts {
		if v.State == s {
			return v
		}
	}
	return verdicts[len(verdicts)-1]
}

// Verdicts returns the rows of the verdict table in order of trust, for documentation.
func Verdicts() []Verdict { return append(append([]Verdict(nil), verdicts[:]...), stale) }

// rank orders tiers by how bad they are: affirming < warning < none < contraindicated. A slot nobody judged is worse
// than a warning; evidence against the machine is worse than no evidence.
func (t Tier) rank() int {
	switch t {
	case Affirming:
		return 0
	case Warning:
		return 1
	case Contraindicated:
		return 3
	default:
		return 2
	}
}

// Worse returns the less trusted of two tiers.
func Worse(a, b Tier) Tier {
	if b.rank() > a.rank() {
		return b
	}
	return a
}

// String returns the AR4SI name.
func (t Tier) String() string { return VerdictOf(t, false).TierName }

// MarshalText implements encoding.TextMarshaler.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; unknown names are refused.
func (t *Tier) UnmarshalText(b []byte) error {
	for _, v := range verdicts {
		if v.TierName == string(b) {
			*t = v.Tier
			return nil
		}
	}
	return fmt.Errorf("tier %q is not one of affirming, warning, contraindicated, none", clip(string(b)))
}

// Slot is one entry of the AR4SI trustworthiness vector (section 2.3.4).
type Slot uint8

// The slots in the order of the vector.
const (
	InstanceIdentity Slot = iota
	Configuration
	Executables
	FileSystem
	Hardware
	RuntimeOpaque
	StorageOpaque
	SourcedData
	slotCount
)

var slotNames = [slotCount]string{
	"instance-identity", "configuration", "executables", "file-system",
	"hardware", "runtime-opaque", "storage-opaque", "sourced-data",
}

// SlotCount is the number of slots.
const SlotCount = int(slotCount)

// String returns the AR4SI name of the slot.
func (s Slot) String() string {
	if int(s) < len(slotNames) {
		return slotNames[s]
	}
	return fmt.Sprintf("slot-%d", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s Slot) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; unknown names are refused.
func (s *Slot) UnmarshalText(b []byte) error {
	for i, n := range slotNames {
		if n == string(b) {
			*s = Slot(i)
			return nil
		}
	}
	return fmt.Errorf("slot %q is not an AR4SI slot; the slots are %v", clip(string(b)), slotNames)
}

// Vector is the trustworthiness vector: a tier per slot, none where nobody judged. Its JSON is an object of the slots
// that were judged.
type Vector [slotCount]Tier

// Lower sets slot s to the worse of its tier and t. A slot nobody judged yet takes t.
func (v *Vector) Lower(s Slot, t Tier) {
	if v[s] == None {
		v[s] = t
		return
	}
	v[s] = Worse(v[s], t)
}

// Overall returns the worst tier among the demanded slots, none if no slot is demanded.
func (v Vector) Overall(demanded []Slot) Tier {
	if len(demanded) == 0 {
		return None
	}
	t := Affirming
	for _, s := range demanded {
		if int(s) >= len(v) {
			return None
		}
		t = Worse(t, v[s])
	}
	return t
}

// MarshalJSON implements json.Marshaler.
func (v Vector) MarshalJSON() ([]byte, error) {
	m := make(map[string]Tier)
	for i, t := range v {
		if t != None {
			m[slotNames[i]] = t
		}
	}
	return json.Marshal(m)
}

// UnmarshalJSON implements json.Unmarshaler; unknown slots are refused.
func (v *Vector) UnmarshalJSON(b []byte) error {
	var m map[Slot]Tier
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	*v = Vector{}
	for s, t := range m {
		v[s] = t
	}
	return nil
}
