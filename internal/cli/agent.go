package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/internal/agent"
	"github.com/assay-attest/assay/rats"
)

func (a *app) agentCmd() *cobra.Command {
	return group("agent", "the agent on a node: answers challenges with evidence, and hands out secrets", "",
		a.agentJoinCmd(), a.agentRunCmd(), a.agentStatusCmd(),
		group("secret", "secrets for programs on this node", "", a.agentSecretGetCmd()))
}

func (a *app) agentJoinCmd() *cobra.Command {
	o := agent.JoinOptions{}
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "join",
		Short: "make this machine a node, by a one-time token and its TPM",
		Long: `Proves to the server that this machine's keys live in its TPM, and stores the identity it receives. The token pins the
server's CA. It comes from a file or standard input, never from the arguments.`,
		Example: "  assay agent join --server https://attest.example.org:8443 --join-token ./join-token\n" +
			"  assay agent join --server https://attest.example.org:8443 --tpm-device unix:/run/swtpm.sock --join-token - < join-token",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if tokenFile == "" {
				return usage(cmd, "--join-token is missing")
			}
			c, err := a.config()
			if err != nil {
				return err
			}
			if c.Server == "" {
				return CodeNoServer.Bad("--server", "https://host:port", "nothing")
			}
			// A join token is good once and for an hour: unlike an access token it may lie in a file others can read.
			token, err := a.readDocument(tokenFile)
			if err != nil {
				return err
			}
			defer clear(token)
			o.Server, o.Token = c.Server, string(token)
			o.Rand, o.Now, o.UserAgent = a.env.Rand, a.env.Now, "assay-agent/"+Version
			j, err := agent.Join(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.show(j, func(w io.Writer) {
				row(w, "node", j.Name)
				row(w, "id", j.Node)
				row(w, "server", j.Server)
				row(w, "enrolment", j.Enrolment)
				for _, r := range j.Reasons {
					row(w, "because", r.String())
				}
				if j.Enrolment == "pending" {
					row(w, "next", "the server's owner: assay node approve "+j.Name)
				}
				row(w, "next", "assay agent run --data "+o.Dir)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&tokenFile, "join-token", "", "file with the join token; - is standard input")
	f.StringVar(&o.Name, "name", "", "name to propose; default: the host's name")
	f.StringVar(&o.TPM, "tpm-device", "", "the TPM: /dev/tpmrm0 or unix:SOCKET; default: found by itself")
	f.StringVar(&o.Dir, "data", agent.DefaultDir, "state directory")
	f.BoolVar(&o.Replace, "replace", false, "replace the identity this agent has")
	return cmd
}

func (a *app) agentRunCmd() *cobra.Command {
	o := agent.RunOptions{}
	var file string
	var verbose bool
	cmd := &cobra.Command{
		Use:     "run",
		Short:   "run the agent until it is told to stop",
		Example: "  assay agent run\n  assay agent run --data ./agent --agent-config ./agent.yaml",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Config, err = agent.ReadConfig(file); err != nil {
				return err
			}
			o.Rand, o.Now, o.Log, o.UserAgent = a.env.Rand, a.env.Now, a.logger(verbose), "assay-agent/"+Version
			return agent.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "data", agent.DefaultDir, "state directory")
	f.StringVar(&file, "agent-config", "", "configuration: what plans may read and run here; default "+agent.DefaultConfig)
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// agentSocket is where the agent with this directory, configuration and socket listens.
func agentSocket(dir, file, socket string) (string, error) {
	if socket != "" {
		return socket, nil
	}
	c, err := agent.ReadConfig(file)
	if err != nil {
		return "", err
	}
	return c.SocketPath(dir), nil
}

// local are the flags by which a running agent is found.
func local(cmd *cobra.Command) (socket func() (string, error)) {
	f := cmd.Flags()
	dir := f.String("data", agent.DefaultDir, "state directory of the running agent")
	file := f.String("agent-config", "", "its configuration; default "+agent.DefaultConfig)
	path := f.String("socket", "", "its socket; default: as the configuration says, else in the state directory")
	return func() (string, error) { return agentSocket(*dir, *file, *path) }
}

func (a *app) agentStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "ask the running agent what it knows; the exit code is the verdict it was told last",
		Example: "  assay agent status\n  assay agent status -o json",
		Args:    exactly(),
	}
	socket := local(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := socket()
		if err != nil {
			return err
		}
		s, err := agent.LocalStatus(cmd.Context(), path)
		if err != nil {
			return err
		}
		v := rats.VerdictOfState(rats.StateUnknown)
		if t := s.Told; t != nil {
			v = rats.VerdictOfState(t.State)
			if !a.env.Now().Before(t.Expires) {
				v = rats.VerdictOfState(rats.StateStale)
			}
		}
		if err := a.show(s, func(w io.Writer) {
			row(w, "node", s.Name)
			row(w, "id", s.Node)
			row(w, "server", s.Server)
			row(w, "connected", yes(s.Connected))
			row(w, "verdict", v.Word)
			row(w, "state", string(v.State))
			if t := s.Told; t != nil {
				row(w, "result", t.ID)
				row(w, "attested", at(t.At)+", "+a.ago(t.At))
				row(w, "expires", at(t.Expires)+", "+a.ago(t.Expires))
				codes := make([]string, len(t.Codes))
				for i, c := range t.Codes {
					codes[i] = string(c)
				}
				row(w, "codes", strings.Join(codes, ", "))
			}
			row(w, "certificate", "renewed "+a.ago(s.Renews))
		}); err != nil {
			return err
		}
		return verdictExit(v)
	}
	return cmd
}

func (a *app) agentSecretGetCmd() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "print a secret the server releases to this node, and nothing else",
		Long: `Asks the running agent, which asks the server; if the node's result is too old it is attested first. The value is printed as it
was stored. The agent's socket is for its own user and root.`,
		Example: "  assay agent secret get db-password > /run/db-password",
		Args:    exactly("NAME"),
	}
	socket := local(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := socket()
		if err != nil {
			return err
		}
		ctx, cancel := contextWithTimeout(cmd, timeout)
		defer cancel()
		secret, err := agent.SecretGet(ctx, path, args[0])
		if err != nil {
			return err
		}
		defer clear(secret)
		if _, err := a.env.Out.Write(secret); err != nil {
			return fmt.Errorf("writing the secret: %w", err)
		}
		return nil
	}
	return cmd
}
