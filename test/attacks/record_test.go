package attacks

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/evidence/all"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/refs"
	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/internal/store/sqlite"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// A record is enough to verify the evidence and to appraise the claims again, without the node and at any later time.
func TestStoredRecordVerifiesAndAppraisesAgain(t *testing.T) {
	r := newRig(t)
	m := r.machine("history")
	r.write("c", "something else")
	told, err := m.Attest(t.Context(), r.challenge(m))
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	db, err := sqlite.Open(t.Context(), r.dir+"/data/assay.db", sqlite.Options{Now: r.now})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	space := db.In("default")
	var rec store.Record
	var evidence []rats.Evidence
	var endorsements []rats.Endorsement
	var node store.Node
	err = space.View(t.Context(), func(tx store.Tx) (err error) {
		if rec, err = tx.Records().Get(told.ID); err != nil {
			return err
		}
		if evidence, err = appraiser.Evidence(tx, rec); err != nil {
			return err
		}
		for _, d := range rec.Inputs {
			b, err := rec.Piece(tx, d)
			if err != nil {
				return err
			}
			var e rats.Endorsement
			if err := json.Unmarshal(b, &e); err != nil {
				return err
			}
			endorsements = append(endorsements, e)
		}
		node, err = tx.Nodes().Get(m.Joined.Node)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	engine := appraise.New(all.Verifiers()...)
	var asked []rats.Format
	for _, e := range evidence {
		asked = append(asked, e.Format)
	}
	coll := rats.Collection{Binding: rec.Binding, Evidence: evidence}
	set, err := engine.Verify(t.Context(), coll, asked, func(f rats.Format) rats.Inputs {
		return rats.Inputs{Binding: rec.Binding, Now: rec.Result.At, Endorsements: endorsements, Params: rec.Params[f]}
	})
	if err != nil || len(set.Refused) != 0 {
		t.Fatalf("verifying again: %v, refused %v", err, set.Refused)
	}
	for f, v := range set.Verified {
		b, err := json.Marshal(v.Claims)
		if err != nil {
			t.Fatal(err)
		}
		if !rats.SHA256(b).Equal(rec.Claims[f]) {
			t.Errorf("the claims of %s verified again are not the stored ones", f)
		}
	}
	view, err := refs.NewCache(engine.Descriptors()).Fresh(t.Context(), space, "default")
	if err != nil {
		t.Fatal(err)
	}
	active, why := view.Active(appraiser.NodeFacts(node))
	if len(why) > 0 {
		t.Fatal(why)
	}
	again := active.Appraise(policy.In{
		Set: set, Lookup: view.Index, Now: rec.Result.At, Node: appraiser.NodeFacts(node), Ref: active.Ref,
		Challenged: rec.Result.Challenged, ClaimsDigest: rec.Claims,
	})
	if again.Tier != rec.Result.Tier || !reflect.DeepEqual(again.Reasons, rec.Result.Reasons) || !reflect.DeepEqual(again.Vector, rec.Result.Vector) {
		t.Errorf("appraised again: %s %v, was %s %v", again.Tier, again.Reasons, rec.Result.Tier, rec.Result.Reasons)
	}
}
