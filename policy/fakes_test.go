package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/refvalue"
)

// Two fake formats: box is a platform, run is a planned format upon it, aside is a third with a warning.
const (
	formatBox = rats.Format("box")
	formatRun = rats.Format("run")
)

type boxClaims struct {
	Restarts uint32              `json:"restart_count"`
	Level    int                 `json:"level"`
	Name     string              `json:"name"`
	Secure   bool                `json:"secure"`
	Vendor   string              `json:"vendor,omitempty"`
	Clock    *boxClock           `json:"clock"`
	PCRs     map[int]rats.Digest `json:"pcrs"`
	Events   []boxEvent          `json:"events"`
	Made     time.Time           `json:"made"`
	Age      time.Duration       `json:"age"`
	Raw      []byte              `json:"raw"`
	Ratio    float64             `json:"ratio"`
}

type boxClock struct {
	Ticks uint64 `json:"ticks"`
}

type boxEvent struct {
	Kind string `json:"kind"`
}

func (*boxClaims) ClaimsOf() rats.Format { return formatBox }

var codeBoxSection = rats.CodeInfo{Code: "box.section.wrong", Title: "wrong", Hint: "mend", Slot: rats.Executables}

var codeBoxPCR = rats.CodeInfo{Code: "box.pcr.wrong", Title: "wrong", Hint: "mend", Slot: rats.Executables}

type boxRules struct {
	PCRs    map[int][]rats.Digest `yaml:"pcrs"`
	Digest  rats.Digest           `yaml:"digest"`
	Flag    bool                  `yaml:"flag"`
	Count   uint8                 `yaml:"count"`
	Wait    time.Duration         `yaml:"wait"`
	Hex     []byte                `yaml:"hex"`
	Judges  []rats.Slot           `yaml:"judges"`
	Find    []string              `yaml:"find"` // sets in which "file" must have digest of "file"
	Quiet   bool                  `yaml:"quiet"`
	BadLint bool                  `yaml:"bad_lint"`
	Texts   texts                 `yaml:"texts"`
	Always  []rats.Reason         `yaml:"-"`
	Checks  *int                  `yaml:"-"`
}

// texts is a list that may be written as a single text, as some formats have it.
type texts []string

func (x *texts) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if unmarshal(&one) == nil {
		*x = texts{one}
		return nil
	}
	var many []string
	err := unmarshal(&many)
	*x = many
	return err
}

func (r *boxRules) Lint() []rats.Reason {
	if r.BadLint {
		return []rats.Reason{codeBoxPCR.Refuse("bad_lint", "no such thing", "true"), codeBoxSection.Refuse("box.digest", "", "")}
	}
	return nil
}

func (r *boxRules) Slots() []rats.Slot { return r.Judges }
func (r *boxRules) Params() []byte     { return []byte(`{"pcrs":[7]}`) }
func (r *boxRules) Timeless() bool     { return true }

func (r *boxRules) Check(c rats.Claims, l rats.Lookup, _ time.Time) []rats.Reason {
	if r.Checks != nil {
		*r.Checks++
	}
	out := r.Always
	for _, set := range r.Find {
		hit, err := l.Find(set, "file", rats.SHA256([]byte("file")))
		if err != nil && r.Quiet {
			continue
		}
		if why, ok := rats.ReasonOf(err); ok {
			out = append(out, why)
			continue
		}
		if !hit.Known {
			out = append(out, codeBoxPCR.Refuse(set, "known", "unknown"))
		}
	}
	for n, want := range r.PCRs {
		got := c.(*boxClaims).PCRs[n]
		known := false
		for _, w := range want {
			known = known || w.Equal(got)
		}
		if !known {
			out = append(out, codeBoxPCR.Refuse(fmt.Sprintf("pcrs.%d", n), "listed", got.String()))
		}
	}
	return out
}

func (r *boxRules) Vouch(e rats.Endorsement, _ time.Time) []rats.Reason {
	if string(e.Body) == "good" {
		return nil
	}
	return []rats.Reason{codeBoxPCR.Refuse("enrolment", "good", string(e.Body))}
}

type runClaims struct {
	Files int64 `json:"files"`
}

func (*runClaims) ClaimsOf() rats.Format { return formatRun }

type runRules struct {
	Paths []string `yaml:"paths"`
	Twice bool     `yaml:"twice"`
}

func (*runRules) Lint() []rats.Reason { return nil }
func (*runRules) Slots() []rats.Slot  { return []rats.Slot{rats.FileSystem} }
func (*runRules) Params() []byte      { return nil }

func (*runRules) Check(rats.Claims, rats.Lookup, time.Time) []rats.Reason { return nil }

func (r *runRules) Tests(_ rats.Lookup, seed [32]byte) ([]plan.Test, plan.Limits, error) {
	var out []plan.Test
	for i, p := range r.Paths {
		id := uint32(i)
		if r.Twice {
			id = 0
		}
		out = append(out, plan.Test{ID: id, Kind: plan.KindFile, Alg: "sha256", Args: fmt.Appendf(nil, `{"path":%q,"seed":%d}`, p, seed[0])})
	}
	return out, plan.Limits{Files: 10}, nil
}

func descriptors(patch ...func(*boxRules)) []*rats.Descriptor {
	return []*rats.Descriptor{
		{
			ID: formatRun, Title: "a plan", Needs: []rats.Format{formatBox}, ClaimsVersion: 1,
			NewClaims: func() rats.Claims { return &runClaims{} },
			NewRules:  func() rats.Rules { return &runRules{} },
		},
		{
			ID: formatBox, Title: "a box", ClaimsVersion: 1,
			NewClaims: func() rats.Claims { return &boxClaims{} },
			NewRules: func() rats.Rules {
				r := &boxRules{}
				for _, p := range patch {
					p(r)
				}
				return r
			},
		},
	}
}

const good = `apiVersion: assay/v1
kind: Policy
metadata: {name: lab}
selector: 'node.kind == "host" && node.labels["env"] == "lab"'
priority: 10
every: 30s
allow: [simulated]
formats:
  run: {paths: [/bin/ls, /bin/cat]}
  box:
    judges: [hardware, executables]
    pcrs:
      7: ["sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
rules:
  - name: no-restarts
    require: 'box.restart_count == 0u'
    slot: runtime-opaque
    message: "restart it cold"
`

// minimal returns a policy with the given fields besides the required ones; box judges hardware.
func minimal(extra ...string) string {
	return "apiVersion: assay/v1\nkind: Policy\nmetadata: {name: min}\nselector: 'node.kind == \"host\"'\n" +
		"formats:\n  box: {judges: [hardware]}\n" + strings.Join(extra, "\n")
}

func compile(t testing.TB, doc string, patch ...func(*boxRules)) *policy.Policy {
	t.Helper()
	p, reasons := policy.Compile([]byte(doc), descriptors(patch...))
	if p == nil || rats.Worse(rats.Worst(reasons), rats.Warning) != rats.Warning {
		t.Fatalf("compiling: %v", reasons)
	}
	return p
}

var (
	now  = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	host = policy.NodeFacts{Name: "h1", Kind: "host", Labels: map[string]string{"env": "lab"}}
	abc  = rats.SHA256([]byte("abc"))
)

func boxVerified() rats.Verified {
	return rats.Verified{
		Claims: &boxClaims{
			Level: 3, Name: "box", Secure: true, Clock: &boxClock{Ticks: 7}, PCRs: map[int]rats.Digest{7: abc},
			Events: []boxEvent{{"boot"}, {"load"}}, Made: now, Age: time.Minute, Raw: []byte{1, 2}, Ratio: 0.5,
		},
		Facts: rats.Facts{
			Keys:  []rats.BoundKey{{Use: rats.KeyHPKE, Public: []byte("h")}, {Use: rats.KeyTLS, Public: []byte("t")}},
			Boots: []rats.Boot{{By: formatBox, ID: abc}},
		},
	}
}

func goodSet() rats.Set {
	return rats.Set{Verified: map[rats.Format]rats.Verified{
		formatBox: boxVerified(),
		formatRun: {
			Claims: &runClaims{Files: 2}, Marks: []string{rats.MarkSimulated},
			Facts: rats.Facts{Keys: []rats.BoundKey{{Use: rats.KeyHPKE, Public: []byte("h")}, {Use: rats.KeySign, Public: []byte("s")}}},
			Links: []rats.Link{{From: formatRun, To: formatBox, Kind: rats.LinkEnrolled}},
		},
	}}
}

func goodIn() policy.In {
	return policy.In{
		Set: goodSet(), Now: now, Node: host, Challenged: now.Add(-time.Second), ID: "at_1", Namespace: "ns", Subject: "node/nd_1",
		Ref: rats.Ref{Name: "lab", Version: 4, Digest: abc}, Collection: abc,
		ClaimsDigest: map[rats.Format]rats.Digest{formatBox: rats.SHA256([]byte("box")), formatRun: rats.SHA256([]byte("run"))},
	}
}

func lookup(t testing.TB, expires time.Time, content string) *refvalue.Index {
	t.Helper()
	s, err := refvalue.New(refvalue.Header{Name: "os", Created: now.Add(-time.Hour), Expires: expires},
		[]refvalue.Entry{{Name: "file", Digests: []rats.Digest{rats.SHA256([]byte(content))}}})
	if err != nil {
		t.Fatal(err)
	}
	return refvalue.NewIndex(map[string]refvalue.Versioned{"os": {Set: s, Ref: rats.Ref{Name: "os", Version: 3, Digest: rats.SHA256(s.Encode())}}})
}

func has(reasons []rats.Reason, c rats.CodeInfo) *rats.Reason {
	for i := range reasons {
		if reasons[i].Code == c.Code {
			return &reasons[i]
		}
	}
	return nil
}
