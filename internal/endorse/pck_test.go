package endorse_test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-attest/assay/evidence/sgx"
	"github.com/assay-attest/assay/evidence/tdx"
	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/rats"
)

// status of evidence judged with endorsements.
func tcbStatus(t *testing.T, r *rig, e rats.Evidence, es []rats.Endorsement) (string, error) {
	t.Helper()
	v := map[rats.Format]rats.Verifier{sgx.Format: sgx.New(), tdx.Format: tdx.New()}[e.Format]
	got, err := v.Verify(t.Context(), e, rats.Inputs{
		Binding: rats.Binding{Profile: rats.ProfileNone}, Now: r.clock.now(), Anchors: r.intel.Anchors(), Endorsements: es,
	})
	if err != nil {
		return "", err
	}
	status, _, _ := got.Claims.(interface {
		TCBStatus() (string, []string, time.Time)
	}).TCBStatus()
	return status, nil
}

// R103, R115: a quote that only names its platform's key is judged with the certificate that the services have for it.
func TestCertificatesOfNamedKeysAreFetched(t *testing.T) {
	for _, kind := range []uint16{1, 2, 3} {
		r := newRig(t)
		for _, e := range []rats.Evidence{
			evidence(sgx.Format, sgx.MediaType, r.platform.SGX(3, nil, r.platform.WithKeyID(kind))),
			evidence(tdx.Format, tdx.MediaType, r.platform.TDX(5, true, nil, r.platform.WithKeyID(kind))),
		} {
			es := r.Endorsements(t.Context(), []rats.Evidence{e})
			if status, err := tcbStatus(t, r, e, es); err != nil || status != "UpToDate" {
				t.Errorf("type %d, %s: %q, %v", kind, e.Format, status, err)
			}
		}
		n := r.wire.total()
		if es := r.Endorsements(t.Context(), []rats.Evidence{evidence(sgx.Format, sgx.MediaType, r.platform.SGX(4, nil, r.platform.WithKeyID(kind)))}); len(es) != 9 || r.wire.total() != n {
			t.Errorf("type %d: %d endorsements, %d requests more", kind, len(es), r.wire.total()-n)
		}
		for _, d := range r.Documents() {
			if strings.Contains(string(d.Key), "pckcert") && (!d.Until.Equal(r.platform.PCK.Cert.NotAfter) || len(d.Chain) == 0) {
				t.Errorf("%+v", d)
			}
		}
	}
}

// Intel's own service knows platforms by the PPID encrypted with RSA-3072 only, and has no use for the id of a caching one.
func TestIntelsServiceIsAskedByEncryptedPPID(t *testing.T) {
	r := newRig(t, func(c *endorse.Config) { c.Services, c.Hosts = endorse.Official, endorse.HostsOf(endorse.Official) })
	wanted := func(kind uint16) endorse.Key {
		return endorse.WantedBy(r.platform.SGX(3, nil, r.platform.WithKeyID(kind)))[0]
	}
	if _, err := r.Get(t.Context(), wanted(3)); err != nil {
		t.Error(err)
	}
	for address := range r.wire.count {
		u, err := url.Parse(address)
		if err != nil || u.Query().Get("qeid") != "" || u.Query().Get("encrypted_ppid") != fmt.Sprintf("%x", r.platform.EncryptedPPID()) || len(u.Query().Get("cpusvn")) != 32 {
			t.Errorf("%s", address)
		}
	}
	for _, kind := range []uint16{1, 2} {
		_, err := r.Get(t.Context(), wanted(kind))
		wantCode(t, fmt.Sprint(kind), err, endorse.CodeService)
	}
}

// Certificates are asked for once however many wait, and a service that doesn't have one is left alone for an hour.
func TestRequestsForCertificatesOfKeysAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		intel := fakevendor.NewIntel(rand.Reader, time.Now)
		p := intel.Platform()
		w := &wire{handler: intel.PCS()}
		w.answers(func(*http.Request) (*http.Response, error) { time.Sleep(time.Second); return nil, nil })
		c, err := endorse.Open(endorse.Config{
			Now: time.Now, Rand: rand.Reader, Transport: w, Services: map[string]string{endorse.Intel: service}, Hosts: []string{"pcs.example"},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		quote := []rats.Evidence{{Body: p.SGX(3, nil, p.WithKeyID(3))}}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { c.Endorsements(t.Context(), quote) })
		}
		wg.Wait()
		if w.total() != 5 { // certificate, identity, root's list; then TCB info and the CA's list
			t.Errorf("%d requests: %v", w.total(), w.count)
		}
		w.answers(status(462))
		stranger := intel.Platform()
		for range 20 {
			_, err := c.Get(t.Context(), endorse.WantedBy(stranger.SGX(3, nil, stranger.WithKeyID(3)))[0])
			wantCode(t, "unknown to the cache", err, endorse.CodeNotFound)
			time.Sleep(2 * time.Minute)
		}
		if w.total() != 6 {
			t.Errorf("%d requests", w.total())
		}
	})
}

// A certificate for another TCB than the quote's key was derived for is refused where it comes in.
func TestTheCertificateOfAnotherTCBIsRefused(t *testing.T) {
	r := newRig(t)
	quote := r.platform.SGX(3, nil, func(q *fakevendor.Quote) {
		r.platform.WithKeyID(3)(q)
		q.CertData[384]++ // a raw TCB for which Intel has no certificate
	})
	_, err := r.Get(t.Context(), endorse.WantedBy(quote)[0])
	wantCode(t, "another TCB", err, endorse.CodeOther)
}

// The early channel is another set of documents: it is kept beside the standard one, and tells the later number.
func TestChannelsOfDocumentsAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	e := []rats.Evidence{{}}
	numbers := make(map[string]uint32)
	for _, channel := range []string{endorse.Standard, endorse.Early} {
		r := newRig(t, func(c *endorse.Config) { c.Update = channel })
		for name, body := range map[string][]byte{"chain": r.platform.SGX(3, nil), "named": r.platform.SGX(3, nil, r.platform.WithKeyID(3))} {
			e[0] = evidence(sgx.Format, sgx.MediaType, body)
			got, err := sgx.New().Verify(t.Context(), e[0], rats.Inputs{
				Binding: rats.Binding{Profile: rats.ProfileNone}, Now: start, Anchors: r.intel.Anchors(), Endorsements: r.Endorsements(t.Context(), e),
			})
			if err != nil {
				t.Fatal(err)
			}
			tcb := got.Claims.(*sgx.Claims).TCB
			if tcb.InfoNumber != tcb.IdentityNumber {
				t.Errorf("%s, %s: %+v", channel, name, tcb)
			}
			numbers[channel] = tcb.EvaluationNumber
		}
		for _, d := range r.Documents() {
			if hasChannel := strings.Contains(string(d.Key), "/tcb?") || strings.Contains(string(d.Key), "identity"); hasChannel && strings.Contains(string(d.Key), "update=early") != (channel == endorse.Early) {
				t.Errorf("%s in channel %s", d.Key, channel)
			}
		}
	}
	if numbers[endorse.Early] != numbers[endorse.Standard]+1 {
		t.Errorf("%v", numbers)
	}
	_, err := endorse.Open(endorse.Config{Now: (&clock{}).now, Rand: rand.Reader, Dir: dir, Update: "late"})
	wantCode(t, "channel", err, endorse.CodeConfig)
	keys := endorse.PlatformKeys([6]byte{}, "")
	if twice := endorse.Channel(endorse.Early, endorse.Channel(endorse.Early, keys)); !slices.Equal(twice, endorse.Channel(endorse.Early, keys)) || slices.Equal(twice, keys) {
		t.Errorf("%v", twice)
	}
}

// R115: every revocation list stands among the ages with its own end, and travels in a bundle with its bytes unchanged.
func TestRevocationListsHaveTheirAge(t *testing.T) {
	r := newRig(t)
	lists := append(endorse.PlatformKeys(r.platform.FMSPC, "")[4:], "intel:/sgx/certification/v4/qve/identity")
	for i, k := range lists {
		if _, err := r.Get(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		if i < len(lists)-1 {
			r.clock.add(24 * time.Hour)
		}
	}
	ages := r.Age()
	if len(ages) != 4 {
		t.Fatalf("%+v", ages)
	}
	for i, a := range ages {
		if issued := start.AddDate(0, 0, i); a.Key != lists[i] || !a.Issued.Equal(issued) || !a.Expires.Equal(issued.AddDate(0, 0, 30)) {
			t.Errorf("%s: issued %s, expires %s", a.Key, a.Issued, a.Expires)
		}
	}
	if ages[0].State != endorse.StateDue || ages[3].State != endorse.StateFresh {
		t.Errorf("%+v", ages)
	}
	key := fakevendor.KeyP256(rand.Reader)
	bundle, err := r.NewBundle()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := bundle.Seal(nil, key)
	if err != nil {
		t.Fatal(err)
	}
	read, err := endorse.OpenBundle(doc, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	cfg := r.config()
	cfg.Transport = nil
	offline := open(t, cfg)
	if _, _, err := offline.Import(read); err != nil {
		t.Fatal(err)
	}
	for _, k := range lists {
		here, _ := r.Find(k)
		there, ok := offline.Find(k)
		if !ok || string(here.Body) != string(there.Body) || string(here.Chain) != string(there.Chain) {
			t.Errorf("%s changed on its way", k)
		}
	}
	again, err := offline.NewBundle()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := again.Seal(nil, key); err != nil || string(back) != string(doc) {
		t.Errorf("a bundle of what was imported has other bytes: %v", err)
	}
}
