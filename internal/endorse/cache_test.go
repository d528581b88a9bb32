package endorse_test

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-attest/assay/evidence/sgx"
	"github.com/assay-attest/assay/evidence/snp"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/rats"
)

// TestEvidenceIsJudgedWithWhatTheServicesHave fetches over loopback what fresh evidence of each kind names, and verifies.
//
// R115: collateral is fetched and cached.
func TestEvidenceIsJudgedWithWhatTheServicesHave(t *testing.T) {
	now := func() time.Time { return start }
	w := fakevendor.NewWorld(rand.Reader, now)
	pcs, kds := httptest.NewServer(w.Intel.PCS()), httptest.NewServer(w.AMD.KDS())
	defer pcs.Close()
	defer kds.Close()
	services := map[string]string{endorse.Intel: pcs.URL, endorse.AMD: kds.URL}
	c := open(t, endorse.Config{
		Now: now, Rand: rand.Reader, Transport: &http.Transport{}, Services: services, Hosts: endorse.HostsOf(services),
		Roots: endorse.Roots{
			endorse.Intel: {w.Intel.Root.Cert},
			endorse.AMD:   {w.AMD.Line(fakevendor.Milan).ARK.Cert, w.AMD.Line(fakevendor.Genoa).ARK.Cert, w.AMD.Line(fakevendor.Turin).ARK.Cert},
		},
	})
	samples, err := w.Samples(rats.Binding{Profile: rats.ProfileRaw, UserData: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	verifiers := map[rats.Format]rats.Verifier{sgx.Format: sgx.New(), tdx.Format: tdx.New(), snp.Format: snp.New()}
	judged := 0
	for _, s := range samples {
		v := verifiers[s.Evidence.Format]
		if v == nil || strings.Contains(s.Name, "leased") && s.Evidence.Format == snp.Format {
			continue // nobody publishes leased keys
		}
		s.Inputs.Endorsements = c.Endorsements(t.Context(), []rats.Evidence{s.Evidence})
		got, err := v.Verify(t.Context(), s.Evidence, s.Inputs)
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		judged++
		if claims, ok := got.Claims.(interface {
			TCBStatus() (string, []string, time.Time)
		}); ok && s.Evidence.Format != snp.Format {
			if status, _, _ := claims.TCBStatus(); status != "UpToDate" {
				t.Errorf("%s: status %s", s.Name, status)
			}
		}
		if snpClaims, ok := got.Claims.(*snp.Claims); ok && snpClaims.CRL.Status != snp.CRLCurrent {
			t.Errorf("%s: revocation list %s", s.Name, snpClaims.CRL.Status)
		}
	}
	if judged != 15 {
		t.Errorf("%d samples judged, expected 15", judged)
	}
}

func TestLeasedKeysWantTheirChainAndList(t *testing.T) {
	a := fakevendor.NewAMD(rand.Reader, func() time.Time { return start })
	got := endorse.WantedBy(a.Chip(fakevendor.Turin).Report(5, nil, func(r *fakevendor.Report) { r.Leased = true; r.Raw = nil }))
	if want := []endorse.Key{"amd:/vlek/v1/Turin/cert_chain", "amd:/vlek/v1/Turin/crl"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := endorse.Wanted(rats.Evidence{Body: []byte("nothing")}, rats.Evidence{}); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestNothingIsFetchedThatIsNotConfigured(t *testing.T) {
	r := newRig(t, func(c *endorse.Config) { c.Services = nil })
	_, err := r.Get(t.Context(), identity)
	wantCode(t, "no service", err, endorse.CodeService)
	r = newRig(t, func(c *endorse.Config) { c.Transport = nil })
	_, err = r.Get(t.Context(), identity)
	wantCode(t, "no transport", err, endorse.CodeService)
	if got := r.Endorsements(t.Context(), []rats.Evidence{{Body: r.platform.SGX(3, nil)}}); len(got) != 0 {
		t.Errorf("%d endorsements from nowhere", len(got))
	}
	for name, change := range map[string]func(*endorse.Config){
		"no host allowed":   func(c *endorse.Config) { c.Hosts = nil },
		"another host":      func(c *endorse.Config) { c.Hosts = []string{"example"} },
		"plain http":        func(c *endorse.Config) { c.Services = map[string]string{endorse.Intel: "http://pcs.example"} },
		"credentials":       func(c *endorse.Config) { c.Services = map[string]string{endorse.Intel: "https://u:p@pcs.example"} },
		"no address":        func(c *endorse.Config) { c.Services = map[string]string{endorse.Intel: "pcs.example"} },
		"an unknown vendor": func(c *endorse.Config) { c.Services = map[string]string{"other": service} },
		"official without CRLs": func(c *endorse.Config) {
			c.Services = endorse.Official
			c.Hosts = []string{"api.trustedservices.intel.com", "kdsintf.amd.com"}
		},
	} {
		cfg := newRig(t).config()
		change(&cfg)
		_, err := endorse.Open(cfg)
		wantCode(t, name, err, endorse.CodeServiceURL)
	}
	_, err = endorse.Open(endorse.Config{})
	wantCode(t, "no clock", err, endorse.CodeConfig)
	for _, k := range []endorse.Key{"", "intel:/", "intel:/sgx/certification/v4/tcb?fmspc=00", "amd:/vcek/v1/Rome/crl", "https://pcs.example/sgx/certification/v4/qe/identity", identity + "/../x"} {
		_, err := r.Get(t.Context(), k)
		wantCode(t, string(k), err, endorse.CodeKey)
		_, err = r.Refresh(t.Context(), k)
		wantCode(t, string(k), err, endorse.CodeKey)
	}
}

func TestOfficialServicesHaveTheRootsListElsewhere(t *testing.T) {
	r := newRig(t, func(c *endorse.Config) { c.Services, c.Hosts = endorse.Official, endorse.HostsOf(endorse.Official) })
	r.fetchAll(t)
	if r.wire.count["https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"] != 1 || r.wire.total() != 6 {
		t.Errorf("requests %v", r.wire.count)
	}
}

func TestManyWhoAskAtTheSameTimeCauseOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		intel := fakevendor.NewIntel(rand.Reader, time.Now)
		w := &wire{handler: intel.PCS()}
		w.answers(func(*http.Request) (*http.Response, error) { time.Sleep(3 * time.Second); return nil, nil })
		c, err := endorse.Open(endorse.Config{
			Now: time.Now, Rand: rand.Reader, Transport: w, Services: map[string]string{endorse.Intel: service}, Hosts: []string{"pcs.example"},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if d, err := c.Get(t.Context(), identity); err != nil || len(d.Body) == 0 {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		if w.total() != 1 {
			t.Errorf("%d requests, expected 1", w.total())
		}
	})
}

func TestWhoeverGivesUpLeavesTheFetchToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		intel := fakevendor.NewIntel(rand.Reader, time.Now)
		w := &wire{handler: intel.PCS()}
		w.answers(func(*http.Request) (*http.Response, error) { time.Sleep(3 * time.Second); return nil, nil })
		c, err := endorse.Open(endorse.Config{
			Now: time.Now, Rand: rand.Reader, Transport: w, Services: map[string]string{endorse.Intel: service}, Hosts: []string{"pcs.example"},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := contextFor(time.Second)
		defer cancel()
		_, err = c.Get(ctx, identity)
		wantCode(t, "impatient", err, endorse.CodeUnavailable)
		if _, err := c.Get(t.Context(), identity); err != nil || w.total() != 1 {
			t.Errorf("%v, %d requests", err, w.total())
		}
		c.Close()
		_, err = c.Refresh(t.Context(), identity)
		wantCode(t, "closed", err, endorse.CodeUnavailable)
	})
}

func TestAServiceThatFailsIsAskedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{handler: http.NotFoundHandler()}
		w.answers(down)
		c, err := endorse.Open(endorse.Config{
			Now: time.Now, Rand: rand.Reader, Transport: w, Services: map[string]string{endorse.Intel: service}, Hosts: []string{"pcs.example"},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		began := time.Now()
		_, err = c.Get(t.Context(), identity)
		wantCode(t, "down", err, endorse.CodeUnavailable)
		if took := time.Since(began); w.total() != 3 || took < 750*time.Millisecond || took > 1500*time.Millisecond {
			t.Errorf("%d attempts in %s", w.total(), took)
		}
		for range 600 { // ten minutes of an appraiser that asks every second
			_, err = c.Get(t.Context(), identity)
			wantCode(t, "down", err, endorse.CodeUnavailable)
			time.Sleep(time.Second)
		}
		if n := w.total(); n < 6 || n > 24 {
			t.Errorf("%d requests in ten minutes", n)
		}
		before := w.total()
		if _, err := c.Refresh(t.Context(), identity); err == nil || w.total() != before+3 {
			t.Errorf("a person who insists was not heard: %v", err)
		}
	})
}

func TestAServiceCanAskForPatience(t *testing.T) {
	r := newRig(t)
	r.wire.answers(status(http.StatusTooManyRequests, "Retry-After", "600"))
	for range 3 {
		_, err := r.Get(t.Context(), identity)
		wantCode(t, "busy", err, endorse.CodeUnavailable)
		r.clock.add(3 * time.Minute)
	}
	if r.wire.total() != 1 {
		t.Errorf("%d requests", r.wire.total())
	}
	r.clock.add(2 * time.Minute)
	r.wire.answers(status(http.StatusServiceUnavailable, "Retry-After", r.clock.now().Add(time.Hour).Format(http.TimeFormat)))
	_, err := r.Get(t.Context(), identity)
	wantCode(t, "busy", err, endorse.CodeUnavailable)
	r.wire.answers(nil)
	r.clock.add(16 * time.Minute) // nobody is believed who asks for more than a quarter of an hour
	if _, err := r.Get(t.Context(), identity); err != nil {
		t.Error(err)
	}
}

func TestWhatDoesNotExistIsNotAskedForAgainForAnHour(t *testing.T) {
	r := newRig(t)
	k := endorse.PlatformKeys([6]byte{1}, "")[0]
	for range 10 {
		_, err := r.Get(t.Context(), k)
		wantCode(t, "unknown platform", err, endorse.CodeNotFound)
		r.clock.add(5 * time.Minute)
	}
	if r.wire.total() != 1 {
		t.Errorf("%d requests", r.wire.total())
	}
	r.clock.add(time.Hour)
	if _, err := r.Get(t.Context(), k); err == nil || r.wire.total() != 2 {
		t.Errorf("%v, %d requests", err, r.wire.total())
	}
}

func TestAFloodOfUnknownPlatformsIsBounded(t *testing.T) {
	r := newRig(t, func(c *endorse.Config) { c.PerMinute = 5 })
	var err error
	for i := range 20 {
		_, err = r.Get(t.Context(), endorse.PlatformKeys([6]byte{byte(i), 1}, "")[0])
	}
	wantCode(t, "flood", err, endorse.CodeTooMany)
	if r.wire.total() != 5 {
		t.Errorf("%d requests", r.wire.total())
	}
	r.clock.add(time.Minute)
	if _, err := r.Get(t.Context(), identity); err != nil {
		t.Errorf("after a minute: %v", err)
	}
}

func TestAValidDocumentOutlivesItsService(t *testing.T) {
	r := newRig(t)
	r.fetchAll(t)
	n := r.wire.total()
	if _, err := r.Get(t.Context(), identity); err != nil || r.wire.total() != n {
		t.Errorf("a young document was fetched again: %v", err)
	}
	first, _ := r.Find(identity)
	r.clock.add(25 * time.Hour)
	d, err := r.Get(t.Context(), identity)
	if err != nil || !d.Fetched.After(first.Fetched) {
		t.Errorf("a document that was due was not fetched: %v", err)
	}
	r.wire.answers(down)
	r.clock.add(20 * 24 * time.Hour)
	if again, err := r.Get(t.Context(), identity); err != nil || !again.Fetched.Equal(d.Fetched) {
		t.Errorf("stale but valid: %v", err)
	}
	if got := r.Endorsements(t.Context(), []rats.Evidence{{Body: r.platform.SGX(3, nil)}}); len(got) != 7 {
		t.Errorf("%d endorsements", len(got))
	}
	r.clock.add(20 * 24 * time.Hour)
	again, err := r.Get(t.Context(), identity)
	wantCode(t, "expired", err, endorse.CodeExpired)
	if again.Key != identity {
		t.Error("the expired document was not handed out")
	}
	if got := r.Endorsements(t.Context(), []rats.Evidence{{Body: r.platform.SGX(3, nil)}}); len(got) != 7 {
		t.Errorf("verifiers can't tell expired from missing: %d endorsements", len(got))
	}
}

func TestDueDocumentsAreFetchedBehindTheCaller(t *testing.T) {
	r := newRig(t)
	quote := []rats.Evidence{{Body: r.platform.TDX(4, false, nil)}}
	if got := r.Endorsements(t.Context(), quote); len(got) != 7 {
		t.Fatalf("%d endorsements", len(got))
	}
	r.clock.add(25 * time.Hour)
	got := r.Endorsements(t.Context(), quote)
	if len(got) != 7 || !got[0].Fetched.Equal(start) {
		t.Errorf("the caller waited: %s", got[0].Fetched)
	}
	r.Close()
	for _, d := range r.Documents() {
		if d.Fetched.Equal(start) {
			t.Errorf("%s was not fetched again", d.Key)
		}
	}
}

func TestADocumentKeptTooLongIsNotUsed(t *testing.T) {
	r := newRig(t, func(c *endorse.Config) { c.KeepFor = 48 * time.Hour })
	r.fetchAll(t)
	r.wire.answers(down)
	r.clock.add(47 * time.Hour)
	if _, err := r.Get(t.Context(), identity); err != nil {
		t.Error(err)
	}
	r.clock.add(2 * time.Hour)
	_, err := r.Get(t.Context(), identity)
	wantCode(t, "kept too long", err, endorse.CodeExpired)
	if a := r.Age()[0]; a.State != endorse.StateExpired || !a.Expires.Equal(start.Add(48*time.Hour)) {
		t.Errorf("%+v", a)
	}
}

func TestAgeSaysWhatExpiresWhen(t *testing.T) {
	r := newRig(t)
	r.fetchAll(t)
	list := r.Age()
	if len(list) != 6 || !slices.IsSortedFunc(list, func(a, b endorse.Age) int { return a.Expires.Compare(b.Expires) }) {
		t.Fatalf("%+v", list)
	}
	for _, a := range list {
		if a.State != endorse.StateFresh || !a.Expires.Equal(start.AddDate(0, 0, 30)) || a.Digest.Check() != nil {
			t.Errorf("%+v", a)
		}
	}
	r.clock.add(25 * time.Hour)
	if a := r.Age()[0]; a.State != endorse.StateDue {
		t.Errorf("%+v", a)
	}
	r.clock.add(31 * 24 * time.Hour)
	if a := r.Age()[0]; a.State != endorse.StateExpired {
		t.Errorf("%+v", a)
	}
}

func TestAnOlderDocumentDoesNotReplaceANewerOne(t *testing.T) {
	r := newRig(t)
	old := &wire{handler: r.intel.PCS()}
	var body []byte
	{
		resp, err := old.RoundTrip(httptest.NewRequest(http.MethodGet, service+"/sgx/certification/v4/qe/identity", nil))
		if err != nil {
			t.Fatal(err)
		}
		body = make([]byte, 1<<16)
		n, _ := resp.Body.Read(body)
		body = body[:n]
	}
	r.clock.add(time.Hour)
	if _, err := r.Get(t.Context(), identity); err != nil {
		t.Fatal(err)
	}
	r.wire.answers(func(*http.Request) (*http.Response, error) {
		rec := httptest.NewRecorder()
		rec.Header().Set("SGX-Enclave-Identity-Issuer-Chain", escape(r.intel.TCBChain()))
		_, _ = rec.Write(body)
		return rec.Result(), nil
	})
	_, err := r.Refresh(t.Context(), identity)
	wantCode(t, "older", err, endorse.CodeOlder)
	if d, _ := r.Find(identity); !d.From.Equal(start.Add(time.Hour)) {
		t.Errorf("issued %s", d.From)
	}
}

func TestDocumentsSurviveOnTheDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	r := newRig(t, func(c *endorse.Config) { c.Dir = dir })
	r.fetchAll(t)
	files, _ := filepath.Glob(filepath.Join(dir, "*.collateral.json"))
	if len(files) != 6 {
		t.Fatalf("%d files", len(files))
	}
	if all, _ := os.ReadDir(dir); len(all) != 6 {
		t.Errorf("%d files: temporary ones stayed", len(all))
	}
	cfg := r.config()
	cfg.Dir, cfg.Transport = dir, nil
	again := open(t, cfg)
	if got := again.Endorsements(t.Context(), []rats.Evidence{{Body: r.platform.SGX(3, nil)}}); len(got) != 7 || len(again.Skipped()) != 0 {
		t.Errorf("%d endorsements, %v", len(got), again.Skipped())
	}
	b, _ := os.ReadFile(files[0])
	for i, content := range [][]byte{[]byte("{"), b[:len(b)/2], nil, []byte(strings.Replace(string(b), `"fetched"`, `"x":1,"fetched"`, 1))} {
		if err := os.WriteFile(filepath.Join(dir, strings.Repeat(string(rune('a'+i)), 32)+".collateral.json"), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if again = open(t, cfg); len(again.Documents()) != 6 || len(again.Skipped()) != 4 {
		t.Errorf("%d documents, passed over: %v", len(again.Documents()), again.Skipped())
	}
	other := fakevendor.NewIntel(rand.Reader, r.clock.now)
	cfg.Roots = endorse.Roots{endorse.Intel: {other.Root.Cert}}
	if again = open(t, cfg); len(again.Documents()) != 0 {
		t.Errorf("%d documents of another root were read", len(again.Documents()))
	}
	cfg.Dir = files[0]
	_, err := endorse.Open(cfg)
	wantCode(t, "a file for a directory", err, endorse.CodeConfig)
}

func TestACacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, func(c *endorse.Config) { c.Dir, c.MaxCount = dir, 3 })
	r.fetchAll(t)
	if files, _ := os.ReadDir(dir); len(r.Documents()) != 3 || len(files) != 3 {
		t.Errorf("%d documents, %d files", len(r.Documents()), len(files))
	}
	r = newRig(t, func(c *endorse.Config) { c.MaxBytes = 9000 })
	r.fetchAll(t)
	size := 0
	for _, d := range r.Documents() {
		size += len(d.Body) + len(d.Chain)
	}
	if size > 9000 || size == 0 {
		t.Errorf("%d bytes", size)
	}
}
