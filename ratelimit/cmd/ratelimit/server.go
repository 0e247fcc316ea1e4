package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"weir.dev/kit/fault"
	"weir.dev/ratelimit/erconfig"
	"weir.dev/ratelimit/ermetrics"
	"weir.dev/ratelimit/erservice"
	"weir.dev/ratelimit/ersettings"
	"weir.dev/ratelimit/erstatsd"
	"weir.dev/ratelimit/rlscodec"
)

const (
	// healthName is the service that envoyproxy/ratelimit reports health for;
	// here every name has the same one.
	healthName = "ratelimit"
	// drainTimeout is how long calls may still finish after a stop.
	drainTimeout = 10 * time.Second
	// maxStoreTimeout bounds a call to Redis, whatever REDIS_TIMEOUT says:
	// Envoy has long given up by then, and calls that wait pile up.
	maxStoreTimeout = time.Second
	maxMessageBytes = 4 << 20
	// streamWorkers are the goroutines kept for calls; see kit/rpcserver.
	streamWorkers = 128
)

// addresses are where the parts listen.
type addresses struct{ http, debug, grpc, metrics string }

// server is everything put together.
type server struct {
	settings *ersettings.Settings
	logger   *slog.Logger
	registry *prometheus.Registry
	metrics  *ermetrics.Metrics
	statsd   *erstatsd.Sink // nil for none
	service  *erservice.Service
	folder   folder
	health   *health.Server
	ping     func(context.Context) error
	close    func() error
	// background is what the store does beside; nil for nothing.
	background func(context.Context)
	config     atomic.Pointer[erconfig.Config]

	mu    sync.Mutex
	store error // why the store does not answer
}

func newServer(settings *ersettings.Settings, logger *slog.Logger) (*server, error) {
	s := &server{
		settings: settings, logger: logger, registry: prometheus.NewRegistry(), health: health.NewServer(), close: func() error { return nil },
		folder: folder{
			dir:          filepath.Join(settings.RuntimeRoot, settings.RuntimeSub, settings.RuntimeApp),
			ignoreHidden: settings.IgnoreDotFiles, options: erconfig.Options{MergeDomains: settings.MergeDomains},
		},
	}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if s.metrics, err = ermetrics.New(s.registry); err != nil {
		return nil, err
	}
	store, err := s.openStore()
	if err != nil {
		return nil, err
	}
	if s.ping != nil { // Health is false until it has answered.
		s.store = fmt.Errorf("%s has not answered yet", s.backend())
	}
	options := erservice.Options{
		GlobalShadow: settings.GlobalShadow, GlobalQuota: settings.GlobalQuota, Metadata: settings.Metadata, NearLimit: settings.NearLimitRatio,
	}
	if settings.ResponseHeaders {
		options.Headers = &erservice.Headers{Limit: settings.HeaderLimit, Remaining: settings.HeaderRemaining, Reset: settings.HeaderReset}
	}
	observer := erservice.Observer(s.metrics)
	if (settings.UseStatsd || settings.UseDogStatsd) && !settings.UsePrometheus && !settings.NoStats {
		if s.statsd, err = newStatsd(settings, logger); err != nil {
			return nil, errors.Join(err, s.close())
		}
		observer = erstatsd.Both{First: s.metrics, Second: s.statsd}
	}
	s.service = erservice.New(store, observer, options)
	return s, nil
}

func newStatsd(settings *ersettings.Settings, logger *slog.Logger) (*erstatsd.Sink, error) {
	tags, err := ersettings.Pairs(settings.StatsdTags)
	if err != nil {
		return nil, err
	}
	options := erstatsd.Options{
		Network: settings.StatsdNetwork, Address: net.JoinHostPort(settings.StatsdHost, strconv.Itoa(int(settings.StatsdPort))),
		Every: settings.StatsdEvery, Tags: tags, Logger: logger, Dog: settings.UseDogStatsd,
	}
	if options.Dog { // Its agents listen to datagrams.
		options.Network = "udp"
	}
	for _, from := range settings.Mogrifiers {
		mogrifier := erstatsd.Mogrifier{Pattern: from.Pattern, Name: from.Name}
		for _, tag := range from.Tags {
			mogrifier.Tags = append(mogrifier.Tags, erstatsd.Tag{Name: tag[0], Value: tag[1]})
		}
		options.Mogrifiers = append(options.Mogrifiers, mogrifier)
	}
	return erstatsd.New(options), nil
}

// healthy reports why requests could not be decided.
func (s *server) healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	config := s.config.Load()
	switch {
	case config == nil:
		return errors.New("no configuration is loaded")
	case config.Domains() == 0 && s.settings.HealthyWithOnly:
		return errors.New("the configuration is empty")
	}
	return s.store
}

func (s *server) announce() {
	state := healthpb.HealthCheckResponse_SERVING
	if s.healthy() != nil {
		state = healthpb.HealthCheckResponse_NOT_SERVING
	}
	for _, name := range []string{"", healthName, rlsv3.RateLimitService_ServiceDesc.ServiceName} {
		s.health.SetServingStatus(name, state)
	}
}

// reload brings what the folder holds into effect, or keeps what was.
func (s *server) reload() error {
	config, err := s.folder.load()
	return s.adopt(config, err, s.folder.dir)
}

// adopt brings a configuration from somewhere into effect, if it is good.
func (s *server) adopt(config *erconfig.Config, err error, from string) error {
	s.metrics.Loaded(err == nil)
	if s.statsd != nil {
		s.statsd.Loaded(err == nil)
	}
	if err != nil {
		message := "the configuration is refused; what was in effect stays"
		if s.config.Load() == nil {
			message = "the configuration is refused; none is in effect"
		}
		s.logger.Error(message, "from", from, "error", err)
		return err
	}
	s.config.Store(config)
	s.service.SetConfig(config)
	s.logger.Info("configuration in effect", "domains", config.Domains(), "limits", len(config.Limits()))
	s.announce()
	return nil
}

// backend is the name of what counters are kept in.
func (s *server) backend() string {
	if s.settings.Backend == "memcache" {
		return "memcached"
	}
	return "Redis"
}

// watchStore asks it now and then whether it is there, for health.
func (s *server) watchStore(ctx context.Context) {
	if s.ping == nil {
		return
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for away := false; ; {
		bounded, cancel := context.WithTimeout(ctx, maxStoreTimeout)
		err := s.ping(bounded)
		cancel()
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !away:
			s.logger.WarnContext(ctx, s.backend()+" does not answer; health says so, and it is asked each second", "error", err)
		case err == nil && away:
			s.logger.WarnContext(ctx, s.backend()+" answers again") // as loud as what it ends
		}
		if away = err != nil; away {
			err = fmt.Errorf("%s does not answer", s.backend())
		}
		s.mu.Lock()
		s.store = err
		s.mu.Unlock()
		s.announce()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// run serves until ctx ends, then drains.
func (s *server) run(ctx context.Context, listening func(addresses)) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	configurations, err := s.configurations()
	if err != nil {
		return err
	}
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	defer listeners.close()
	rpc, err := s.newGRPC()
	if err != nil {
		return err
	}
	public, debug, prom := newHTTPServer(s.public()), newHTTPServer(s.debug()), newHTTPServer(s.prometheus())
	failed := make(chan error, 4)
	go func() { failed <- rpc.Serve(listeners.grpc) }()
	go func() { failed <- public.Serve(listeners.http) }()
	go func() { failed <- debug.Serve(listeners.debug) }()
	if listeners.metrics != nil {
		go func() { failed <- prom.Serve(listeners.metrics) }()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go configurations(ctx)
	if s.background != nil {
		go s.background(ctx)
	}
	if s.statsd != nil {
		go s.statsd.Run(ctx)
	}
	go s.watchStore(ctx)
	s.announce()
	where := listeners.addresses()
	s.logger.Info("serving", "grpc", where.grpc, "http", where.http, "debug", where.debug, "metrics", where.metrics)
	if listening != nil {
		listening(where)
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	s.health.Shutdown()
	return errors.Join(err, s.drain(rpc, public, debug, prom))
}

func (s *server) drain(rpc *grpc.Server, others ...*http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	drained := make(chan struct{})
	go func() { rpc.GracefulStop(); close(drained) }()
	select {
	case <-drained:
	case <-ctx.Done():
		s.logger.Warn("drain timeout reached; closing the calls that remain", "timeout", drainTimeout)
		rpc.Stop()
		<-drained
	}
	var errs []error
	for _, other := range others {
		errs = append(errs, other.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

func (s *server) prometheus() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(s.settings.PrometheusPath, promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	return mux
}

func (s *server) newGRPC() (*grpc.Server, error) {
	options := []grpc.ServerOption{
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(rlscodec.New()),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: s.settings.GRPCMaxConnectionAge, MaxConnectionAgeGrace: s.settings.GRPCMaxConnectionAgeGrace,
			Time: 30 * time.Second, Timeout: 10 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(s.intercept),
	}
	if s.settings.GRPCServerUseTLS {
		config, err := serverTLS(s.settings)
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	rpc := grpc.NewServer(options...)
	healthpb.RegisterHealthServer(rpc, s.health)
	rlsv3.RegisterRateLimitServiceServer(rpc, s.service)
	return rpc, nil
}

// intercept counts calls and turns what breaks into an error of one call.
func (s *server) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (response any, err error) {
	started := time.Now()
	defer func() {
		if cause := recover(); cause != nil {
			s.logger.Error("a call broke", "method", info.FullMethod, "cause", fmt.Sprint(cause))
			response, err = nil, fault.From(fmt.Errorf("panic: %v", cause))
		}
		s.metrics.Called(info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:], time.Since(started))
	}()
	return next(ctx, request)
}

// listeners are bound before anything serves.
type listeners struct{ http, debug, grpc, metrics net.Listener }

func (s *server) listen() (bound *listeners, err error) {
	bound = &listeners{}
	defer func() {
		if err != nil {
			bound.close()
		}
	}()
	at := func(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }
	open := func(into *net.Listener, what, network, address string) {
		if err != nil {
			return
		}
		if *into, err = net.Listen(network, address); err != nil {
			err = fmt.Errorf("%s: %w", what, err)
		}
	}
	open(&bound.http, "HOST and PORT", "tcp", at(s.settings.Host, s.settings.Port))
	open(&bound.debug, "DEBUG_HOST and DEBUG_PORT", "tcp", at(s.settings.DebugHost, s.settings.DebugPort))
	if s.settings.GRPCUDS != "" {
		open(&bound.grpc, "GRPC_UDS", "unix", s.settings.GRPCUDS)
	} else {
		open(&bound.grpc, "GRPC_HOST and GRPC_PORT", "tcp", at(s.settings.GRPCHost, s.settings.GRPCPort))
	}
	if s.settings.UsePrometheus {
		open(&bound.metrics, "PROMETHEUS_ADDR", "tcp", s.settings.PrometheusAddr)
	}
	return bound, err
}

func (l *listeners) each() []net.Listener { return []net.Listener{l.http, l.debug, l.grpc, l.metrics} }

func (l *listeners) close() {
	for _, listener := range l.each() {
		if listener != nil {
			_ = listener.Close() // its server may have closed it
		}
	}
}

func (l *listeners) addresses() addresses {
	var texts [4]string
	for i, listener := range l.each() {
		if listener != nil {
			texts[i] = listener.Addr().String()
		}
	}
	return addresses{http: texts[0], debug: texts[1], grpc: texts[2], metrics: texts[3]}
}
