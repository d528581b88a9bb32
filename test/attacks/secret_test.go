package attacks

import (
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/internal/broker"
	"github.com/assay-attest/assay/internal/httpapi"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/rats"
)

func (r *rig) secret(name, value, rule string) {
	r.t.Helper()
	if _, err := r.admin.PutSecret(r.t.Context(), name, api.SecretPut{Value: []byte(value), Rule: rule}); err != nil {
		r.t.Fatal(err)
	}
}

func open(m *wire.Machine, rel api.Release) (string, error) {
	b, err := m.Enclave.OpenRelease(rel)
	return string(b), err
}

// R126, R132, S42: a secret goes to a trusted node by a fresh result, and to nobody else.
func TestSecretIsReleasedOnlyToTheTrustedNodeThatItsRuleNames(t *testing.T) {
	r := newRig(t)
	db, web := r.machine("db"), r.machine("web")
	r.secret("db/password", "correct horse", `node.name == "db"`)
	if l, err := r.admin.ListSecrets(t.Context()); err != nil || len(l) != 1 || l[0].Name != "db/password" {
		t.Fatalf("secrets %v, %v", l, err)
	}

	_, err := db.Client.ReleaseSecret(t.Context(), db.Joined.Node, "db/password")
	refused(t, err, broker.CodeNoResult.Code)
	r.trusted(db)
	r.trusted(web)

	rel, err := db.Client.ReleaseSecret(t.Context(), db.Joined.Node, "db/password")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := open(db, rel); err != nil || got != "correct horse" {
		t.Fatalf("opened %q, %v", got, err)
	}
	if _, err := open(web, rel); err == nil {
		t.Error("another node's enclave opened the release")
	}
	// R172: the right key for the wrong workload.
	_, err = web.Client.ReleaseSecret(t.Context(), web.Joined.Node, "db/password")
	refused(t, err, broker.CodeRefused.Code)
	_, err = web.Client.ReleaseSecret(t.Context(), web.Joined.Node, "no/such")
	refused(t, err, broker.CodeRefused.Code)
	_, err = web.Client.ReleaseSecret(t.Context(), db.Joined.Node, "db/password")
	refused(t, err, httpapi.CodeAccessDenied.Code)

	// The result grows too old: attest first.
	r.advance(61 * time.Second)
	_, err = db.Client.ReleaseSecret(t.Context(), db.Joined.Node, "db/password")
	refused(t, err, broker.CodeStale.Code)

	// R130: deleted is gone.
	if err := r.admin.DeleteSecret(t.Context(), "db/password"); err != nil {
		t.Fatal(err)
	}
	r.advance(-61 * time.Second)
	_, err = db.Client.ReleaseSecret(t.Context(), db.Joined.Node, "db/password")
	refused(t, err, broker.CodeRefused.Code)
}

// R131: every release and every refusal is in the audit log, without the secret.
func TestReleaseAndRefusalAreInTheAuditLog(t *testing.T) {
	r := newRig(t)
	m := r.machine("audited")
	r.secret("key", "s3cr3t-value", "true")
	r.trusted(m)
	if _, err := m.Client.ReleaseSecret(t.Context(), m.Joined.Node, "key"); err != nil {
		t.Fatal(err)
	}
	r.write("a", "tampered")
	if told, err := m.Attest(t.Context(), r.again(m)); err != nil || told.State != rats.StateContraindicated {
		t.Fatalf("told %+v, %v", told, err)
	}
	_, err := m.Client.ReleaseSecret(t.Context(), m.Joined.Node, "key")
	refused(t, err, broker.CodeVerdict.Code)
	entries, err := r.admin.Audit(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for i, e := range entries {
		seen[e.Verb]++
		if i > 0 && !e.Prev.Equal(entries[i-1].Hash) {
			t.Errorf("audit leaf %d doesn't follow leaf %d", e.Seq, entries[i-1].Seq)
		}
	}
	for _, verb := range []string{broker.VerbPut, broker.VerbRelease, broker.VerbRefuse, "result.accept", "node.join", "policy.put"} {
		if seen[verb] == 0 {
			t.Errorf("no %s in the audit log: %v", verb, seen)
		}
	}
}

// again has the server challenge the machine once more.
func (r *rig) again(m *wire.Machine) api.Challenge {
	r.t.Helper()
	m.Instance = append([]byte(nil), m.Instance...)
	m.Instance[0]++
	return r.challenge(m)
}
