package attacks

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	planev "github.com/assay-attest/assay/evidence/plan"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/rats"
)

// raw is an HTTP client that trusts the rig's CA and shows nothing else of itself.
func (r *rig) raw(certs ...tls.Certificate) *http.Client {
	r.t.Helper()
	pool := x509.NewCertPool()
	for _, der := range r.cas {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			r.t.Fatal(err)
		}
		pool.AddCert(ca)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}}, Timeout: 20 * time.Second}
	r.t.Cleanup(c.CloseIdleConnections)
	return c
}

// call makes a request and returns status and problem.
func (r *rig) call(c *http.Client, method, path, token, body string, header ...string) (int, api.Problem) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	var p api.Problem
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.StatusCode >= 400 {
		if got := res.Header.Get("Content-Type"); got != api.TypeProblem {
			r.t.Fatalf("%s %s: content type %q: %s", method, path, got, b)
		}
		if err := json.Unmarshal(b, &p); err != nil {
			r.t.Fatalf("%s %s: %s", method, path, b)
		}
	}
	return res.StatusCode, p
}

func TestBadRequestsGetAProblemWithTheirCode(t *testing.T) {
	r := newRig(t)
	m := r.machine("requests")
	plain, node := r.raw(), r.raw(m.TLS)
	admin := r.init.AdminToken
	reader, err := httpapi.OpenAccess(r.dir+"/data/access.json").Add("grafana", httpapi.Reader, []string{"default"}, randReader())
	if err != nil {
		t.Fatal(err)
	}
	own := api.Path("default", "nodes", m.Joined.Node)
	for _, tt := range []struct {
		name                      string
		c                         *http.Client
		method, path, token, body string
		header                    []string
		status                    int
		want                      rats.Code
	}{
		{"no credential", plain, "GET", api.Path("default", "nodes"), "", "", nil, 401, httpapi.CodeAccessMissing.Code},
		{"an unknown token", plain, "GET", api.Path("default", "nodes"), "asa1.x", "", nil, 401, httpapi.CodeAccessToken.Code},
		{"a reader that writes", plain, "DELETE", own, reader, "", nil, 403, httpapi.CodeAccessDenied.Code},
		{"a reader in another namespace", plain, "GET", api.Path("other", "nodes"), reader, "", nil, 403, httpapi.CodeAccessDenied.Code},
		{"a node that reads nodes", node, "GET", own, "", "", nil, 403, httpapi.CodeAccessDenied.Code},
		{"no such path", plain, "GET", "/v2/", admin, "", nil, 404, httpapi.CodeNotFound.Code},
		{"no such namespace", plain, "GET", api.Path("nowhere", "nodes"), admin, "", nil, 404, httpapi.CodeNotFound.Code},
		{"no such policy", plain, "GET", api.Path("default", "policies", "none"), admin, "", nil, 404, httpapi.CodeNotFound.Code},
		{"no such node", plain, "GET", api.Path("default", "nodes", "none"), admin, "", nil, 404, appraiser.CodeNodeUnknown.Code},
		{"a limit that is no number", plain, "GET", api.Path("default", "nodes") + "?limit=many", admin, "", nil, 400, httpapi.CodeParameter.Code},
		{"a body that isn't JSON", plain, "POST", api.Path("default", "join-tokens"), admin, "{", nil, 400, httpapi.CodeBodyMalformed.Code},
		{"an unknown field", plain, "POST", api.Path("default", "join-tokens"), admin, `{"nmae":"x"}`, nil, 400, httpapi.CodeBodyMalformed.Code},
		{"two documents", plain, "POST", api.Path("default", "join-tokens"), admin, `{}{}`, nil, 400, httpapi.CodeBodyMalformed.Code},
		{"another protocol", node, "POST", own + "/evidence", "", "{}", []string{api.HeaderProtocol, "99"}, 426, httpapi.CodeProtocol.Code},
		{"a stream without instance", node, "GET", own + "/stream", "", "", nil, 400, httpapi.CodeParameter.Code},
		{"a node that isn't connected", plain, "POST", own + "/attest", admin, `{}`, nil, 409, appraiser.CodeNotConnected.Code},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, p := r.call(tt.c, tt.method, tt.path, tt.token, tt.body, tt.header...)
			if status != tt.status || p.Code != tt.want || p.Title == "" || p.Hint == "" || p.Request == "" {
				t.Errorf("%d %+v, want %d %s", status, p, tt.status, tt.want)
			}
		})
	}
}

// S45: the judged node learns code and reference, never what was expected.
func TestNodeLearnsCodeAndReferenceOnly(t *testing.T) {
	r := newRig(t)
	m := r.machine("nosy")
	status, p := r.call(r.raw(m.TLS), "POST", api.Path("default", "nodes", m.Joined.Node, "evidence"), "",
		`{"token":"AAAA","manifest":"","evidence":[]}`)
	if status != 422 || p.Code != appraiser.CodeTokenForged.Code || p.Expected != "" || p.Seen != "" || p.Path != "" || len(p.Reasons) != 0 {
		t.Errorf("%d %+v", status, p)
	}
}

func TestSubmissionOfAnotherShapeIsRefused(t *testing.T) {
	r := newRig(t)
	m := r.machine("shapes")
	c := r.challenge(m)
	good, err := m.Answer(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	submit := func(s api.Submission) error {
		_, err := m.Client.Submit(t.Context(), m.Joined.Node, s)
		return err
	}
	t.Run("a manifest with a byte more", func(t *testing.T) {
		s := good
		s.Manifest = append(bytes.Clone(s.Manifest), 0)
		refused(t, submit(s), appraiser.CodeManifestMalformed.Code)
	})
	t.Run("a report in clear", func(t *testing.T) {
		s := good
		s.Evidence = append(slices.Clone(s.Evidence), rats.Evidence{Format: planev.Format, Body: []byte("x")})
		refused(t, submit(s), appraiser.CodeSealedRequired.Code)
	})
	t.Run("policy changed meanwhile", func(t *testing.T) { // S40, R038
		if err := r.alter("priority: 10", "priority: 12"); err != nil {
			t.Fatal(err)
		}
		refused(t, submit(good), appraiser.CodePolicyChanged.Code)
	})
	if n := r.results(m); n != 0 {
		t.Errorf("%d results, want none", n)
	}
}

// S07: of two live streams of one node, the instance that attests stays and the other is cut.
func TestSecondStreamOfANodeLosesToTheInstanceThatAttests(t *testing.T) {
	r := newRig(t)
	m := r.machine("twin")
	first := bytes.Clone(m.Instance)
	cut := make(chan rats.Code, 1)
	opened := make(chan struct{})
	go func() {
		for e, err := range m.Client.Stream(t.Context(), m.Joined.Node, first, m.Boot()) {
			if err != nil {
				return
			}
			if e.Opened {
				close(opened)
			}
			if e.Bye != nil {
				cut <- e.Bye.Code
			}
		}
	}()
	<-opened
	m.Instance = bytes.Repeat([]byte{5}, 32)
	r.trusted(m)
	select {
	case code := <-cut:
		if code != appraiser.CodeSuperseded.Code {
			t.Errorf("cut with %s", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("the other stream was not cut")
	}
	entries, err := r.admin.Audit(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(entries, func(e api.AuditEntry) bool { return e.Verb == "stream.double" }) {
		t.Error("the second stream raised no alert")
	}
}

func TestExactlyOnePolicyIsInForceForANode(t *testing.T) {
	r := newRig(t)
	m := r.machine("policies")
	r.trusted(m)
	node := func() api.Node {
		n, err := r.admin.GetNode(t.Context(), m.Joined.Node)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	has := func(n api.Node, want rats.Code) {
		t.Helper()
		if n.Policy != nil || !slices.ContainsFunc(n.Reasons, func(r rats.Reason) bool { return r.Code == want }) {
			t.Errorf("policy %v, reasons %v, want %s", n.Policy, n.Reasons, want)
		}
	}
	second := strings.Replace(r.defaultPolicy(), "{name: test}", "{name: second}", 1)
	if _, err := r.admin.PutPolicy(t.Context(), "second", []byte(second)); err != nil {
		t.Fatal(err)
	}
	has(node(), refs.CodeSelectorAmbiguous.Code)
	higher := strings.Replace(second, "priority: 10", "priority: 20", 1)
	if _, err := r.admin.PutPolicy(t.Context(), "second", []byte(higher)); err != nil {
		t.Fatal(err)
	}
	if n := node(); n.Policy == nil || n.Policy.Name != "second" {
		t.Errorf("policy %v, want second", n.Policy)
	}
	broken := strings.Replace(higher, `'node.kind == "host"'`, `'node.labels["env"] == "lab"'`, 1)
	if _, err := r.admin.PutPolicy(t.Context(), "second", []byte(broken)); err != nil {
		t.Fatal(err)
	}
	has(node(), refs.CodeSelectorBroken.Code)
	for _, p := range []string{"second", "test"} {
		if err := r.admin.DeletePolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	has(node(), refs.CodeSelectorNone.Code)
	// The node loses its verdict as soon as its stream notices, not when the old result ends.
	deadline := time.Now().Add(10 * time.Second)
	for r.state(m) == rats.StateTrusted && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if got := r.state(m); got != rats.StateUnknown {
		t.Errorf("state %s without a policy, want unknown", got)
	}
}

// R015, R145: other systems ask, subscribe and verify.
func TestRelyingPartyAsksSubscribesAndVerifies(t *testing.T) {
	r := newRig(t)
	m := r.machine("asked")
	token, err := httpapi.OpenAccess(r.dir+"/data/access.json").Add("rp", httpapi.Reader, []string{"default"}, randReader())
	if err != nil {
		t.Fatal(err)
	}
	rp := r.owner(token)
	seen := make(chan api.Event, 64)
	go func() {
		for e, err := range rp.Events(t.Context(), 0) {
			if err == nil {
				seen <- e
			}
		}
	}()
	r.trusted(m)
	st, err := rp.Status(t.Context(), "asked")
	if err != nil || st.State != rats.StateTrusted || st.ValidUntil.IsZero() {
		t.Errorf("status %+v, %v", st, err)
	}
	timeout := time.After(10 * time.Second)
	for found := false; !found; {
		select {
		case e := <-seen:
			found = e.Kind == appraiser.EventState
		case <-timeout:
			t.Fatal("no event of the state's change")
		}
	}
	ear, err := rp.EAR(t.Context(), "asked", "https://rp.example")
	if err != nil {
		t.Fatal(err)
	}
	r.verifyEAR(ear.EAR, "https://rp.example")
	if _, err := rp.PutPolicy(t.Context(), "test", []byte(r.defaultPolicy())); client.CodeOf(err) != httpapi.CodeAccessDenied.Code {
		t.Errorf("a reader put a policy: %v", err)
	}
}
