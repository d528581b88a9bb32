package attacks

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/broker"
	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/notify"
	"github.com/assay-attest/assay/internal/server"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/rats"
)

// notifying restarts the server with settings for webhooks and actions.
func (r *rig) notifying(s notify.Settings) {
	r.t.Helper()
	r.stop()
	file := filepath.Join(r.dir, "data", "server.json")
	settings, err := server.ReadSettings(filepath.Join(r.dir, "data"))
	if err != nil {
		r.t.Fatal(err)
	}
	settings.Notify = s
	b, err := json.Marshal(settings)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.start()
	r.admin = r.owner(r.init.AdminToken)
}

// agent answers every challenge of a machine, as an agent does, and tells why each came.
func (r *rig) agent(m *wire.Machine) <-chan string {
	whys := make(chan string, 100)
	ctx := r.t.Context()
	go func() {
		for ctx.Err() == nil {
			for e, err := range m.Stream(ctx) {
				if err != nil {
					break
				}
				if e.Challenge != nil {
					whys <- e.Challenge.Why
					_, _ = m.Attest(ctx, *e.Challenge)
				}
			}
		}
	}()
	<-whys
	return whys
}

// attest has a machine whose agent runs attested now.
func (r *rig) attest(m *wire.Machine) {
	r.t.Helper()
	if _, err := r.admin.Attest(r.t.Context(), m.Joined.Node, 30*time.Second); err != nil {
		r.t.Fatal(err)
	}
}

// R015, R039: a changed file reaches another system with its path and severity; the policy sets the node apart, and no
// good result brings it back: an administrator does.
func TestAChangedFileIsToldToOthersAndSetsTheNodeApart(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	r.notifying(notify.Settings{
		AllowHTTP: true, AllowNetworks: []string{"127.0.0.0/8"},
		Commands: map[string]notify.Command{"page": {Argv: []string{"/bin/cp", "/dev/stdin", dir + "/paged"}}},
	})
	var mu sync.Mutex
	var got []api.Delivery
	var secret []byte
	hooks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		mu.Lock()
		defer mu.Unlock()
		var d api.Delivery
		if err := json.Unmarshal(b, &d); err != nil {
			t.Error(err)
		}
		if err := api.VerifyDelivery(secret, req.Header.Get(api.HeaderSignature), b, r.now(), 0); err != nil {
			t.Error(err)
		}
		got = append(got, d)
	}))
	defer hooks.Close()
	h, err := r.admin.AddWebhook(t.Context(), api.WebhookRequest{URL: hooks.URL, Severity: "critical"})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	secret = h.Secret
	mu.Unlock()
	if list, err := r.admin.ListWebhooks(t.Context()); err != nil || len(list) != 1 || list[0].Secret != nil {
		t.Errorf("%+v, %v", list, err)
	}
	r.apply(r.defaultPolicy() + `actions:
  - {name: apart, when: [contraindicated], codes: ["plan.file.*"], results: 2, do: quarantine}
  - {name: page, when: [contraindicated], do: run, command: page}
  - {name: keep, when: [trusted], do: refuse-secrets}
`)
	m := r.machine("web")
	r.secret("s", "hush", "true")
	r.agent(m)
	r.attest(m)
	_, err = m.Client.ReleaseSecret(t.Context(), m.Joined.Node, "s")
	refused(t, err, broker.CodeWithheld.Code) // by the action keep
	r.write("a", "evil")
	r.attest(m)
	if n, err := r.admin.GetNode(t.Context(), "web"); err != nil || n.Quarantine != nil {
		t.Fatalf("one result of two set it apart: %+v, %v", n.Quarantine, err)
	}
	r.attest(m)
	n, err := r.admin.GetNode(t.Context(), "web")
	if err != nil || n.Quarantine == nil || n.Quarantine.By != "action:apart" {
		t.Fatalf("%+v, %v", n, err)
	}
	r.write("a", "content of a")
	r.attest(m) // a good result
	if s := r.state(m); s != rats.StateContraindicated {
		t.Errorf("after a good result it is %s", s)
	}
	_, err = m.Client.ReleaseSecret(t.Context(), m.Joined.Node, "s")
	refused(t, err, broker.CodeQuarantined.Code)

	deadline := time.Now().Add(20 * time.Second)
	told := func() (paths, kinds string) {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range got {
			b, _ := json.Marshal(d.Data)
			kinds += d.Kind + " "
			paths += string(b)
		}
		return paths, kinds
	}
	for {
		paths, kinds := told()
		_, err := os.Stat(dir + "/paged")
		if strings.Contains(kinds, "node.quarantined") && strings.Contains(paths, r.files+"/a") && strings.Contains(paths, `"severity":"fail"`) && err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("told only %s: %s, %v", kinds, paths, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := r.admin.LiftQuarantine(t.Context(), "web", "the file is back"); err != nil {
		t.Fatal(err)
	}
	if s := r.state(m); s != rats.StateTrusted {
		t.Errorf("after the quarantine was lifted it is %s", s)
	}
	if _, err := r.admin.QuarantineNode(t.Context(), "web", ""); codeOf(err) != httpapi.CodeParameter.Code {
		t.Error("a quarantine without reason:", err)
	}
	if err := m.Client.LiftQuarantine(t.Context(), m.Joined.Node, "please"); codeOf(err) != httpapi.CodeAccessDenied.Code {
		t.Error("a node lifts its own quarantine:", err)
	}
	var kinds []string
	for e, err := range r.admin.EventsWhere(t.Context(), 0, client.EventFilter{Kinds: []string{"node.*"}, Nodes: []string{"web"}, Severity: "critical"}) {
		if err != nil {
			t.Fatal(err)
		}
		if kinds = append(kinds, e.Kind); e.Kind == "node.quarantined" {
			break
		}
	}
	if strings.Join(kinds, " ") != "node.result node.state node.result node.quarantined" && strings.Join(kinds, " ") != "node.result node.state node.quarantined" {
		t.Error(kinds)
	}
}

// R020: an agent that notices an event asks, and the server decides; it grants what policy names, and not too often.
func TestAnAgentsWishIsGrantedByPolicyAndNotTooOften(t *testing.T) {
	r := newRig(t)
	m := r.machine("web")
	whys := r.agent(m)
	r.attest(m)
	wish := func(event string) error { return m.Client.Wish(t.Context(), m.Joined.Node, event) }
	refused(t, wish("packages"), appraiser.CodeWishUnwanted.Code)
	r.apply(r.defaultPolicy() + "on: [packages]\n")
	r.attest(m) // the policy changed
	refused(t, wish("modules"), appraiser.CodeWishUnwanted.Code)
	refused(t, r.admin.Wish(t.Context(), m.Joined.Node, "packages"), httpapi.CodeAccessDenied.Code)
	if err := wish("packages"); err != nil {
		t.Fatal(err)
	}
	for why := ""; why != "event: packages"; {
		select {
		case why = <-whys:
		case <-time.After(20 * time.Second):
			t.Fatal("no challenge for the event")
		}
	}
	refused(t, wish("packages"), appraiser.CodeWishRate.Code)
	r.advance(appraiser.WishEvery)
	if err := wish("packages"); err != nil {
		t.Fatal(err)
	}
}
