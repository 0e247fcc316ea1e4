package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// validation is the outcome of validate.
type validation struct {
	OK       bool            `json:"ok"`
	Objects  int             `json:"objects"`
	Routes   int             `json:"routes"`
	Plan     string          `json:"plan"`
	Problems policy.Problems `json:"problems"`
}

func (a *App) validateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "validate PATH...", Short: "Check policy folders and files, without serving them",
		Long: "Check policy folders and files, without serving them: every mistake at once, with file, line and field.\n" +
			"What `weir up` adds (the development issuer, the sample consumer and the backends of its services) counts as present.\n" +
			"Exits with 1 when there are errors; notices alone exit with 0, unless --fail-on says otherwise.",
		Args: arguments(1, 100),
	}
	format := outputFlag(c)
	alone := c.Flags().Bool("alone", false, "leave out what weir up adds")
	failOn := c.Flags().String("fail-on", string(policy.SeverityError), "exit with 1 from this `severity` on: error, notice or never")
	c.RunE = func(_ *cobra.Command, paths []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		if !slices.Contains([]string{"error", "notice", "never"}, *failOn) {
			return usageError{fmt.Errorf("--fail-on %q is not known; use error, notice or never", *failOn)}
		}
		result, err := validate(paths, !*alone)
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(a.Stdout, result)
		} else {
			a.printValidation(result)
			if result.Objects == 0 && len(result.Problems) == 0 {
				fmt.Fprintf(a.Stderr, "notice: nothing was checked: no files that end in .yaml, .yml or .json, or nothing in them, below %s\n", strings.Join(paths, ", "))
			}
		}
		if err == nil && fails(result, *failOn) {
			err = silentError{}
		}
		return err
	}
	return c
}

// fails reports whether the findings are as severe as the threshold.
func fails(result *validation, threshold string) bool {
	return threshold == "error" && !result.OK || threshold == "notice" && len(result.Problems) > 0
}

func validate(paths []string, development bool) (*validation, error) {
	found, err := load(paths, !development)
	if err != nil {
		return nil, err
	}
	if _, err := envoy.Compile(found.plan, envoy.Options{ListenAddress: "127.0.0.1"}); err != nil {
		return nil, fmt.Errorf("the policy resolves but cannot be compiled for Envoy: %w", err)
	}
	result := &validation{Objects: found.own, Problems: found.problems, Plan: found.plan.Digest}
	for _, port := range found.plan.Ports {
		for _, chain := range port.Chains {
			for _, host := range chain.Hosts {
				result.Routes += len(host.Routes)
			}
		}
	}
	result.OK = len(result.Problems.Errors()) == 0
	return result, nil
}

func (a *App) printValidation(result *validation) {
	for _, problem := range result.Problems {
		fmt.Fprintf(a.Stdout, "%s: %s\n", problem.Severity, problem.Error())
	}
	count := len(result.Problems.Errors())
	fmt.Fprintf(a.Stdout, "%s, %s: %s\n", plural(result.Objects, "object"), plural(result.Routes, "route"), errorCount(count))
}

func errorCount(count int) string {
	if count == 0 {
		return "valid"
	}
	return plural(count, "error")
}

func plural(count int, noun string) string {
	if count == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "ry"); ok {
		noun = stem + "rie"
	}
	return fmt.Sprintf("%d %ss", count, noun)
}
