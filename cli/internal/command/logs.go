package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"weir.dev/cli/internal/logs"
	"weir.dev/cli/internal/stack"
	"weir.dev/cli/internal/term"
	"weir.dev/cli/state"
)

// supervisorName is what the supervisor's own log goes by.
const supervisorName = "weir"

const maxTail = 1_000_000

func (a *App) logsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "logs [NAME]", Short: "Show what the components logged", Args: arguments(0, 1),
		Long: "Show what the components logged, by time. NAME is one of " + strings.Join(logNames(), ", ") + ".",
	}
	follow := c.Flags().BoolP("follow", "f", false, "go on with what comes")
	count := c.Flags().IntP("lines", "n", 100, "how many lines of each component; 0 for none")
	format := outputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		asJSON, err := isJSON(*format)
		if err != nil {
			return err
		}
		if *count < 0 || *count > maxTail {
			return usageError{fmt.Errorf("--lines %d is outside 0 to %d", *count, maxTail)}
		}
		names := logNames()
		if len(args) == 1 {
			if !slices.Contains(names, args[0]) {
				return usageError{fmt.Errorf("no component %q; known are %s", args[0], strings.Join(names, ", "))}
			}
			names = args
		}
		dir, err := a.state()
		if err != nil {
			return err
		}
		return a.showLogs(c.Context(), dir, names, logOptions{follow: *follow, count: *count, raw: asJSON})
	}
	return c
}

func logNames() []string { return append(stack.Names(), supervisorName) }

type logOptions struct {
	follow, raw bool
	count       int
}

func (a *App) showLogs(ctx context.Context, dir state.Dir, names []string, o logOptions) error {
	printer := a.logPrinter(a.Stdout, o.raw)
	var entries []logs.Entry
	offsets := map[string]int64{}
	for _, name := range names {
		lines, offset, err := logs.Tail(logs.Path(dir.Logs(), name), o.count)
		if err != nil {
			return fmt.Errorf("log of %s: %w", name, err)
		}
		offsets[name] = offset
		entries = append(entries, parseAll(name, lines)...)
	}
	slices.SortStableFunc(entries, func(a, b logs.Entry) int { return a.Time.Compare(b.Time) })
	for _, entry := range entries {
		printer(entry)
	}
	if !o.follow {
		if len(entries) == 0 && o.count > 0 {
			fmt.Fprintf(a.Stderr, "nothing is logged in %s yet\n", dir.Logs())
		}
		return nil
	}
	var group sync.WaitGroup
	errs := make(chan error, len(names))
	for _, name := range names {
		group.Go(func() {
			errs <- logs.Follow(ctx, logs.Path(dir.Logs(), name), offsets[name], func(line string) { printer(logs.Parse(name, line)) })
		})
	}
	group.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// parseAll understands the lines; one without a time stays with the one before.
func parseAll(name string, lines []string) []logs.Entry {
	entries := make([]logs.Entry, 0, len(lines))
	for i, line := range lines {
		entry := logs.Parse(name, line)
		if entry.Time.IsZero() && i > 0 {
			entry.Time = entries[i-1].Time
		}
		entries = append(entries, entry)
	}
	return entries
}

// logPrinter writes entries to w, one at a time.
func (a *App) logPrinter(w io.Writer, raw bool) func(logs.Entry) {
	var paint logs.Painter
	if term.Colours(w, a.getenv) {
		paint = term.Paint
	}
	var mu sync.Mutex
	return func(entry logs.Entry) {
		mu.Lock()
		defer mu.Unlock()
		if raw {
			fmt.Fprintln(w, entry.Raw)
			return
		}
		fmt.Fprintln(w, entry.Render(paint))
	}
}
