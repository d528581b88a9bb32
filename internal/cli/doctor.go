package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/client"
	"github.com/assay-attest/assay/rats"
)

// The outcomes of a check.
const (
	isOK      = "ok"
	isAbsent  = "absent"  // not here, which is no mistake
	isProblem = "problem" // here, and not usable as it is
)

// check is one thing doctor looked at.
type check struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Seen  string `json:"seen,omitempty"`
	Fix   string `json:"fix,omitempty"`
}

// diagnosis is what doctor prints.
type diagnosis struct {
	Machine []check `json:"machine"`
	Server  []check `json:"server,omitempty"`
	Summary string  `json:"summary"`
}

func (a *app) doctorCmd() *cobra.Command {
	var tpmPath, root string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "say what this machine can attest with, whether it reaches the server, and how to fix what is missing",
		Long: `Looks at the TPM, its endorsement key and certificate, permissions, kernel interfaces for evidence, and, if a server is
configured, whether it answers and whether the clocks agree. Changes nothing. Exits 1 if something is there but unusable, 4 if the
server can't be reached.`,
		Example: "  assay doctor\n  assay doctor --tpm-device unix:/run/swtpm.sock -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := contextWithTimeout(cmd, 30*time.Second)
			defer cancel()
			var d diagnosis
			d.Machine = append(machine{root: root}.checks(), tpmChecks(ctx, tpmPath)...)
			var unreachable error
			d.Server, unreachable = a.serverChecks(ctx)
			d.Summary = summary(d)
			if err := a.show(d, func(w io.Writer) { doctorText(w, d) }); err != nil {
				return err
			}
			for _, c := range append(d.Machine, d.Server...) {
				if c.State == isProblem && unreachable == nil {
					return &verdictError{exit: rats.ExitError}
				}
			}
			if unreachable != nil {
				return &verdictError{exit: exitCode(unreachable)}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&tpmPath, "tpm-device", "", "the TPM: /dev/tpmrm0 or unix:SOCKET; default: found by itself")
	f.StringVar(&root, "root", "/", "look at the machine below this directory")
	_ = f.MarkHidden("root") // for tests; the flag exists
	return cmd
}

func doctorText(w io.Writer, d diagnosis) {
	for _, section := range [][]check{d.Machine, d.Server} {
		for _, c := range section {
			row(w, c.State, c.Name, c.Seen)
			if c.Fix != "" {
				row(w, " ", " ", "→ "+c.Fix)
			}
		}
	}
	fmt.Fprintf(w, "\n%s\n", clean(d.Summary))
}

func summary(d diagnosis) string {
	state := make(map[string]string)
	for _, c := range d.Machine {
		state[c.Name] = c.State
	}
	switch {
	case state[checkTPM] == isOK && state[checkEKCert] == isOK:
		return "This machine can join and attest: it has a TPM whose maker vouches for it."
	case state[checkTPM] == isOK:
		return "This machine can join and attest; without a certificate of its TPM's maker the server's owner has to approve it or pin its endorsement key."
	case state[checkSWTPM] == isOK:
		return "This machine has no TPM it may use. It can try things out with a software TPM: assay quickstart."
	default:
		return "This machine can't attest yet: it has no TPM it may use."
	}
}

// serverChecks asks the configured server, if there is one.
func (a *app) serverChecks(ctx context.Context) ([]check, error) {
	cfg, err := a.config()
	if err == nil && cfg.Server == "" {
		return []check{{Name: "server", State: isAbsent, Seen: "none configured", Fix: CodeNoServer.Hint}}, nil
	}
	c, err := a.connect()
	if err != nil {
		return []check{failed("server", err)}, nil
	}
	defer c.Close()
	before := a.env.Now()
	v, err := c.Version(ctx)
	if err != nil {
		var unreachable *client.Unreachable
		if errors.As(err, &unreachable) {
			return []check{failed("server", err)}, err
		}
		return []check{failed("server", err)}, nil
	}
	after := a.env.Now()
	out := []check{{Name: "server", State: isOK, Seen: fmt.Sprintf("%s answers, version %s, protocol %s", c.Server(), v.Version, v.Protocol)}}
	clock := check{Name: "clock", State: isOK, Seen: "agrees with the server's"}
	// Half the round trip is the best guess of when the server looked at its clock.
	if off := v.Time.Sub(before.Add(after.Sub(before) / 2)); off.Abs() > 5*time.Second {
		clock.State = isProblem
		clock.Seen = fmt.Sprintf("differs from the server's by %s", off.Round(time.Second))
		clock.Fix = "let a time service set both clocks: certificates and challenges are judged by them"
	}
	out = append(out, clock)
	if _, err := c.ListNodes(ctx, "", 1); err != nil {
		out = append(out, failed("access", err))
	} else {
		out = append(out, check{Name: "access", State: isOK, Seen: "the server accepts your token in namespace " + c.Namespace()})
	}
	return out, nil
}

func failed(name string, err error) check {
	f := failureOf(err)
	seen := f.Error
	if f.Seen != "" {
		seen += ": " + f.Seen
	}
	if f.Code != "" {
		seen += " (" + string(f.Code) + ")"
	}
	return check{Name: name, State: isProblem, Seen: seen, Fix: f.Hint}
}
