package main

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"weir.dev/ratelimit/rulesfeed"
	"weir.dev/ratelimit/rulesfile"
)

// checkRulesCommand is the word after the program's name that checks a folder of
// RateLimitPolicies instead of serving.
const checkRulesCommand = "check-rules"

// checkRules reads a folder and says what is wrong with it.
func checkRules(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("ratelimitd "+checkRulesCommand, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: ratelimitd %s DIR\n\nChecks the RateLimitPolicies in the YAML files of DIR (rules.dir); exits with 1 when one is wrong.\n", checkRulesCommand)
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitGood
	case err != nil:
		return exitUsage
	case flags.NArg() != 1:
		flags.Usage()
		return exitUsage
	}
	read, err := rulesfile.Read(flags.Arg(0))
	if err == nil && read.Files == 0 {
		err = errors.New("the folder holds no YAML files")
	}
	if err == nil {
		_, err = rulesfeed.Build(read.Rules)
	}
	if err != nil {
		fmt.Fprintln(stdout, "error:", err)
		return exitBad
	}
	fmt.Fprintf(stdout, "files: %d, limits: %d, objects of other kinds: %d; all good\n", read.Files, len(read.Rules), read.Others)
	return exitGood
}
