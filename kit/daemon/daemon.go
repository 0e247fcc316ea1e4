// Package daemon is the skeleton of every Weir daemon: flags, configuration,
// signals, JSON logs, traces, and the admin HTTP server with metrics, liveness
// and readiness.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"weir.dev/kit/buildinfo"
	"weir.dev/kit/config"
)

// Config is the part of the configuration that every daemon has; embed it with
// `yaml:",inline"`.
type Config struct {
	Admin AdminConfig `yaml:"admin"`
	Log   LogConfig   `yaml:"log"`
}

// AdminConfig is where metrics and probes are served, in plain HTTP; bind it to
// loopback or a pod address.
type AdminConfig struct {
	// Listen is host:port; port 0 takes a free one.
	Listen string `yaml:"listen"`
}

// LogConfig says how much is logged.
type LogConfig struct {
	// Level is debug, info, warn or error.
	Level slog.Level `yaml:"level"`
}

// SetDefaults fills in loopback and info.
func (c *Config) SetDefaults() {
	c.Admin.Listen = "127.0.0.1:0"
	c.Log.Level = slog.LevelInfo
}

// Validate reports every mistake.
func (c *Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.Admin.Listen); err != nil {
		return fmt.Errorf("admin.listen: %q is not host:port", c.Admin.Listen)
	}
	return nil
}

// Base returns the embedded configuration; it makes embedding types satisfy
// Configured.
func (c *Config) Base() *Config { return c }

// Configured is a configuration with an embedded Config.
type Configured interface {
	config.Config
	Base() *Config
}

// Runtime is what a daemon's run function works with.
type Runtime struct {
	Name     string
	Logger   *slog.Logger
	Registry *prometheus.Registry
	// Admin serves metrics and probes; more handlers may be added before the
	// run function blocks.
	Admin *http.ServeMux
	ready *readiness
}

// SetReady records the state of one named condition; the daemon is ready when
// every condition ever named has a nil error. Safe for concurrent use.
func (r *Runtime) SetReady(condition string, err error) { r.ready.set(condition, err) }

// Ready reports what is not ready, nil when everything is.
func (r *Runtime) Ready() error { return r.ready.err() }

// Run is a daemon's work. It returns when ctx ends (nil or ctx.Err()) or when
// it cannot go on.
type Run func(ctx context.Context, runtime *Runtime) error

// Main runs a daemon as its process and returns the exit code: 0 after an
// orderly stop, 1 when it could not start or go on, 2 for wrong usage.
func Main(name string, cfg Configured, run Run) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Execute(ctx, name, os.Args[1:], cfg, run, os.Stderr)
}

// Execute is Main with everything passed in, for tests.
func Execute(ctx context.Context, name string, args []string, cfg Configured, run Run, stderr io.Writer) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "", "YAML configuration `file`; defaults apply without one")
	check := flags.Bool("check", false, "read the configuration, say what is wrong with it, and exit")
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "%s: unexpected argument %q; see --help\n", name, flags.Arg(0))
		return 2
	}
	if *version {
		fmt.Fprintf(stderr, "%s %s\n", name, buildinfo.String())
		return 0
	}
	if err := config.Load(*path, cfg); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	if *check {
		fmt.Fprintf(stderr, "%s: the configuration is good\n", name)
		return 0
	}
	logger := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: cfg.Base().Log.Level, ReplaceAttr: readable})).With("component", name)
	if err := execute(ctx, name, cfg.Base(), run, logger); err != nil && !errors.Is(err, context.Canceled) {
		logger.Error("stopped", "error", err)
		return 1
	}
	logger.Info("stopped")
	return 0
}

// readable writes durations as Go does, "1.5ms", instead of a bare number whose
// unit a reader would have to know.
func readable(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindDuration {
		return slog.String(attr.Key, attr.Value.Duration().String())
	}
	return attr
}

func execute(ctx context.Context, name string, cfg *Config, run Run, logger *slog.Logger) error {
	shutdownTraces, err := setUpTraces(ctx, name)
	if err != nil {
		return err
	}
	defer shutdownTraces()
	runtime := &Runtime{
		Name: name, Logger: logger, Registry: prometheus.NewRegistry(), Admin: http.NewServeMux(), ready: newReadiness(),
	}
	runtime.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	stopAdmin, err := serveAdmin(ctx, cfg.Admin.Listen, runtime)
	if err != nil {
		return err
	}
	defer stopAdmin()
	return run(ctx, runtime)
}
