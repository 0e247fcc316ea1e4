package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"weir.dev/ratelimit/erconfig"
)

// checkCommand is the word after the program's name that checks a
// configuration of envoyproxy/ratelimit instead of serving.
const checkCommand = "check-config"

// Exit codes of check-config.
const (
	exitGood  = 0
	exitBad   = 1
	exitUsage = 2
)

// checked is what check-config found, for programs.
type checked struct {
	Files    int                `json:"files"`
	Domains  int                `json:"domains"`
	Limits   int                `json:"limits"`
	Problems []erconfig.Problem `json:"problems"`
}

// checkConfig reads a folder and says what is wrong with it.
func checkConfig(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("ratelimitd "+checkCommand, flag.ContinueOnError)
	flags.SetOutput(stderr)
	merge := flags.Bool("merge-domains", false, "let several files configure one domain (MERGE_DOMAIN_CONFIG)")
	ignoreHidden := flags.Bool("ignore-dot-files", false, "leave out files that begin with a dot (RUNTIME_IGNOREDOTFILES)")
	format := flags.String("o", "text", "text or json")
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: ratelimitd %s [flags] DIR\n\nChecks the YAML files of envoyproxy/ratelimit in DIR; exits with 1 when one is wrong.\n\n", checkCommand)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitGood
		}
		return exitUsage
	}
	problem := ""
	switch {
	case flags.NArg() == 0:
		problem = "there is no DIR"
	case flags.NArg() > 1:
		problem = fmt.Sprintf("there is more than a DIR: %q; flags come before it", flags.Args()[1:])
	case *format != "text" && *format != "json":
		problem = fmt.Sprintf("-o %s: must be text or json", *format)
	}
	if problem != "" {
		fmt.Fprintf(stderr, "ratelimitd %s: %s\n\n", checkCommand, problem)
		flags.Usage()
		return exitUsage
	}
	dir := flags.Arg(0)
	files, err := erconfig.ReadDir(dir, *ignoreHidden)
	result := checked{Files: len(files), Problems: unreadable(dir, err)}
	config, err := erconfig.Load(files, erconfig.Options{MergeDomains: *merge})
	if config != nil {
		result.Domains, result.Limits = config.Domains(), len(config.Limits())
	}
	var problems erconfig.Problems
	if errors.As(err, &problems) {
		result.Problems = append(result.Problems, problems...)
	}
	if len(files) == 0 && len(result.Problems) == 0 {
		result.Problems = append(result.Problems, erconfig.Problem{File: dir, Message: holdsNone(dir, *ignoreHidden)})
	}
	if err := result.print(stdout, *format); err != nil {
		fmt.Fprintln(stderr, "ratelimitd:", err)
		return exitBad
	}
	if len(result.Problems) > 0 {
		return exitBad
	}
	return exitGood
}

// unreadable is what of a folder could not be read, an item each.
func unreadable(dir string, err error) []erconfig.Problem {
	problems := []erconfig.Problem{}
	errs := []error{err}
	if joined, several := err.(interface{ Unwrap() []error }); several { //nolint:errorlint // What errors.Join makes is asked for itself.
		errs = joined.Unwrap()
	}
	for _, err := range errs {
		problem, path := erconfig.Problem{}, (*fs.PathError)(nil)
		switch {
		case err == nil:
			continue
		case errors.As(err, &problem):
		case errors.As(err, &path):
			problem = erconfig.Problem{File: path.Path, Message: "cannot be read: " + path.Err.Error()}
		default:
			problem = erconfig.Problem{File: dir, Message: err.Error()}
		}
		problems = append(problems, problem)
	}
	return problems
}

// holdsNone says that a folder has no files and, where it is the one above, which
// one has.
func holdsNone(dir string, ignoreHidden bool) string {
	const where = "envoyproxy/ratelimit has them in RUNTIME_ROOT/RUNTIME_SUBDIRECTORY/config"
	for _, pattern := range []string{"config", "*/config"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is well formed unless DIR is none
		for _, below := range found {
			if files, err := erconfig.ReadDir(below, ignoreHidden); err == nil && len(files) > 0 {
				return fmt.Sprintf("the folder holds no files, but %s does; %s", below, where)
			}
		}
	}
	return "the folder holds no files; " + where
}

func (c *checked) print(w io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(c)
	}
	for _, problem := range c.Problems {
		fmt.Fprintln(w, "error:", problem)
	}
	var err error
	switch {
	case len(c.Problems) > 0:
		_, err = fmt.Fprintf(w, "files: %d, errors: %d\n", c.Files, len(c.Problems))
	default:
		_, err = fmt.Fprintf(w, "files: %d, domains: %d, limits: %d; all good\n", c.Files, c.Domains, c.Limits)
	}
	return err
}
