package broker_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/broker"
	"github.com/assay-attest/assay/internal/keyring"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/store/sqlite"
	"github.com/assay-attest/assay/rats"
	"github.com/assay-attest/assay/sealed"
)

var start = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

const value = "the launch code"

// world is a broker over a real store, with one node that may have the secret "db".
type world struct {
	t      *testing.T
	ctx    context.Context
	db     store.Store
	prod   store.Space
	broker *broker.Broker
	now    time.Time
	hpke   *sealed.Key
	node   store.Node
	rec    store.Record
	peer   rats.Digest

	answer  bool // of every rule
	causes  []rats.Reason
	failure error
	state   rats.State
	asked   []broker.Question
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), now: start, answer: true, state: rats.StateTrusted, peer: rats.SHA256([]byte("tls key"))}
	clock := func() time.Time { return w.now }
	db, err := sqlite.Open(w.ctx, filepath.Join(t.TempDir(), "db"), sqlite.Options{Now: clock})
	w.ok(err)
	t.Cleanup(func() { _ = db.Close() })
	w.db = db
	w.ok(db.Migrate(w.ctx))
	for _, ns := range []string{"prod", "test"} {
		w.ok(db.Create(w.ctx, ns))
	}
	w.prod = db.In("prod")
	keys, err := keyring.Init(filepath.Join(t.TempDir(), "keys"), rand.Reader)
	w.ok(err)
	w.hpke, err = sealed.GenerateKey(rand.Reader)
	w.ok(err)
	w.broker, err = broker.New(broker.Config{
		Keys: keys, Now: clock,
		Compile: func(rule string) []rats.Reason {
			if rule == "nonsense" {
				return []rats.Reason{{Code: "policy.expression.bad", Path: "line 1"}}
			}
			return nil
		},
		Eval: func(q broker.Question) (bool, []rats.Reason, error) {
			w.asked = append(w.asked, q)
			return w.answer, w.causes, w.failure
		},
		State: func(store.Tx, store.Node, time.Time) (rats.State, error) { return w.state, nil },
	})
	w.ok(err)
	w.node = store.Node{
		ID: "nd_1", Name: "one", Kind: "host", Enrolment: store.EnrolmentApproved, TLSKey: w.peer, CreatedAt: start,
		Last: "at_1", LastTier: rats.Affirming, LastAt: start, Expires: start.Add(time.Hour), LastBoot: rats.SHA256([]byte("boot")),
	}
	w.rec = store.Record{Result: rats.Result{
		ID: "at_1", Namespace: "prod", Subject: "node/nd_1", Tier: rats.Affirming, At: start, Expires: start.Add(time.Hour),
		Collection: rats.SHA256([]byte("evidence")), Policy: rats.Ref{Name: "base", Version: 3, Digest: rats.SHA256([]byte("policy"))},
		Keys: []rats.BoundKey{{Use: rats.KeyHPKE, Public: w.hpke.Public()}},
	}}
	return w
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) update(f func(store.Tx) error) {
	w.t.Helper()
	w.ok(w.prod.Update(w.ctx, f))
}

func (w *world) epoch() (e int64) {
	w.t.Helper()
	w.ok(w.prod.View(w.ctx, func(tx store.Tx) (err error) {
		e, err = tx.Epochs().Get()
		return err
	}))
	return e
}

// settle stores node and record, and the secret "db".
func (w *world) settle(put api.SecretPut) api.Secret {
	w.t.Helper()
	w.rec.Epoch += w.epoch()
	w.update(func(tx store.Tx) error {
		if err := tx.Records().Put(w.rec); err != nil {
			return err
		}
		return tx.Nodes().Put(w.node)
	})
	return w.put("db", put)
}

func (w *world) put(name string, put api.SecretPut) api.Secret {
	w.t.Helper()
	if put.Value == nil {
		put.Value = []byte(value)
	}
	if put.Rule == "" {
		put.Rule = "true"
	}
	s, err := w.broker.Put(w.ctx, w.prod, "prod", "admin:ann", name, put)
	w.ok(err)
	return s
}

func (w *world) request() broker.ReleaseRequest {
	return broker.ReleaseRequest{Namespace: "prod", Node: "nd_1", Name: "db", Requester: w.peer, Epoch: w.epoch()}
}

func (w *world) release() (api.Release, error) {
	return w.broker.Release(w.ctx, w.prod, w.request())
}

func (w *world) audit(verb string) []store.AuditEntry {
	w.t.Helper()
	var found []store.AuditEntry
	w.ok(w.prod.View(w.ctx, func(tx store.Tx) error {
		all, err := tx.Audit().After(0, 1000)
		for _, e := range all {
			if e.Verb == verb {
				found = append(found, e)
			}
		}
		return err
	}))
	return found
}

func (w *world) events(kind string) []store.Event {
	w.t.Helper()
	var found []store.Event
	w.ok(w.prod.View(w.ctx, func(tx store.Tx) error {
		all, err := tx.Events().After(0, 1000)
		for _, e := range all {
			if e.Kind == kind {
				found = append(found, e)
			}
		}
		return err
	}))
	return found
}

func wantCode(t *testing.T, err error, want rats.CodeInfo) *broker.Refusal {
	t.Helper()
	var r *broker.Refusal
	if !errors.As(err, &r) || r.Reason.Code != want.Code {
		t.Fatalf("got %v, expected %s", err, want.Code)
	}
	if reason, ok := rats.ReasonOf(err); !ok || reason.Code != want.Code {
		t.Fatalf("%v has no reason", err)
	}
	return r
}

// R108, R131, S42: sealed to the result's key, recorded with what it rests on.
func TestATrustedNodeGetsTheSecretSealedToItsResultAndTheLogSaysSo(t *testing.T) {
	w := newWorld(t)
	w.settle(api.SecretPut{})
	w.now = start.Add(time.Minute)
	got, err := w.release()
	w.ok(err)
	if got.Name != "db" || got.Version != 1 || got.Result != "at_1" || bytes.Contains(got.Sealed, []byte(value)) {
		t.Errorf("%+v", got)
	}
	plain, err := w.hpke.Open(api.ReleaseInfo("prod", "nd_1", "db", 1, "at_1"), got.Sealed)
	if err != nil || string(plain) != value {
		t.Fatalf("%q, %v", plain, err)
	}
	for _, info := range [][]byte{
		api.ReleaseInfo("test", "nd_1", "db", 1, "at_1"), api.ReleaseInfo("prod", "nd_2", "db", 1, "at_1"),
		api.ReleaseInfo("prod", "nd_1", "db", 2, "at_1"), api.ReleaseInfo("prod", "nd_1", "db", 1, "at_2"),
	} {
		if _, err := w.hpke.Open(info, got.Sealed); err == nil {
			t.Error("opened under other info")
		}
	}
	want := broker.Released{
		Secret: "db", Version: 1, Node: "nd_1", Result: "at_1", Evidence: w.rec.Result.Collection, Policy: w.rec.Result.Policy,
		Requester: w.peer, SealedTo: rats.SHA256(w.hpke.Public()), At: w.now,
	}
	leaves, events := w.audit(broker.VerbRelease), w.events(broker.EventReleased)
	if len(leaves) != 1 || len(events) != 1 {
		t.Fatalf("%d leaves, %d events", len(leaves), len(events))
	}
	for _, raw := range []json.RawMessage{leaves[0].Detail, events[0].Data} {
		wanted, err := json.Marshal(want)
		w.ok(err)
		var have broker.Released
		w.ok(json.Unmarshal(raw, &have))
		again, err := json.Marshal(have)
		w.ok(err)
		if !bytes.Equal(again, wanted) {
			t.Errorf("recorded %s, expected %s", raw, wanted)
		}
	}
	if leaves[0].Actor != "node:nd_1" || leaves[0].Object != "secret/db" {
		t.Errorf("%+v", leaves[0])
	}
	if len(w.asked) == 0 || w.asked[0].Rule != "true" || w.asked[0].Node.Name != "one" || w.asked[0].Record.Result.ID != "at_1" || w.asked[0].Tx == nil {
		t.Errorf("the rule was asked %+v", w.asked)
	}
}

// S42, R126, R132: one thing changed of a release that would succeed.
func TestReleasesWithOneThingChangedAreRefused(t *testing.T) {
	other := rats.SHA256([]byte("other"))
	for name, c := range map[string]struct {
		change func(w *world)
		req    func(r *broker.ReleaseRequest)
		late   func(w *world) // after everything is stored
		want   rats.CodeInfo
		attest bool
	}{
		"pending":              {change: func(w *world) { w.node.Enrolment = store.EnrolmentPending }, want: broker.CodePending},
		"no enrolment":         {change: func(w *world) { w.node.Enrolment = "" }, want: broker.CodePending},
		"revoked":              {change: func(w *world) { w.node.Enrolment = store.EnrolmentRevoked }, want: broker.CodeRevoked},
		"unknown node":         {req: func(r *broker.ReleaseRequest) { r.Node = "nd_2" }, want: broker.CodeNode},
		"another's connection": {req: func(r *broker.ReleaseRequest) { r.Requester = other }, want: broker.CodeRequester},
		"no connection key":    {req: func(r *broker.ReleaseRequest) { r.Requester = rats.Digest{} }, want: broker.CodeRequester},
		"never attested":       {change: func(w *world) { w.node.Last = "" }, want: broker.CodeNoResult, attest: true},
		"result is gone":       {change: func(w *world) { w.node.Last = "at_9" }, want: broker.CodeNoResult, attest: true},
		"withdrawn":            {change: func(w *world) { w.node.Withdrawn = "node.boot.changed" }, want: broker.CodeWithdrawn, attest: true},
		"expired":              {change: func(w *world) { w.rec.Result.Expires = start }, want: broker.CodeStale, attest: true},
		"without expiry":       {change: func(w *world) { w.rec.Result.Expires = time.Time{} }, want: broker.CodeStale, attest: true},
		"too old":              {late: func(w *world) { w.now = start.Add(time.Minute + 1) }, want: broker.CodeStale, attest: true},
		"from the future":      {late: func(w *world) { w.now = start.Add(-1) }, want: broker.CodeStale, attest: true},
		"rebooted": {change: func(w *world) {
			w.node.Boot, w.node.BootSeen = other, start.Add(time.Second)
		}, want: broker.CodeStale, attest: true},
		"older epoch":     {change: func(w *world) { w.rec.Epoch = -1 }, want: broker.CodeStale, attest: true},
		"contraindicated": {change: func(w *world) { w.rec.Result.Tier = rats.Contraindicated }, want: broker.CodeVerdict},
		"none":            {change: func(w *world) { w.rec.Result.Tier = rats.None }, want: broker.CodeVerdict},
		"unknown tier":    {change: func(w *world) { w.rec.Result.Tier = 3 }, want: broker.CodeVerdict},
		"warning":         {change: func(w *world) { w.rec.Result.Tier = rats.Warning }, want: broker.CodeVerdict},
		"bad parent":      {change: func(w *world) { w.state = rats.StateContraindicated }, want: broker.CodeVerdict},
		"unknown parent":  {change: func(w *world) { w.state = rats.StateUnknown }, want: broker.CodeVerdict},
		"no hpke key":     {change: func(w *world) { w.rec.Result.Keys = nil }, want: broker.CodeNoKey, attest: true},
		"short hpke key": {change: func(w *world) {
			w.rec.Result.Keys[0].Public = []byte("short")
		}, want: broker.CodeNoKey, attest: true},
		"hpke key of low order": {change: func(w *world) {
			w.rec.Result.Keys[0].Public = make([]byte, 32)
		}, want: broker.CodeNoKey, attest: true},
		"two hpke keys": {change: func(w *world) {
			w.rec.Result.Keys = append(w.rec.Result.Keys, rats.BoundKey{Use: rats.KeyHPKE, Public: bytes.Repeat([]byte{9}, 32)})
		}, want: broker.CodeNoKey, attest: true},
		"no such secret":    {req: func(r *broker.ReleaseRequest) { r.Name = "other" }, want: broker.CodeUnknown},
		"no name":           {req: func(r *broker.ReleaseRequest) { r.Name = "" }, want: broker.CodeUnknown},
		"impossible name":   {req: func(r *broker.ReleaseRequest) { r.Name = strings.Repeat("x", 9000) }, want: broker.CodeUnknown},
		"rule says no":      {change: func(w *world) { w.answer = false }, want: broker.CodeDenied},
		"rule can't answer": {change: func(w *world) { w.causes = []rats.Reason{{Code: "policy.claim.absent"}} }, want: broker.CodeUnevaluable},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.change != nil {
				c.change(w)
			}
			w.settle(api.SecretPut{})
			req := w.request()
			if c.req != nil {
				c.req(&req)
			}
			if c.late != nil {
				c.late(w)
			}
			got, err := w.broker.Release(w.ctx, w.prod, req)
			r := wantCode(t, err, c.want)
			if got.Sealed != nil || got.Name != "" {
				t.Errorf("refused, and yet %+v", got)
			}
			if broker.AttestFirst(err) != c.attest {
				t.Errorf("attest first: %t", !c.attest)
			}
			if len(w.audit(broker.VerbRelease)) != 0 || len(w.events(broker.EventReleased)) != 0 {
				t.Error("a release was recorded")
			}
			leaves := w.audit(broker.VerbRefuse)
			if len(leaves) != 1 || r.Reference == "" || len(leaves[0].Detail) > 4000 {
				t.Fatalf("refusal recorded as %+v, reference %q", leaves, r.Reference)
			}
			var detail broker.Refused
			w.ok(json.Unmarshal(leaves[0].Detail, &detail))
			if detail.Reason.Code != c.want.Code || len(detail.Causes) != len(w.causes) {
				t.Errorf("recorded %+v", detail)
			}
		})
	}
}

// S45: a node can't tell what it may not have from what isn't there.
func TestANodeIsToldTheSameOfUnknownAndDeniedSecrets(t *testing.T) {
	told := make(map[rats.Code]bool)
	for name, change := range map[string]func(w *world, r *broker.ReleaseRequest){
		"unknown":     func(_ *world, r *broker.ReleaseRequest) { r.Name = "other" },
		"denied":      func(w *world, _ *broker.ReleaseRequest) { w.answer = false },
		"unevaluable": func(w *world, _ *broker.ReleaseRequest) { w.causes = []rats.Reason{{Code: "policy.claim.absent"}} },
	} {
		w := newWorld(t)
		w.settle(api.SecretPut{})
		req := w.request()
		change(w, &req)
		_, err := w.broker.Release(w.ctx, w.prod, req)
		var r *broker.Refusal
		if !errors.As(err, &r) {
			t.Fatalf("%s: %v", name, err)
		}
		told[r.Told().Code] = true
	}
	if len(told) != 1 || !told[broker.CodeRefused.Code] {
		t.Errorf("told %v", told)
	}
	stale := broker.Refusal{Reason: broker.CodeStale.Refuse("", "", "")}
	if stale.Told().Code != broker.CodeStale.Code {
		t.Error("a node isn't told to attest first")
	}
	if (&broker.Refusal{}).Told().Code != broker.CodeRefused.Code {
		t.Error("an unknown code is told")
	}
	// Attesting first is demanded of both.
	for _, name := range []string{"db", "other"} {
		w := newWorld(t)
		w.settle(api.SecretPut{})
		w.now = start.Add(2 * time.Minute)
		req := w.request()
		req.Name = name
		_, err := w.broker.Release(w.ctx, w.prod, req)
		wantCode(t, err, broker.CodeStale)
	}
}

func TestWarningsAreAcceptedOnlyIfTheSecretSaysSo(t *testing.T) {
	w := newWorld(t)
	w.rec.Result.Tier, w.state = rats.Warning, rats.StateWarning
	w.settle(api.SecretPut{AcceptWarning: true})
	_, err := w.release()
	w.ok(err)
	w.put("db", api.SecretPut{})
	_, err = w.release()
	wantCode(t, err, broker.CodeVerdict)
}

func TestASecretSaysHowOldAResultMayBe(t *testing.T) {
	w := newWorld(t)
	if s := w.settle(api.SecretPut{MaxResultAge: "5m"}); s.MaxResultAge != "5m0s" {
		t.Errorf("%+v", s)
	}
	w.now = start.Add(5 * time.Minute)
	_, err := w.release()
	w.ok(err)
	w.now = start.Add(5*time.Minute + 1)
	_, err = w.release()
	wantCode(t, err, broker.CodeStale)
}

// S40: what was judged under older values releases nothing.
func TestAPolicyUpdateRefusesTheNextRelease(t *testing.T) {
	w := newWorld(t)
	w.settle(api.SecretPut{})
	before := w.request()
	w.update(func(tx store.Tx) error {
		_, err := tx.Epochs().Bump()
		return err
	})
	if _, err := w.broker.Release(w.ctx, w.prod, before); !errors.Is(err, store.ErrEpoch) {
		t.Errorf("begun under the older epoch: %v", err)
	}
	for _, epoch := range []int64{0, w.epoch()} {
		req := w.request()
		req.Epoch = epoch
		_, err := w.broker.Release(w.ctx, w.prod, req)
		wantCode(t, err, broker.CodeStale)
	}
}

func TestANodeOfAnotherNamespaceGetsNothing(t *testing.T) {
	w := newWorld(t)
	w.settle(api.SecretPut{})
	req := w.request()
	test := w.db.In("test")
	req.Namespace = "test"
	w.ok(test.View(w.ctx, func(tx store.Tx) (err error) {
		req.Epoch, err = tx.Epochs().Get()
		return err
	}))
	_, err := w.broker.Release(w.ctx, test, req)
	wantCode(t, err, broker.CodeNode)
	// A node of the other namespace with the same name, and a record about somebody else.
	w.rec.Result.Namespace = "test"
	w.ok(test.Update(w.ctx, func(tx store.Tx) error {
		if err := tx.Records().Put(w.rec); err != nil {
			return err
		}
		return tx.Nodes().Put(w.node)
	}))
	w.rec.Epoch = req.Epoch
	_, err = w.broker.Release(w.ctx, test, req)
	wantCode(t, err, broker.CodeUnknown)
}

func TestAResultAboutAnotherNodeIsAMalfunction(t *testing.T) {
	w := newWorld(t)
	w.rec.Result.Subject = "node/nd_2"
	w.settle(api.SecretPut{})
	_, err := w.release()
	var r *broker.Refusal
	if err == nil || errors.As(err, &r) {
		t.Errorf("%v", err)
	}
}

func TestAMalfunctionOfTheRuleReleasesNothing(t *testing.T) {
	w := newWorld(t)
	w.settle(api.SecretPut{})
	w.failure = errors.New("disk on fire")
	got, err := w.release()
	if !errors.Is(err, w.failure) || got.Sealed != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if len(w.audit(broker.VerbRelease)) != 0 {
		t.Error("a release was recorded")
	}
}

// R130: create, read, delete are audited; a deleted secret is never released again.
func TestADeletedSecretIsNeverReleasedAgain(t *testing.T) {
	w := newWorld(t)
	w.settle(api.SecretPut{})
	_, err := w.release()
	w.ok(err)
	w.ok(w.broker.Delete(w.ctx, w.prod, "admin:ann", "db"))
	_, err = w.release()
	wantCode(t, err, broker.CodeUnknown)
	wantCode(t, w.broker.Delete(w.ctx, w.prod, "admin:ann", "db"), broker.CodeUnknown)
	list, err := w.broker.List(w.ctx, w.prod)
	if err != nil || len(list) != 0 || list == nil {
		t.Errorf("%+v, %v", list, err)
	}
	if p, d, e := w.audit(broker.VerbPut), w.audit(broker.VerbDelete), w.events(broker.EventDeleted); len(p) != 1 || len(d) != 1 || len(e) != 1 || p[0].Actor != "admin:ann" {
		t.Errorf("audit %+v %+v, events %+v", p, d, e)
	}
	if s := w.put("db", api.SecretPut{Value: []byte("another")}); s.Version < 2 {
		t.Errorf("a version was used again: %+v", s)
	}
	got, err := w.release()
	w.ok(err)
	plain, err := w.hpke.Open(api.ReleaseInfo("prod", "nd_1", "db", got.Version, "at_1"), got.Sealed)
	if err != nil || string(plain) != "another" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestTheNewestVersionIsReleased(t *testing.T) {
	w := newWorld(t)
	w.settle(api.SecretPut{})
	for i := range int64(5) {
		if s := w.put("db", api.SecretPut{Value: []byte{byte(i), 1}}); s.Version != i+2 {
			t.Fatalf("version %d, expected %d", s.Version, i+2)
		}
	}
	got, err := w.release()
	w.ok(err)
	plain, err := w.hpke.Open(api.ReleaseInfo("prod", "nd_1", "db", 6, "at_1"), got.Sealed)
	if err != nil || !bytes.Equal(plain, []byte{4, 1}) {
		t.Errorf("%v, %v", plain, err)
	}
	list, err := w.broker.List(w.ctx, w.prod)
	if err != nil || len(list) != 1 || list[0].Version != 6 || list[0].Rule != "true" {
		t.Errorf("%+v, %v", list, err)
	}
	if len(w.audit(broker.VerbPut)) != 6 || len(w.events(broker.EventPut)) != 6 {
		t.Error("not every version was recorded once")
	}
}

// An envelope in the wrong row must not open: the database's writer can't give a node another secret.
func TestASecretMovedInTheDatabaseIsNotReleased(t *testing.T) {
	w := newWorld(t)
	w.settle(api.SecretPut{})
	w.put("root", api.SecretPut{Value: []byte("the root password")})
	w.update(func(tx store.Tx) error {
		s, err := tx.Secrets().Get("root")
		if err != nil {
			return err
		}
		s.Name = "db"
		_, err = tx.Secrets().Put(s)
		return err
	})
	_, err := w.release()
	if r, ok := rats.ReasonOf(err); !ok || r.Code != keyring.CodeSecret.Code {
		t.Errorf("%v", err)
	}
}

func TestUnusableSecretsAreNotStored(t *testing.T) {
	for name, c := range map[string]struct {
		secret string
		put    api.SecretPut
		want   rats.CodeInfo
	}{
		"no name":             {"", api.SecretPut{}, broker.CodeName},
		"upper case":          {"Db", api.SecretPut{}, broker.CodeName},
		"leading dot":         {".db", api.SecretPut{}, broker.CodeName},
		"leading slash":       {"/db", api.SecretPut{}, broker.CodeName},
		"trailing slash":      {"db/", api.SecretPut{}, broker.CodeName},
		"parent directory":    {"a/../db", api.SecretPut{}, broker.CodeName},
		"space":               {"d b", api.SecretPut{}, broker.CodeName},
		"long name":           {strings.Repeat("a", 129), api.SecretPut{}, broker.CodeName},
		"no value":            {"db", api.SecretPut{Value: []byte{}}, broker.CodeSize},
		"long value":          {"db", api.SecretPut{Value: make([]byte, broker.MaxValue+1)}, broker.CodeSize},
		"no rule":             {"db", api.SecretPut{Rule: ""}, broker.CodeRuleEmpty},
		"blank rule":          {"db", api.SecretPut{Rule: " \t\r\n"}, broker.CodeRuleEmpty},
		"rule of nonsense":    {"db", api.SecretPut{Rule: "nonsense"}, broker.CodeRule},
		"long rule":           {"db", api.SecretPut{Rule: strings.Repeat("x", 20000)}, broker.CodeRule},
		"no age":              {"db", api.SecretPut{Rule: "true", MaxResultAge: "0s"}, broker.CodeAge},
		"negative age":        {"db", api.SecretPut{Rule: "true", MaxResultAge: "-1s"}, broker.CodeAge},
		"long age":            {"db", api.SecretPut{Rule: "true", MaxResultAge: "10m1s"}, broker.CodeAge},
		"age without a unit":  {"db", api.SecretPut{Rule: "true", MaxResultAge: "60"}, broker.CodeAge},
		"age that isn't time": {"db", api.SecretPut{Rule: "true", MaxResultAge: "soon"}, broker.CodeAge},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.put.Value == nil {
				c.put.Value = []byte(value)
			}
			_, err := w.broker.Put(w.ctx, w.prod, "prod", "admin:ann", c.secret, c.put)
			if r := wantCode(t, err, c.want); name == "rule of nonsense" && len(r.Causes) != 1 {
				t.Errorf("causes %v", r.Causes)
			}
			if !bytes.Equal(c.put.Value, make([]byte, len(c.put.Value))) {
				t.Error("the value was not wiped")
			}
		})
	}
	w := newWorld(t)
	w.put("a-b/c.d_e/0", api.SecretPut{})
	w.put(strings.Repeat("a", 128), api.SecretPut{Value: make([]byte, broker.MaxValue)})
}

func TestNothingRecordedOrListedHoldsTheSecret(t *testing.T) {
	w := newWorld(t)
	w.settle(api.SecretPut{})
	_, err := w.release()
	w.ok(err)
	w.ok(w.prod.View(w.ctx, func(tx store.Tx) error {
		leaves, err := tx.Audit().After(0, 100)
		if err != nil {
			return err
		}
		events, err := tx.Events().After(0, 100)
		if err != nil {
			return err
		}
		for _, l := range leaves {
			if bytes.Contains(l.Detail, []byte(value)) {
				t.Errorf("the log holds it: %s", l.Detail)
			}
		}
		for _, e := range events {
			if bytes.Contains(e.Data, []byte(value)) {
				t.Errorf("an event holds it: %s", e.Data)
			}
		}
		s, err := tx.Secrets().Get("db")
		if bytes.Contains(s.Sealed, []byte(value)) {
			t.Error("it is stored in clear")
		}
		return err
	}))
}

func TestABrokerNeedsItsParts(t *testing.T) {
	if _, err := broker.New(broker.Config{}); err == nil {
		t.Error("made a broker of nothing")
	}
}
