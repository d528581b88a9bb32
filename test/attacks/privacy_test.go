package attacks

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/store/sqlite"
	"github.com/assay-attest/assay/internal/testkit/softtpm"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/rats"
)

// namespace makes a second namespace, with the rig's policy and reference set.
func (r *rig) namespace(name string) {
	r.t.Helper()
	r.stop()
	files, err := filepath.Glob(r.dir + "/data/*.db")
	if err != nil || len(files) != 1 {
		r.t.Fatalf("databases %v, %v", files, err)
	}
	db, err := sqlite.Open(r.t.Context(), files[0], sqlite.Options{Now: r.now})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := db.Create(r.t.Context(), name); err != nil {
		r.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
	r.admin = r.owner(r.init.AdminToken)
	c := r.in(name)
	set, err := r.admin.RefSetDocument(r.t.Context(), "files", 0)
	if err == nil {
		_, err = c.PutRefSet(r.t.Context(), "files", set)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	doc := r.defaultPolicy()
	policy := regexp.MustCompile(`name: ([a-z-]+)`).FindStringSubmatch(doc)[1]
	if _, err := c.PutPolicy(r.t.Context(), policy, []byte(doc)); err != nil {
		r.t.Fatal(err)
	}
}

// in is the administrator's client in a namespace. Its server must not be started again.
func (r *rig) in(namespace string) *client.Client {
	r.t.Helper()
	c, err := client.New(client.Options{Server: r.url, CAs: r.cas, Token: r.init.AdminToken, Namespace: namespace, Now: r.now})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// attested joins a TPM in a namespace, attests it and returns it.
func (r *rig) attested(c *client.Client, name string, tpm *softtpm.TPM) *wire.Machine {
	r.t.Helper()
	tok, err := c.CreateToken(r.t.Context(), api.TokenRequest{Name: name})
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := wire.Join(r.t.Context(), wire.Options{Server: r.url, Token: tok.Token, Rand: rand.Reader, Now: r.now, System: r.system(), TPM: tpm})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := m.Client.AKCertificate(r.t.Context(), m.Joined.Node); err != nil {
		r.t.Fatal(err)
	}
	if told, err := m.Attest(r.t.Context(), r.challenge(m)); err != nil || told.State != rats.StateTrusted {
		r.t.Fatalf("%s: %+v, %v", name, told, err)
	}
	return m
}

// readable is every answer that a token gets about a node, and all of its namespace; EARs and certificates decoded as well.
func (r *rig) readable(token, namespace string, m *wire.Machine) string {
	r.t.Helper()
	h := r.raw()
	var all strings.Builder
	get := func(path string) string {
		ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second) // events are a stream
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := h.Do(req)
		if err != nil {
			r.t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body) // as far as it goes
		all.Write(b)
		for _, part := range regexp.MustCompile(`[A-Za-z0-9_/+-]{40,}`).FindAll(b, -1) { // what is encoded in it
			for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				if d, err := e.DecodeString(string(part)); err == nil {
					all.Write(d)
				}
			}
		}
		return string(b)
	}
	node := api.Path(namespace, "nodes", m.Joined.Node)
	var last struct {
		Last string `json:"last_result"`
	}
	last.Last = regexp.MustCompile(`"last_result":"([^"]+)"`).FindStringSubmatch(get(node))[1]
	for _, path := range []string{
		node + "/status", node + "/results", node + "/ear?aud=https://relying.example", api.Path(namespace, "results", last.Last),
		api.Path(namespace, "results", last.Last) + "?claims=true", api.Path(namespace, "nodes"), api.Path(namespace, "audit"),
		api.Path(namespace, "events") + "?after=0", api.Path(namespace, "ak-certificates"), api.Path(namespace, "ak.crl"),
		api.Path(namespace, "join-tokens"),
	} {
		get(path)
	}
	return all.String()
}

// ids are all strings in an answer that could name something: long runs of hex, or of letters and digits.
func ids(s string) map[string]bool {
	out := map[string]bool{}
	for _, id := range regexp.MustCompile(`[0-9a-f]{16,}|[A-Za-z0-9+/_-]{20,}`).FindAllString(s, -1) {
		out[id] = true
	}
	return out
}

// R117, S48: who reads two namespaces with the role reader finds nothing by which a machine in both could be told from other
// machines: no endorsement key, attestation key or certificate of them, nor anything else that both have in common and a third
// machine has not.
func TestReadersOfTwoNamespacesCannotLinkAMachine(t *testing.T) {
	r := newRig(t)
	r.namespace("other")
	r.namespace("elsewhere")
	other, elsewhere := r.in("other"), r.in("elsewhere")
	hardware := softtpm.New(rand.Reader, softtpm.Options{CA: r.vendor})
	here := r.attested(r.admin, "blue", hardware)
	there := r.attested(other, "green", softtpm.New(rand.Reader, softtpm.Options{SameEK: hardware}))
	third := r.attested(elsewhere, "red", softtpm.New(rand.Reader, softtpm.Options{CA: r.vendor}))
	access := httpapi.OpenAccess(r.dir + "/data/access.json")
	reader, err := access.Add("relying", httpapi.Reader, []string{"*"}, randReader())
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.admin.GetNode(t.Context(), here.Joined.Node)
	if err != nil || n.EK.IsZero() {
		t.Fatalf("an administrator sees the EK %s, %v", n.EK, err)
	}
	common := func(token string) (found []string) {
		a, b := r.readable(token, "default", here), r.readable(token, "other", there)
		// What a machine elsewhere has too is the verifier's, or says what kind of machine it is.
		others := ids(r.readable(token, "elsewhere", third))
		for id := range ids(a) {
			if ids(b)[id] && !others[id] {
				found = append(found, id)
			}
		}
		for what, secret := range map[string][]byte{
			"EK digest": n.EK.Sum, "EK": hardware.EKPublic(), "EK certificate": hardware.EKCert(), "AK": here.TPM.AKPublic(), "other AK": there.TPM.AKPublic(),
			"AK digest": rats.SHA256(here.TPM.AKPublic()).Sum, "other AK digest": rats.SHA256(there.TPM.AKPublic()).Sum,
		} {
			secret = secret[max(0, len(secret)-32):]
			for _, form := range []string{string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret)} {
				if strings.Contains(a+b, form) {
					found = append(found, "the "+what)
				}
			}
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	if found := common(reader); len(found) > 0 {
		t.Errorf("a reader links the machine by %q", found)
	}
	if found := common(r.init.AdminToken); !slices.Contains(found, "the EK digest") {
		t.Errorf("an administrator doesn't see the EK, or the test finds nothing: %q", found)
	}
	status, p := r.call(r.raw(), "GET", api.Path("default", "results", n.LastResult)+"?claims=true", reader, "")
	if status != 403 || p.Code != httpapi.CodeAccessDenied.Code {
		t.Errorf("claims for a reader: %d %s", status, p.Code)
	}
	for _, verb := range []string{"GET " + api.Path("default", "ak-certificates"), "DELETE " + api.Path("default", "ak-certificates", "00")} {
		method, path, _ := strings.Cut(verb, " ")
		if status, _ := r.call(r.raw(), method, path, reader, ""); status != 403 {
			t.Errorf("%s by a reader: %d", verb, status)
		}
	}
}

// The second node of one TPM is refused over the API too, and takes the first one's place if the token says so.
func TestSecondNodeOfOneTPMReplacesTheFirstOnlyWhenAsked(t *testing.T) {
	r := newRig(t)
	hardware := softtpm.New(rand.Reader, softtpm.Options{CA: r.vendor})
	first := r.attested(r.admin, "first", hardware)
	again := softtpm.New(rand.Reader, softtpm.Options{SameEK: hardware})
	o := r.options("second")
	o.TPM = again
	if _, err := wire.Join(t.Context(), o); codeOf(err) != "join.ek.taken" {
		t.Errorf("a second node: %v", err)
	}
	o.Token = r.token(api.TokenRequest{Name: "second", Replace: true})
	m, err := wire.Join(t.Context(), o)
	if err != nil || m.Joined.Enrolment != "approved" {
		t.Fatalf("replacing: %+v, %v", m, err)
	}
	if _, err := r.admin.GetNode(t.Context(), first.Joined.Node); err == nil {
		t.Error("the replaced node is still there")
	}
	if _, err := first.Client.AKCertificate(t.Context(), first.Joined.Node); err == nil {
		t.Error("the replaced node gets a certificate")
	}
	l, err := r.admin.ListAKCertificates(t.Context())
	if err != nil || len(l.Revoked) != 1 || l.Revoked[0].Why != "replaced" {
		t.Errorf("%+v, %v", l, err)
	}
	c, err := m.Client.AKCertificate(t.Context(), m.Joined.Node)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.admin.RevokeAKCertificate(t.Context(), c.Serial); err != nil {
		t.Error(err)
	}
	if crl, err := r.owner("").AKRevocations(t.Context()); err != nil || len(crl) < 100 {
		t.Errorf("the list of revoked certificates: %d bytes, %v", len(crl), err)
	}
}
