package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// fakeUpstream is a server without a wire, for tests about time.
type fakeUpstream struct {
	opens   []time.Time
	stream  func(n int, yield func(client.StreamEvent, error) bool)
	submit  func(ctx context.Context, s api.Submission) (api.Answer, error)
	release func() (api.Release, error)
	renewed func() (api.Certificate, error)
}

func (f *fakeUpstream) Stream(ctx context.Context, _ string, _ []byte, _ rats.Digest) iter.Seq2[client.StreamEvent, error] {
	return func(yield func(client.StreamEvent, error) bool) {
		f.opens = append(f.opens, time.Now())
		f.stream(len(f.opens), yield)
	}
}

func (f *fakeUpstream) Submit(ctx context.Context, _ string, s api.Submission) (api.Answer, error) {
	return f.submit(ctx, s)
}

func (f *fakeUpstream) ReleaseSecret(context.Context, string, string) (api.Release, error) {
	return f.release()
}

func (f *fakeUpstream) RenewCertificate(context.Context, string, api.CertificateRequest) (api.Certificate, error) {
	return f.renewed()
}
func (f *fakeUpstream) Close() {}

type fakeEnclave struct{}

func (fakeEnclave) Keys(context.Context) ([]rats.BoundKey, error) {
	return []rats.BoundKey{{Use: rats.KeyHPKE, Public: []byte("h")}, {Use: rats.KeySign, Public: []byte("s")}}, nil
}
func (fakeEnclave) OpenRelease(context.Context, api.Release) ([]byte, error) {
	return []byte("hush"), nil
}
func (fakeEnclave) Run(context.Context, []byte, []byte) ([]byte, error) {
	return nil, errors.New("no plans")
}
func (fakeEnclave) Close() error { return nil }

var testVerifier = rats.SHA256([]byte("verifier"))

// offline is an agent over a fake upstream.
func offline(t *testing.T, up *fakeUpstream, attesters ...rats.Attester) (*agent, *syncBuffer) {
	t.Helper()
	key := newKey(t)
	logged := &syncBuffer{}
	a, err := newAgent(RunOptions{
		Dir: t.TempDir(), Rand: rand.Reader, Now: time.Now, Log: slog.New(slog.NewTextHandler(logged, nil)),
	}, State{Server: "https://server:1", Namespace: testNS, Node: testNode, Verifier: testVerifier, CAs: [][]byte{caOf(t)}}, &platform{
		key: key, enclave: fakeEnclave{}, attesters: attesters,
		boot: func(context.Context) (rats.Digest, error) { return rats.Digest{}, errors.New("no clock") },
	})
	if err != nil {
		t.Fatal(err)
	}
	a.up = up
	return a, logged
}

func caOf(t *testing.T) []byte {
	t.Helper()
	return newFakeServer(t).ca.Raw
}

func goodChallenge() api.Challenge {
	return api.Challenge{
		Token: []byte("t"), Nonce: make([]byte, 32), Purpose: rats.PurposeAttest, Verifier: testVerifier, TTL: "30s",
		Formats: []rats.Format{fakeFormat}, Asks: []rats.Ask{{Format: fakeFormat}},
	}
}

func TestPausesBetweenStreamsGrowAndAreReset(t *testing.T) {
	up := &fakeUpstream{}
	a, _ := offline(t, up)
	a.backoff.rand = bytes.NewReader(nil) // no jitter: every pause is its bound
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		up.stream = func(n int, yield func(client.StreamEvent, error) bool) {
			switch n {
			case 9: // holds for a while: the server restarted
				yield(client.StreamEvent{Opened: true}, nil)
				time.Sleep(steady)
			case 11: // says how long to stay away
				yield(client.StreamEvent{Bye: &api.Problem{Code: "x.y.z", RetryIn: "90s"}}, nil)
				return
			case 12:
				cancel()
			}
			yield(client.StreamEvent{}, io.EOF)
		}
		if err := a.hold(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		var pauses []string
		for i := 1; i < len(up.opens); i++ {
			pauses = append(pauses, up.opens[i].Sub(up.opens[i-1]).String())
		}
		want := "[1s 2s 4s 8s 16s 32s 1m0s 1m0s 11s 2s 1m30s]" // the ninth: 10 s held, then the first pause again
		if fmt.Sprint(pauses) != want {
			t.Errorf("pauses %v, expected %s", pauses, want)
		}
	})
}

func TestJitterStaysWithinTheBound(t *testing.T) {
	b := backoff{rand: rand.Reader}
	seen := map[time.Duration]bool{}
	for range 200 {
		bound := max(b.bound, pauseFirst)
		d := b.next(true)
		if d < 0 || d > bound || bound > pauseMax {
			t.Fatalf("pause %s with bound %s", d, bound)
		}
		seen[d] = true
	}
	if len(seen) < 150 {
		t.Error("hardly any jitter")
	}
}

func TestProtocolRefusedOnTheStreamEndsTheAgent(t *testing.T) {
	up := &fakeUpstream{stream: func(_ int, yield func(client.StreamEvent, error) bool) {
		yield(client.StreamEvent{}, &client.Error{Problem: api.Problem{Status: http.StatusUpgradeRequired}})
	}}
	a, _ := offline(t, up)
	if err := a.hold(t.Context()); codeOf(err) != string(CodeProtocol.Code) || len(up.opens) != 1 {
		t.Errorf("%v after %d streams", err, len(up.opens))
	}
}

func TestNewChallengeReplacesTheOneThatWaits(t *testing.T) {
	quote := &fakeQuote{n: make(chan struct{})}
	up := &fakeUpstream{}
	a, logged := offline(t, up, quote)
	var got []string
	up.submit = func(_ context.Context, s api.Submission) (api.Answer, error) {
		got = append(got, string(s.Token))
		return api.Answer{Result: &api.Told{ID: string(s.Token), Verdict: "trusted", State: rats.StateTrusted}}, nil
	}
	synctest.Test(t, func(t *testing.T) {
		quote.n = make(chan struct{})
		a.queue = make(chan job, 1)
		a.changed = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go a.work(ctx)
		for _, token := range []string{"first", "second", "third"} {
			c := goodChallenge()
			c.Token = []byte(token)
			a.enqueue(c)
			synctest.Wait() // the first is being answered, the others wait
		}
		quote.n <- struct{}{}
		quote.n <- struct{}{}
		synctest.Wait()
		cancel()
		synctest.Wait()
	})
	if fmt.Sprint(got) != "[first third]" {
		t.Errorf("answered %v", got)
	}
	if !strings.Contains(logged.String(), "challenge replaced") {
		t.Error("the log doesn't say so")
	}
}

// S02: a challenge is usable for at most 60 s, whatever it says itself.
func TestChallengeIsGivenUpWhenItsTimeIsOver(t *testing.T) {
	for said, want := range map[string]time.Duration{"30s": 30 * time.Second, "1h": time.Minute, "": time.Minute, "-1s": time.Minute} {
		quote := &fakeQuote{}
		a, _ := offline(t, &fakeUpstream{}, quote)
		synctest.Test(t, func(t *testing.T) {
			quote.n = make(chan struct{})
			c := goodChallenge()
			c.TTL = said
			began := time.Now()
			err := a.attest(t.Context(), job{challenge: c, until: time.Now().Add(ttl(c))})
			if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != want {
				t.Errorf("TTL %q: given up after %s (%v), expected %s", said, took, err, want)
			}
		})
	}
}

func TestChallengesThatMayNotBeAnsweredAreRefused(t *testing.T) {
	up := &fakeUpstream{submit: func(context.Context, api.Submission) (api.Answer, error) {
		t.Error("it was answered")
		return api.Answer{}, nil
	}}
	a, _ := offline(t, up, &fakeQuote{})
	for name, tc := range map[string]struct {
		change func(*api.Challenge)
		want   rats.CodeInfo
	}{
		"other verifier":        {func(c *api.Challenge) { c.Verifier = rats.SHA256([]byte("other")) }, CodeVerifier},
		"no verifier":           {func(c *api.Challenge) { c.Verifier = rats.Digest{} }, CodeVerifier},
		"other purpose":         {func(c *api.Challenge) { c.Purpose = "sign" }, CodeChallenge},
		"short nonce":           {func(c *api.Challenge) { c.Nonce = c.Nonce[:31] }, CodeChallenge},
		"no token":              {func(c *api.Challenge) { c.Token = nil }, CodeChallenge},
		"huge token":            {func(c *api.Challenge) { c.Token = make([]byte, maxToken+1) }, CodeChallenge},
		"no formats":            {func(c *api.Challenge) { c.Formats = nil }, CodeChallenge},
		"format twice":          {func(c *api.Challenge) { c.Formats = []rats.Format{fakeFormat, fakeFormat} }, CodeChallenge},
		"too many formats":      {func(c *api.Challenge) { c.Formats = make([]rats.Format, maxFormats+1) }, CodeChallenge},
		"no asks":               {func(c *api.Challenge) { c.Asks = nil }, CodeChallenge},
		"ask beyond the list":   {func(c *api.Challenge) { c.Asks[0].Format = "other" }, CodeChallenge},
		"ask twice":             {func(c *api.Challenge) { c.Asks = append(c.Asks, c.Asks[0]) }, CodeChallenge},
		"huge params":           {func(c *api.Challenge) { c.Asks[0].Params = make([]byte, maxParams+1) }, CodeChallenge},
		"namespace of manifest": {func(c *api.Challenge) { c.Formats = append(c.Formats, "") }, CodeChallenge},
	} {
		c := goodChallenge()
		tc.change(&c)
		err := a.attest(t.Context(), job{challenge: c, until: time.Now().Add(time.Minute)})
		if codeOf(err) != string(tc.want.Code) {
			t.Errorf("%s: %v, expected %s", name, err, tc.want.Code)
		}
	}
}

func TestSecondStepOfSomethingElseIsRefused(t *testing.T) {
	first := goodChallenge()
	for name, change := range map[string]func(*api.Challenge){
		"other nonce":   func(c *api.Challenge) { c.Nonce = bytes.Repeat([]byte{1}, 32) },
		"other formats": func(c *api.Challenge) { c.Formats = append(c.Formats, "other") },
		"no token":      func(c *api.Challenge) { c.Token = nil },
		"no asks":       func(c *api.Challenge) { c.Asks = nil },
		"a third step":  nil,
		"nothing":       nil,
	} {
		next := goodChallenge()
		if change != nil {
			change(&next)
		}
		up := &fakeUpstream{submit: func(context.Context, api.Submission) (api.Answer, error) {
			if name == "nothing" {
				return api.Answer{}, nil
			}
			return api.Answer{Next: &next}, nil
		}}
		a, _ := offline(t, up, &fakeQuote{})
		err := a.attest(t.Context(), job{challenge: first, until: time.Now().Add(time.Minute)})
		if codeOf(err) != string(CodeChallenge.Code) {
			t.Errorf("%s: %v, expected %s", name, err, CodeChallenge.Code)
		}
	}
}

func TestEvidenceThatCannotBeMadeIsNotMadeUp(t *testing.T) {
	submitted := 0
	up := &fakeUpstream{submit: func(_ context.Context, s api.Submission) (api.Answer, error) {
		submitted++
		return api.Answer{Result: &api.Told{}}, nil
	}}
	c := goodChallenge()
	c.Formats = append(c.Formats, "newer")
	c.Asks = append(c.Asks, rats.Ask{Format: "newer"})
	j := job{challenge: c, until: time.Now().Add(time.Minute)}

	a, logged := offline(t, up, &fakeQuote{})
	if err := a.attest(t.Context(), j); err != nil || submitted != 1 || !strings.Contains(logged.String(), string(CodeNoAttester.Code)) {
		t.Errorf("unknown format: %v, %d submissions, log %s", err, submitted, logged)
	}
	a, _ = offline(t, up, &fakeQuote{err: errors.New("device lost")})
	if err := a.attest(t.Context(), j); err == nil || submitted != 1 {
		t.Errorf("malfunction: %v, %d submissions", err, submitted)
	}
	a, _ = offline(t, up)
	if err := a.attest(t.Context(), j); err == nil || submitted != 1 {
		t.Errorf("nothing collected: %v, %d submissions", err, submitted)
	}
}

// S47: agents keep the newest checkpoint and see a log that went back or forked.
func TestCheckpointThatGoesBackIsSeen(t *testing.T) {
	a, logged := offline(t, &fakeUpstream{})
	tell := func(seq int64, head string) {
		a.remember(api.Told{ID: "at", Checkpoint: &api.Checkpoint{Seq: seq, Hash: rats.SHA256([]byte(head))}}, true)
	}
	tell(4, "a")
	tell(7, "b")
	tell(7, "b")
	if strings.Contains(logged.String(), string(CodeCheckpoint.Code)) {
		t.Fatalf("log: %s", logged)
	}
	if got := a.loadCheckpoint(); got.Seq != 7 {
		t.Errorf("kept %+v", got)
	}
	tell(7, "forked")
	tell(6, "c")
	if n := strings.Count(logged.String(), string(CodeCheckpoint.Code)); n != 2 {
		t.Errorf("%d complaints: %s", n, logged)
	}
	if got := a.loadCheckpoint(); got.Seq != 7 || !got.Hash.Equal(rats.SHA256([]byte("b"))) {
		t.Errorf("kept %+v", got)
	}
}

func TestVerdictIsLoggedWhenItChanges(t *testing.T) {
	a, logged := offline(t, &fakeUpstream{})
	told := func(s rats.State, codes ...rats.Code) {
		a.remember(api.Told{ID: "at", Verdict: rats.VerdictOfState(s).Word, State: s, Codes: codes, At: time.Now()}, true)
	}
	told(rats.StateTrusted)
	told(rats.StateTrusted)
	told(rats.StateContraindicated, "tpm.pcr.mismatch")
	if got := logged.String(); strings.Count(got, "msg=verdict") != 2 || !strings.Contains(got, "tpm.pcr.mismatch") {
		t.Errorf("log: %s", got)
	}
	// A result pushed late doesn't replace the newer answer.
	a.remember(api.Told{ID: "old", At: time.Now().Add(-time.Hour)}, false)
	if a.told.ID != "at" {
		t.Error("overtaken")
	}
}

func TestReleaseGivesUpWithoutAFreshResult(t *testing.T) {
	up := &fakeUpstream{release: func() (api.Release, error) {
		return api.Release{}, &client.Error{Problem: api.Problem{Status: 409, Code: codeStale}}
	}}
	a, _ := offline(t, up)
	synctest.Test(t, func(t *testing.T) {
		a.changed = make(chan struct{})
		for i, began := range []time.Time{time.Now(), time.Now().Add(releaseTimeout)} {
			_, err := a.release(t.Context(), "s")
			if codeOf(err) != string(CodeNoFreshResult.Code) || time.Since(began) != releaseTimeout {
				t.Errorf("try %d: %v after %s", i, err, time.Since(began))
			}
			a.remember(api.Told{}, true) // from here on there is a result, but the server wants a fresher one
		}
	})
}

func TestRenewedCertificateOfSomebodyElseIsRefused(t *testing.T) {
	s := newFakeServer(t)
	up := &fakeUpstream{renewed: func() (api.Certificate, error) {
		return api.Certificate{Certificate: s.nodeCert(&newKey(t).PublicKey, time.Now(), time.Hour)}, nil
	}}
	a, _ := offline(t, up)
	if err := a.renewNow(t.Context()); codeOf(err) != string(CodeRenewal.Code) {
		t.Errorf("%v, expected %s", err, CodeRenewal.Code)
	}
}
