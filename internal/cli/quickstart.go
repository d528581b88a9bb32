package cli

import "github.com/spf13/cobra"

func (a *app) quickstartCmd() *cobra.Command { return &cobra.Command{Use: "quickstart", Args: exactly()} }
