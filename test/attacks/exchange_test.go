package attacks

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/evidence/tpm"
	"github.com/assay-attest/assay/internal/appraiser"
	"github.com/assay-attest/assay/internal/measure"
	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"

	planev "github.com/assay-attest/assay/evidence/plan"
)

func TestHonestMachineIsTrustedInTwoStepsThenInOne(t *testing.T) {
	r := newRig(t)
	m := r.machine("honest")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	steps := 0
	for e, err := range m.Stream(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Challenge == nil {
			continue
		}
		if want := 1 + steps; len(e.Challenge.Asks) != want {
			t.Fatalf("challenge %d asks %d formats, want %d", steps, len(e.Challenge.Asks), want)
		}
		told, err := m.Attest(ctx, *e.Challenge)
		if err != nil {
			t.Fatal(err)
		}
		if told.State != rats.StateTrusted || told.Checkpoint == nil {
			t.Fatalf("told %+v", told)
		}
		if steps++; steps == 2 {
			break
		}
		go r.admin.Attest(ctx, m.Joined.Node, 10*time.Second) //nolint:errcheck // the stream shows it
	}
	if got := r.state(m); got != rats.StateTrusted {
		t.Errorf("state %s, want trusted", got)
	}
	view, err := r.admin.Results(t.Context(), m.Joined.Node, 1)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(view[0].Marks, rats.MarkSimulated) {
		t.Errorf("marks %v don't show the simulated enclave", view[0].Marks)
	}
}

func TestChangedFileIsNamedWithExpectedAndSeenDigest(t *testing.T) {
	r := newRig(t)
	m := r.machine("changed")
	r.write("b", "other content")
	told, err := m.Attest(t.Context(), r.challenge(m))
	if err != nil {
		t.Fatal(err)
	}
	if told.State != rats.StateContraindicated {
		t.Fatalf("state %s, want contraindicated", told.State)
	}
	view, err := r.admin.Result(t.Context(), told.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := rats.SHA256([]byte("content of b")).String()
	seen := rats.SHA256([]byte("other content")).String()
	i := slices.IndexFunc(view.Reasons, func(r rats.Reason) bool { return r.Code == planev.CodeChanged.Code })
	if i < 0 {
		t.Fatalf("reasons %v", view.Reasons)
	}
	if c := view.Reasons[i]; c.Expected != want || c.Seen != seen || c.Path != r.files+"/b" || c.Rule != "files" || c.Hint == "" {
		t.Fatalf("reason %+v", c)
	}
	if b, _ := json.Marshal(told); bytes.Contains(b, []byte(want)) {
		t.Error("the node was told the expected digest (S45)")
	}
}

// R152: a result handed in twice. R107: a nonce is good once.
func TestReplayedSubmissionIsRefused(t *testing.T) {
	r := newRig(t)
	m := r.machine("replay")
	c := r.challenge(m)
	first, err := m.Answer(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Client.Submit(t.Context(), m.Joined.Node, first)
	if err != nil || a.Next == nil {
		t.Fatalf("answer %+v, %v", a, err)
	}
	_, err = m.Client.Submit(t.Context(), m.Joined.Node, first)
	refused(t, err, appraiser.CodeTokenSpent.Code)

	second := api.Submission{Token: a.Next.Token, Manifest: first.Manifest}
	box, err := m.Enclave.Run(t.Context(), first.Manifest, a.Next.Asks[0].Params)
	if err != nil {
		t.Fatal(err)
	}
	second.Sealed = []api.Sealed{{Format: planev.Format, Data: box}}
	if _, err := m.Client.Submit(t.Context(), m.Joined.Node, second); err != nil {
		t.Fatal(err)
	}
	_, err = m.Client.Submit(t.Context(), m.Joined.Node, second)
	refused(t, err, planev.CodeSequence.Code) // the enclave's sequence number catches it before the spent token does
	if n := r.results(m); n != 1 {
		t.Errorf("%d results, want 1", n)
	}
}

// R221: clean evidence collected early is handed in late.
func TestEvidenceCollectedEarlyAndHandedInLateIsRefused(t *testing.T) {
	r := newRig(t)
	m := r.machine("late")
	s, err := m.Answer(t.Context(), r.challenge(m), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	_, err = m.Client.Submit(t.Context(), m.Joined.Node, s)
	refused(t, err, appraiser.CodeTokenExpired.Code)
	if got := r.state(m); got != rats.StateUnknown {
		t.Errorf("state %s, want unknown", got)
	}
}

// R153: evidence of another machine, over the attacker's own connection.
func TestResultOfAnotherNodeIsRefused(t *testing.T) {
	r := newRig(t)
	clean, dirty := r.machine("clean"), r.machine("dirty")
	cc, dc := r.challenge(clean), r.challenge(dirty)

	s, err := clean.Answer(t.Context(), cc, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = dirty.Client.Submit(t.Context(), dirty.Joined.Node, s)
	refused(t, err, appraiser.CodeTokenOther.Code)

	// The clean machine is talked into quoting the dirty one's challenge and name.
	asked, err := clean.Answer(t.Context(), dc, func(m *rats.Manifest) { m.Node = dirty.Joined.Node })
	if err != nil {
		t.Fatal(err)
	}
	_, err = dirty.Client.Submit(t.Context(), dirty.Joined.Node, asked)
	refused(t, err, appraiser.CodeManifestPeer.Code)

	// And with the dirty machine's TLS key in the manifest: the quote is by another AK than the enrolled one.
	man, err := dirty.Manifest(dc)
	if err != nil {
		t.Fatal(err)
	}
	b, err := man.Bind()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := dirty.AnswerBound(t.Context(), dc, b)
	if err != nil {
		t.Fatal(err)
	}
	quote, err := clean.TPM.Quote("sha256", []int{0, 7}, b.UserData)
	if err != nil {
		t.Fatal(err)
	}
	forged.Evidence = []rats.Evidence{quote}
	_, err = dirty.Client.Submit(t.Context(), dirty.Joined.Node, forged)
	if err == nil || r.results(dirty) != 0 {
		t.Fatalf("a quote of another TPM was accepted (%v)", err)
	}
	// Another node's path with one's own certificate.
	_, err = dirty.Client.Submit(t.Context(), clean.Joined.Node, s)
	refused(t, err, "api.access.denied")
}

// R021: the order of steps is enforced.
func TestOutOfOrderStepIsRefused(t *testing.T) {
	r := newRig(t)
	m := r.machine("order")
	c := r.challenge(m)
	first, err := m.Answer(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("an outcome before the platform was verified", func(t *testing.T) {
		s := first
		s.Sealed = []api.Sealed{{Format: planev.Format, Data: r.sealedGarbage()}}
		_, err := m.Client.Submit(t.Context(), m.Joined.Node, s)
		refused(t, err, appraiser.CodeStepOrder.Code)
	})
	a, err := m.Client.Submit(t.Context(), m.Joined.Node, first)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the continuation under another manifest", func(t *testing.T) {
		s, err := m.Answer(t.Context(), api.Challenge{
			Token: a.Next.Token, Nonce: a.Next.Nonce, Purpose: c.Purpose, Verifier: c.Verifier, Formats: c.Formats, Asks: c.Asks,
		}, func(man *rats.Manifest) { man.Instance = bytes.Repeat([]byte{1}, 32) })
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Client.Submit(t.Context(), m.Joined.Node, s)
		refused(t, err, appraiser.CodeStepOrder.Code)
	})
	if n := r.results(m); n != 0 {
		t.Errorf("%d results, want none", n)
	}
}

// sealedGarbage is well-formed evidence sealed to the server by somebody who only knows its public key.
func (r *rig) sealedGarbage() []byte {
	r.t.Helper()
	box, err := plan.SealEvidence(nil, r.resultsKey(), rats.Evidence{Format: planev.Format, MediaType: plan.ReportMediaType, Body: []byte("{}")})
	if err != nil {
		r.t.Fatal(err)
	}
	return box
}

// R151: an outcome signed by a key no platform vouches for.
func TestForgedOutcomeIsRefused(t *testing.T) {
	r := newRig(t)
	m := r.machine("forger")
	c := r.challenge(m)
	first, err := m.Answer(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Client.Submit(t.Context(), m.Joined.Node, first)
	if err != nil {
		t.Fatal(err)
	}
	// Another enclave of the same machine can't even open the order: it was sealed to the key that was quoted.
	other, err := measure.NewEnclave(measure.Config{
		System: r.system(), Rand: rand.Reader, Now: r.now, PlanSigner: m.Joined.PlanSigner, Namespace: m.Joined.Namespace, Node: m.Joined.Node,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Run(t.Context(), first.Manifest, a.Next.Asks[0].Params); err == nil {
		t.Fatal("another enclave opened the order")
	}
	_, err = m.Client.Submit(t.Context(), m.Joined.Node, api.Submission{
		Token: a.Next.Token, Manifest: first.Manifest, Sealed: []api.Sealed{{Format: planev.Format, Data: r.sealedGarbage()}},
	})
	if err == nil || r.results(m) != 0 {
		t.Fatalf("a forged outcome was accepted (%v)", err)
	}
	_, err = m.Client.Submit(t.Context(), m.Joined.Node, api.Submission{
		Token: a.Next.Token, Manifest: first.Manifest, Sealed: []api.Sealed{{Format: planev.Format, Data: bytes.Repeat([]byte{7}, 200)}},
	})
	refused(t, err, appraiser.CodeSealedMalformed.Code)
}

// R150, R023: nothing that leaves the server shows what is looked at.
func TestPlanLeavesTheServerOnlyEncrypted(t *testing.T) {
	r := newRig(t)
	m := r.machine("curious")
	c := r.challenge(m)
	first, err := m.Answer(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Client.Submit(t.Context(), m.Joined.Node, first)
	if err != nil {
		t.Fatal(err)
	}
	for name, msg := range map[string]any{"challenge": c, "answer": a} {
		b, err := json.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		for _, ask := range append(slices.Clone(c.Asks), a.Next.Asks...) {
			b = append(b, ask.Params...)
		}
		if bytes.Contains(b, []byte(r.files)) {
			t.Errorf("the %s shows a path of the plan", name)
		}
	}
}

// R220: a plan that is not signed by the server's key, or for another enclave, is not run.
func TestUnsignedPlanAndPlanForAnotherEnclaveAreNotRun(t *testing.T) {
	r := newRig(t)
	m, victim := r.machine("oracle"), r.machine("victim")
	c := r.challenge(m)
	man, err := m.Manifest(c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := man.Bind()
	if err != nil {
		t.Fatal(err)
	}
	hpke, _ := rats.Facts{Keys: m.Enclave.Keys()}.Key(rats.KeyHPKE)
	order := plan.Order{
		Namespace: "default", Node: m.Joined.Node, Nonce: c.Nonce, To: plan.KeysDigest(m.Enclave.Keys()),
		Results: r.resultsKey(), Expires: r.now().Add(time.Minute),
		Plan: plan.Plan{Version: plan.Version1, Tests: []plan.Test{{ID: 1, Kind: plan.KindFile, Alg: "sha256", Args: []byte(`{"path":"/etc/shadow"}`)}}},
	}
	attacker, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	box, err := order.Seal(nil, attacker, hpke.Public)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Enclave.Run(t.Context(), b.Manifest, box)
	refused(t, err, plan.CodeOrderSignature.Code)

	// A genuine order of the server, but for another node's enclave.
	s, err := victim.Answer(t.Context(), r.challenge(victim), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := victim.Client.Submit(t.Context(), victim.Joined.Node, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Enclave.Run(t.Context(), b.Manifest, a.Next.Asks[0].Params); err == nil {
		t.Fatal("an order for another enclave was run")
	}
}

// R032: after a reboot the node is untrusted until it attests again.
func TestRebootMakesTheNodeUntrustedUntilItAttests(t *testing.T) {
	r := newRig(t)
	m := r.machine("reboot")
	r.trusted(m)
	m.TPM.Reset()
	if err := m.Restart(); err != nil {
		t.Fatal(err)
	}
	m.Instance = bytes.Repeat([]byte{9}, 32)
	c := r.challenge(m)
	if got := r.state(m); got != rats.StateUnknown {
		t.Errorf("state after the reboot %s, want unknown", got)
	}
	if len(c.Asks) != 1 {
		t.Errorf("the challenge after a reboot asks %d formats, want the platform alone", len(c.Asks))
	}
	if told, err := m.Attest(t.Context(), c); err != nil || told.State != rats.StateTrusted {
		t.Errorf("told %+v, %v", told, err)
	}
}

// S02, S03: wrong and doubled pieces of a submission, each with its own code.
func TestManifestThatDiffersFromTheChallengeIsRefused(t *testing.T) {
	r := newRig(t)
	m := r.machine("manifest")
	c := r.challenge(m)
	for _, tt := range []struct {
		name   string
		change func(*rats.Manifest)
		want   rats.Code
	}{
		{"another nonce", func(m *rats.Manifest) { m.Nonce = bytes.Repeat([]byte{1}, 32) }, appraiser.CodeManifestNonce.Code},
		{"another purpose", func(m *rats.Manifest) { m.Purpose = "release" }, appraiser.CodeManifestField.Code},
		{"another namespace", func(m *rats.Manifest) { m.Namespace = "other" }, appraiser.CodeManifestField.Code},
		{"another node", func(m *rats.Manifest) { m.Node = "nd_other" }, appraiser.CodeManifestField.Code},
		{"another verifier", func(m *rats.Manifest) { m.Verifier = rats.SHA256([]byte("x")) }, appraiser.CodeManifestField.Code},
		{"a missing format", func(m *rats.Manifest) { m.Formats = m.Formats[:1] }, appraiser.CodeManifestFormats.Code},
		{"an extra format", func(m *rats.Manifest) { m.Formats = append(m.Formats, "extra") }, appraiser.CodeManifestFormats.Code},
		{"formats in another order", func(m *rats.Manifest) { slices.Reverse(m.Formats) }, appraiser.CodeManifestFormats.Code},
		{"no TLS key", func(m *rats.Manifest) { m.Keys = m.Keys[:3] }, appraiser.CodeManifestPeer.Code},
		{"no signing key", func(m *rats.Manifest) { m.Keys = slices.Delete(m.Keys, 2, 3) }, appraiser.CodeManifestKey.Code},
		{"a key of the TPM", func(m *rats.Manifest) {
			m.Keys = append([]rats.BoundKey{{Use: rats.KeyAK, Public: []byte("x")}}, m.Keys...)
		}, appraiser.CodeManifestExtra.Code},
		{"another plan signer", func(m *rats.Manifest) { m.Keys[1].Public = m.Keys[2].Public }, appraiser.CodeManifestSigner.Code},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := m.Answer(t.Context(), c, func(man *rats.Manifest) {
				man.Formats, man.Keys = slices.Clone(man.Formats), slices.Clone(man.Keys)
				tt.change(man)
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = m.Client.Submit(t.Context(), m.Joined.Node, s)
			refused(t, err, tt.want)
		})
	}
	if r.results(m) != 0 || r.state(m) != rats.StateUnknown {
		t.Error("a refused submission changed the node's state")
	}
	_ = tpm.Format
}
