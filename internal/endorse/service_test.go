package endorse_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/endorse"
	"github.com/assay-attest/assay/internal/fakevendor"
	"github.com/assay-attest/assay/rats"
)

func escape(chain []byte) string {
	return strings.ReplaceAll(url.QueryEscape(string(chain)), "+", "%20")
}

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(background, d)
}

// TestBadServicesAreRefused changes one thing of a good answer.
func TestBadServicesAreRefused(t *testing.T) {
	r := newRig(t)
	other := fakevendor.NewIntel(rand.Reader, r.clock.now)
	sibling := r.intel.Platform()
	tcb := r.keys()[0]
	list := r.keys()[4]
	const tcbHeader, listHeader, idHeader = "TCB-Info-Issuer-Chain", "SGX-PCK-CRL-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain"
	const pckHeader, qve = "SGX-PCK-Certificate-Issuer-Chain", endorse.Key("intel:/sgx/certification/v4/qve/identity")
	pck := endorse.WantedBy(r.platform.SGX(3, nil, r.platform.WithKeyID(3)))[0]
	older := r.intel.Platform(func(s *fakevendor.PlatformSpec) { s.CPUSVN[0]-- })
	misnamed := r.intel.Misnamed("Intel SGX PCK Certificate")
	good := r.intel.TCBInfo(r.platform, "SGX")
	chain := r.intel.TCBChain()
	crl := func(a *fakevendor.Authority) []byte { return a.CRL(r.clock.now()) }
	amd := fakevendor.NewAMD(rand.Reader, r.clock.now)
	line := amd.Line(fakevendor.Milan)
	chip, second := amd.Chip(fakevendor.Milan), amd.Chip(fakevendor.Milan)
	leaf := endorse.WantedBy(chip.Report(3, nil))[2]
	const amdChain endorse.Key = "amd:/vcek/v1/Milan/cert_chain"
	rooted := endorse.Roots{endorse.Intel: {r.intel.Root.Cert}, endorse.AMD: {line.ARK.Cert}}
	for name, c := range map[string]struct {
		key    endorse.Key
		header string
		chain  []byte
		body   []byte
		code   *rats.CodeInfo // nil: accepted
	}{
		"good":                          {tcb, tcbHeader, chain, good, nil},
		"good, header of version 3":     {tcb, "SGX-" + tcbHeader, chain, good, nil},
		"HTML":                          {tcb, tcbHeader, chain, []byte("<html>please log in</html>"), &endorse.CodeMalformed},
		"nothing":                       {tcb, tcbHeader, chain, nil, &endorse.CodeMalformed},
		"huge":                          {tcb, tcbHeader, chain, bytes.Repeat([]byte(" "), 5<<20), &endorse.CodeMalformed},
		"no dates":                      {tcb, tcbHeader, chain, r.intel.Sign("tcbInfo", map[string]any{"id": "SGX"}), &endorse.CodeMalformed},
		"another platform":              {tcb, tcbHeader, chain, r.intel.TCBInfo(sibling, "SGX"), &endorse.CodeOther},
		"another technology":            {tcb, tcbHeader, chain, r.intel.TCBInfo(r.platform, "TDX"), &endorse.CodeOther},
		"another enclave":               {identity, tcbHeader, chain, r.intel.Identity("TD_QE"), &endorse.CodeOther},
		"an altered level":              {tcb, tcbHeader, chain, bytes.Replace(good, []byte("OutOfDate"), []byte("UpToDate!"), 1), &endorse.CodeChain},
		"no chain":                      {tcb, "", nil, good, &endorse.CodeChain},
		"a chain without root":          {tcb, tcbHeader, fakevendor.PEM(r.intel.TCBSigner.Cert), good, &endorse.CodeChain},
		"a chain that didn't sign":      {tcb, tcbHeader, r.intel.PCKChain(fakevendor.PlatformCA), good, &endorse.CodeChain},
		"a chain of broken links":       {tcb, tcbHeader, fakevendor.PEM(r.intel.TCBSigner.Cert, other.Root.Cert), good, &endorse.CodeChain},
		"a root of the same name":       {tcb, tcbHeader, other.TCBChain(), other.TCBInfo(r.platform, "SGX"), &endorse.CodeChain},
		"good list":                     {list, listHeader, r.intel.PCKChain(fakevendor.PlatformCA), crl(r.intel.Platforms), nil},
		"good list in hex":              {list, listHeader, r.intel.PCKChain(fakevendor.PlatformCA), []byte(hex.EncodeToString(crl(r.intel.Platforms))), nil},
		"list by another CA":            {list, listHeader, r.intel.PCKChain(fakevendor.PlatformCA), crl(r.intel.Processors), &endorse.CodeOther},
		"list by a CA of the same name": {list, listHeader, r.intel.PCKChain(fakevendor.PlatformCA), crl(other.Platforms), &endorse.CodeChain},
		"good verifier's identity":      {qve, idHeader, chain, r.intel.Identity("QVE"), nil},
		"quoting enclave's for it":      {qve, idHeader, chain, r.intel.Identity("QE"), &endorse.CodeOther},
		"a signer of another name":      {identity, idHeader, fakevendor.PEM(misnamed.TCBSigner.Cert, r.intel.Root.Cert), misnamed.Identity("QE"), &endorse.CodeChain},
		"platform's certificate":        {pck, pckHeader, r.intel.PCKChain(fakevendor.PlatformCA), fakevendor.PEM(r.platform.PCK.Cert), nil},
		"of another TCB":                {pck, pckHeader, r.intel.PCKChain(fakevendor.PlatformCA), fakevendor.PEM(older.PCK.Cert), &endorse.CodeOther},
		"of another root":               {pck, pckHeader, other.PCKChain(fakevendor.PlatformCA), fakevendor.PEM(other.Platform().PCK.Cert), &endorse.CodeChain},
		"of another CA":                 {pck, pckHeader, r.intel.PCKChain(fakevendor.ProcessorCA), fakevendor.PEM(r.platform.PCK.Cert), &endorse.CodeChain},
		"without chain":                 {pck, "", nil, fakevendor.PEM(r.platform.PCK.Cert), &endorse.CodeChain},
		"no PCK certificate":            {pck, pckHeader, r.intel.PCKChain(fakevendor.PlatformCA), fakevendor.PEM(r.intel.Root.Cert), &endorse.CodeMalformed},
		"two certificates":              {pck, pckHeader, r.intel.PCKChain(fakevendor.PlatformCA), fakevendor.PEM(r.platform.PCK.Cert, r.intel.Root.Cert), &endorse.CodeMalformed},
		"no list":                       {list, listHeader, r.intel.PCKChain(fakevendor.PlatformCA), []byte("{}"), &endorse.CodeMalformed},
		"root's list":                   {r.keys()[5], "", nil, crl(r.intel.Root), nil},
		"root's list by another root":   {r.keys()[5], "", nil, crl(other.Root), &endorse.CodeChain},
		"root's list of another issuer": {r.keys()[5], "", nil, crl(r.intel.Platforms), &endorse.CodeOther},
		"chain of keys":                 {amdChain, "", nil, fakevendor.PEM(line.ASK.Cert, line.ARK.Cert), nil},
		"chain of leased keys":          {amdChain, "", nil, fakevendor.PEM(line.ASVK.Cert, line.ARK.Cert), &endorse.CodeOther},
		"chain without root":            {amdChain, "", nil, fakevendor.PEM(line.ASK.Cert), &endorse.CodeMalformed},
		"chain in the other order":      {amdChain, "", nil, fakevendor.PEM(line.ARK.Cert, line.ASK.Cert), &endorse.CodeOther},
		"chip's certificate":            {leaf, "", nil, chip.VCEK(chip.TCB).Cert.Raw, nil},
		"another chip's certificate":    {leaf, "", nil, second.VCEK(second.TCB).Cert.Raw, &endorse.CodeOther},
		"leased key's certificate":      {leaf, "", nil, chip.VLEK().Cert.Raw, &endorse.CodeOther},
		"no certificate":                {leaf, "", nil, []byte("no"), &endorse.CodeMalformed},
	} {
		cfg := r.config()
		cfg.Services, cfg.Roots = map[string]string{endorse.Intel: service, endorse.AMD: service + "/kds/"}, rooted
		cfg.Transport = transport(func(*http.Request) (*http.Response, error) {
			rec := httptest.NewRecorder()
			if c.header != "" {
				rec.Header().Set(c.header, escape(c.chain))
			}
			_, _ = rec.Write(c.body)
			return rec.Result(), nil
		})
		d, err := open(t, cfg).Get(t.Context(), c.key)
		switch {
		case c.code != nil:
			wantCode(t, name, err, *c.code)
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case len(d.Body) == 0 || d.Until.IsZero() || !d.ValidAt(start) || d.Endorsements()[0].MediaType == "":
			t.Errorf("%s: %+v", name, d)
		}
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestARedirectIsNotFollowed(t *testing.T) {
	r := newRig(t)
	r.wire.answers(status(http.StatusFound, "Location", "https://elsewhere.example/"))
	_, err := r.Get(t.Context(), identity)
	wantCode(t, "redirect", err, endorse.CodeMalformed)
	if r.wire.total() != 1 {
		t.Errorf("%d requests", r.wire.total())
	}
}

func TestABrokenChainHeaderIsRefused(t *testing.T) {
	r := newRig(t)
	r.wire.answers(status(http.StatusOK, "TCB-Info-Issuer-Chain", "%zz"))
	_, err := r.Get(t.Context(), r.keys()[0])
	wantCode(t, "header", err, endorse.CodeChain)
}

// TestAServiceThatDribblesIsGivenUp talks to a real server on loopback that never finishes.
func TestAServiceThatDribblesIsGivenUp(t *testing.T) {
	stop := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			fmt.Fprint(w, " ")
			if f, ok := w.(http.Flusher); ok {
				f.Flush()
			}
			select {
			case <-stop:
				return
			case <-r.Context().Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}))
	defer srv.Close()
	defer close(stop)
	services := map[string]string{endorse.Intel: srv.URL}
	c := open(t, endorse.Config{
		Now: func() time.Time { return start }, Rand: rand.Reader, Transport: &http.Transport{}, Services: services, Hosts: endorse.HostsOf(services),
		Timeout: 200 * time.Millisecond, Attempts: 1,
	})
	_, err := c.Get(t.Context(), identity)
	wantCode(t, "dribble", err, endorse.CodeUnavailable)
}

func TestAnEndlessAnswerIsCut(t *testing.T) {
	r := newRig(t)
	read := &counter{}
	r.wire.answers(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: make(http.Header), Body: io.NopCloser(io.TeeReader(zeros{}, read))}, nil
	})
	_, err := r.Get(t.Context(), identity)
	wantCode(t, "endless", err, endorse.CodeMalformed)
	if read.n > 9<<20 {
		t.Errorf("%d bytes were read", read.n)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type counter struct{ n int }

func (c *counter) Write(b []byte) (int, error) { c.n += len(b); return len(b), nil }

func TestErrorsOfTheServiceAreTold(t *testing.T) {
	for code, want := range map[int]rats.CodeInfo{
		400: endorse.CodeNotFound, 404: endorse.CodeNotFound, 410: endorse.CodeNotFound, 461: endorse.CodeNotFound, 462: endorse.CodeNotFound,
		401: endorse.CodeUnavailable, 429: endorse.CodeUnavailable, 500: endorse.CodeUnavailable, 503: endorse.CodeUnavailable, 206: endorse.CodeUnavailable,
	} {
		r := newRig(t)
		r.wire.answers(status(code))
		_, err := r.Get(t.Context(), identity)
		wantCode(t, fmt.Sprint(code), err, want)
		if reason, _ := rats.ReasonOf(err); !strings.Contains(reason.Expected, "pcs.example") || reason.Hint == "" {
			t.Errorf("%d: %+v doesn't say where", code, reason)
		}
	}
}

func TestThePlatformOfEveryProcessorCAIsNamed(t *testing.T) {
	r := newRig(t)
	p := r.intel.Platform(func(s *fakevendor.PlatformSpec) { s.CA = fakevendor.ProcessorCA })
	keys := endorse.WantedBy(p.SGX(5, nil))
	if len(keys) != 4 || keys[2] != "intel:/sgx/certification/v4/pckcrl?ca=processor&encoding=der" {
		t.Errorf("%v", keys)
	}
	if keys := endorse.PlatformKeys(p.FMSPC, ""); len(keys) != 7 {
		t.Errorf("%v", keys)
	}
	bare := r.intel.Platform(func(s *fakevendor.PlatformSpec) {
		s.Certificate = func(c *x509.Certificate) { c.ExtraExtensions = nil }
	})
	if keys := endorse.WantedBy(bare.SGX(3, nil)); keys != nil {
		t.Errorf("%v", keys)
	}
}
