package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"weir.dev/cli/internal/stack"
	"weir.dev/cli/state"
	"weir.dev/kit/buildinfo"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// App is the command line and what it works with. All fields are needed.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Env is the environment, as os.Environ.
	Env []string
	// Invoked is how the user called weir, for commands to paste.
	Invoked string
	// Executable is the path of the running weir.
	Executable string
	// Signals asks to end; a second one, at once.
	Signals   <-chan os.Signal
	Bootstrap stack.Bootstrap

	stateDir string
	kill     chan struct{}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// silentError ends with exit code 1 and says nothing more.
type silentError struct{}

func (silentError) Error() string { return "failed" }

// Execute runs the command line and returns the exit code: 0 when all is well,
// 2 for wrong usage, 1 for everything else. Commands that compare exit with 2 when
// something differs, and with 1 for wrong usage.
func (a *App) Execute(ctx context.Context, args []string) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.kill = make(chan struct{})
	go func() {
		select {
		case <-a.Signals:
		case <-ctx.Done():
			return
		}
		cancel()
		<-a.Signals
		close(a.kill)
	}()
	root := a.root()
	root.SetArgs(args)
	ran, err := root.ExecuteContextC(ctx)
	var usage usageError
	var silent silentError
	var differ differError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &differ):
		return exitDiffer
	case errors.As(err, &silent):
		return exitFailed
	case errors.As(err, &usage):
		fmt.Fprintf(a.Stderr, "weir: %v\n", err)
		if ran.Annotations[answersDiffer] != "" {
			return exitFailed
		}
		return exitUsage
	}
	fmt.Fprintf(a.Stderr, "weir: %v\n", err)
	return exitFailed
}

func (a *App) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "weir",
		Short: "Run, look into and work with a Weir on this machine",
		Long: "Weir controls what flows through, how fast, and keeps a record of it.\n" +
			"`weir up` serves a folder of policies through Envoy, with everything that it needs, on this machine.",
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q; weir --help lists the commands", args[0])}
			}
			return nil
		},
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
		Version: buildinfo.String(),
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetVersionTemplate("weir {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&a.stateDir, "state-dir", "",
		"keep everything in this `folder` (default $WEIR_STATE_DIR, or weir in the user's state folder)")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
	})
	root.AddCommand(
		a.upCommand(), a.downCommand(), a.statusCommand(), a.doctorCommand(), a.logsCommand(),
		a.credentialsCommand(), a.callCommand(), a.keysCommand(), a.limitsCommand(), a.versionCommand(),
		a.validateCommand(), a.translateCommand(), a.meshCommand(), a.planCommand(), a.diffCommand(), a.explainCommand(), a.replayCommand(),
		a.applyCommand(), a.getCommand(), a.describeCommand(), a.problemsCommand(), a.auditCommand(), a.certsCommand(), a.envoyCommand(),
	)
	return root
}

// arguments accepts from least to most arguments.
func arguments(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usageError{fmt.Errorf("%s needs an argument: %s", c.CommandPath(), c.UseLine())}
		case len(args) > most:
			return usageError{fmt.Errorf("%s does not take the argument %q: %s", c.CommandPath(), args[most], c.UseLine())}
		}
		return nil
	}
}

// outputFlag adds -o to the command; the value is read with isJSON.
func outputFlag(c *cobra.Command) *string {
	return c.Flags().StringP("output", "o", "text", "`format` of the output: text or json")
}

func isJSON(format string) (bool, error) {
	switch format {
	case "text":
		return false, nil
	case "json":
		return true, nil
	}
	return false, usageError{fmt.Errorf("--output %q is not known; use text or json", format)}
}

func (a *App) getenv(key string) string {
	value := ""
	for _, entry := range a.Env {
		if k, v, _ := strings.Cut(entry, "="); k == key {
			value = v
		}
	}
	return value
}

func (a *App) state() (state.Dir, error) { return state.Locate(a.stateDir, a.getenv) }

// binDir is where the daemons lie: beside weir.
func (a *App) binDir() string {
	if real, err := filepath.EvalSymlinks(a.Executable); err == nil {
		return filepath.Dir(real)
	}
	return filepath.Dir(a.Executable)
}

// policyDir is the folder to serve.
func (a *App) policyDir(flag string) (string, error) {
	candidates := []string{flag}
	if flag == "" {
		quickstart := filepath.Join("examples", "quickstart")
		candidates = []string{filepath.Join(filepath.Dir(a.binDir()), quickstart), quickstart}
	}
	for _, dir := range candidates {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return "", err
			}
			return filepath.EvalSymlinks(abs)
		}
	}
	if flag != "" {
		return "", usageError{fmt.Errorf("--dir %q is not a folder", flag)}
	}
	return "", usageError{errors.New("no policy folder: examples/quickstart is neither beside weir nor here; name one with --dir")}
}

// self is how to call this weir again, for pasting into a shell.
func (a *App) self() string {
	command := quote(a.Invoked)
	if a.stateDir != "" {
		command += " --state-dir " + quote(a.stateDir)
	}
	return command
}

// quote makes text one word for sh.
func quote(text string) string {
	plain := strings.IndexFunc(text, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=@%+,", r)
	}) < 0
	if plain && text != "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
