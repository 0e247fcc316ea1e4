// Package serve is what the services' daemons have in common: the choice of a
// store, and a gRPC server whose health follows the store's.
package serve

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"weir.dev/kit/daemon"
	"weir.dev/kit/rpcserver"
)

// PostgresVariable is the environment variable that chooses PostgreSQL over
// what the configuration file says.
const PostgresVariable = "WEIR_POSTGRES_URL"

const (
	pingInterval = 2 * time.Second
	pingTimeout  = 2 * time.Second
	taskInterval = 10 * time.Minute
)

// StoreConfig chooses where a service keeps its data: PostgreSQL if a URL is
// given, SQLite otherwise.
type StoreConfig struct {
	SQLite struct {
		// Path of the database file; its folder is made if need be.
		Path string `yaml:"path"`
	} `yaml:"sqlite"`
	Postgres struct {
		// URL as postgres://USER:PASSWORD@HOST:PORT/DATABASE; holds a secret.
		URL string `yaml:"url"`
	} `yaml:"postgres"`
}

// Validate reports every mistake.
func (c *StoreConfig) Validate() error {
	if c.SQLite.Path == "" && c.Postgres.URL == "" {
		return errors.New("store: set store.sqlite.path or store.postgres.url")
	}
	return nil
}

// Config is a service daemon's configuration.
type Config struct {
	daemon.Config `yaml:",inline"`
	Server        rpcserver.Config `yaml:"server"`
	Store         StoreConfig      `yaml:"store"`
	// defaultPath is the SQLite file when nothing else is said.
	defaultPath string
	getenv      func(string) string
}

// NewConfig is a configuration whose data goes to the SQLite file at path by
// default; getenv is os.Getenv.
func NewConfig(path string, getenv func(string) string) *Config {
	return &Config{defaultPath: path, getenv: getenv}
}

// SetDefaults implements config.Config.
func (c *Config) SetDefaults() {
	c.Config.SetDefaults()
	c.Server.SetDefaults()
	c.Store.SQLite.Path = c.defaultPath
}

// Validate implements config.Config. It also applies the environment, which
// goes before the file.
func (c *Config) Validate() error {
	if url := c.getenv(PostgresVariable); url != "" {
		c.Store.Postgres.URL = url
	}
	return errors.Join(c.Config.Validate(), c.Server.Validate(), c.Store.Validate())
}

// Store is what Run needs of a service's store.
type Store interface {
	Ping(ctx context.Context) error
}

// Service is one service on its store.
type Service struct {
	Store Store
	// Register adds the service to the server.
	Register func(grpc.ServiceRegistrar)
	// Reserved are the services for peers of their own; see
	// rpcserver.Config.ReservedPeers.
	Reserved []string
	// Endless are streams that draining ends; see rpcserver.Options.Endless.
	Endless []string
	// Task, if not nil, is run now and then.
	Task func(ctx context.Context) error
}

// Run serves until ctx ends. The server's health and the daemon's readiness
// follow the store: while it doesn't answer, the service isn't offered.
func Run(ctx context.Context, runtime *daemon.Runtime, cfg rpcserver.Config, service Service) error {
	server, err := rpcserver.New(cfg, rpcserver.Options{Name: runtime.Name, Logger: runtime.Logger, Registry: runtime.Registry, Reserved: service.Reserved, Endless: service.Endless})
	if err != nil {
		return err
	}
	service.Register(server.GRPC())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watcher := watcher{runtime: runtime, server: server, service: service}
	// The first state is set before the server serves, and later only changes
	// are: the server may not be told while it starts.
	watcher.report(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watcher.run(ctx)
	}()
	err = server.Run(ctx)
	cancel()
	<-watched
	return err
}

// watcher keeps health and readiness at the state of the store.
type watcher struct {
	runtime *daemon.Runtime
	server  *rpcserver.Server
	service Service
	serving bool
}

func (w *watcher) report(ctx context.Context) {
	err := pingOnce(ctx, w.service.Store)
	if ctx.Err() != nil {
		return
	}
	if serving := err == nil; serving != w.serving {
		w.serving = serving
		w.server.SetServing(serving)
		w.runtime.Logger.InfoContext(ctx, "store state", "answers", serving)
	}
	w.runtime.SetReady("store", err)
}

func (w *watcher) run(ctx context.Context) {
	ping, task := time.NewTicker(pingInterval), time.NewTicker(taskInterval)
	defer ping.Stop()
	defer task.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ping.C:
			w.report(ctx)
		case <-task.C:
			if w.service.Task == nil {
				continue
			}
			if err := w.service.Task(ctx); err != nil && ctx.Err() == nil {
				w.runtime.Logger.ErrorContext(ctx, "housekeeping failed; it is tried again later", "error", err)
			}
		}
	}
}

func pingOnce(ctx context.Context, store Store) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := store.Ping(ctx); err != nil {
		return fmt.Errorf("the store doesn't answer: %w", err)
	}
	return nil
}
