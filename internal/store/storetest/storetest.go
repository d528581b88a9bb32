// Package storetest is the one conformance suite for implementations of package store: what a Store promises is what Run
// checks. It knows no SQL and no implementation, and uses nothing but the interfaces.
//
// It can't show durability under power loss, nor the refusal of a newer schema; those tests stand beside each
// implementation, since they need to reach below it.
package storetest

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/assay-attest/assay/internal/store"
	"github.com/assay-attest/assay/rats"
)

// Run checks a store. open returns a new, empty, migrated store, and registers its Close with t.Cleanup.
// The whole suite runs twice: once as it is, once through Twice.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	t.Run("Once", func(t *testing.T) { suite(t, open) })
	t.Run("EveryUpdateTwice", func(t *testing.T) {
		suite(t, func(t *testing.T) store.Store { return Twice(open(t)) })
	})
}

func suite(t *testing.T, open func(t *testing.T) store.Store) {
	tests := []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"NamespaceNamesAreChecked", namespaceNames},
		{"AnUnknownNamespaceIsNotFound", unknownNamespace},
		{"NoRowOfOneNamespaceIsVisibleInAnother", isolation},
		{"NodesKeepWhatWasPut", nodesKeep},
		{"ANodeNameBelongsToOneNode", nodeNames},
		{"NodesListInPages", nodePages},
		{"RecordsKeepWhatWasPut", recordsKeep},
		{"RecordsAreFoundBySubjectAndTime", recordsByTime},
		{"AChallengeIsSpentOnce", spendOnce},
		{"AForgottenChallengeIsTooOld", spendForgotten},
		{"AChallengeIsSpentOnceByManyAtOnce", spendConcurrently},
		{"EventsAreNumberedWithoutGap", eventNumbers},
		{"BlobsAreContentAddressed", blobsKeep},
		{"DocumentsAreVersioned", documentVersions},
		{"ADeletedDocumentIsNotInForce", documentTombstone},
		{"ChangesOfDocumentsBumpTheEpoch", documentsBump},
		{"SecretsAreVersioned", secretVersions},
		{"ADeletedSecretIsForgotten", secretTombstone},
		{"AJoinTokenIsUsedOnce", tokenOnce},
		{"HoldRefusesAnotherEpoch", holdEpoch},
		{"NothingCommitsUnderAnOlderEpochAfterBump", epochRule},
		{"TheAuditChainVerifies", auditVerifies},
		{"TamperingWithTheAuditChainIsDetected", auditTampering},
		{"ASecondStreamOfANodeIsNoticed", streamsOpen},
		{"ItemsOfTheShelfAreKept", shelfKeeps},
		{"PurgingKeepsWhatThePresentNeeds", purgeOld},
		{"PurgingKeepsWhatIsYoung", purgeYoung},
		{"AFailedUpdateUndoesItselfAlone", rollback},
		{"AFailedUpdateInABatchHarmsNoOther", rollbackInBatch},
		{"ConcurrentUpdatesAreSerial", serial},
		{"AViewSeesOneSnapshot", snapshot},
		{"AViewCannotWrite", viewWrites},
		{"APanicHarmsNoOtherUpdate", panics},
		{"AnEndedContextDropsAnUpdate", cancelled},
		{"ATransactionEndsWithItsFunction", leaked},
		{"TailDeliversEveryEventOnceAndInOrder", tailOrder},
		{"TailEndsWithItsContext", tailEnds},
		{"AClosedStoreRefuses", closed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			for _, ns := range []string{"one", "two"} {
				if err := s.Create(t.Context(), ns); err != nil {
					t.Fatal(err)
				}
			}
			tt.test(t, s)
		})
	}
}

var errAgain = errors.New("running the function again")

// Twice returns a store whose Update runs each function that succeeds two times: first in a transaction that is undone,
// then for good. Under it a function shows whether it bears being run again, and a store whether undoing is complete.
// An update that fails the first time isn't run again.
func Twice(s store.Store) store.Store { return twiceStore{s} }

type twiceStore struct{ store.Store }

func (s twiceStore) In(namespace string) store.Space { return twiceSpace{s.Store.In(namespace)} }

type twiceSpace struct{ store.Space }

func (s twiceSpace) Update(ctx context.Context, f func(store.Tx) error) error {
	err := s.Space.Update(ctx, func(tx store.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		return errAgain
	})
	if !errors.Is(err, errAgain) {
		return err
	}
	return s.Space.Update(ctx, f)
}

// epoch is when all tests happen.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

func update(t *testing.T, p store.Space, f func(store.Tx) error) {
	t.Helper()
	if err := p.Update(t.Context(), f); err != nil {
		t.Fatalf("updating: %v", err)
	}
}

func view(t *testing.T, p store.Space, f func(store.Tx) error) {
	t.Helper()
	if err := p.View(t.Context(), f); err != nil {
		t.Fatalf("viewing: %v", err)
	}
}

// refused runs f in an update that must fail with want.
func refused(t *testing.T, p store.Space, want error, f func(store.Tx) error) {
	t.Helper()
	if err := p.Update(t.Context(), f); !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func node(id, name string) store.Node {
	return store.Node{
		ID: id, Name: name, Kind: "host", Parent: "nd_parent", Labels: map[string]string{"zone": "<a&b>"},
		Enrolment:    store.EnrolmentApproved,
		Endorsements: []rats.Endorsement{{MediaType: "application/x", Body: []byte{0, 1, 2}, Fetched: at(0)}},
		TLSKey:       rats.SHA256([]byte(id)), Serial: "17", CreatedAt: at(time.Nanosecond), LastTier: rats.Warning,
		Last: "at_1", Boot: rats.SHA256([]byte("boot")), BootSeen: at(1), Resume: map[rats.Format][]byte{"x": {9}},
	}
}

func record(id, subject string, when time.Time) store.Record {
	return store.Record{
		Result: rats.Result{ID: id, Subject: subject, Tier: rats.Affirming, At: when, Expires: when.Add(time.Hour),
			Policy: rats.Ref{Name: "p", Version: 3, Digest: rats.SHA256([]byte("p"))}},
		Binding:       rats.Binding{Profile: "assay/1", Manifest: []byte{1}, UserData: []byte{2}},
		Evidence:      map[rats.Format][]rats.Digest{"x": {rats.SHA256([]byte("e"))}},
		Claims:        map[rats.Format]rats.Digest{"x": rats.SHA256([]byte("c"))},
		ClaimsVersion: map[rats.Format]int{"x": 1}, Inputs: []rats.Digest{rats.SHA256([]byte("i"))},
		Params: map[rats.Format][]byte{"x": {3}}, Epoch: 7,
	}
}
