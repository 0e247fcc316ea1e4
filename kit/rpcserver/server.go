package rpcserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"weir.dev/kit/identity/assertion"
)

// Options are what the process gives to its server.
type Options struct {
	// Name is the daemon's name, for logs.
	Name   string
	Logger *slog.Logger
	// Registry receives the server's metrics; nil means none are kept.
	Registry prometheus.Registerer
	// Quiet leaves successful calls out of the log; for servers that answer one
	// call per request that the edge logs anyway.
	Quiet bool
	// Anonymous leaves the headers unread that say for whom a call is made, and the
	// context without an identity; for servers that proxies ask on their own behalf,
	// where reading them would cost a tenth of a call.
	Anonymous bool
	// Reserved are full names of services that only Config.ReservedPeers may
	// call. One that no peer is named for answers nobody.
	Reserved []string
	// Endless are full method names, such as "/pkg.Service/Watch", of streams that
	// go on until somebody ends them: draining does, at once, without an error.
	Endless []string
	// Codec reads and writes messages in the place of gRPC's own, which is used
	// where it is nil.
	Codec encoding.CodecV2
}

// Server is one listening gRPC server.
type Server struct {
	config   Config
	logger   *slog.Logger
	grpc     *grpc.Server
	health   *health.Server
	listener net.Listener
	metrics  *calls
	draining chan struct{}
}

// New binds the address and prepares the server; it serves once Run is called.
// Health is NOT_SERVING, for every service name, until SetServing(true).
func New(cfg Config, options Options) (*Server, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	admission := newAdmission(cfg, options.Reserved)
	transport, err := transportOf(cfg, admission)
	if err != nil {
		return nil, err
	}
	guard := &guard{logger: options.Logger, quiet: options.Quiet, anonymous: options.Anonymous, admission: admission, asserted: cfg.Assertions.Required, endless: options.Endless, draining: make(chan struct{})}
	if settings := cfg.Assertions; settings.KeySet != "" {
		if guard.assertions, err = assertion.NewVerifier(settings.Issuer, settings.Audience, settings.KeySet, nil); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", cfg.Listen, err)
	}
	metrics := newCalls()
	if options.Registry != nil {
		if err := options.Registry.Register(metrics); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	server := &Server{
		config: cfg, logger: options.Logger, listener: listener, metrics: metrics, draining: guard.draining,
		health: health.NewServer(),
		grpc: grpc.NewServer(append(tuned(options),
			grpc.Creds(transport),
			grpc.MaxRecvMsgSize(cfg.MaxMessageBytes),
			grpc.MaxConcurrentStreams(cfg.MaxConcurrentStreams),
			grpc.ConnectionTimeout(5*time.Second),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
			grpc.UnaryInterceptor(metrics.unary(guard.unary)),
			grpc.ChainStreamInterceptor(metrics.stream, guard.stream),
		)...),
	}
	healthpb.RegisterHealthServer(server.grpc, server.health)
	reflection.Register(server.grpc)
	server.SetServing(false)
	return server, nil
}

// quietWorkers are the goroutines kept for calls of a server that is asked for
// each request of the edge; calls beyond them get one of their own. A kept one has
// its stack grown already, which is a tenth of a short call's work.
const quietWorkers = 128

func tuned(options Options) (tuned []grpc.ServerOption) {
	if options.Quiet {
		tuned = append(tuned, grpc.NumStreamWorkers(quietWorkers))
	}
	if options.Codec != nil {
		tuned = append(tuned, grpc.ForceServerCodecV2(options.Codec))
	}
	if traced() {
		tuned = append(tuned, grpc.StatsHandler(otelgrpc.NewServerHandler()))
	}
	return tuned
}

// traced says whether spans go anywhere. Where they don't, making them would be a
// twentieth of a short call's work.
func traced() bool {
	_, exported := otel.GetTracerProvider().(*sdktrace.TracerProvider)
	return exported
}

func transportOf(cfg Config, admission *admission) (credentials.TransportCredentials, error) {
	if cfg.Plaintext {
		return insecure.NewCredentials(), nil
	}
	tlsConfig, err := cfg.TLS.ServerConfig(admission.peers())
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	return credentials.NewTLS(tlsConfig), nil
}

// GRPC is where services are registered, before Run.
func (s *Server) GRPC() grpc.ServiceRegistrar { return s.grpc }

// Address is the bound host:port.
func (s *Server) Address() string { return s.listener.Addr().String() }

// SetServing sets the health of the server as a whole and of every registered
// service. Safe for concurrent use.
func (s *Server) SetServing(serving bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, status)
	}
}

// Run serves until ctx ends, then drains: health turns to NOT_SERVING, no new
// calls are taken, running ones get DrainTimeout to finish. It is called once.
func (s *Server) Run(ctx context.Context) error {
	s.metrics.know(s.grpc.GetServiceInfo())
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(s.listener) }()
	if s.config.Plaintext {
		s.logger.WarnContext(ctx, "serving gRPC without TLS to whoever connects", "address", s.Address())
	} else {
		s.logger.InfoContext(ctx, "serving gRPC", "address", s.Address(), "allowed_peers", s.config.AllowedPeers)
	}
	select {
	case err := <-failed:
		return fmt.Errorf("gRPC server: %w", err)
	case <-ctx.Done():
	}
	s.health.Shutdown()
	close(s.draining)
	drained := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(s.config.DrainTimeout.Std()):
		s.logger.Warn("drain timeout reached; closing the calls that remain", "timeout", s.config.DrainTimeout.Std())
		s.grpc.Stop()
		<-drained
	}
	return nil
}
