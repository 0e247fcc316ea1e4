package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	names "k8s.io/apimachinery/pkg/util/validation"

	"weir.dev/cli/envoy"
	"weir.dev/cli/internal/logs"
	"weir.dev/cli/internal/stack"
	"weir.dev/cli/internal/term"
	"weir.dev/cli/state"
	"weir.dev/cli/supervisor"
)

type upOptions struct {
	dir      string
	detach   bool
	portBase int
	timeout  time.Duration
	logs     string
	reportFD int
	zone     string
	upKubernetes
}

func (a *App) upCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "up", Short: "Serve a folder of policies on this machine, with everything that it needs", Args: arguments(0, 0),
		Long: "Serve a folder of policies on this machine, with everything that it needs, until Ctrl-C.\n" +
			"Envoy is the one that ENVOY_BIN names, or the one on PATH, or is fetched once.\n" +
			"With --kubernetes, the objects of a Kubernetes API are served beside those of the folder, and told their status.\n" +
			"Ctrl-C stops in order; a second Ctrl-C, at once.",
	}
	var o upOptions
	c.Flags().StringVar(&o.dir, "dir", "", "the policy `folder` (default examples/quickstart, beside weir or here)")
	c.Flags().BoolVarP(&o.detach, "detach", "d", false, "return when everything is ready, and leave it running")
	c.Flags().IntVar(&o.portBase, "port-base", 0, "count the ports between components from this `port`")
	c.Flags().DurationVar(&o.timeout, "timeout", 30*time.Second, "how long one component may take to get ready")
	c.Flags().StringVar(&o.logs, "logs", "warn", "what to show of the logs meanwhile: all, warn or none")
	c.Flags().StringVar(&o.zone, "zone", "", "the `zone` that Envoy says it is in, for TrafficPolicies that prefer its own")
	o.flags(c)
	c.Flags().IntVar(&o.reportFD, "report-fd", 0, "report progress there")
	_ = c.Flags().MarkHidden("report-fd") // Only fails for an unknown flag.
	c.RunE = func(c *cobra.Command, _ []string) error { return a.up(c.Context(), o) }
	return c
}

func (o upOptions) validate() error {
	switch {
	case o.portBase != 0 && (o.portBase < 1024 || o.portBase > 65_000):
		return usageError{fmt.Errorf("--port-base %d is outside 1024 to 65000", o.portBase)}
	case o.timeout < time.Second || o.timeout > time.Hour:
		return usageError{fmt.Errorf("--timeout %s is outside 1s to 1h", o.timeout)}
	case o.logs != "all" && o.logs != "warn" && o.logs != "none":
		return usageError{fmt.Errorf("--logs %q is not known; use all, warn or none", o.logs)}
	}
	if bad := names.IsValidLabelValue(o.zone); len(bad) > 0 {
		return usageError{fmt.Errorf("--zone %q: %s", o.zone, bad[0])}
	}
	return o.upKubernetes.validate()
}

func (a *App) up(ctx context.Context, o upOptions) error {
	if err := o.validate(); err != nil {
		return err
	}
	if err := o.locate(a.getenv); err != nil {
		return err
	}
	policyDir, err := a.policyDir(o.dir)
	if err != nil {
		return err
	}
	dir, err := a.state()
	if err != nil {
		return err
	}
	if o.reportFD != 0 {
		return a.upReporting(ctx, dir, policyDir, o)
	}
	if record, running, err := currentRecord(dir); err != nil {
		return err
	} else if running {
		return a.alreadyUp(ctx, dir, record, policyDir)
	}
	if _, err := stack.Listeners(policyDir); err != nil {
		return err // Better now than after a download.
	}
	if err := dir.Prepare(); err != nil {
		return err
	}
	progress := term.NewProgress(a.Stderr)
	defer progress.Stop()
	found, err := a.findEnvoy(ctx, progress)
	if err != nil {
		return err
	}
	if o.detach {
		return a.upDetached(ctx, dir, policyDir, found, o, progress)
	}
	return a.upHere(ctx, dir, policyDir, found, o, progress)
}

// alreadyUp is up while it is up: the same picture again, unless another folder
// is asked for.
func (a *App) alreadyUp(ctx context.Context, dir state.Dir, record state.Record, policyDir string) error {
	if record.PolicyDir == "" {
		return fmt.Errorf("another weir is starting or stopping in %s; try again in a moment", dir.Root())
	}
	if record.PolicyDir != policyDir {
		return fmt.Errorf("a weir that serves %s is running in %s: stop it with %s down, or give this one a folder of its own with --state-dir",
			record.PolicyDir, dir.Root(), a.self())
	}
	fmt.Fprintln(a.Stdout, "weir is running already")
	return a.printReady(ctx, dir, probeAll(ctx, record))
}

func (a *App) findEnvoy(ctx context.Context, progress *term.Progress) (envoy.Found, error) {
	finder, err := a.envoyFinder()
	if err != nil {
		return envoy.Found{}, err
	}
	finder.Progress = func(done, total int64) { progress.Bar("fetching Envoy "+finder.Pin.Version, done, total) }
	progress.Set("looking for Envoy")
	found, err := finder.Find(ctx)
	if err != nil {
		return envoy.Found{}, err
	}
	for _, note := range found.Notes {
		progress.Println("note: " + note)
	}
	progress.Set("")
	return found, nil
}

func (a *App) envoyFinder() (envoy.Finder, error) {
	pin, err := envoy.Pinned()
	if err != nil {
		return envoy.Finder{}, err
	}
	cache, err := envoy.CacheDir(a.getenv)
	return envoy.Finder{
		Env: a.Env, Platform: runtime.GOOS + "/" + runtime.GOARCH, CacheDir: cache, Pin: pin, Progress: func(int64, int64) {},
	}, err
}

// stackOptions are what both ways of running have in common.
func (a *App) stackOptions(dir state.Dir, policyDir, envoyPath string, o upOptions) stack.Options {
	return stack.Options{
		State: dir, PolicyDir: policyDir, BinDir: a.binDir(), EnvoyPath: envoyPath, Env: a.Env,
		Bootstrap: a.Bootstrap, Claimer: stack.SystemClaimer{}, PortBase: o.portBase, StartTimeout: o.timeout,
		Kubernetes: o.source(), Zone: o.zone,
	}
}

// upHere runs everything below this process until ctx ends.
func (a *App) upHere(ctx context.Context, dir state.Dir, policyDir string, found envoy.Found, o upOptions, progress *term.Progress) error {
	logFile, err := logs.OpenRotating(logs.Path(dir.Logs(), supervisorName), logs.DefaultMaxBytes)
	if err != nil {
		return err
	}
	defer logFile.Close() //nolint:errcheck // Nothing is buffered.
	show := a.showWhileUp(ctx, o.logs, progress)
	options := a.stackOptions(dir, policyDir, found.Path, o)
	options.Logger = slog.New(slog.NewJSONHandler(io.MultiWriter(logFile, &logs.Lines{
		Emit: func(line []byte) { show(supervisorName, line) },
	}), nil))
	options.Output = show
	options.Progress = func(record state.Record) { progress.Set(waitingFor(record)) }
	options.Ready = func(record state.Record) {
		progress.Set("")
		if err := a.printReady(ctx, dir, record); err != nil {
			progress.Println("weir: " + err.Error())
		}
		progress.Println("Ctrl-C stops it.")
	}
	context.AfterFunc(ctx, func() { progress.Println("stopping ...") })
	err = stack.Run(ctx, a.kill, options)
	progress.Set("")
	return a.afterRun(dir, err, progress.Println)
}

// afterRun says how a run ended.
func (a *App) afterRun(dir state.Dir, err error, println func(string)) error {
	var failed *supervisor.StartError
	switch {
	case errors.Is(err, stack.ErrRunning):
		return fmt.Errorf("another weir has just been started in %s; see %s status", dir.Root(), a.self())
	case errors.As(err, &failed):
		a.printLastLines(dir, failed.Name, println)
	case err == nil:
		println(fmt.Sprintf("weir has stopped; data, certificates and logs are kept in %s (%s down --purge removes them)", dir.Root(), a.self()))
	}
	return err
}

// lastLines is how much of a log is shown of a component that did not come up.
const lastLines = 15

func (a *App) printLastLines(dir state.Dir, name string, println func(string)) {
	lines, _, err := logs.Tail(logs.Path(dir.Logs(), name), lastLines)
	if err != nil || len(lines) == 0 {
		println(fmt.Sprintf("%s logged nothing", name))
		return
	}
	println(fmt.Sprintf("the last lines of %s (%s):", name, logs.Path(dir.Logs(), name)))
	for _, entry := range parseAll(name, lines) {
		println("  " + entry.Render(nil))
	}
}

// showWhileUp is what happens to the lines of components meanwhile. Warnings
// about an end that was asked for are left out.
func (a *App) showWhileUp(ctx context.Context, which string, progress *term.Progress) func(string, []byte) {
	var paint logs.Painter
	if term.Colours(a.Stderr, a.getenv) {
		paint = term.Paint
	}
	return func(name string, line []byte) {
		entry := logs.Parse(name, string(line))
		if which == "all" || which == "warn" && entry.Severe() && ctx.Err() == nil {
			progress.Println(entry.Render(paint))
		}
	}
}

// waitingFor names the components that are being waited for, empty once all
// were ready.
func waitingFor(record state.Record) string {
	if record.Ready {
		return ""
	}
	var names []string
	for _, c := range record.Components {
		switch supervisor.State(c.State) {
		case supervisor.StateStarting, supervisor.StateRestarting, supervisor.StateNotReady:
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "waiting for " + strings.Join(names, ", ")
}
