package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/rats"
)

func TestStreamYieldsTypedEvents(t *testing.T) {
	ca := newAuthority(t)
	boot := rats.SHA256([]byte("boot"))
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, localLeaf()))}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/namespaces/lab/nodes/nd_1/stream" || r.Header.Get(api.HeaderInstance) != "0102" ||
			r.Header.Get(api.HeaderBoot) != boot.String() || r.Header.Get(api.HeaderProtocol) != api.Protocol {
			t.Errorf("asked %s with %v", r.URL.Path, r.Header)
		}
		w.Header().Set("Content-Type", api.TypeEventStream)
		io.WriteString(w, ": ping\n\nevent: challenge\ndata: {\"why\":\"due\"}\n\nevent: later-invention\ndata: x\n\n")
		io.WriteString(w, "event: result\r\ndata: {\"id\":\r\ndata: \"at_1\"}\r\n\r\nevent: bye\ndata: {\"code\":\"a.b.c\"}\n\nevent: challenge\ndata: {}\n")
	}))
	c := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}, Namespace: "lab"})
	var got []string
	for e, err := range c.Stream(t.Context(), "nd_1", []byte{1, 2}, boot) {
		switch {
		case err != nil:
			got = append(got, err.Error())
		case e.Opened:
			got = append(got, "opened")
		case e.Challenge != nil:
			got = append(got, "challenge "+e.Challenge.Why)
		case e.Result != nil:
			got = append(got, "result "+e.Result.ID)
		case e.Bye != nil:
			got = append(got, "bye "+string(e.Bye.Code))
		}
	}
	if want := "[opened challenge due result at_1 bye a.b.c EOF]"; fmt.Sprint(got) != want {
		t.Errorf("events %v, expected %s", got, want)
	}
}

func TestStreamOfSomethingElseIsRefused(t *testing.T) {
	ca := newAuthority(t)
	media, body := "text/plain", ""
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, localLeaf()))}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", media)
		io.WriteString(w, body)
	}))
	c := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}})
	last := func() (err error) {
		for _, err = range c.Stream(t.Context(), "n", nil, rats.Digest{}) {
		}
		return err
	}
	if err := last(); CodeOf(err) != CodeAnswer.Code {
		t.Errorf("%v, expected %s", err, CodeAnswer.Code)
	}
	media, body = api.TypeEventStream, "event: challenge\ndata: [\n\n"
	if err := last(); CodeOf(err) != CodeAnswer.Code {
		t.Errorf("%v, expected %s", err, CodeAnswer.Code)
	}
	body = "data: " + strings.Repeat("x", maxEvent+10)
	if err := last(); CodeOf(err) != CodeAnswerSize.Code {
		t.Errorf("%v, expected %s", err, CodeAnswerSize.Code)
	}
}

// R015: other systems subscribe; a broken stream costs no event and doubles none.
func TestEventsGoOnWhereTheStreamBroke(t *testing.T) {
	ca := newAuthority(t)
	n := 0
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, localLeaf()))}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		if n == 3 {
			w.Header().Set("Content-Type", api.TypeProblem)
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"code":"x.y.z"}`)
			return
		}
		w.Header().Set("Content-Type", api.TypeEventStream)
		var after int64
		fmt.Sscan(r.Header.Get("Last-Event-ID"), &after)
		if after > 0 {
			fmt.Fprintf(w, "id: %d\ndata: {\"seq\":%d}\n\n", after, after) // a server that repeats itself
		}
		fmt.Fprintf(w, "id: %d\ndata: {\"seq\":%d,\"kind\":\"k\"}\n\n", after+1, after+1)
	}))
	c := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}})
	var seqs []int64
	var errs []error
	for e, err := range c.Events(t.Context(), 0) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		seqs = append(seqs, e.Seq)
	}
	if fmt.Sprint(seqs) != "[1 2]" || len(errs) != 3 || CodeOf(errs[0]) != CodeLost.Code || CodeOf(errs[2]) != "x.y.z" {
		t.Errorf("events %v, errors %v", seqs, errs)
	}
}

func TestSecretIsWipedOnceItWasSent(t *testing.T) {
	ca := newAuthority(t)
	var got string
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, localLeaf()))}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = string(b)
		io.WriteString(w, `{"name":"s"}`)
	}))
	c := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}})
	if _, err := c.PutSecret(t.Context(), "s", api.SecretPut{Value: []byte("hush")}); err != nil || !strings.Contains(got, `"aHVzaA=="`) {
		t.Fatalf("%q, %v", got, err)
	}
	w := &wiped{b: []byte("hush")}
	w.Close()
	if string(w.b) != "\x00\x00\x00\x00" {
		t.Error("not wiped")
	}
	if n, err := w.Read(make([]byte, 4)); n != 0 || err != io.EOF {
		t.Error("a wiped body was read")
	}
}

func TestRoutesAreTheOnesOfTheAPI(t *testing.T) {
	ca := newAuthority(t)
	var seen string
	s := serve(t, &tls.Config{Certificates: []tls.Certificate{tlsOf(issue(t, ca, localLeaf()))}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Method + " " + strings.TrimPrefix(r.URL.RequestURI(), "/v1/namespaces/default/")
		if r.Header.Get("Authorization") != "Bearer tk" {
			t.Error("no token")
		}
		io.WriteString(w, "{}")
	}))
	c := must(t, Options{Server: s.URL, CAs: [][]byte{ca.cert.Raw}, Token: "tk"})
	x := t.Context()
	for want, f := range map[string]func() error{
		"GET /healthz":                      func() error { return c.Health(x) },
		"GET /v1/version":                   func() error { _, err := c.Version(x); return err },
		"POST join-tokens":                  func() error { _, err := c.CreateToken(x, api.TokenRequest{}); return err },
		"GET join-tokens":                   func() error { _, err := c.ListTokens(x); return err },
		"DELETE join-tokens/jt":             func() error { return c.DeleteToken(x, "jt") },
		"GET nodes?after=a&limit=2":         func() error { _, err := c.ListNodes(x, "a", 2); return err },
		"GET nodes/a%2Fb":                   func() error { _, err := c.GetNode(x, "a/b"); return err },
		"POST nodes/n/approve":              func() error { _, err := c.ApproveNode(x, "n"); return err },
		"POST nodes/n/revoke":               func() error { _, err := c.RevokeNode(x, "n"); return err },
		"DELETE nodes/n":                    func() error { return c.DeleteNode(x, "n") },
		"POST nodes/n/attest":               func() error { _, err := c.Attest(x, "n", 0); return err },
		"GET nodes/n/status":                func() error { _, err := c.Status(x, "n"); return err },
		"GET nodes/n/results?limit=3":       func() error { _, err := c.Results(x, "n", 3); return err },
		"GET results/at":                    func() error { _, err := c.Result(x, "at"); return err },
		"GET results/at?claims=true":        func() error { _, err := c.ResultClaims(x, "at"); return err },
		"GET nodes/n/ear?aud=me":            func() error { _, err := c.EAR(x, "n", "me"); return err },
		"PUT policies/p":                    func() error { _, err := c.PutPolicy(x, "p", nil); return err },
		"POST policy-lint":                  func() error { _, err := c.LintPolicy(x, nil); return err },
		"GET policies":                      func() error { _, err := c.ListPolicies(x); return err },
		"GET policies/p":                    func() error { _, err := c.GetPolicy(x, "p"); return err },
		"GET policies/p/document?version=2": func() error { _, err := c.PolicyDocument(x, "p", 2); return err },
		"DELETE policies/p":                 func() error { return c.DeletePolicy(x, "p") },
		"PUT refsets/r":                     func() error { _, err := c.PutRefSet(x, "r", nil); return err },
		"GET refsets":                       func() error { _, err := c.ListRefSets(x); return err },
		"GET refsets/r":                     func() error { _, err := c.GetRefSet(x, "r"); return err },
		"GET refsets/r/document":            func() error { _, err := c.RefSetDocument(x, "r", 0); return err },
		"DELETE refsets/r":                  func() error { return c.DeleteRefSet(x, "r") },
		"PUT secrets/s":                     func() error { _, err := c.PutSecret(x, "s", api.SecretPut{}); return err },
		"GET secrets":                       func() error { _, err := c.ListSecrets(x); return err },
		"DELETE secrets/s":                  func() error { return c.DeleteSecret(x, "s") },
		"GET audit?after=4&limit=5":         func() error { _, err := c.Audit(x, 4, 5); return err },
		"POST join":                         func() error { _, err := c.JoinBegin(x, api.JoinRequest{}); return err },
		"POST join/finish":                  func() error { _, err := c.JoinFinish(x, api.JoinFinish{}); return err },
		"POST nodes/n/evidence":             func() error { _, err := c.Submit(x, "n", api.Submission{}); return err },
		"POST nodes/n/secrets/s":            func() error { _, err := c.ReleaseSecret(x, "n", "s"); return err },
		"POST nodes/n/certificate":          func() error { _, err := c.RenewCertificate(x, "n", api.CertificateRequest{}); return err },
	} {
		if err := f(); err != nil || seen != want {
			t.Errorf("%s: asked %q, %v", want, seen, err)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add("event: a\ndata: b\n\n")
	f.Add(":\n\r\ndata\ndata:x\r\n\r\nid: 7\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		m := newMessages(strings.NewReader(s))
		m.limit = 1 << 10
		for {
			msg, err := m.next()
			if err != nil {
				if err != io.EOF && !errors.Is(err, errEventSize) {
					t.Fatal(err)
				}
				return
			}
			if len(msg.data) > m.limit || len(msg.name) > m.limit {
				t.Fatal("bound passed")
			}
		}
	})
}
