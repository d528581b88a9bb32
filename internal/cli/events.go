package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/assay-attest/assay/api"
	"github.com/assay-attest/assay/client"
)

func (a *app) nodeEventsCmd() *cobra.Command {
	var after int64
	var f client.EventFilter
	cmd := &cobra.Command{
		Use:   "events",
		Short: "follow what happens to nodes, one line each, until interrupted",
		Long: `Follows the events of the namespace: changes of state, joins, releases. A broken connection is made again where it
broke. With -o json, one JSON object per line. docs/events.md lists the kinds and their severities.`,
		Example: "  assay node events\n  assay node events --after 1200 -o json\n  assay node events --kind 'node.*' --severity critical --node web-1",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			received := false
			for e, err := range c.EventsWhere(cmd.Context(), after, f) {
				if err != nil {
					// A stream that held and broke is made again; one that never came about is the caller's to mend.
					if client.CodeOf(err) != client.CodeLost.Code && !received {
						return err
					}
					a.done("warning: %s", clean(err.Error()))
					continue
				}
				received = true
				if err := a.event(e); err != nil {
					return err
				}
			}
			return cmd.Context().Err()
		},
	}
	cmd.Flags().Int64Var(&after, "after", 0, "start after this sequence number")
	filterFlags(cmd.Flags(), &f)
	return cmd
}

// event prints one event on a line of its own.
func (a *app) event(e api.Event) error {
	if a.flags.output == outputJSON {
		b, err := json.Marshal(e)
		if err == nil {
			_, err = fmt.Fprintf(a.env.Out, "%s\n", b)
		}
		return err
	}
	data, err := json.Marshal(e.Data)
	if err == nil {
		_, err = fmt.Fprintf(a.env.Out, "%d  %s  %s  %s  %s\n", e.Seq, at(e.At), clean(e.Kind), clean(e.Subject), clean(string(data)))
	}
	return err
}

// filterFlags are the flags that choose events.
func filterFlags(flags *pflag.FlagSet, f *client.EventFilter) {
	flags.StringArrayVar(&f.Kinds, "kind", nil, "kind of events, or node.* for all below node; repeatable; default: all")
	flags.StringArrayVar(&f.Nodes, "node", nil, "node the events are about; repeatable; default: all")
	flags.StringVar(&f.Severity, "severity", "", "at least this grave: info, warning, critical")
}
