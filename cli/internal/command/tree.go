package command

import "github.com/spf13/cobra"

// Tree is the command line with nothing behind it, for documentation: what is
// called must not be run.
func Tree() *cobra.Command { return (&App{}).root() }
