package command

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"weir.dev/cli/development"
	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
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
			"Exits with 1 when there are errors; notices alone exit with 0.",
		Args: arguments(1, 100),
	}
	format := outputFlag(c)
	alone := c.Flags().Bool("alone", false, "leave out what weir up adds")
	c.RunE = func(_ *cobra.Command, paths []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		result, err := validate(paths, !*alone)
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(a.Stdout, result)
		} else {
			a.printValidation(result)
		}
		if err == nil && !result.OK {
			err = silentError{}
		}
		return err
	}
	return c
}

func validate(paths []string, development bool) (*validation, error) {
	parser, err := policy.NewParser()
	if err != nil {
		return nil, err
	}
	update, err := folder.Read(parser, paths...)
	if err != nil {
		return nil, err
	}
	result := &validation{Objects: len(update.Input.Objects), Problems: update.Problems}
	if development {
		added, err := developmentObjects(parser, update.Input.Objects)
		if err != nil {
			return nil, err
		}
		update.Input.Objects = append(update.Input.Objects, added...)
	}
	plan, problems := policy.Resolve(update.Input)
	result.Problems = append(result.Problems, problems...)
	result.Problems.Sort()
	if result.Problems == nil {
		result.Problems = policy.Problems{} // "problems": [] in JSON
	}
	if _, err := envoy.Compile(plan, envoy.Options{ListenAddress: "127.0.0.1"}); err != nil {
		return nil, fmt.Errorf("the policy resolves but cannot be compiled for Envoy: %w", err)
	}
	for _, port := range plan.Ports {
		for _, chain := range port.Chains {
			for _, host := range chain.Hosts {
				result.Routes += len(host.Routes)
			}
		}
	}
	result.Plan = plan.Digest
	result.OK = len(result.Problems.Errors()) == 0
	return result, nil
}

// developmentObjects are those of weir up that the folder does not define
// itself.
func developmentObjects(parser *policy.Parser, own []*policy.Object) ([]*policy.Object, error) {
	files, err := development.Placeholders()
	if err != nil {
		return nil, err
	}
	var objects []*policy.Object
	for _, file := range files {
		for _, document := range parser.Parse("(weir up) "+file.Name, file.Content) {
			if document.Object == nil {
				return nil, fmt.Errorf("what weir up adds is broken: %w", document.Problems[0])
			}
			if !slices.ContainsFunc(own, func(o *policy.Object) bool { return o.Ref == document.Object.Ref }) {
				objects = append(objects, document.Object)
			}
		}
	}
	return objects, nil
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
	return fmt.Sprintf("%d %ss", count, noun)
}
