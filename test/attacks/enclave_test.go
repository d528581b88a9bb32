package attacks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/appraise"
	"github.com/assay-attest/assay/enclave/abi"
	"github.com/assay-attest/assay/evidence/enclave"
	planev "github.com/assay-attest/assay/evidence/plan"
	attester "github.com/assay-attest/assay/internal/attester/enclave"
	"github.com/assay-attest/assay/internal/attester/plan"
	"github.com/assay-attest/assay/internal/measuring"
	"github.com/assay-attest/assay/internal/testkit/measuringtest"
	"github.com/assay-attest/assay/internal/testkit/softenclave"
	"github.com/assay-attest/assay/internal/testkit/wire"
	"github.com/assay-attest/assay/policy"
	"github.com/assay-attest/assay/rats"
)

// enclavePolicy demands an attested enclave before the plan: section is the body of `enclave:`, each line with six spaces
// before it; allow are the marks.
func (r *rig) enclavePolicy(section string, allow ...string) string {
	doc := strings.Replace(r.defaultPolicy(), "allow: [simulated, software-tpm]\n", "allow: ["+strings.Join(allow, ", ")+"]\n"+
		"links: [{from: plan, to: enclave, kind: key-in-report}]\n", 1)
	return strings.Replace(doc, "  plan:\n", "  enclave:\n"+indent(section, "    ")+"  plan:\n", 1)
}

const sameOS = "modes: [process, inline]\nlaunches: [userspace]\nroots: [%s]\naccept_same_os: true\n"

// softQuotes collects quotes of a monitor that runs nothing.
type softQuotes struct {
	e     *softenclave.Enclave
	alter softenclave.Alter
}

func (softQuotes) Descriptor() *rats.Descriptor { return enclave.Describe() }

func (softQuotes) Probe(context.Context) rats.Readiness { return rats.Readiness{OK: true} }

func (q softQuotes) Collect(_ context.Context, ask rats.Ask) (rats.Evidence, error) {
	p, err := enclave.ParseParams(ask.Params)
	if err != nil {
		return rats.Evidence{}, err
	}
	return q.e.QuoteAltered(ask.Binding, p.PCRs, q.alter), nil
}

// R022: no plan leaves for an enclave that isn't attested, or not one that policy names. R164 (forged monitor key), R165
// (spliced quote), R166 (SVN downgrade), R167 (debug), R168 (another MRSIGNER), S05 (another plan signer), each with its code.
func TestNoPlanLeavesForAnEnclaveThatPolicyDoesNotName(t *testing.T) {
	r := newRig(t)
	platform := abi.Platform{Mode: abi.ModeProcess, Launch: abi.LaunchUserspace, Root: abi.RootOSProtected, SVN: 5}
	good := softenclave.New(rand.Reader, softenclave.Options{Platform: platform})
	mrenclave := fmt.Sprintf("sha256:%x", good.Identity.MRENCLAVE)
	testSigner := fmt.Sprintf("sha256:%x", abi.TestMRSIGNER)
	exact := "mrenclave: " + mrenclave + "\n" + fmt.Sprintf(sameOS, "os-protected")
	signed := func(signer string) string {
		return fmt.Sprintf("signers: [{mrsigner: %q, product_id: 7, min_svn: 3}]\n", signer) + fmt.Sprintf(sameOS, "os-protected")
	}
	with := func(change func(*softenclave.Options)) softenclave.Options {
		o := softenclave.Options{Platform: platform}
		change(&o)
		return o
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(stranger.Public())
	if err != nil {
		t.Fatal(err)
	}
	other := softenclave.New(rand.Reader, softenclave.Options{Platform: platform, Root: 1})
	for i, c := range []struct {
		what    string
		section string
		o       softenclave.Options
		alter   softenclave.Alter
		absent  bool
		want    rats.CodeInfo // none: the plan leaves
	}{
		{what: "the one that is named", section: exact, o: with(func(*softenclave.Options) {})},
		{what: "one of the named signer", section: signed(testSigner), o: with(func(*softenclave.Options) {})},
		{what: "no evidence of it", section: exact, o: with(func(*softenclave.Options) {}), absent: true, want: appraise.CodeFormatMissing},
		{what: "another MRENCLAVE", section: exact, o: with(func(o *softenclave.Options) { o.Module = 1 }), want: enclave.CodeIdentity},
		{what: "re-signed by another (R168)", section: signed("sha256:" + strings.Repeat("ab", 32)), o: with(func(*softenclave.Options) {}), want: enclave.CodeIdentity},
		{what: "an older version (R166)", section: signed(testSigner), o: with(func(o *softenclave.Options) { o.ProductID, o.SVN = 7, 2 }), want: enclave.CodeSVN},
		{what: "open to a debugger (R167)", section: exact, o: with(func(o *softenclave.Options) { o.Flags = abi.FlagDebug }), want: enclave.CodeDebug},
		{what: "obeying another plan signer", section: exact, o: with(func(o *softenclave.Options) { o.PlanSigner = spki }), want: enclave.CodePlanSigner},
		{what: "in another mode", section: strings.Replace(exact, "process, inline", "inline", 1), o: with(func(*softenclave.Options) {}), want: enclave.CodeMode},
		{what: "of another root class", section: strings.Replace(exact, "os-protected", "initrd-sealed", 1), o: with(func(*softenclave.Options) {}), want: enclave.CodeRoot},
		{what: "signed by a forged monitor key (R164)", section: exact, o: with(func(*softenclave.Options) {}), alter: softenclave.Alter{Signer: other}, want: enclave.CodeKeyDoubled},
		{what: "spliced with another's TPM quote (R165)", section: exact, o: with(func(*softenclave.Options) {}), alter: softenclave.Alter{Extra: make([]byte, 32)}, want: enclave.CodeSpliced},
		{what: "a quote of another manifest", section: exact, o: with(func(*softenclave.Options) {}), alter: softenclave.Alter{Bound: func(d *[64]byte) { d[0] ^= 1 }}, want: enclave.CodeReportData},
	} {
		r.apply(r.enclavePolicy(c.section, rats.MarkSimulated, rats.MarkSoftwareTPM, rats.MarkTestKey, rats.MarkDebug))
		m := r.machine(fmt.Sprintf("soft-%d", i))
		c.o.TPM = m.TPM
		if c.o.PlanSigner == nil {
			c.o.PlanSigner = m.Joined.PlanSigner
		}
		m.Attesters = []rats.Attester{softQuotes{softenclave.New(rand.Reader, c.o), c.alter}}
		ch := r.challenge(m)
		if len(ch.Asks) != 2 || ch.Asks[1].Format != enclave.Format {
			t.Fatalf("%s: asks %v, want tpm and enclave", c.what, ch.Asks)
		}
		sub, err := m.Answer(t.Context(), ch, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.absent {
			sub.Evidence = sub.Evidence[:1]
		}
		a, err := m.Client.Submit(t.Context(), m.Joined.Node, sub)
		if a.Next != nil {
			if c.want.Code != "" {
				t.Errorf("%s: a plan left, want %s", c.what, c.want.Code)
			}
			continue
		}
		if err == nil {
			if !slices.Contains(a.Result.Codes, c.want.Code) || a.Result.State != rats.StateContraindicated {
				t.Errorf("%s: %s with %v, want %s", c.what, a.Result.State, a.Result.Codes, c.want.Code)
			}
		} else if codeOf(err) != c.want.Code {
			t.Errorf("%s: %v, want %s", c.what, err, c.want.Code)
		}
	}
}

// measured gives a machine the real measuring enclave, in a monitor of a simulated root.
func (r *rig) measured(m *wire.Machine) *measuring.Enclave {
	r.t.Helper()
	image, sigstruct := measuringtest.Image(r.t, measuringtest.Options{})
	e, err := measuring.Start(r.t.Context(), measuring.Config{
		Load: measuring.InProcess(measuringtest.Monitor(r.t, nil)), Image: image, Sigstruct: sigstruct, System: r.system(),
		PlanSigner: m.Joined.PlanSigner, Namespace: m.Joined.Namespace, Node: m.Joined.Node,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { e.Close() })
	if m.Keys, err = e.Keys(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	m.Attesters = []rats.Attester{attester.New(attester.Config{Enclave: e}), plan.New(e)}
	return e
}

// R022, R025, S01: the measuring enclave is attested, then gets its plan, and the verdict says what it is and what holds it.
func TestMeasuringEnclaveIsAttestedBeforeItMeasures(t *testing.T) {
	r := newRig(t)
	m := r.machine("measured")
	e := r.measured(m)
	id, _ := e.Identity()
	mrenclave := fmt.Sprintf("sha256:%x", id.MRENCLAVE)
	section := "mrenclave: " + mrenclave + "\n" + fmt.Sprintf(sameOS, abi.RootSimulated)
	r.apply(r.enclavePolicy(section, rats.MarkSimulated, rats.MarkTestKey))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	steps := 0
	for ev, err := range m.Stream(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Challenge == nil {
			continue
		}
		// Cold, steady, and cold again under another policy.
		if want := []int{2, 3, 2}[steps]; len(ev.Challenge.Asks) != want {
			t.Fatalf("challenge %d asks %d formats, want %d", steps, len(ev.Challenge.Asks), want)
		}
		told, err := m.Attest(ctx, *ev.Challenge)
		if err != nil {
			t.Fatal(err)
		}
		steps++
		if steps == 3 {
			// The test key must be allowed by name, like every weakness.
			if told.State != rats.StateContraindicated || !slices.Contains(told.Codes, policy.CodeMarkRefused.Code) {
				t.Errorf("with a test key that is not allowed: %s, %v", told.State, told.Codes)
			}
			break
		}
		if told.State != rats.StateTrusted {
			t.Fatalf("told %+v", told)
		}
		if steps == 2 {
			r.showsEnclave(m, mrenclave)
			r.apply(r.enclavePolicy(section, rats.MarkSimulated))
		}
		go r.admin.Attest(ctx, m.Joined.Node, 10*time.Second) //nolint:errcheck // the stream shows it
	}
}

// showsEnclave checks that the verdict says what measured and what holds it.
func (r *rig) showsEnclave(m *wire.Machine, mrenclave string) {
	r.t.Helper()
	n, err := r.admin.GetNode(r.t.Context(), m.Joined.Node)
	if err != nil {
		r.t.Fatal(err)
	}
	want := []rats.Highlight{{Name: "root", Value: abi.RootSimulated.String()}, {Name: "launch", Value: "userspace"}, {Name: "mode", Value: "inline"}, {Name: "mrenclave", Value: mrenclave}}
	if !slices.Equal(n.Highlights[enclave.Format], want) || !slices.Equal(n.Marks, []string{rats.MarkSimulated, rats.MarkTestKey}) {
		r.t.Errorf("the node shows %v, marks %v", n.Highlights, n.Marks)
	}
	res, err := r.admin.Result(r.t.Context(), n.LastResult)
	if err != nil {
		r.t.Fatal(err)
	}
	if !slices.Contains(res.Links, rats.Link{From: planev.Format, To: enclave.Format, Kind: rats.LinkKeyInReport}) {
		r.t.Errorf("links %v", res.Links)
	}
}

// R022: a policy that begins to demand an attested enclave sends nothing to the keys that were good enough before; S40.
func TestNewPolicySendsNoPlanToOldKeys(t *testing.T) {
	r := newRig(t)
	m := r.machine("native")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	section := "mrenclave: sha256:" + strings.Repeat("cd", 32) + "\n" + fmt.Sprintf(sameOS, "os-protected")
	first := true
	for ev, err := range m.Stream(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Challenge == nil {
			continue
		}
		if !first {
			for _, a := range ev.Challenge.Asks {
				if a.Format == planev.Format {
					t.Error("a plan was sent to a native enclave under a policy that demands an attested one")
				}
			}
			return
		}
		first = false
		if told, err := m.Attest(ctx, *ev.Challenge); err != nil || told.State != rats.StateTrusted {
			t.Fatalf("%+v, %v", told, err)
		}
		r.apply(r.enclavePolicy(section, rats.MarkSimulated))
		go r.admin.Attest(ctx, m.Joined.Node, 10*time.Second) //nolint:errcheck // the stream shows it
	}
}

// S01: under a policy that demands the link, a run by the native enclave beside a good enclave's quote counts for nothing.
func TestRunOfAnotherEnclaveThanTheAttestedOneIsNotTrusted(t *testing.T) {
	r := newRig(t)
	m := r.machine("mixed")
	o := softenclave.Options{TPM: m.TPM, Platform: abi.Platform{Mode: abi.ModeProcess, Launch: abi.LaunchUserspace, Root: abi.RootOSProtected, SVN: 5}, PlanSigner: m.Joined.PlanSigner}
	e := softenclave.New(rand.Reader, o)
	section := fmt.Sprintf("mrenclave: sha256:%x\n", e.Identity.MRENCLAVE) + fmt.Sprintf(sameOS, "os-protected")
	r.apply(r.enclavePolicy(section, rats.MarkSimulated, rats.MarkSoftwareTPM, rats.MarkTestKey))
	m.Attesters = []rats.Attester{softQuotes{e: e}}
	told, err := m.Attest(t.Context(), r.challenge(m))
	if err != nil {
		t.Fatal(err)
	}
	if told.State != rats.StateContraindicated || !slices.Contains(told.Codes, policy.CodeLinkMissing.Code) {
		t.Errorf("%s, %v", told.State, told.Codes)
	}
}
