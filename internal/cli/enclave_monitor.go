package cli

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/assay-attest/assay/internal/monitor/daemon"
	"github.com/assay-attest/assay/rats"
)

func (a *app) enclaveMonitorCmd() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "run the monitor of software enclaves",
		Long: `Runs the same daemon as the program assay-monitor, for installs that have this binary alone. With a root keeper prefer
assay-monitor: the keeper knows its clients by the hash of their program, and every new edition of this binary is another one.`,
		Example: "  assay enclave monitor --config /etc/assay/monitor.json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.Run(cmd.Context(), config, daemon.Env{Err: a.env.Err, Now: a.env.Now, Rand: a.env.Rand})
		},
	}
	cmd.Flags().StringVar(&config, "config", daemon.DefaultConfig, "the monitor's configuration")
	cmd.AddCommand(a.enclaveMonitorStatusCmd())
	return cmd
}

// monitorStatus is the answer of `monitor status`.
type monitorStatus struct {
	Key       rats.Digest `json:"key"` // SHA-256 of x ‖ y
	Public    string      `json:"public"`
	Launch    string      `json:"launch"`
	Root      string      `json:"root"`
	SVN       uint16      `json:"svn"`
	Event     string      `json:"event"`
	Measured  bool        `json:"measured"` // the keeper extended the event in this boot
	Condition string      `json:"condition,omitempty"`
}

func (a *app) enclaveMonitorStatusCmd() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "say what the running monitor is",
		Example: "  assay enclave monitor status -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := daemon.Dial(cmd.Context(), socket)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			i, err := c.Info(cmd.Context())
			if err != nil {
				return err
			}
			p, err := i.Decode()
			if err != nil {
				return err
			}
			s := monitorStatus{
				Key: rats.SHA256(i.Key[:]), Public: hex.EncodeToString(i.Key[:]), Launch: p.Launch.String(), Root: p.Root.String(), SVN: p.SVN,
				Event: i.Event, Measured: i.Measured(), Condition: i.Condition,
			}
			return a.show(s, func(w io.Writer) {
				row(w, "root", s.Root)
				row(w, "launch", s.Launch)
				row(w, "version", strconv.Itoa(int(s.SVN)))
				row(w, "key", s.Key.String())
				row(w, "measured", fmt.Sprint(s.Measured))
				if s.Condition != "" {
					row(w, "condition", s.Condition)
				}
			})
		},
	}
	cmd.Flags().StringVar(&socket, "socket", daemon.DefaultSocket, "the monitor's socket")
	return cmd
}
