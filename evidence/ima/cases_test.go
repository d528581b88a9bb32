package ima

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/assay-attest/assay/rats"
)

// shared returns a folder of recorded evidence beside the project, or skips.
func shared(t testing.TB, name string) string {
	dir := filepath.Join("..", "..", "..", "shared", name)
	if alt := os.Getenv("ASSAY_EVIDENCE"); alt != "" && strings.HasPrefix(name, "evidence") {
		dir = alt
	}
	if root := os.Getenv("ASSAY_SHARED"); root != "" {
		dir = filepath.Join(root, name)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("recorded evidence is not on this machine: %v", err)
	}
	return dir
}

func readFile(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type recorded struct {
	ID, Format, File, PCRs string
	Options                struct {
		Form   string
		Mutate *struct {
			Offset int
			XOR    byte
		}
	}
	Expect struct {
		Parse, Genuine, Replays *bool
		AcceptedByDefault       *bool `json:"accepted_by_default"`
		Facts                   map[string]any
	}
}

// R141: every recorded list replays, or doesn't, as its source says; facts are those its source states.
func TestRecordedListsAreJudgedAsTheirSourcesSay(t *testing.T) {
	dir := shared(t, "evidence")
	var all struct{ Cases []recorded }
	if err := json.Unmarshal(readFile(t, dir, "CASES.json"), &all); err != nil {
		t.Fatal(err)
	}
	n, asserted := 0, 0
	for _, c := range all.Cases {
		if c.Format != "ima" {
			continue
		}
		n++
		t.Run(c.ID, func(t *testing.T) { asserted += runCase(t, dir, c) })
	}
	t.Logf("%d cases, %d expectations asserted", n, asserted)
	if n < 16 {
		t.Errorf("only %d cases", n)
	}
}

func runCase(t *testing.T, dir string, c recorded) (asserted int) {
	b := readFile(t, dir, c.File)
	if m := c.Options.Mutate; m != nil {
		b[m.Offset] ^= m.XOR
	}
	is := func(name string, want *bool, got bool) {
		t.Helper()
		if want == nil {
			return
		}
		asserted++
		if *want != got {
			t.Errorf("%s is %v, want %v", name, got, *want)
		}
	}
	claims, err := Inspect(b, c.Options.Form == "ascii")
	is("parse", c.Expect.Parse, err == nil)
	var p Params
	if c.PCRs != "" {
		if err := json.Unmarshal(readFile(t, dir, c.PCRs), &p.PCRs); err != nil {
			t.Fatal(err)
		}
	}
	params, _ := json.Marshal(p)
	media := MediaType
	if c.Options.Form == "ascii" {
		media = MediaTypeASCII
	}
	v, verifyErr := New().Verify(t.Context(), rats.Evidence{Format: Format, MediaType: media, Body: b}, rats.Inputs{Params: params})
	if verifyErr == nil {
		claims = v.Claims.(*Claims)
	} else if r, ok := rats.ReasonOf(verifyErr); !ok {
		t.Errorf("malfunction: %v", verifyErr)
	} else {
		t.Log(r)
	}
	is("genuine", c.Expect.Genuine, verifyErr == nil)
	is("replays", c.Expect.Replays, verifyErr == nil)
	is("accepted", c.Expect.AcceptedByDefault, verifyErr == nil)
	for name, want := range c.Expect.Facts {
		if claims == nil {
			if name == "entries" && want == 0.0 || want == "unknown" {
				continue // nothing to read, or nothing that must be readable
			}
			t.Errorf("no claims, want %s %v", name, want)
			continue
		}
		asserted += fact(t, name, want, claims, p)
	}
	return asserted
}

func fact(t *testing.T, name string, want any, c *Claims, p Params) int {
	t.Helper()
	var got any
	switch name {
	case "entries":
		got = float64(c.Count + c.Unquoted)
	case "violations":
		got = float64(c.Violated)
	case "templates":
		got = c.Templates
	case "template_digests_ok":
		got = c.Count > 0 // Verify refuses others
	case "file_digest_algorithm":
		got = c.Algorithms[0]
	case "pcr10_sha1", "pcr10_sha256":
		got = p.PCRs[strings.TrimPrefix(name, "pcr10_")]["10"]
	case "registers":
		return 0 // says where the values come from
	default:
		t.Errorf("no such fact: %s", name)
		return 0
	}
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if string(g) != string(w) {
		t.Errorf("%s is %s, want %s", name, g, w)
	}
	return 1
}

// pcrFile reads a fixture's register values.
func pcrFile(t testing.TB, elem ...string) rats.Registers {
	t.Helper()
	var file map[string]map[string]hexBytes
	if err := json.Unmarshal(readFile(t, elem...), &file); err != nil {
		t.Fatal(err)
	}
	r := rats.Registers{By: "tpm", Kind: "pcr", Alg: "sha256", Values: map[int][]byte{}}
	for text, v := range file["sha256"] {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		r.Values[n] = v
	}
	return r
}

// R141: the lists of real boots replay to the quoted PCR 10, binary and ASCII alike, and start with the digest of the
// firmware's PCRs.
func TestListsOfRealBootsReplay(t *testing.T) {
	dir := shared(t, filepath.Join("vm", "fixtures"))
	boots, err := filepath.Glob(filepath.Join(dir, "*", "ima_binary_runtime_measurements"))
	if err != nil || len(boots) < 4 {
		t.Fatalf("%d boots, %v", len(boots), err)
	}
	for _, file := range boots {
		boot := filepath.Dir(file)
		t.Run(filepath.Base(boot), func(t *testing.T) {
			in := rats.Inputs{Facts: rats.Facts{Registers: []rats.Registers{pcrFile(t, boot, "pcrs.json")}}}
			count, err := strconv.Atoi(strings.TrimSpace(string(readFile(t, boot, "ima_count"))))
			if err != nil {
				t.Fatal(err)
			}
			var packed [][]byte
			for media, name := range map[string]string{MediaType: "ima_binary_runtime_measurements", MediaTypeASCII: "ima_ascii_runtime_measurements"} {
				b := readFile(t, boot, name)
				if !Detect(b) || IsASCII(b) != (media == MediaTypeASCII) {
					t.Errorf("%s is not detected", name)
				}
				v, err := New().Verify(t.Context(), rats.Evidence{Format: Format, MediaType: media, Body: b}, in)
				if err != nil {
					t.Fatal(name, err)
				}
				c := v.Claims.(*Claims)
				if c.Aggregate != AggregateMatch || c.Violated != 0 || c.Extend != ExtendRehash || c.Bank != "sha256" || !slices.Equal(c.Templates, []string{"ima-sig"}) {
					t.Errorf("%s: %+v", name, c)
				}
				if c.Count+c.Unquoted != count {
					t.Errorf("%s: %d entries and %d unquoted, the kernel counted %d", name, c.Count, c.Unquoted, count)
				}
				packed = append(packed, c.Entries)
			}
			if !bytes.Equal(packed[0], packed[1]) {
				t.Error("binary and ASCII list say different things")
			}
		})
	}
}
