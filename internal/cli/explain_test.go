package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// fakeServer answers with prepared JSON by path; its configuration file is returned.
func fakeServer(t *testing.T, answers map[string]any) string {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, answer := range answers {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if p, ok := answer.(api.Problem); ok {
				w.Header().Set("Content-Type", api.TypeProblem)
				w.WriteHeader(p.Status)
			}
			if err := json.NewEncoder(w).Encode(answer); err != nil {
				t.Error(err)
			}
		})
	}
	caKey, caDER, ca := certificate(t, nil, nil, nil)
	key, der, _ := certificate(t, ca, caKey, []net.IP{net.IPv4(127, 0, 0, 1)})
	s := httptest.NewUnstartedServer(mux)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o644)
	write(t, filepath.Join(dir, "token"), []byte("secret-token\n"), 0o600)
	config := filepath.Join(dir, "config.yaml")
	write(t, config, []byte("server: "+s.URL+"\nca: ca.pem\ntoken_file: token\n"), 0o644)
	return config
}

func certificate(t *testing.T, parent *x509.Certificate, signer *ecdsa.PrivateKey, ips []net.IP) (*ecdsa.PrivateKey, []byte, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true, IPAddresses: ips,
	}
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, der, c
}

func write(t *testing.T, file string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(file, b, mode); err != nil {
		t.Fatal(err)
	}
}

// assay runs a command in this process.
func assay(args ...string) (exit int, stdout, stderr string) {
	var out, errs bytes.Buffer
	exit = Main(context.Background(), Env{
		Args: args, In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now, Rand: rand.Reader,
		Getenv: func(string) string { return "" },
	})
	return exit, out.String(), errs.String()
}

var changed = rats.Reason{
	Code: "x.file.changed", Title: "file has another digest than its reference", Tier: rats.Contraindicated, Slot: rats.FileSystem,
	Path: "/usr/bin/ls", Rule: "programs", Expected: "sha256:aa", Seen: "sha256:bb", Hint: "find out what changed it",
}

func nodeIn(state rats.State) api.Node {
	v := rats.VerdictOfState(state)
	n := api.Node{
		ID: "nd_1", Name: "web-1", Kind: "host", Enrolment: "approved", Connected: true, State: state, Verdict: v.Word,
		Since: time.Now().Add(-time.Minute), LastResult: "at_1", Marks: []string{rats.MarkSimulated, "odd"},
		Policy: &rats.Ref{Name: "web", Version: 3},
	}
	if state == rats.StateContraindicated {
		n.Reasons = []rats.Reason{changed}
	}
	return n
}

func TestExplainSaysWhyWithExpectedSeenRuleAndWhatToDo(t *testing.T) {
	config := fakeServer(t, map[string]any{
		"GET /v1/namespaces/default/nodes/web-1":  nodeIn(rats.StateContraindicated),
		"GET /v1/namespaces/default/results/at_1": api.ResultView{Result: rats.Result{ID: "at_1", Policy: rats.Ref{Name: "web", Version: 3}, Demanded: []rats.Slot{rats.FileSystem, rats.Hardware}}},
	})
	exit, out, _ := assay("node", "explain", "web-1", "--config", config)
	if exit != rats.ExitNotTrusted {
		t.Errorf("exit code %d, expected %d", exit, rats.ExitNotTrusted)
	}
	for _, want := range []string{
		"web-1 is NOT TRUSTED", "file has another digest than its reference", "x.file.changed", "/usr/bin/ls", "programs", "sha256:aa", "sha256:bb",
		"find out what changed it", "web v3", "none: demanded, but nothing judged it", "ordinary process", "odd: a weakness",
		"Every secret is refused", "assay node attest web-1",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("explain doesn't say %q:\n%s", want, out)
		}
	}
}

// The exit codes are those of the verdict table and nothing else.
func TestExitCodesAreThoseOfTheVerdictTable(t *testing.T) {
	for _, v := range rats.Verdicts() {
		config := fakeServer(t, map[string]any{
			"GET /v1/namespaces/default/nodes/web-1":        nodeIn(v.State),
			"GET /v1/namespaces/default/nodes/web-1/status": api.Status{Name: "web-1", State: v.State, Verdict: v.Word},
			"GET /v1/namespaces/default/results/at_1":       api.ResultView{},
			"POST /v1/namespaces/default/nodes/web-1/attest": api.ResultView{
				Result: rats.Result{Tier: v.Tier, Expires: time.Now().Add(time.Hour)}, Verdict: v.Word,
			},
		})
		for _, verb := range [][]string{{"show"}, {"explain"}, {"attest"}, {"wait", "--state", string(v.State)}} {
			args := append([]string{"node", verb[0], "web-1", "--config", config, "-o", "json"}, verb[1:]...)
			if exit, _, errs := assay(args...); exit != v.Exit {
				t.Errorf("node %s of a %s node exits %d, expected %d\n%s", verb[0], v.State, exit, v.Exit, errs)
			}
		}
	}
}

func TestARefusalOfTheServerIsPrintedWithCodeAndHint(t *testing.T) {
	config := fakeServer(t, map[string]any{
		"GET /v1/namespaces/default/nodes/web-1": api.Problem{Status: 404, Title: "no such node", Code: "node.unknown", Hint: "assay node list"},
	})
	exit, out, errs := assay("node", "show", "web-1", "--config", config)
	if exit != rats.ExitError || out != "" || !strings.Contains(errs, "node.unknown") || !strings.Contains(errs, "assay node list") {
		t.Errorf("exit %d, stdout %q, stderr %q", exit, out, errs)
	}
	_, _, errs = assay("node", "show", "web-1", "--config", config, "-o", "json")
	var f failure
	if err := json.Unmarshal([]byte(errs), &f); err != nil || f.Code != "node.unknown" {
		t.Errorf("stderr is not one JSON object with the code: %v %q", err, errs)
	}
}

func TestAServerThatIsDownExitsUnreachable(t *testing.T) {
	config := fakeServer(t, nil)
	exit, _, errs := assay("node", "list", "--config", config, "--server", "https://127.0.0.1:1")
	if exit != rats.ExitUnreachable || !strings.Contains(errs, string(client.CodeRefused.Code)) {
		t.Errorf("exit %d, stderr %q", exit, errs)
	}
	if exit, out, _ := assay("doctor", "--config", config, "--server", "https://127.0.0.1:1", "--root", t.TempDir()); exit != rats.ExitUnreachable {
		t.Errorf("doctor exits %d\n%s", exit, out)
	}
}

func TestWaitGivesUpWithTheVerdictItHas(t *testing.T) {
	config := fakeServer(t, map[string]any{
		"GET /v1/namespaces/default/nodes/web-1/status": api.Status{Name: "web-1", State: rats.StateUnknown, Verdict: "unknown"},
		"GET /v1/namespaces/default/nodes/web-2/status": api.Status{Name: "web-2", State: rats.StateTrusted, Verdict: "trusted"},
	})
	if exit, _, _ := assay("node", "wait", "web-1", "--config", config, "--timeout", "100ms"); exit != rats.ExitUnknown {
		t.Errorf("exit code %d, expected %d", exit, rats.ExitUnknown)
	}
	exit, _, errs := assay("node", "wait", "web-2", "--state", "stale", "--config", config, "--timeout", "100ms")
	if exit != rats.ExitError || !strings.Contains(errs, string(CodeTimeout.Code)) {
		t.Errorf("exit %d, stderr %q", exit, errs)
	}
}

func TestDoctorSeesAClockThatIsOff(t *testing.T) {
	config := fakeServer(t, map[string]any{
		"GET /v1/version":                  api.Version{Version: "1", Protocol: "1", Time: time.Now().Add(-time.Hour)},
		"GET /v1/namespaces/default/nodes": api.NodeList{},
	})
	exit, out, _ := assay("doctor", "--config", config, "--root", t.TempDir())
	if exit != rats.ExitError || !strings.Contains(out, "differs from the server's by -1h") || !strings.Contains(out, "accepts your token") {
		t.Errorf("exit %d\n%s", exit, out)
	}
}
