package agent

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	evtpm "github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/testkit/swtpm"
	"github.com/assay-attest/assay/rats"
)

// joinable makes the fake server judge the proofs of a join for real.
func joinable(t *testing.T, s *fakeServer, change func(*api.Joined)) {
	secret, nonce := []byte("0123456789abcdef0123456789abcdef"), bytes.Repeat([]byte{7}, 32)
	s.joinStep = func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/join") {
			var q api.JoinRequest
			json.NewDecoder(r.Body).Decode(&q)
			if q.Token != s.token {
				problem(w, api.Problem{Status: 403, Code: "identity.token.unknown", Title: "no such token"})
				return
			}
			cred, enc, err := evtpm.MakeCredential(rand.Reader, q.EK, q.AK, secret)
			if err != nil {
				t.Errorf("making a credential: %v", err)
			}
			reply(w, api.JoinChallenge{Continue: []byte("c"), Credential: cred, Secret: enc, Nonce: nonce}, nil)
			return
		}
		var f api.JoinFinish
		json.NewDecoder(r.Body).Decode(&f)
		spki, err := evtpm.VerifyCertify(f.Request.AK, f.Request.TLSTPM, nonce, f.CertifyInfo, f.CertifySig)
		if err != nil || !bytes.Equal(spki, f.Request.TLSKey) || !bytes.Equal(f.Activated, secret) || string(f.Continue) != "c" {
			t.Errorf("proofs: %v", err)
		}
		pub, err := x509.ParsePKIXPublicKey(f.Request.TLSKey)
		if err != nil {
			t.Error(err)
		}
		j := api.Joined{
			Node: testNode, Name: f.Request.Name, Namespace: testNS, Enrolment: "approved", CAs: [][]byte{s.ca.Raw},
			Certificate: s.nodeCert(pub, time.Now().Add(-time.Minute), time.Hour), Verifier: s.verifier,
			PlanSigner: spkiOf(t, s.planSigner.Public()),
		}
		if change != nil {
			change(&j)
		}
		reply(w, j, nil)
	}
}

func (s *fakeServer) joinOptions(dir, tpm string) JoinOptions {
	return JoinOptions{
		Server: s.http.URL, Token: s.token + "\n", Name: "n1", TPM: tpm, Dir: dir, Rand: rand.Reader, Now: time.Now,
	}
}

// Join and run on a real (software) TPM: the TLS key that opens the stream lives in it, and the node survives a restart of
// the agent.
func TestJoinedMachineOpensItsStreamWithTheTPMsKey(t *testing.T) {
	s := newFakeServer(t)
	joinable(t, s, nil)
	sw := swtpm.Start(t)
	dir := filepath.Join(shortDir(t), "state")
	j, err := Join(t.Context(), s.joinOptions(dir, sw.Path()))
	if err != nil {
		t.Fatal(err)
	}
	if j.Node != testNode || j.Name != "n1" || j.Enrolment != "approved" || j.Expires.Before(time.Now()) {
		t.Errorf("%+v", j)
	}
	if _, err := Join(t.Context(), s.joinOptions(dir, sw.Path())); codeOf(err) != string(CodeStateExists.Code) {
		t.Errorf("joined twice: %v, expected %s", err, CodeStateExists.Code)
	}

	r := &rig{fakeServer: s, dir: dir, log: &syncBuffer{}}
	if r.config, err = ParseConfig(nil); err != nil {
		t.Fatal(err)
	}
	s.answer = func(api.Submission) (api.Answer, *api.Problem) {
		return api.Answer{Result: &api.Told{ID: "at_1", Verdict: "trusted", State: rats.StateTrusted}}, nil
	}
	for range 2 {
		stop := r.startReal()
		params, _ := json.Marshal(evtpm.Params{Bank: "sha256", PCRs: []int{0, 7}})
		s.send <- s.challenge([]rats.Format{evtpm.Format}, rats.Ask{Format: evtpm.Format, Params: params})
		if got := r.next(); shape(got) != string(evtpm.Format) {
			t.Errorf("the step holds %q", shape(got))
		}
		stop()
	}
	r.mu.Lock()
	if r.peers[0] != r.peers[1] {
		t.Error("another certificate after a restart")
	}
	r.mu.Unlock()

	o := s.joinOptions(dir, sw.Path())
	o.Replace = true
	before, _ := LoadState(dir)
	if _, err := Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if after, _ := LoadState(dir); bytes.Equal(before.AKUnique, after.AKUnique) {
		t.Error("a new identity with the old keys")
	}
}

// startReal runs the agent over its real platform.
func (r *rig) startReal() (stop func()) {
	r.realPlatform = true
	return r.start()
}

func TestJoinThatFailsLeavesNothingBehind(t *testing.T) {
	s := newFakeServer(t)
	sw := swtpm.Start(t)
	for name, tc := range map[string]struct {
		opt    func(*JoinOptions)
		change func(*api.Joined)
		want   rats.Code
	}{
		"no token":            {opt: func(o *JoinOptions) { o.Token = "asj1.x" }, want: CodeToken.Code},
		"no TPM":              {opt: func(o *JoinOptions) { o.TPM = "unix:/nonexistent/tpm.sock" }, want: CodeTPM.Code},
		"foreign certificate": {change: func(j *api.Joined) { j.Certificate = s.nodeCert(&newKey(t).PublicKey, time.Now(), time.Hour) }, want: CodeJoined.Code},
		"other node":          {change: func(j *api.Joined) { j.Node = "nd_other" }, want: CodeJoined.Code},
		"no verifier":         {change: func(j *api.Joined) { j.Verifier = rats.Digest{} }, want: CodeJoined.Code},
		"no plan signer":      {change: func(j *api.Joined) { j.PlanSigner = nil }, want: CodeJoined.Code},
		"other token": {opt: func(o *JoinOptions) {
			o.Token = api.JoinTokenText{Namespace: testNS, ID: "jt_2", Secret: make([]byte, 32), CA: rats.SHA256(s.ca.Raw)}.String()
		}, want: "identity.token.unknown"},
		"other CA": {opt: func(o *JoinOptions) {
			o.Token = api.JoinTokenText{Namespace: testNS, ID: "jt_1", Secret: make([]byte, 32), CA: rats.SHA256([]byte("other"))}.String()
		}, want: "client.ca.other"},
	} {
		t.Run(name, func(t *testing.T) {
			joinable(t, s, tc.change)
			dir := filepath.Join(t.TempDir(), "state")
			o := s.joinOptions(dir, sw.Path())
			if tc.opt != nil {
				tc.opt(&o)
			}
			_, err := Join(t.Context(), o)
			if codeOf(err) != string(tc.want) {
				t.Errorf("%v, expected %s", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), strings.TrimSpace(o.Token)) {
				t.Error("the error holds the token")
			}
			if _, err := os.Stat(filepath.Join(dir, stateFile)); err == nil {
				t.Error("state was stored")
			}
		})
	}
}
