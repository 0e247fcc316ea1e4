package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"weir.dev/mesh/check"
)

func (a *App) meshCheckCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "check PATH...", Short: "Look through a whole policy for what a mesh should not have",
		Long: "Look through policy folders for what is valid and still should not be: routes without authentication or limits, wildcard\n" +
			"hosts that nobody owns, plaintext to clients or to services, timeouts that are switched off.\n" +
			"The annotation weir.dev/owner on a route or its Gateway says who answers for wildcard hosts; weir.dev/accepts on an\n" +
			"object, with codes such as \"WEIR6102, WEIR6105\", accepts these findings in it.\n" +
			"With --online the issuers of tokens are asked for their keys, from where this runs.\n" +
			"Exits with 0 when nothing is found, and with 1 when something is, or when the policy has errors.",
		Example: "  weir mesh check examples/istio --target istio\n  weir mesh check examples/quickstart -o json",
		Args:    arguments(1, 100),
	}
	target := c.Flags().String("target", targetEnvoy, "where the policy goes: `envoy` (Weir's own proxies) or istio, whose mesh encrypts what goes to its services")
	alone := c.Flags().Bool("alone", false, "leave out what weir up adds; --target istio always does")
	online := c.Flags().Bool("online", false, "ask issuers of tokens for their keys, too")
	format := formatFlag(c)
	c.RunE = func(c *cobra.Command, paths []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		if err := (&istioOptions{target: *target, selector: map[string]string{"": ""}}).validate(); err != nil {
			return err
		}
		found, err := load(paths, *alone || *target == targetIstio) // development keys are nothing for a cluster
		if err != nil {
			return err
		}
		return a.meshCheck(c.Context(), found, *format, check.Options{Mesh: *target == targetIstio}, *online)
	}
	return c
}

func (a *App) meshCheck(ctx context.Context, found *loaded, format string, options check.Options, online bool) error {
	if errs := found.problems.Errors(); len(errs) > 0 {
		printProblems(a.Stderr, "problems", errs)
		return silentError{}
	}
	result := check.Plan(found.plan, found.objects, options)
	if online {
		result.Issuers(ctx, found.plan, func(source string) { fmt.Fprintf(a.Stderr, "asking %s ...\n", source) })
	}
	err := write(a.Stdout, format, result, func(w io.Writer) {
		for _, finding := range result.Findings {
			fmt.Fprintf(w, "%s\n", finding.Error())
		}
		fmt.Fprintf(w, "%s checked: %s", plural(result.Routes, "route"), plural(len(result.Findings), "finding"))
		if result.Accepted > 0 {
			fmt.Fprintf(w, ", and %d accepted", result.Accepted)
		}
		fmt.Fprintln(w)
	})
	if err == nil && len(result.Findings) > 0 {
		err = silentError{}
	}
	return err
}
