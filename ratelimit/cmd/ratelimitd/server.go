package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	rlqsv3 "github.com/envoyproxy/go-control-plane/envoy/service/rate_limit_quota/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/anypb"

	limitsv1 "weir.dev/api/gen/weir/limits/v1"
	"weir.dev/kit/adsclient"
	"weir.dev/kit/certs"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
	"weir.dev/kit/rpcserver"

	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrlqs"
	"weir.dev/ratelimit/envoyrls"
	"weir.dev/ratelimit/metrics"
	"weir.dev/ratelimit/offenders"
	"weir.dev/ratelimit/rlscodec"
	"weir.dev/ratelimit/rulesfeed"
	"weir.dev/ratelimit/rulesfile"
	"weir.dev/ratelimit/steer"
)

// firstPing bounds how long the start waits for Redis. The daemon becomes ready
// without it too: while Redis is away the rules' failure modes answer, and that
// is more than a daemon that does not serve could do.
const firstPing = 2 * time.Second

// errNoRules keeps the daemon from being ready.
var errNoRules = errors.New("no rules have arrived yet")

// server is the daemon, put together.
type server struct {
	config  *Config
	runtime *daemon.Runtime
	metrics *metrics.Metrics
	limiter *ratelimit.Limiter
	watch   *offenders.Watch
	quotas  *metrics.Quotas
	rpc     *rpcserver.Server
	tls     *tls.Config
	ping    func(context.Context) error
	close   func() error
	// background is what the stores do beside decisions; nil for nothing.
	background func(context.Context)
}

func newServer(cfg *Config, runtime *daemon.Runtime) (*server, error) {
	runtime.SetReady("rules", errNoRules)
	m, err := metrics.New(runtime.Registry, runtime.Logger)
	if err != nil {
		return nil, err
	}
	s := &server{config: cfg, runtime: runtime, metrics: m, close: func() error { return nil }}
	opened, err := openStores(s)
	if err != nil {
		return nil, err
	}
	s.ping, s.close, s.background = opened.ping, opened.close, opened.background
	if s.quotas, err = metrics.NewQuotas(runtime.Registry); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.limiter = ratelimit.NewLimiter(opened.limits, m)
	s.limiter.SetLocal(opened.local)
	s.watch = offenders.New(runtime.Logger, m, nil)
	if cfg.Rules.Dir == "" {
		if s.tls, err = cfg.Server.TLS.ClientConfig(cfg.ControlPlane.Peer); err != nil {
			return nil, errors.Join(fmt.Errorf("client certificate: %w", err), s.close())
		}
	}
	// Without TLS nobody can be told apart, and nobody is told counters.
	if cfg.Server.ReservedPeers == nil && !cfg.Server.Plaintext {
		cfg.Server.ReservedPeers = map[string][]string{limitService: {certs.PeerID("controlplane")}}
	}
	s.rpc, err = rpcserver.New(cfg.Server, rpcserver.Options{
		Name: runtime.Name, Logger: runtime.Logger, Registry: runtime.Registry, Quiet: true, Anonymous: true, Reserved: []string{limitService},
		Codec: rlscodec.New(),
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.register()
	s.rpc.SetServing(false) // again, now that the service is registered
	return s, nil
}

// limitService is what the control plane asks for counters; whoever may is in
// server.reservedPeers, unless set the control plane.
const limitService = "weir.limits.v1.LimitService"

// register puts the services onto the servers.
func (s *server) register() {
	limits := envoyrls.New(s.limiter, s.config.Domain, s.watch)
	rlsv3.RegisterRateLimitServiceServer(s.rpc.GRPC(), limits)
	rlqsv3.RegisterRateLimitQuotaServiceServer(s.rpc.GRPC(), envoyrlqs.New(s.limiter, envoyrlqs.Options{
		Domain: s.config.Domain, Observer: s.quotas,
	}))
	steering := steer.New(steer.Options{
		Limiter: s.limiter, Watch: s.watch, Logger: s.runtime.Logger, Server: s.config.ControlPlane.NodeID,
		Shared: s.config.Store.Redis.URL != "",
	})
	limitsv1.RegisterLimitServiceServer(s.rpc.GRPC(), steering)
	s.runtime.Admin.Handle("POST /explain", steering.Handler(limits))
}

// run serves until ctx ends.
func (s *server) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.greetStore(ctx)
	if s.background != nil {
		var group sync.WaitGroup
		defer group.Wait()
		defer cancel()
		group.Go(func() { s.background(ctx) })
	}
	follow, err := s.source()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- follow(ctx)
		cancel()
	}()
	err = s.rpc.Run(ctx)
	cancel()
	if followErr := <-ended; !errors.Is(followErr, context.Canceled) {
		err = errors.Join(err, followErr)
	}
	return err
}

// source is what keeps the rules up to date until its context ends: the control
// plane, or a folder, whose rules are in effect when this returns.
func (s *server) source() (func(context.Context) error, error) {
	if s.config.Rules.Dir != "" {
		return s.folder(s.config.Rules.Dir)
	}
	ads := adsclient.New(adsclient.Config{
		Address: s.config.ControlPlane.Address, TLS: s.tls, NodeID: s.config.ControlPlane.NodeID, Logger: s.runtime.Logger,
	})
	ads.Subscribe(rulesfeed.TypeURL, s.applyRules)
	return ads.Run, nil
}

// folder reads the rules of a folder, and again whenever it changes. A folder that
// is wrong when the daemon starts keeps it from starting: there are no rules of
// before.
func (s *server) folder(dir string) (func(context.Context) error, error) {
	folder := rulesfile.Open(dir)
	if err := s.readFolder(dir); err != nil {
		return nil, config.Prefix("rules.dir: ", err)
	}
	return func(ctx context.Context) error {
		folder.Watch(ctx, func() {
			if err := s.readFolder(dir); err != nil {
				s.runtime.Logger.Error("the folder of rules is wrong; the rules of before stay in effect", "dir", dir, "error", err)
			}
		})
		return ctx.Err()
	}, nil
}

func (s *server) readFolder(dir string) error {
	table, err := tableOf(dir)
	if err != nil {
		s.metrics.RulesRejected()
		return err
	}
	s.use(table)
	return nil
}

// tableOf is what a folder holds, checked.
func tableOf(dir string) (*ratelimit.Table, error) {
	read, err := rulesfile.Read(dir)
	if err != nil {
		return nil, err
	}
	if read.Files == 0 {
		return nil, errors.New("the folder holds no YAML files")
	}
	return rulesfeed.Build(read.Rules)
}

// applyRules swaps in the rules of a complete set, or keeps the old ones.
func (s *server) applyRules(resources map[string]*anypb.Any) error {
	table, err := rulesfeed.Decode(resources)
	if err != nil {
		s.metrics.RulesRejected()
		return err
	}
	s.use(table)
	return nil
}

// use swaps in a table.
func (s *server) use(table *ratelimit.Table) {
	s.metrics.SetRules(table.IDs())
	s.limiter.SetTable(table)
	s.watch.Keep(table)
	s.quotas.SetRules(table.IDs())
	s.runtime.SetReady("rules", nil)
	s.rpc.SetServing(true)
	s.runtime.Logger.Info("rules in effect", "rules", table.Len())
}

// greetStore waits a moment for Redis, so that the first requests find warm
// connections.
func (s *server) greetStore(ctx context.Context) {
	if s.ping == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstPing)
	defer cancel()
	if err := s.ping(ctx); err != nil {
		s.runtime.Logger.Warn("Redis does not answer; rules answer by their failure mode until it does",
			"redis", s.config.Store.Redis.Address(), "error", err)
		return
	}
	s.runtime.Logger.Info("counters are kept in Redis", "redis", s.config.Store.Redis.Address())
}
