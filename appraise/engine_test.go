package appraise_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/rats"
)

// fake verifies evidence by its body: "bad", "missing", "broken", "alien", "nil"; anything else is good.
type fake struct {
	id    rats.Format
	needs []rats.Format
	saw   *[]rats.Format // formats whose facts it saw, by their user data
}

type fakeClaims rats.Format

func (c fakeClaims) ClaimsOf() rats.Format { return rats.Format(c) }

var codeFake = rats.CodeInfo{Code: "fake.body.bad", Title: "bad", Hint: "mend", Slot: rats.Hardware}

func (f fake) Descriptor() *rats.Descriptor {
	return &rats.Descriptor{ID: f.id, Needs: f.needs, MediaTypes: []string{"application/x-fake"}}
}

func (f fake) Verify(_ context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	if f.saw != nil {
		*f.saw = append(*f.saw, f.id+":")
		for _, u := range in.Facts.UserData {
			*f.saw = append(*f.saw, rats.Format(u))
		}
	}
	switch string(e.Body) {
	case "bad":
		return rats.Verified{}, codeFake.Bad("body", "good", "bad")
	case "missing":
		return rats.Verified{}, codeFake.Missing("body", "an anchor", "none")
	case "broken":
		return rats.Verified{}, errors.New("out of order")
	case "alien":
		return rats.Verified{Claims: fakeClaims("alien")}, nil
	case "nil":
		return rats.Verified{}, nil
	case "unbound":
		if in.Binding.Profile != rats.ProfileRaw {
			return rats.Verified{}, errors.New("the binding was lost")
		}
	}
	return rats.Verified{
		Claims: fakeClaims(f.id), Facts: rats.Facts{UserData: [][]byte{[]byte(f.id)}},
		Links: []rats.Link{{From: f.id, To: "a", Kind: rats.LinkEnrolled}, {From: f.id, To: "a", Kind: rats.LinkNone}},
	}, nil
}

func collection(bodies ...string) rats.Collection {
	c := rats.Collection{Binding: rats.Binding{Profile: rats.ProfileRaw, UserData: []byte("u")}}
	for i := 0; i < len(bodies); i += 2 {
		c.Evidence = append(c.Evidence, rats.Evidence{Format: rats.Format(bodies[i]), MediaType: "application/x-fake", Body: []byte(bodies[i+1])})
	}
	return c
}

func noInputs(rats.Format) rats.Inputs { return rats.Inputs{} }

func engine() *appraise.Engine {
	return appraise.New(fake{id: "all", needs: []rats.Format{appraise.NeedsAll}}, fake{id: "b", needs: []rats.Format{"a"}}, fake{id: "a"})
}

func TestFormatsAreVerifiedInTheOrderOfTheirNeeds(t *testing.T) {
	var saw []rats.Format
	e := appraise.New(fake{"all", []rats.Format{appraise.NeedsAll}, &saw}, fake{"b", []rats.Format{"a"}, &saw}, fake{"a", nil, &saw})
	set, err := e.Verify(t.Context(), collection("all", "x", "b", "x", "a", "x"), []rats.Format{"a", "b", "all"}, noInputs)
	if err != nil || len(set.Refused) > 0 || len(set.Verified) != 3 {
		t.Fatalf("%v, %v", set.Refused, err)
	}
	if want := []rats.Format{"a:", "b:", "a", "all:", "a", "b"}; !slices.Equal(saw, want) {
		t.Errorf("saw %q, expected %q", saw, want)
	}
	if len(set.Links) != 3 {
		t.Errorf("links %v", set.Links)
	}
	var order []rats.Format
	for _, d := range e.Descriptors() {
		order = append(order, d.ID)
	}
	if !slices.Equal(order, []rats.Format{"a", "b", "all"}) {
		t.Errorf("order %q", order)
	}
}

// R122: what isn't exactly what was asked for, or isn't bound, is refused.
func TestRefusalMatrix(t *testing.T) {
	ab := []rats.Format{"a", "b"}
	rebind := func(b rats.Binding) rats.Collection {
		c := collection("a", "x", "b", "x")
		c.Binding = b
		return c
	}
	manifest := []byte("manifest")
	media := collection("a", "x", "b", "x")
	media.Evidence[0].MediaType = "text/plain"
	tests := []struct {
		name     string
		c        rats.Collection
		asked    []rats.Format
		code     rats.CodeInfo
		format   rats.Format
		tier     rats.Tier
		verified int
	}{
		{"missing", collection("a", "x"), ab, appraise.CodeFormatMissing, "b", rats.None, 1},
		{"extra", collection("a", "x", "b", "x"), []rats.Format{"a"}, appraise.CodeFormatExtra, "b", rats.Contraindicated, 1},
		{"nothing asked", collection("a", "x"), nil, appraise.CodeFormatExtra, "a", rats.Contraindicated, 0},
		{"doubled", collection("a", "x", "a", "y", "b", "x"), ab, appraise.CodeFormatDoubled, "a", rats.Contraindicated, 0},
		{"unknown", collection("a", "x", "z", "x"), []rats.Format{"a", "z"}, appraise.CodeFormatUnknown, "z", rats.None, 1},
		{"media type", media, ab, appraise.CodeFormatMedia, "a", rats.Contraindicated, 0},
		{"bad evidence", collection("a", "bad", "b", "x"), ab, codeFake, "a", rats.Contraindicated, 0},
		{"need not verified", collection("a", "bad", "b", "x"), ab, appraise.CodeNeedUnverified, "b", rats.None, 0},
		{"input missing", collection("a", "x", "b", "missing"), ab, codeFake, "b", rats.None, 1},
		{"bad with one that takes all", collection("a", "x", "b", "bad", "all", "x"), []rats.Format{"a", "b", "all"}, codeFake, "b", rats.Contraindicated, 2},
		{"claims of another format", collection("a", "alien"), []rats.Format{"a"}, appraise.CodeClaimsFormat, "a", rats.None, 0},
		{"no claims", collection("a", "nil"), []rats.Format{"a"}, appraise.CodeClaimsFormat, "a", rats.None, 0},
		{"no profile", rebind(rats.Binding{}), ab, appraise.CodeBindingProfile, "", rats.None, 2},
		{"profile none", rebind(rats.Binding{Profile: rats.ProfileNone}), ab, appraise.CodeBindingProfile, "", rats.None, 2},
		{"raw without user data", rebind(rats.Binding{Profile: rats.ProfileRaw}), ab, appraise.CodeBindingHash, "", rats.Contraindicated, 0},
		{"manifest of another hash", rebind(rats.Binding{Profile: rats.ProfileAssay, Manifest: manifest, UserData: rats.SHA256([]byte("x")).Sum}), ab, appraise.CodeBindingHash, "", rats.Contraindicated, 0},
		{"no manifest", rebind(rats.Binding{Profile: rats.ProfileAssay, UserData: rats.SHA256().Sum}), ab, appraise.CodeBindingHash, "", rats.Contraindicated, 0},
		{"hash by another algorithm", rebind(rats.Binding{Profile: rats.ProfileCoCo, Manifest: manifest, UserData: rats.SHA256(manifest).Sum}), ab, appraise.CodeBindingHash, "", rats.Contraindicated, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set, err := engine().Verify(t.Context(), test.c, test.asked, noInputs)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(set.Refused, func(r rats.Reason) bool { return r.Code == test.code.Code && r.Format == test.format })
			if i < 0 || set.Refused[i].Tier != test.tier {
				t.Errorf("expected %s of %q at %s, got %+v", test.code.Code, test.format, test.tier, set.Refused)
			}
			if len(set.Verified) != test.verified {
				t.Errorf("%d verified, expected %d", len(set.Verified), test.verified)
			}
		})
	}
}

func TestGoodBindingsAreAccepted(t *testing.T) {
	manifest := []byte("manifest")
	for _, b := range []rats.Binding{
		{Profile: rats.ProfileAssay, Manifest: manifest, UserData: rats.SHA256(manifest).Sum},
		{Profile: rats.ProfileCoCo, Manifest: manifest, UserData: rats.SHA384(manifest).Sum},
		{Profile: rats.ProfileRaw, UserData: []byte{1}},
	} {
		c := collection("a", "x")
		c.Binding = b
		if set, err := engine().Verify(t.Context(), c, []rats.Format{"a"}, noInputs); err != nil || len(set.Refused) > 0 {
			t.Errorf("%s: %v, %v", b.Profile, set.Refused, err)
		}
	}
}

func TestVerifierSeesTheCollectionsBinding(t *testing.T) {
	if set, err := engine().Verify(t.Context(), collection("a", "unbound"), []rats.Format{"a"}, noInputs); err != nil || len(set.Verified) != 1 {
		t.Errorf("%v, %v", set.Refused, err)
	}
}

func TestMalfunctionIsAnErrorAndYieldsNoSet(t *testing.T) {
	set, err := engine().Verify(t.Context(), collection("a", "x", "b", "broken"), []rats.Format{"a", "b"}, noInputs)
	if err == nil || set.Verified != nil {
		t.Errorf("%v, %v", set, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := engine().Verify(ctx, collection("a", "x"), []rats.Format{"a"}, noInputs); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestMistakesInTheListOfFormatsPanic(t *testing.T) {
	for name, vs := range map[string][]rats.Verifier{
		"twice":  {fake{id: "a"}, fake{id: "a"}},
		"no id":  {fake{}},
		"circle": {fake{id: "a", needs: []rats.Format{"b"}}, fake{id: "b", needs: []rats.Format{"a"}}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			appraise.New(vs...)
		})
	}
}
