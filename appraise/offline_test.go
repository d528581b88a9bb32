package appraise

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/rats"
)

var payload = []byte("evidence of format one, long enough")

// fileFormat is a format for files: evidence is its id, ":", and what is to be wrong with it.
type fileFormat struct {
	id    rats.Format
	needs []rats.Format
	marks []string
	rules rats.Rules
}

type fileClaims struct {
	Format rats.Format `json:"format"`
	Text   string      `json:"text"`
	Seen   int         `json:"registers"`
}

func (c *fileClaims) ClaimsOf() rats.Format { return c.Format }
func (c *fileClaims) DebugEnabled() bool    { return strings.Contains(c.Text, "debug") }
func (c *fileClaims) TCBStatus() (string, []string, time.Time) {
	return "UpToDate", []string{"B", "A"}, time.Unix(0, 0)
}

func (f fileFormat) Descriptor() *rats.Descriptor {
	return &rats.Descriptor{ID: f.id, MediaTypes: []string{"text/plain"}, Needs: f.needs, NewRules: func() rats.Rules { return f.rules }}
}

func (f fileFormat) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	text := string(e.Body)
	switch {
	case strings.Contains(text, "forged"), strings.HasPrefix(text, "evidence of format two wrong"):
		return rats.Verified{}, CodeFormatMedia.Bad("byte 3", "good", "forged")
	case strings.Contains(text, "broken"):
		return rats.Verified{}, errors.New("broken")
	}
	regs := []rats.Registers{{By: f.id, Kind: "pcr", Alg: "sha256"}}
	return rats.Verified{Claims: &fileClaims{f.id, text, len(in.Facts.Registers)}, Facts: rats.Facts{Registers: regs}, Marks: f.marks}, nil
}

type fileRules struct{ reasons []rats.Reason }

func (r fileRules) Lint() []rats.Reason                                     { return nil }
func (r fileRules) Slots() []rats.Slot                                      { return nil }
func (r fileRules) Params() []byte                                          { return nil }
func (r fileRules) Check(rats.Claims, rats.Lookup, time.Time) []rats.Reason { return r.reasons }

func offline(f fileFormat) Plain {
	return Plain{
		Verifier: f, Is: func(b []byte) bool { return bytes.HasPrefix(b, []byte("evidence of format "+string(f.id))) },
		Decode: func(b []byte) (any, error) { return &fileClaims{Format: f.id, Text: string(b)}, nil },
		Holds: func(b []byte) [][]byte {
			if _, in, ok := bytes.Cut(b, []byte("holds ")); ok {
				return [][]byte{in}
			}
			return nil
		},
		Also: []string{"also-" + string(f.id)},
		Remark: func(c rats.Claims) []rats.Reason {
			if strings.Contains(c.(*fileClaims).Text, "tail") {
				return []rats.Reason{{Code: "one.tail", Tier: rats.Warning}}
			}
			return nil
		},
	}
}

func mustJudge(t *testing.T, q Question, fs ...Offline) *Judgement {
	t.Helper()
	j, err := Judge(t.Context(), fs, q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := json.Marshal(j); err != nil {
		t.Error(err)
	}
	return j
}

func file(text string) Question {
	return Question{Given: Given{File: []byte(text), Now: time.Unix(1e9, 0), Binding: rats.Binding{Profile: rats.ProfileNone}}}
}

func TestEvidenceIsFoundInEveryWrapping(t *testing.T) {
	one := offline(fileFormat{id: "one", rules: fileRules{}})
	b64 := base64.StdEncoding.EncodeToString(payload)
	numbers, _ := json.Marshal(func() (out []int) {
		for _, b := range payload {
			out = append(out, int(b))
		}
		return
	}())
	for name, text := range map[string]string{
		"raw": string(payload), "hex": hex.EncodeToString(payload), "hex with 0x": "0x" + hex.EncodeToString(payload),
		"hex with colons": "65:76:69:64:65:6e:63:65:20:6f:66:20:66:6f:72:6d:61:74:20:6f:6e:65\n", "base64": b64, "base64url": base64.RawURLEncoding.EncodeToString(payload),
		"base64 in lines": b64[:20] + "\n" + b64[20:], "PEM": "-----BEGIN QUOTE-----\n" + b64 + "\n-----END QUOTE-----\n",
		"JSON": `{"a":[1,{"quote":"` + b64 + `"}]}`, "JSON numbers": `{"n":5,"quote":` + string(numbers) + `}`,
		"hex of base64": hex.EncodeToString([]byte(b64)), "JSON in base64": base64.StdEncoding.EncodeToString([]byte(`{"q":"` + hex.EncodeToString(payload) + `"}`)),
	} {
		if o, _ := Recognise([]Offline{one}, "", []byte(text)); o == nil {
			t.Errorf("%s: not recognised", name)
		}
	}
}

func TestJudgementSaysWhatIsTrueApartFromWhatIsAcceptable(t *testing.T) {
	warn := rats.Reason{Code: "one.warn", Tier: rats.Warning}
	good := offline(fileFormat{id: "one", rules: fileRules{}})
	for name, c := range map[string]struct {
		format            Offline
		text              string
		genuine, accepted bool
		code              rats.Code
	}{
		"good":         {good, string(payload), true, true, ""},
		"with a tail":  {good, string(payload) + " tail", true, true, "one.tail"},
		"forged":       {good, string(payload) + " forged", false, false, CodeFormatMedia.Code},
		"foreign":      {good, "something else altogether", false, false, CodeFileUnrecognised.Code},
		"marked":       {offline(fileFormat{id: "one", rules: fileRules{}, marks: []string{rats.MarkDebug}}), string(payload), true, false, CodeFileMark.Code},
		"warned":       {offline(fileFormat{id: "one", rules: fileRules{[]rats.Reason{warn}}}), string(payload), true, false, "one.warn"},
		"without":      {bare{good}, string(payload), true, false, CodeFileUnjudged.Code},
		"holds good":   {good, string(payload) + " holds " + string(payload), true, true, ""},
		"holds forged": {good, string(payload) + " holds " + string(payload) + "_", true, true, ""},
	} {
		j := mustJudge(t, file(c.text), c.format)
		if j.Genuine != c.genuine || j.Accepted != c.accepted || c.code != "" && (len(j.Reasons) == 0 || j.Reasons[0].Code != c.code) || c.code == "" && len(j.Reasons) > 0 {
			t.Errorf("%s: %+v", name, j)
		}
		if j.Genuine && (j.TCB.Status != "UpToDate" || !slices.Equal(j.TCB.Advisories, []string{"A", "B"}) || j.Debug == nil) {
			t.Errorf("%s: %+v", name, j.TCB)
		}
	}
	j := mustJudge(t, file(string(payload)+" debug forged"), good)
	if j.Decoded == nil || j.Debug == nil || !*j.Debug || fmt.Sprint(j.Claims) != "{}" {
		t.Errorf("what forged evidence says is not shown apart from claims: %+v", j)
	}
	if _, err := Judge(t.Context(), []Offline{good}, file(string(payload)+" broken")); err == nil {
		t.Error("a malfunction became a verdict")
	}
}

// bare is an Offline without any of the optional interfaces.
type bare struct{ o Offline }

func (b bare) Descriptor() *rats.Descriptor { return b.o.Descriptor() }
func (b bare) Detect(x []byte) bool         { return b.o.Detect(x) }
func (b bare) Prepare(g Given) (rats.Evidence, rats.Inputs, error) {
	return b.o.Prepare(g)
}

func (b bare) Verify(ctx context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	return b.o.Verify(ctx, e, in)
}

func TestWholeIsNoBetterThanWhatItHolds(t *testing.T) {
	one := offline(fileFormat{id: "one", rules: fileRules{}})
	two := offline(fileFormat{id: "two", rules: fileRules{}})
	j := mustJudge(t, file(string(payload)+" holds evidence of format two wrong"), one, two)
	if j.Genuine || j.Accepted || len(j.Inside) != 1 || j.Inside[0].Format != "two" {
		t.Errorf("%+v", j)
	}
	j = mustJudge(t, file(string(payload)+" holds evidence of format two"), one, two)
	if !j.Accepted || j.Inside[0].Claims.(*fileClaims).Seen != 1 {
		t.Errorf("the inner evidence didn't see the outer's registers: %+v", j.Inside[0])
	}
}

func TestPairedEvidenceAmongTheCollateralVouchesForRegisters(t *testing.T) {
	log := offline(fileFormat{id: "log", needs: []rats.Format{"one"}, rules: fileRules{}})
	one := offline(fileFormat{id: "one", rules: fileRules{}})
	q := file("evidence of format log")
	q.Collateral = []File{{"x", []byte("no evidence")}, {"quote", payload}}
	if j := mustJudge(t, q, log, one); !j.Genuine || j.Claims.(*fileClaims).Seen != 1 {
		t.Errorf("%+v", j)
	}
	q.Collateral[1].Body = append(bytes.Clone(payload), " forged"...)
	if j := mustJudge(t, q, log, one); j.Claims.(*fileClaims).Seen != 0 || len(j.Reasons) == 0 {
		t.Errorf("forged evidence vouches: %+v", j)
	}
}

func TestNamedFormatSaysItselfWhatIsWrong(t *testing.T) {
	one, two := offline(fileFormat{id: "one"}), offline(fileFormat{id: "two"})
	for _, name := range []string{"two", "also-two"} {
		o, b := Recognise([]Offline{one, two}, name, payload)
		if o == nil || o.Descriptor().ID != "two" || !bytes.Equal(b, payload) {
			t.Errorf("%s: %v", name, o)
		}
	}
	if o, _ := Recognise([]Offline{one}, "three", payload); o != nil {
		t.Error("a format that isn't there recognised something")
	}
}

func TestRegistersAreReadAsToolsWriteThem(t *testing.T) {
	value := strings.Repeat("ab", 32)
	serial := make([]byte, selectionsSize+4+digestsSize)
	copy(serial, []byte{1, 0, 0, 0, 0x0b, 0, 3, 0x81})
	serial[selectionsSize] = 1
	serial[selectionsSize+4] = 2
	for i := range 2 {
		at := selectionsSize + 8 + 66*i
		serial[at] = 32
		copy(serial[at+2:], bytes.Repeat([]byte{0xab}, 32))
	}
	for name, text := range map[string]string{
		"tpm2_pcrread": "sha256:\n  0 : 0x" + strings.ToUpper(value) + "\n  7 : 0x" + value + "\n",
		"with pcrs":    "pcrs:\n  sha256:\n    0 : 0x" + value + "\n    7 : " + value,
		"JSON":         `{"sha256":{"0":"` + value + `","7":"` + value + `"}}`,
		"zeroes":       `{"sha256":{"00":"` + value + `","07":"0x` + value + `"}}`,
		"flat":         `{"0":"` + value + `","7":"` + value + `"}`,
		"tpm2_quote":   string(serial),
	} {
		r, err := ParseRegisters([]byte(text))
		if err != nil || len(r) != 1 || r[0].Alg != "sha256" || len(r[0].Values) != 2 || hex.EncodeToString(r[0].Values[7]) != value {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	for name, text := range map[string]string{
		"nothing": "", "no values": "{}", "twice": `{"sha256":{"0":"` + value + `","00":"` + value + `"}}`,
		"index": `{"sha256":{"32":"` + value + `"}}`, "length": `{"sha256":{"0":"ab"}}`, "bank": `{"md5":{"0":"` + value + `"}}`,
		"number": `{"sha256":{"0":1}}`, "tail": `{"0":"` + value + `"}x`, "text": "hello", "other bank": "sha256:\n 0 : " + value + "\nmd5:\n",
		"binary": string(serial[:100]), "a list more": string(append(bytes.Clone(serial), 0)),
	} {
		if r, err := ParseRegisters([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestUnwrappingIsBounded(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	for _, text := range []string{deep, strings.Repeat(`{"a":`, 50_000), "[" + strings.Repeat(`"`+strings.Repeat("ab", 20)+`",`, 20_000) + "0]"} {
		got := Unwrap([]byte(text))
		total := 0
		for _, b := range got {
			total += len(b)
		}
		if len(got) > maxCandidates || total > 10*len(text) {
			t.Errorf("%d results with %d bytes of %d", len(got), total, len(text))
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	f.Add([]byte(`{"a":["` + hex.EncodeToString(payload) + `",[1,2,3]]}`))
	f.Add([]byte("-----BEGIN X-----\nAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n-----END X-----"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := Unwrap(b)
		if len(got) == 0 || !bytes.Equal(got[0], b) || len(got) > maxCandidates {
			t.Errorf("%d results", len(got))
		}
	})
}

func FuzzParseRegisters(f *testing.F) {
	f.Add([]byte("sha256:\n 0 : 0xab"))
	f.Add([]byte(`{"sha256":{"0":"ab"}}`))
	f.Add(make([]byte, selectionsSize+4))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRegisters(b)
		if err == nil && (len(r) == 0 || len(r[0].Values) == 0) {
			t.Error("no registers, and no error")
		}
	})
}
