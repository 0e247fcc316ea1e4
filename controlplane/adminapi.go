package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/controlplane/admin"
	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// running is the Loop as package admin sees it.
type running struct {
	loop *Loop

	mu      sync.Mutex
	changed chan struct{}
}

func newRunning(loop *Loop) *running {
	r := &running{loop: loop, changed: make(chan struct{})}
	loop.Watch(func(Outcome) {
		r.mu.Lock()
		defer r.mu.Unlock()
		close(r.changed)
		r.changed = make(chan struct{})
	})
	return r
}

// State implements admin.Running.
func (r *running) State() admin.State {
	outcome, status := r.loop.Outcome(), r.loop.Status()
	state := admin.State{
		Input: outcome.Input, Plan: outcome.Plan, Problems: outcome.Problems, Acknowledged: status.Plan,
		Clients: status.Clients, Time: status.Updated,
	}
	for _, name := range slices.Sorted(maps.Keys(outcome.Fleets)) {
		fleet := outcome.Fleets[name]
		converted := admin.Fleet{Name: name, Programmed: fleet.Programmed, Waiting: fleet.Waiting, Clients: admin.ClientsOf(fleet.Clients)}
		for _, q := range fleet.Quarantined {
			converted.Quarantined = append(converted.Quarantined, admin.Quarantine{
				Origin: q.Origin, Kept: q.Kept, Node: q.Node, Resource: q.Resource, Message: q.Message,
			})
		}
		state.Fleets = append(state.Fleets, converted)
	}
	return state
}

// Await implements admin.Running.
func (r *running) Await(ctx context.Context, until func(admin.State) bool) error {
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if until(r.State()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Options implements admin.Running.
func (r *running) Options(fleet string) envoy.Options {
	for i := range r.loop.Fleets {
		if r.loop.Fleets[i].Name == fleet {
			return fleetOptions(r.loop.Options, &r.loop.Fleets[i])
		}
	}
	options := r.loop.Options
	options.Fleet = fleet
	return options
}

// adminServer makes the admin API's server.
func (c *Config) adminServer(loop *Loop, parser *policy.Parser, logger *slog.Logger) (*admin.Server, error) {
	options := admin.Options{Running: newRunning(loop), Parser: parser, Peers: c.AdminAPI.Peers, Logger: logger}
	options.Decisions = &admin.Decisions{
		Address: c.ExtAuthz.Address,
		TLS:     func() (*tls.Config, error) { return c.Server.TLS.ClientConfig(c.ExtAuthz.Peer) },
	}
	options.Limits = &admin.Limits{
		Address: c.RateLimit.Address,
		TLS:     func() (*tls.Config, error) { return c.Server.TLS.ClientConfig(c.RateLimit.Peer) },
	}
	if c.Sources.Managed != "" {
		var err error
		if options.Store, err = admin.NewStore(c.Sources.Managed, parser); err != nil {
			return nil, err
		}
	}
	return admin.NewServer(options), nil
}

// Times of the REST server.
const (
	restHeaderTimeout = 5 * time.Second
	restTimeout       = 6 * time.Minute // longer than the longest Apply
	restStopTimeout   = 5 * time.Second
)

// serveAdmin registers the admin API beside ADS and, where it is asked for,
// serves REST until ctx ends.
func (c *Config) serveAdmin(ctx context.Context, registrar grpc.ServiceRegistrar, server *admin.Server, logger *slog.Logger, ended chan<- error) error {
	adminv1.RegisterAdminServiceServer(registrar, server)
	if c.AdminAPI.REST == "" {
		return nil
	}
	handler, err := server.REST(ctx)
	if err != nil {
		return err
	}
	tlsConfig, err := c.Server.TLS.ServerConfig(c.AdminAPI.Peers)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.AdminAPI.REST)
	if err != nil {
		return fmt.Errorf("adminAPI.rest: %w", err)
	}
	rest := &http.Server{
		Handler: handler, TLSConfig: tlsConfig, ReadHeaderTimeout: restHeaderTimeout, ReadTimeout: restTimeout, WriteTimeout: restTimeout,
		IdleTimeout: time.Minute, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	go func() {
		if err := rest.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			ended <- fmt.Errorf("adminAPI.rest: %w", err)
		}
	}()
	context.AfterFunc(ctx, func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), restStopTimeout)
		defer cancel()
		if rest.Shutdown(stop) != nil {
			_ = rest.Close()
		}
	})
	logger.InfoContext(ctx, "admin API over REST", "address", listener.Addr().String(), "peers", c.AdminAPI.Peers)
	return nil
}
