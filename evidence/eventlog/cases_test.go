package eventlog

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

type recorded struct {
	ID      string
	Format  string
	File    string
	PCRs    string
	Options struct {
		Slice   *struct{ Offset, Length int }
		Extract *struct{ JSON, Encoding string }
		Mutate  *struct {
			Offset int
			XOR    byte
			File   string
		}
	}
	Expect struct {
		Parse, Genuine, Replays *bool
		AcceptedByDefault       *bool  `json:"accepted_by_default"`
		ReasonHint              string `json:"reason_hint"`
		Facts                   map[string]any
	}
}

func readFile(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c recorded) input(t *testing.T, dir string) []byte {
	b := readFile(t, dir, c.File)
	if s := c.Options.Slice; s != nil {
		b = b[s.Offset : s.Offset+s.Length]
	}
	if x := c.Options.Extract; x != nil {
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		for _, k := range strings.Split(x.JSON, ".") {
			v = v.(map[string]any)[k]
		}
		var err error
		if b, err = base64.StdEncoding.DecodeString(v.(string)); err != nil {
			t.Fatal(err)
		}
	}
	if m := c.Options.Mutate; m != nil && m.File == "" {
		b = slices.Clone(b)
		b[m.Offset] ^= m.XOR
	}
	return b
}

// R142: every recorded log replays, or doesn't, as its source says; facts are those its source states.
func TestRecordedLogsAreJudgedAsTheirSourcesSay(t *testing.T) {
	dir := shared(t, "evidence")
	var all struct{ Cases []recorded }
	if err := json.Unmarshal(readFile(t, dir, "CASES.json"), &all); err != nil {
		t.Fatal(err)
	}
	n, asserted := 0, 0
	for _, c := range all.Cases {
		if c.Format != "eventlog" && c.Format != "ccel" {
			continue
		}
		n++
		t.Run(c.ID, func(t *testing.T) { asserted += runCase(t, dir, c) })
	}
	t.Logf("%d cases, %d expectations asserted", n, asserted)
	if n < 70 {
		t.Errorf("only %d cases", n)
	}
}

func runCase(t *testing.T, dir string, c recorded) (asserted int) {
	media := MediaType
	if c.Format == "ccel" {
		media = MediaTypeCCEL
	}
	b := c.input(t, dir)
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
	claims, err := Inspect(b, media)
	is("parse", c.Expect.Parse, err == nil)
	log, _ := Parse(b, media == MediaTypeCCEL)
	if err == nil && string(log.Encode()) != string(b) {
		t.Error("encodes to other bytes")
	}
	var p Params
	if c.PCRs != "" {
		if err := json.Unmarshal(readFile(t, dir, c.PCRs), &p.PCRs); err != nil {
			t.Fatal(err)
		}
	}
	params, _ := json.Marshal(p)
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
	if c.Expect.AcceptedByDefault != nil {
		accepted := verifyErr == nil && len(checked(t, &Rules{BootLoaders: []string{"*"}}, claims)) == 0
		is("accepted", c.Expect.AcceptedByDefault, accepted)
	}
	for name, want := range c.Expect.Facts {
		asserted += fact(t, name, want, claims, log)
	}
	return asserted
}

func fact(t *testing.T, name string, want any, c *Claims, log *Log) int {
	t.Helper()
	var got any
	switch name {
	case "events":
		got = float64(c.Events)
	case "banks":
		list := []any{}
		for _, b := range c.Banks {
			list = append(list, b)
		}
		got = list
	case "crypto_agile":
		got = c.CryptoAgile
	case "startup_locality":
		got = float64(c.StartupLocality)
	case "secure_boot":
		if !c.SecureBoot.Logged {
			t.Errorf("no Secure Boot variable, want %v", want)
		}
		got = c.SecureBoot.Enabled
	case "rtmr0", "rtmr1", "rtmr2":
		r, _ := c.Register(int(name[4]-'0') + 1)
		got = r.Value
	case "secureboot_variable_data_length":
		got = -1.0
		for _, e := range log.Events {
			if v, ok := parseVariable(e.Data); ok && v.name == "SecureBoot" {
				got = float64(len(v.value))
			}
		}
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

// checked lints rules and checks claims at the time of the recordings.
func checked(t *testing.T, r *Rules, c *Claims) []rats.Reason {
	t.Helper()
	if reasons := r.Lint(); len(reasons) > 0 {
		t.Fatal(reasons)
	}
	return r.Check(c, nil, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
}
