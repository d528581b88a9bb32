package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/identity"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

//go:generate go test . -run TestDescriptionOfTheAPIIsUpToDate -update

var update = flag.Bool("update", false, "write docs/reference/openapi.json anew")

const description = "../../docs/reference/openapi.json"

func TestDescriptionOfTheAPIIsUpToDate(t *testing.T) {
	got, err := OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(description, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(description)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s is stale (%v): run make generate", description, err)
	}
}

func TestEveryRouteIsInTheDescriptionAndTheOtherWayRound(t *testing.T) {
	b, err := os.ReadFile(description)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Verb      string         `json:"x-verb"`
			Summary   string         `json:"summary"`
			Responses map[string]any `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	routes := map[string]bool{}
	for _, r := range Routes() {
		path := strings.ReplaceAll(strings.ReplaceAll(r.Pattern, "{ns}", "{namespace}"), "...}", "}")
		op, ok := doc.Paths[path][strings.ToLower(r.Method)]
		if !ok || op.Verb != r.Verb || op.Summary == "" || len(op.Responses) < 2 {
			t.Errorf("%s %s is not described: %+v", r.Method, path, op)
		}
		routes[r.Method+" "+path] = true
	}
	for path, ops := range doc.Paths {
		for method := range ops {
			if !routes[strings.ToUpper(method)+" "+path] {
				t.Errorf("%s %s is described and doesn't exist", method, path)
			}
		}
	}
}

func TestEveryRouteIsBoundedAndClosedToSomebody(t *testing.T) {
	for _, r := range Routes() {
		if len(r.Who) == 0 || r.Verb == "" || r.handle == nil {
			t.Errorf("%s %s: incomplete", r.Method, r.Pattern)
		}
		writes := r.Method != http.MethodGet && r.Method != http.MethodDelete
		if writes && r.Body <= 0 {
			t.Errorf("%s %s takes a body without bound", r.Method, r.Pattern)
		}
		open := strings.HasPrefix(r.Verb, "public.") || strings.HasPrefix(r.Verb, "join.")
		if !open && slices.Contains(r.Who, Anonymous) {
			t.Errorf("%s %s is open to everybody", r.Method, r.Pattern)
		}
		if strings.HasPrefix(r.Pattern, "/v1/namespaces/") != strings.Contains(r.Pattern, "{ns}") {
			t.Errorf("%s %s has no namespace", r.Method, r.Pattern)
		}
	}
}

func TestAuthorizeDeniesWhatIsNotPermitted(t *testing.T) {
	admin := Route{Verb: "x", Who: admins}
	agent := Route{Verb: "y", Who: agents}
	node := Principal{Kind: NodeAgent, Name: "nd_1", Peer: identity.Peer{Namespace: "a", Node: "nd_1"}}
	for _, tt := range []struct {
		name string
		p    Principal
		r    Route
		res  Resource
		want rats.Code
	}{
		{"an admin everywhere", Principal{Kind: Admin, Namespaces: []string{"*"}}, admin, Resource{Namespace: "a"}, ""},
		{"an admin in its namespace", Principal{Kind: Admin, Namespaces: []string{"a"}}, admin, Resource{Namespace: "a"}, ""},
		{"an admin in another namespace", Principal{Kind: Admin, Namespaces: []string{"b"}}, admin, Resource{Namespace: "a"}, CodeAccessDenied.Code},
		{"an admin of no namespace", Principal{Kind: Admin}, admin, Resource{Namespace: "a"}, CodeAccessDenied.Code},
		{"a reader where admins go", Principal{Kind: Reader, Namespaces: []string{"*"}}, admin, Resource{Namespace: "a"}, CodeAccessDenied.Code},
		{"nobody", Principal{Kind: Anonymous}, admin, Resource{Namespace: "a"}, CodeAccessMissing.Code},
		{"a kind nobody knows", Principal{}, Route{Verb: "x", Who: []Kind{""}}, Resource{}, CodeAccessDenied.Code},
		{"a route open to nobody", Principal{Kind: Admin, Namespaces: []string{"*"}}, Route{Verb: "x"}, Resource{}, CodeAccessDenied.Code},
		{"a node at its own", node, agent, Resource{Namespace: "a", Node: "nd_1"}, ""},
		{"a node at another's", node, agent, Resource{Namespace: "a", Node: "nd_2"}, CodeAccessDenied.Code},
		{"a node in another namespace", node, agent, Resource{Namespace: "b", Node: "nd_1"}, CodeAccessDenied.Code},
		{"a node at no node's", node, agent, Resource{Namespace: "a"}, CodeAccessDenied.Code},
		{"an admin where nodes go", Principal{Kind: Admin, Namespaces: []string{"*"}}, agent, Resource{Namespace: "a", Node: "nd_1"}, CodeAccessDenied.Code},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reason, _ := rats.ReasonOf(authorize(tt.p, tt.r, tt.res))
			if reason.Code != tt.want {
				t.Errorf("got %q, want %q", reason.Code, tt.want)
			}
		})
	}
}

func TestErrorsAreToldByCodeAndMalfunctionsByNothingElse(t *testing.T) {
	secret := errors.New("disk /var/lib/assay is on fire")
	for _, tt := range []struct {
		err    error
		code   rats.Code
		status int
	}{
		{fmt.Errorf("x: %w", store.ErrNotFound), CodeNotFound.Code, 404},
		{store.ErrConflict, CodeConflict.Code, 409},
		{store.ErrEpoch, appraiser.CodePolicyChanged.Code, 409},
		{context.DeadlineExceeded, CodeUnavailable.Code, 503},
		{&http.MaxBytesError{Limit: 1}, CodeBodyTooLarge.Code, 413},
		{secret, appraiser.CodeMalfunction.Code, 500},
		{CodeRate.Missing("x", "", ""), CodeRate.Code, 429},
	} {
		p := problemOf(tt.err, Principal{Kind: Admin}, "rq_1")
		if p.Code != tt.code || p.Status != tt.status {
			t.Errorf("%v: %s %d, want %s %d", tt.err, p.Code, p.Status, tt.code, tt.status)
		}
		if b, _ := json.Marshal(p); strings.Contains(string(b), "fire") {
			t.Errorf("a malfunction's text was told: %s", b)
		}
	}
}

// R046: a caller's budget is its own, and the limiter's memory is bounded.
func TestLimitsArePerCallerAndBounded(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := newLimits(func() time.Time { return now })
	req := &http.Request{RemoteAddr: "192.0.2.1:1"}
	a := Principal{Kind: NodeAgent, Name: "a"}
	for range bounds[NodeAgent].burst {
		if !l.allow(a, req) {
			t.Fatal("refused within the burst")
		}
	}
	if l.allow(a, req) {
		t.Error("allowed beyond the burst")
	}
	if !l.allow(Principal{Kind: NodeAgent, Name: "b"}, req) {
		t.Error("another caller has no budget of its own")
	}
	now = now.Add(time.Second)
	if !l.allow(a, req) {
		t.Error("the budget doesn't come back")
	}
	for i := range maxCallers + 100 {
		l.allow(Principal{Kind: NodeAgent, Name: fmt.Sprint(i)}, req)
	}
	if len(l.callers) > maxCallers {
		t.Errorf("%d callers remembered, at most %d", len(l.callers), maxCallers)
	}
}

// R046: large bodies share one budget; small ones never wait for it.
func TestLargeBodiesShareOneBudget(t *testing.T) {
	l := newLimits(time.Now)
	var release []func()
	for i := int64(0); i < maxInFlight/evidenceBody; i++ {
		r, ok := l.admit(-1, evidenceBody)
		if !ok {
			t.Fatalf("body %d is refused", i)
		}
		release = append(release, r)
	}
	if _, ok := l.admit(evidenceBody, evidenceBody); ok {
		t.Errorf("no %s beyond the budget", CodeBusy.Code)
	}
	if _, ok := l.admit(1000, evidenceBody); !ok {
		t.Error("a small body is refused")
	}
	release[0]()
	if _, ok := l.admit(evidenceBody, evidenceBody); !ok {
		t.Error("room that was given back is not used")
	}
	if r, ok := newLimits(time.Now).admit(setBody, setBody); !ok || r == nil {
		t.Error("the largest body of all can never be sent")
	}
}

func TestAccessTokensAreKeptAsHashesAndFoundInConstantTime(t *testing.T) {
	path := t.TempDir() + "/access.json"
	a := OpenAccess(path)
	text, err := a.Add("ops", Admin, []string{"*"}, strings.NewReader(strings.Repeat("x", 64)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Contains(b, []byte(text)) {
		t.Fatalf("the file holds the token (%v)", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	other := OpenAccess(path)
	if p, err := other.find(text); err != nil || p.Kind != Admin || p.Name != "ops" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := other.find(text + "x"); err == nil {
		t.Error("a longer token was found")
	}
	if _, err := a.Add("ops", Reader, []string{"*"}, strings.NewReader(strings.Repeat("y", 64))); err == nil {
		t.Error("two tokens of one name")
	}
	if err := a.Remove("ops"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAccess(path).find(text); err == nil {
		t.Error("a removed token was found")
	}
}
