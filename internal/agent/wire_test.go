package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

func manifestOf(t *testing.T, s api.Submission) rats.Manifest {
	t.Helper()
	m, err := rats.DecodeManifest(s.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// shape says what a submission holds.
func shape(s api.Submission) string {
	var parts []string
	for _, e := range s.Evidence {
		parts = append(parts, string(e.Format))
	}
	for _, e := range s.Sealed {
		parts = append(parts, "sealed "+string(e.Format))
	}
	return strings.Join(parts, ", ")
}

// R021: cold, the plan comes only after the platform part was judged; both steps are of one manifest.
func TestColdAttestationTakesTwoStepsUnderOneManifest(t *testing.T) {
	r := newRig(t)
	formats := []rats.Format{fakeFormat, plan.Format}
	c := r.challenge(formats, rats.Ask{Format: fakeFormat, Params: []byte("{}")})
	r.answer = func(s api.Submission) (api.Answer, *api.Problem) {
		if len(s.Sealed) > 0 {
			return api.Answer{Result: &api.Told{ID: "at_1", Verdict: "trusted", State: rats.StateTrusted, At: time.Now()}}, nil
		}
		next := c
		next.Token = []byte("continuation")
		next.Asks = []rats.Ask{{Format: plan.Format, Params: r.order(manifestOf(t, s).Keys, c.Nonce, "/etc/hostname")}}
		return api.Answer{Next: &next}, nil
	}
	r.start()
	r.send <- c
	first, second := r.next(), r.next()
	if shape(first) != "quote" || shape(second) != "sealed plan" {
		t.Errorf("steps hold %q and %q", shape(first), shape(second))
	}
	if !bytes.Equal(first.Manifest, second.Manifest) || string(second.Token) != "continuation" || !bytes.Equal(first.Token, c.Token) {
		t.Error("the second step is not the first one's continuation")
	}
	m := manifestOf(t, first)
	tlsKey, _ := m.Key(rats.KeyTLS)
	if m.Node != testNode || m.Namespace != testNS || !m.Verifier.Equal(r.verifier) || !bytes.Equal(m.Nonce, c.Nonce) ||
		!bytes.Equal(tlsKey.Public, spkiOf(t, r.key.Public())) || len(m.Keys) != 4 {
		t.Errorf("manifest %+v", m)
	}
	if !bytes.Equal(first.Evidence[0].Body, rats.SHA256(first.Manifest).Sum) {
		t.Error("the evidence isn't bound to the manifest")
	}
	if out := r.outcomes(second.Sealed[0].Data); len(out) != 1 || out[0].Err != "" {
		t.Errorf("outcomes %+v", out)
	}
	r.eventually("msg=verdict verdict=trusted")
}

// R027: another plan each time, with no change to the agent; steady, everything goes in one round trip.
func TestSteadyAttestationTakesOneStep(t *testing.T) {
	r := newRig(t)
	r.start()
	for _, path := range []string{"/etc/hostname", "/etc/passwd"} {
		c := r.challenge([]rats.Format{fakeFormat, plan.Format})
		c.Asks = []rats.Ask{{Format: fakeFormat}, {Format: plan.Format, Params: r.order(r.enclave.Keys(), c.Nonce, path)}}
		r.send <- c
		s := r.next()
		if shape(s) != "quote, sealed plan" {
			t.Errorf("the step holds %q", shape(s))
		}
		if out := r.outcomes(s.Sealed[0].Data); len(out) != 1 || string(out[0].Name) != path {
			t.Errorf("outcomes %+v", out)
		}
	}
}

func TestOrderForAnEarlierEnclaveIsLeftOut(t *testing.T) {
	r := newRig(t)
	stop := r.start()
	old := r.enclave.Keys()
	stop()
	r.start()
	c := r.challenge([]rats.Format{fakeFormat, plan.Format})
	c.Asks = []rats.Ask{{Format: fakeFormat}, {Format: plan.Format, Params: r.order(old, c.Nonce, "/etc/hostname")}}
	r.send <- c
	if s := r.next(); shape(s) != "quote" {
		t.Errorf("the step holds %q", shape(s))
	}
}

// S05, R102: the agent's owner says what may be read, whatever the server signs.
func TestPlanBeyondTheAllowedRootsReadsNothing(t *testing.T) {
	r := newRig(t)
	secret := filepath.Join(t.TempDir(), "private")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	c := r.challenge([]rats.Format{plan.Format})
	c.Asks = []rats.Ask{{Format: plan.Format, Params: r.order(r.enclave.Keys(), c.Nonce, "/etc/hostname", secret)}}
	r.send <- c
	out := r.outcomes(r.next().Sealed[0].Data)
	if len(out) != 2 || out[0].Err != "" || out[1].Err != measure.CodePath.Code || len(out[1].Digest) != 0 {
		t.Errorf("outcomes %+v", out)
	}
}

// R023: the agent never sees a path of the plan; here: neither its log nor anything it sends holds one.
func TestPathsOfAPlanAreNowhereInTheLog(t *testing.T) {
	r := newRig(t)
	r.start()
	const marker = "xyzzy-marker"
	formats := []rats.Format{fakeFormat, plan.Format}
	good := r.challenge(formats)
	good.Asks = []rats.Ask{{Format: fakeFormat}, {Format: plan.Format, Params: r.order(r.enclave.Keys(), good.Nonce, "/etc/"+marker, "/root/"+marker)}}
	wrongNonce := r.challenge(formats)
	wrongNonce.Asks = []rats.Ask{{Format: fakeFormat}, {Format: plan.Format, Params: r.order(r.enclave.Keys(), make([]byte, 32), "/etc/"+marker)}}
	for _, c := range []api.Challenge{good, wrongNonce} {
		r.send <- c
		s := r.next()
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(marker)) {
			t.Error("a path left in the clear")
		}
	}
	r.eventually("evidence left out")
	if strings.Contains(r.log.String(), marker) {
		t.Errorf("the log holds a path:\n%s", r.log)
	}
}

// R020: attested again at any later time; a lost stream is opened again, and the identity stays.
func TestLostStreamIsOpenedAgain(t *testing.T) {
	r := newRig(t)
	r.start()
	for range 2 {
		r.send <- errBreak
		select {
		case <-r.opened:
		case <-time.After(20 * time.Second):
			t.Fatal("the stream was not opened again")
		}
		r.send <- r.challenge([]rats.Format{fakeFormat}, rats.Ask{Format: fakeFormat})
		r.next()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.instances[0] != r.instances[2] || len(r.instances[0]) != 64 {
		t.Errorf("instance nonces of one process: %v", r.instances)
	}
}

// R025, S07: a restarted agent is the same node with another instance nonce and other enclave keys.
func TestRestartKeepsTheIdentityAndNothingElse(t *testing.T) {
	r := newRig(t)
	var keys [2]rats.BoundKey
	for i := range keys {
		stop := r.start()
		keys[i] = r.enclave.Keys()[0]
		r.send <- r.challenge([]rats.Format{fakeFormat}, rats.Ask{Format: fakeFormat})
		if m := manifestOf(t, r.next()); m.Node != testNode {
			t.Errorf("node %q", m.Node)
		}
		stop()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers[0] != r.peers[1] {
		t.Error("another certificate after a restart")
	}
	if r.instances[0] == r.instances[1] || bytes.Equal(keys[0].Public, keys[1].Public) {
		t.Error("instance nonce or enclave key survived a restart")
	}
	for _, f := range []string{stateFile, lockFile} {
		if b, err := os.ReadFile(filepath.Join(r.dir, f)); err != nil || bytes.Contains(b, keys[1].Public) {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// R002: no listening port; the agent opens every connection.
func TestAgentListensOnNoNetworkPort(t *testing.T) {
	r := newRig(t)
	listening := func() string {
		inodes := map[string]bool{}
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if l, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(l, "socket:[") {
				inodes[strings.Trim(l, "socket:[]")] = true
			}
		}
		var found []string
		for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
			b, err := os.ReadFile("/proc/net/" + table)
			if err != nil {
				continue
			}
			for _, line := range strings.Split(string(b), "\n")[1:] {
				f := strings.Fields(line)
				// 0A is TCP_LISTEN; a UDP socket that is bound and not connected is 07.
				if len(f) > 9 && inodes[f[9]] && (f[3] == "0A" || f[3] == "07") {
					found = append(found, table+" "+f[1])
				}
			}
		}
		return fmt.Sprint(found)
	}
	_, port, _ := net.SplitHostPort(r.http.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	before := listening()
	if !strings.Contains(before, fmt.Sprintf(":%04X", n)) {
		t.Fatalf("this test can't see listening sockets: %s", before)
	}
	r.start()
	r.send <- r.challenge([]rats.Format{fakeFormat}, rats.Ask{Format: fakeFormat})
	r.next()
	if after := listening(); after != before {
		t.Errorf("listening before: %s, with the agent: %s", before, after)
	}
}

func TestOneAgentRunsPerIdentity(t *testing.T) {
	r := newRig(t)
	r.start()
	if err := Run(t.Context(), r.options()); codeOf(err) != string(CodeStateLocked.Code) {
		t.Errorf("%v, expected %s", err, CodeStateLocked.Code)
	}
}

func TestAnotherTPMIsRefused(t *testing.T) {
	r := newRig(t)
	r.save(r.nodeCert(&newKey(t).PublicKey, time.Now(), time.Hour))
	if err := Run(t.Context(), r.options()); codeOf(err) != string(CodeTPMChanged.Code) {
		t.Errorf("%v, expected %s", err, CodeTPMChanged.Code)
	}
}

func TestUnknownProtocolEndsTheAgent(t *testing.T) {
	r := newRig(t)
	r.answer = func(api.Submission) (api.Answer, *api.Problem) {
		return api.Answer{}, &api.Problem{Status: http.StatusUpgradeRequired, Code: "x.y.z", Expected: "2"}
	}
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), r.options()) }()
	<-r.opened
	r.send <- r.challenge([]rats.Format{fakeFormat}, rats.Ask{Format: fakeFormat})
	select {
	case err := <-done:
		if codeOf(err) != string(CodeProtocol.Code) {
			t.Errorf("%v, expected %s", err, CodeProtocol.Code)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the agent goes on")
	}
}

func TestCertificateIsRenewedAtTwoThirdsOfItsLife(t *testing.T) {
	r := newRig(t)
	r.save(r.nodeCert(&r.key.PublicKey, time.Now().Add(-21*time.Hour), 30*time.Hour))
	before, _ := LoadState(r.dir)
	r.start()
	r.eventually("certificate renewed")
	after, err := LoadState(r.dir)
	if err != nil || bytes.Equal(before.Certificate, after.Certificate) || !before.Verifier.Equal(after.Verifier) {
		t.Errorf("state after renewal: %v", err)
	}
	r.send <- errBreak
	<-r.opened
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers[0] == r.peers[1] {
		t.Error("the next stream was opened with the old certificate")
	}
}

// R120, S42: a secret waits for a fresh result and comes sealed to the enclave's key of that result.
func TestSecretIsReleasedAfterAFreshResult(t *testing.T) {
	r := newRig(t)
	n := 0
	r.secret = func(name string) (api.Release, *api.Problem) {
		if n++; n == 1 {
			r.send <- r.challenge([]rats.Format{fakeFormat}, rats.Ask{Format: fakeFormat})
			return api.Release{}, &api.Problem{Status: 409, Code: codeStale, Title: "too old"}
		}
		rel := api.Release{Name: name, Version: 2, Result: "at_1"}
		box, err := sealed.Seal(r.enclave.Keys()[0].Public, api.ReleaseInfo(testNS, testNode, name, 2, "at_1"), []byte("hush"))
		if err != nil {
			t.Error(err)
		}
		rel.Sealed = box
		return rel, nil
	}
	r.start()
	r.eventually("stream open")
	socket := r.config.SocketPath(r.dir)
	if st, err := LocalStatus(t.Context(), socket); err != nil || !st.Connected || st.Told != nil || st.Node != testNode {
		t.Fatalf("status %+v, %v", st, err)
	}
	// Nothing was attested in this run yet: no release can be sealed to its keys, so none is asked for.
	go func() {
		time.Sleep(50 * time.Millisecond)
		r.send <- r.challenge([]rats.Format{fakeFormat}, rats.Ask{Format: fakeFormat})
	}()
	got, err := SecretGet(t.Context(), socket, "db/password.v1")
	if err != nil || string(got) != "hush" {
		t.Fatalf("%q, %v", got, err)
	}
	if n != 2 {
		t.Errorf("asked %d times", n)
	}
	if strings.Contains(r.log.String(), "hush") {
		t.Error("the log holds the secret")
	}
	if st, err := LocalStatus(t.Context(), socket); err != nil || st.Told == nil || st.Told.ID != "at_1" {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestRefusalOfASecretKeepsItsCode(t *testing.T) {
	r := newRig(t)
	var rel api.Release
	p := &api.Problem{Status: 403, Code: "broker.rule.denied", Title: "rule says no", Hint: "ask"}
	r.secret = func(string) (api.Release, *api.Problem) { return rel, p }
	r.start()
	socket := r.config.SocketPath(r.dir)
	r.send <- r.challenge([]rats.Format{fakeFormat}, rats.Ask{Format: fakeFormat})
	get := func(name string) string {
		_, err := SecretGet(t.Context(), socket, name)
		return string(client.CodeOf(err))
	}
	if got := get("s"); got != "broker.rule.denied" {
		t.Errorf("code %q", got)
	}
	p, rel = nil, api.Release{Name: "other"}
	if got := get("s"); got != string(CodeRelease.Code) {
		t.Errorf("code %q, expected %s", got, CodeRelease.Code)
	}
	rel = api.Release{Name: "s", Sealed: []byte("not a box")}
	if got := get("s"); got != string(CodeRelease.Code) {
		t.Errorf("code %q, expected %s", got, CodeRelease.Code)
	}
	for _, name := range []string{"", "a/../b", "/a", "..%2f", "A", strings.Repeat("x", 300)} {
		if got := get(name); got != string(CodeSecretName.Code) {
			t.Errorf("%q: code %q, expected %s", name, got, CodeSecretName.Code)
		}
	}
	if _, err := SecretGet(t.Context(), filepath.Join(r.dir, "none.sock"), "s"); client.CodeOf(err) != CodeNotRunning.Code {
		t.Errorf("%v, expected %s", err, CodeNotRunning.Code)
	}
}

func TestLocalSocketIsItsOwnersAlone(t *testing.T) {
	r := newRig(t)
	stop := r.start()
	path := r.config.SocketPath(r.dir)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	stop()
	// What a killed agent leaves behind is no obstacle; what is no socket is not removed.
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	if ln, err = listenLocal(path); err != nil {
		t.Fatal(err)
	}
	if _, err := listenLocal(path); codeOf(err) != string(CodeStateLocked.Code) {
		t.Errorf("%v, expected %s", err, CodeStateLocked.Code)
	}
	ln.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenLocal(path); err == nil {
		t.Error("a file was replaced")
	}
}
