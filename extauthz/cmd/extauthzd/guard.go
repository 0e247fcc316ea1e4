package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"weir.dev/extauthz/envoyauth"
	"weir.dev/extauthz/httpauth"
	"weir.dev/extauthz/selftest"
	"weir.dev/extauthz/telemetry"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
)

// limitSettings bounds the checks under way.
type limitSettings struct {
	// InFlight is how many checks run at once. Default 2048.
	InFlight int `yaml:"inFlight"`
	// Queue is how many more may wait. Default 2048.
	Queue int `yaml:"queue"`
	// Wait is how long one waits at most. Default 100ms.
	Wait config.Duration `yaml:"wait"`
}

func (s *limitSettings) setDefaults() {
	*s = limitSettings{InFlight: 2048, Queue: 2048, Wait: config.Duration(100 * time.Millisecond)}
}

func (s *limitSettings) validate() error {
	var errs []error
	if s.InFlight < 1 || s.InFlight > 100_000 {
		errs = append(errs, fmt.Errorf("limits.inFlight: %d is outside 1 to 100000", s.InFlight))
	}
	if s.Queue < 1 || s.Queue > 100_000 {
		errs = append(errs, fmt.Errorf("limits.queue: %d is outside 1 to 100000", s.Queue))
	}
	if wait := s.Wait.Std(); wait <= 0 || wait > 10*time.Second {
		errs = append(errs, fmt.Errorf("limits.wait: %s is outside 0s to 10s", wait))
	}
	return errors.Join(errs...)
}

// ruleSettings says where the rules are when there is no control plane.
type ruleSettings struct {
	// File of rules, see package standalone; it is read again when it changes.
	File string `yaml:"file"`
}

// validateAlone says what can't be without a control plane.
func (s *settings) validateAlone() error {
	if s.ControlPlane.Address != "" {
		return errors.New("rules.file: the rules come from the control plane already; leave out one of rules.file and controlPlane.address")
	}
	return nil
}

// httpSettings is ext_authz over HTTP.
type httpSettings struct {
	// Listen is host:port; empty serves gRPC alone. It is plain HTTP: bind it to
	// loopback or to where a sidecar stands before it.
	Listen string `yaml:"listen"`
	// PathPrefix is Envoy's path_prefix, such as /check.
	PathPrefix string `yaml:"pathPrefix"`
}

func (s *httpSettings) validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(s.Listen); s.Listen != "" && err != nil {
		errs = append(errs, fmt.Errorf("http.listen: %q is not host:port", s.Listen))
	}
	if s.PathPrefix != "" && (s.PathPrefix[0] != '/' || strings.ContainsAny(s.PathPrefix, "?#%")) {
		errs = append(errs, fmt.Errorf("http.pathPrefix: %q is not a path", s.PathPrefix))
	}
	return errors.Join(errs...)
}

// guarded puts before the server what bounds its load, and what chooses routes
// (nil for nothing).
func guarded(cfg *settings, runtime *daemon.Runtime, server envoyauth.Checker, chooser envoyauth.Chooser) (envoyauth.Checker, error) {
	if chooser != nil {
		server = envoyauth.Choosing(server, chooser)
	}
	limited := envoyauth.Limit(server, envoyauth.Limits{
		InFlight: cfg.Limits.InFlight, Queue: cfg.Limits.Queue, Wait: cfg.Limits.Wait.Std(),
	})
	return limited, telemetry.RegisterLoad(runtime.Registry, limited.InFlight, limited.Waiting)
}

// selfTestSettings is the test of the proxy in front; see package selftest.
type selfTestSettings struct {
	// URL is where it listens, http://host:port; empty tests nothing.
	URL string `yaml:"url"`
	// Host is the host to ask for, one for which it asks extauthz. Default that of
	// URL.
	Host string `yaml:"host"`
}

func (s *selfTestSettings) validate() error {
	if s.URL == "" {
		if s.Host != "" {
			return errors.New("selfTest.host: goes with selfTest.url")
		}
		return nil
	}
	return selftest.Validate(s.URL)
}

// tested has checks refused until the proxy in front was tested; run does so.
func tested(cfg *settings, runtime *daemon.Runtime, inner envoyauth.Checker) (checker envoyauth.Checker, run func(context.Context) error, err error) {
	if cfg.SelfTest.URL == "" {
		return inner, func(context.Context) error { return nil }, nil
	}
	runtime.SetReady("self-test", errors.New("the proxy in front is not tested yet"))
	test, err := selftest.New(inner, selftest.Options{
		URL: cfg.SelfTest.URL, Host: cfg.SelfTest.Host, Logger: runtime.Logger,
		Passed: func(err error) { runtime.SetReady("self-test", err) },
	})
	if err != nil {
		return nil, nil, err
	}
	return test, test.Run, nil
}

// webServer serves ext_authz over HTTP; without an address it does nothing.
type webServer struct {
	server   *http.Server
	listener net.Listener
	drain    time.Duration
	runtime  *daemon.Runtime
}

func newWebServer(cfg *settings, runtime *daemon.Runtime, server authv3.AuthorizationServer) (*webServer, error) {
	w := &webServer{drain: cfg.Server.DrainTimeout.Std(), runtime: runtime}
	if cfg.HTTP.Listen == "" {
		return w, nil
	}
	listener, err := net.Listen("tcp", cfg.HTTP.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", cfg.HTTP.Listen, err)
	}
	w.listener = listener
	w.server = httpauth.NewServer(server, cfg.HTTP.PathPrefix)
	return w, nil
}

// run serves until ctx ends, and lets what is under way finish.
func (w *webServer) run(ctx context.Context) error {
	if w.server == nil {
		return nil
	}
	failed := make(chan error, 1)
	go func() { failed <- w.server.Serve(w.listener) }()
	w.runtime.Logger.InfoContext(ctx, "serving ext_authz over HTTP", "address", w.listener.Addr().String())
	select {
	case err := <-failed:
		return fmt.Errorf("HTTP server: %w", err)
	case <-ctx.Done():
	}
	//nolint:contextcheck // ctx has ended; what is under way may finish
	ending, cancel := context.WithTimeout(context.Background(), w.drain)
	defer cancel()
	return w.server.Shutdown(ending) //nolint:contextcheck // see above
}
