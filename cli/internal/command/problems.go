package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/policy"
)

// problemReport is what problems prints.
type problemReport struct {
	Problems policy.Problems `json:"problems"`
	// Codes are the explanations of those that occur.
	Codes map[policy.Code]string `json:"codes,omitempty"`
	// Shadow is what policies and rules in the shadow would have decided otherwise;
	// of the policy that runs only.
	Shadow []shadowFlip `json:"shadow,omitempty"`
}

func (a *App) problemsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "problems [CODE | PATH...]", Short: "List what is wrong with the policy, or explain a code",
		Long: "List the problems of the policy that runs, those of rolling it out included, or of policy folders and files,\n" +
			"each with how to mend it; and how many requests policies and rules in the shadow would have decided\n" +
			"otherwise, and since when. With a code such as WEIR3004, explain that one; the reference lists all of them.\n" +
			"Exits with 1 when there are errors.",
		Example: "  weir problems\n  weir problems WEIR3004\n  weir problems ./policies",
		Args:    arguments(0, 100),
	}
	format := formatFlag(c)
	alone := c.Flags().Bool("alone", false, "with PATHs, leave out what weir up adds")
	errorsOnly := c.Flags().Bool("errors", false, "leave out notices")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkFormat(*format); err != nil {
			return err
		}
		if len(args) == 1 && regexp.MustCompile(`^(?i:WEIR)[0-9]{4}$`).MatchString(args[0]) {
			return a.explainCode(policy.Code(strings.ToUpper(args[0])), *format)
		}
		if len(args) == 1 && isAnswerCode(args[0]) {
			return usageError{fmt.Errorf("%s is neither a path nor a code of the policy, such as WEIR3004; what clients are answered is in docs/reference/error-codes.md", args[0])}
		}
		problems, err := a.problems(c.Context(), args, *alone)
		if err != nil {
			return err
		}
		if *errorsOnly {
			problems = problems.Errors()
		}
		var flips []shadowFlip
		if len(args) == 0 && !*errorsOnly {
			flips = a.flips(c.Context())
		}
		return a.showProblems(problems, flips, *format)
	}
	return c
}

// isAnswerCode says whether it is written as the codes of answers are, and is no path.
func isAnswerCode(text string) bool {
	if !regexp.MustCompile(`^[A-Z0-9]+(_[A-Z0-9]+)*$`).MatchString(text) {
		return false
	}
	_, err := os.Stat(text)
	return errors.Is(err, fs.ErrNotExist)
}

func (a *App) problems(ctx context.Context, paths []string, alone bool) (policy.Problems, error) {
	if len(paths) > 0 {
		found, err := load(paths, alone)
		if err != nil {
			return nil, err
		}
		return found.problems, nil
	}
	var answer problemReport
	err := a.ask(ctx, askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) error {
		message, err := client.ListProblems(ctx, &adminv1.ListProblemsRequest{})
		if err != nil {
			return err
		}
		return fromMessage(message, &answer)
	})
	return answer.Problems, err
}

func (a *App) explainCode(code policy.Code, format string) error {
	text, ok := policy.Explanations()[code]
	if !ok {
		return usageError{fmt.Errorf("there is no code %s", code)}
	}
	report := problemReport{Problems: policy.Problems{}, Codes: map[policy.Code]string{code: text}}
	return write(a.Stdout, format, report, func(w io.Writer) { fmt.Fprintf(w, "%s: %s\n", code, text) })
}

func (a *App) showProblems(problems policy.Problems, flips []shadowFlip, format string) error {
	report := problemReport{Problems: problems, Codes: map[policy.Code]string{}, Shadow: flips}
	if report.Problems == nil {
		report.Problems = policy.Problems{}
	}
	for _, problem := range problems {
		report.Codes[problem.Code] = policy.Explanations()[problem.Code]
	}
	err := write(a.Stdout, format, report, func(w io.Writer) {
		for _, problem := range report.Problems {
			fmt.Fprintf(w, "%s: %s\n", problem.Severity, problem.Error())
		}
		if len(report.Problems) > 0 {
			fmt.Fprintln(w)
		}
		for _, code := range slices.Sorted(maps.Keys(report.Codes)) {
			fmt.Fprintf(w, "%s: %s\n", code, report.Codes[code])
		}
		printFlips(w, report.Shadow)
		count := len(report.Problems.Errors())
		fmt.Fprintf(w, "%s, %s\n", plural(count, "error"), plural(len(report.Problems)-count, "notice"))
	})
	if err == nil && len(report.Problems.Errors()) > 0 {
		err = silentError{}
	}
	return err
}
