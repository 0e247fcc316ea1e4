package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readiness is a set of named conditions.
type readiness struct {
	mu         sync.Mutex
	conditions map[string]error
}

func newReadiness() *readiness { return &readiness{conditions: map[string]error{}} }

func (r *readiness) set(condition string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conditions[condition] = err
}

func (r *readiness) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.conditions) == 0 {
		return errors.New("starting")
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.conditions)) {
		if err := r.conditions[name]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func serveAdmin(ctx context.Context, address string, runtime *Runtime) (stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("admin server cannot listen on %s: %w", address, err)
	}
	runtime.Admin.Handle("GET /metrics", promhttp.HandlerFor(runtime.Registry, promhttp.HandlerOpts{Registry: runtime.Registry}))
	runtime.Admin.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	runtime.Admin.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := runtime.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	server := &http.Server{
		Handler: runtime.Admin, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	runtime.Logger.InfoContext(ctx, "serving admin HTTP", "address", listener.Addr().String())
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			runtime.Logger.Error("admin server stopped", "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	}, nil
}
