package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"weir.dev/cli/envoy"
	"weir.dev/kit/buildinfo"
)

func (a *App) versionCommand() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print the version, and that of the pinned Envoy", Args: arguments(0, 0)}
	format := outputFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		pin, err := envoy.Pinned()
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(a.Stdout, map[string]string{
				"version": buildinfo.Version(), "build": buildinfo.String(), "envoy": pin.Version,
			})
		}
		fmt.Fprintf(a.Stdout, "weir %s\nEnvoy %s is fetched when the machine has none of %s or later\n", buildinfo.String(), pin.Version, pin.Minimum)
		return nil
	}
	return c
}
