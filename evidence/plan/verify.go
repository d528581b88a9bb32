package plan

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/assay-attest/assay/plan"
	"github.com/assay-attest/assay/rats"
)

// Codes of verification.
var (
	CodeProfile    = code("plan.binding.profile", "evidence is not bound by a manifest", "plans are run for attestations of profile assay/1 only")
	CodeParams     = code("plan.params.missing", "the plan that was ordered is not at hand", "give the plan and the plan signer with the evidence; a bundle holds them")
	CodeUnvouched  = code("plan.key.unvouched", "no platform evidence vouches for the enclave's key", "the policy must ask for platform evidence whose binding holds the enclave's keys")
	CodeKey        = code("plan.key.other", "report is signed by another key than the platform vouches for", "evidence of two enclaves, or two machines, was mixed")
	CodePlanSigner = code("plan.signer.other", "enclave obeys another plan signer than this verifier's", "the agent was started with another server's plan signer: it must join again")
	CodeNonce      = code("plan.nonce.other", "report is of another challenge", "evidence was replayed")
	CodeManifest   = code("plan.manifest.other", "report is of another manifest", "evidence was mixed from two attestations")
	CodePlan       = code("plan.plan.other", "report is of another plan", "policy changed while the plan ran; the next attestation runs the new one")
	CodeSequence   = code("plan.sequence.reused", "report is not newer than the last one of this enclave", "evidence was replayed")
	CodeTests      = code("plan.tests.other", "tests of the report are not those of the plan", "the runner left out or made up a test")
	CodeStray      = code("plan.outcome.stray", "outcome does not belong to its test", "the runner measured what the plan doesn't ask for, or by another algorithm")
)

func code(c rats.Code, title, hint string) rats.CodeInfo {
	return rats.CodeInfo{Code: c, Title: title, Hint: hint, Slot: rats.RuntimeOpaque}
}

func verify(ctx context.Context, e rats.Evidence, in rats.Inputs) (rats.Verified, error) {
	ordered, planSigner, err := params(in.Params)
	if err != nil {
		return rats.Verified{}, err
	}
	if in.Binding.Profile != rats.ProfileAssay {
		return rats.Verified{}, CodeProfile.Bad("binding.profile", rats.ProfileAssay, in.Binding.Profile)
	}
	m, err := rats.DecodeManifest(in.Binding.Manifest)
	if err != nil {
		return rats.Verified{}, CodeProfile.Bad("binding.manifest", "a manifest", err.Error())
	}
	report, bulk, timings, err := plan.OpenReport(e)
	if err != nil {
		return rats.Verified{}, err
	}
	if err := vouched(report, planSigner, in.Facts); err != nil {
		return rats.Verified{}, err
	}
	resume, err := fresh(report, m, ordered, in)
	if err != nil {
		return rats.Verified{}, err
	}
	if err := ctx.Err(); err != nil {
		return rats.Verified{}, err
	}
	claims, err := claimsOf(report, ordered, bulk, timings)
	if err != nil {
		return rats.Verified{}, err
	}
	left, err := covering(claims, resume, in)
	if err != nil {
		return rats.Verified{}, err
	}
	v := rats.Verified{
		Claims: claims,
		Resume: left,
		Links:  []rats.Link{link(report, in.Facts)},
	}
	// An enclave that nothing attests is a process that calls itself one.
	claims.Simulated = claims.Simulated || v.Links[0].Kind != rats.LinkKeyInReport
	if claims.Simulated {
		v.Marks = []string{rats.MarkSimulated}
	}
	return v, nil
}

// link says how the run hangs together with the platform. An attested enclave whose report holds the signing key made
// the run; what that enclave is worth is in its own claims, marks and slots, which this evidence doesn't better.
func link(r plan.Report, f rats.Facts) rats.Link {
	if r.Backend == plan.BackendEnclave {
		for _, e := range f.Enclaves {
			if k, ok := e.Key(rats.KeySign); ok && bytes.Equal(k.Public, r.Signer) {
				return rats.Link{From: Format, To: e.By, Kind: rats.LinkKeyInReport}
			}
		}
	}
	return rats.Link{From: Format, To: platform(f), Kind: rats.LinkNone}
}

// params decodes what the verifier itself knows; a plan of its own that doesn't decode is its malfunction.
func params(b []byte) (plan.Plan, []byte, error) {
	if len(b) == 0 {
		return plan.Plan{}, nil, CodeParams.Missing("params", "plan and plan signer", "nothing")
	}
	var p Params
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return plan.Plan{}, nil, fmt.Errorf("decoding the parameters: %w", err)
	}
	if len(p.Plan) == 0 || len(p.PlanSigner) == 0 {
		return plan.Plan{}, nil, CodeParams.Missing("params", "plan and plan signer", "one of them")
	}
	ordered, err := plan.Decode(p.Plan)
	if err != nil {
		return plan.Plan{}, nil, fmt.Errorf("decoding the ordered plan: %s", err) // not %w: it isn't the node's fault
	}
	return ordered, p.PlanSigner, nil
}

// vouched checks that the platform vouches for the key that signed, and for the plan signer the enclave obeys. Neither is
// believed on the report's word, or the manifest's.
func vouched(r plan.Report, planSigner []byte, f rats.Facts) error {
	key, ok := f.Key(rats.KeySign)
	if !ok {
		return CodeUnvouched.Bad("facts.keys.sign", "one key", "none, or several that differ")
	}
	if !bytes.Equal(key.Public, r.Signer) {
		return CodeKey.Bad("report.signer", rats.SHA256(key.Public).String(), rats.SHA256(r.Signer).String())
	}
	obeyed, ok := f.Key(rats.KeyPlanSigner)
	if !ok {
		return CodeUnvouched.Bad("facts.keys.plan-signer", "one key", "none, or several that differ")
	}
	if !bytes.Equal(obeyed.Public, planSigner) {
		return CodePlanSigner.Bad("facts.keys.plan-signer", rats.SHA256(planSigner).String(), rats.SHA256(obeyed.Public).String())
	}
	return nil
}

// fresh checks that the report is of this challenge, manifest and plan, and newer than the last one of the same signer.
func fresh(r plan.Report, m rats.Manifest, ordered plan.Plan, in rats.Inputs) (now Resume, err error) {
	switch {
	case !bytes.Equal(r.Nonce, m.Nonce):
		return now, CodeNonce.Bad("report.nonce", rats.SHA256(m.Nonce).String(), rats.SHA256(r.Nonce).String())
	case !bytes.Equal(in.Binding.UserData, rats.SHA256(in.Binding.Manifest).Sum) || !bytes.Equal(r.Manifest, in.Binding.UserData):
		return now, CodeManifest.Bad("report.manifest", rats.SHA256(in.Binding.Manifest).String(), fmt.Sprintf("sha256:%x", r.Manifest))
	case !r.Plan.Equal(ordered.Digest()):
		return now, CodePlan.Bad("report.plan", ordered.Digest().String(), r.Plan.String())
	}
	now = Resume{Signer: rats.SHA256(r.Signer), Sequence: r.Sequence}
	if len(in.Resume) > 0 {
		var last Resume
		if err := json.Unmarshal(in.Resume, &last); err != nil {
			return now, fmt.Errorf("decoding the last verification's state: %w", err)
		}
		// Another signer is another enclave, which counts from 1.
		if last.Signer.Equal(now.Signer) && r.Sequence <= last.Sequence {
			return now, CodeSequence.Bad("report.sequence", fmt.Sprintf("above %d", last.Sequence), fmt.Sprint(r.Sequence))
		}
		now.Covered, now.Since = last.Covered, last.Since
	}
	return now, nil
}

// covering adds to the claims how far the tests that take turns have come, and returns what to remember.
func covering(c *Claims, now Resume, in rats.Inputs) ([]byte, error) {
	c.Coverage, now.Covered, now.Since = cover(c.Tests, now, in.Now)
	return json.Marshal(now)
}

// platform names the format that vouched: the one whose boot or registers came along, "" if none says.
func platform(f rats.Facts) rats.Format {
	for _, b := range f.Boots {
		return b.By
	}
	for _, r := range f.Registers {
		return r.By
	}
	return ""
}

// claimsOf checks that the outcomes are those of the ordered tests, each run once, in order, and turns them into claims.
func claimsOf(r plan.Report, ordered plan.Plan, bulk, timings []byte) (*Claims, error) {
	ids, outcomes, err := plan.DecodeOutcomes(bulk, timings)
	if err != nil {
		return nil, err
	}
	if len(ids) != len(ordered.Tests) {
		return nil, CodeTests.Bad("outcomes", fmt.Sprintf("%d tests", len(ordered.Tests)), fmt.Sprintf("%d tests", len(ids)))
	}
	c := &Claims{
		Backend: r.Backend, Simulated: r.Simulated,
		Tests: make([]Test, len(ids)), Measurements: make([]Measurement, 0, len(outcomes)),
	}
	if c.Timing, err = timing(ordered, outcomes, timings); err != nil {
		return nil, err
	}
	for i, t := range ordered.Tests {
		if ids[i] != t.ID {
			return nil, CodeTests.Bad(fmt.Sprintf("outcomes.tests[%d]", i), fmt.Sprintf("test %d", t.ID), fmt.Sprintf("test %d", ids[i]))
		}
		scope, err := t.Scope()
		if err != nil {
			return nil, fmt.Errorf("reading test %d: %w", t.ID, err)
		}
		c.Tests[i] = testOf(t, scope)
		n := 0
		for n < len(outcomes) && outcomes[n].Test == t.ID {
			m, err := measurement(t, scope, outcomes[n])
			if err != nil {
				return nil, err
			}
			c.Measurements = append(c.Measurements, m)
			n++
		}
		if (t.Kind == plan.KindFile || t.Kind == plan.KindCommand) && n == 0 {
			return nil, CodeTests.Bad(fmt.Sprintf("outcomes.tests[%d]", i), "an outcome of its file or command", "none")
		}
		outcomes = outcomes[n:]
	}
	return c, nil
}

func measurement(t plan.Test, scope plan.Scope, o plan.Outcome) (Measurement, error) {
	m := Measurement{Test: o.Test, Name: rats.EscapePath(o.Name), Size: o.Size, Err: o.Err}
	if o.Err != "" {
		return m, nil
	}
	if len(o.Digest) != plan.AlgSize(t.Alg) {
		return m, CodeStray.Bad(m.Name, fmt.Sprintf("a digest by %s", t.Alg), fmt.Sprintf("%d bytes", len(o.Digest)))
	}
	if !scope.Covers(o.Name) {
		return m, CodeStray.Bad(m.Name, fmt.Sprintf("a path of test %d", t.ID), "another")
	}
	m.Digest = rats.Digest{Alg: t.Alg, Sum: o.Digest}
	if _, what := plan.CutName(o.Name); scope.Merkle != nil && scope.Merkle.Spots > 0 && !plan.IsAttributes(what) {
		spots, err := spotCheck(t, scope.Merkle, o)
		m.Spots = spots
		return m, err
	}
	if len(o.Value) > 0 {
		if len(o.Value) > plan.MaxValue || !discloses(scope) || !bytes.Equal(sumOf(t.Alg, o.Value), o.Digest) {
			return m, CodeStray.Bad(m.Name, "a value where the test discloses it, with its own digest", fmt.Sprintf("%d bytes", len(o.Value)))
		}
		m.Value = rats.EscapePath(o.Value)
	}
	return m, nil
}

// discloses says whether outcomes of a test may bring the value their digest is of.
func discloses(s plan.Scope) bool {
	return s.Check != nil && s.Check.Disclose || s.Command != nil && s.Command.Match != ""
}
