// Command extauthzd answers Envoy's ext_authz checks by the rules that the
// control plane sends, or by those of a file.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"weir.dev/extauthz"
	"weir.dev/extauthz/envoyauth"
	"weir.dev/extauthz/rules"
	"weir.dev/extauthz/standalone"
	"weir.dev/extauthz/telemetry"
	"weir.dev/kit/adsclient"
	"weir.dev/kit/certs"
	"weir.dev/kit/daemon"
	"weir.dev/kit/rpcserver"
)

func main() {
	cfg := &settings{}
	os.Exit(daemon.Main("extauthzd", cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
		return run(ctx, cfg, runtime, nil)
	}))
}

// run wires the parts and serves until ctx ends. listening, which may be nil,
// is told the bound address.
func run(ctx context.Context, cfg *settings, runtime *daemon.Runtime, listening func(address string)) error {
	runtime.SetReady("rules", errors.New("not received from the control plane yet"))
	metrics, err := telemetry.New(runtime.Registry)
	if err != nil {
		return err
	}
	tokens, err := tokenBuilders(cfg, runtime, metrics)
	if err != nil {
		return err
	}
	logins, closeLogins, err := newLogins(&cfg.Sessions, runtime)
	if err != nil {
		return err
	}
	defer func() { _ = closeLogins() }()
	proofs, err := newProofs(&cfg.Proofs)
	if err != nil {
		return err
	}
	defer func() { _ = proofs.close() }()
	compiler, err := extauthz.NewCompiler(append(proofs.builders(tokens), logins)...)
	if err != nil {
		return err
	}
	added, err := extensions(cfg, runtime)
	if err != nil {
		return err
	}
	compiler.Use(added)
	store, keys, err := issuedKeys(cfg, runtime)
	if err != nil {
		return err
	}
	if store != nil {
		compiler.UseIssuedKeys(store)
	}
	// Without TLS nobody can be told apart, and nobody is told decisions.
	if !cfg.Server.Plaintext && cfg.Server.ReservedPeers == nil {
		cfg.Server.ReservedPeers = map[string][]string{decisionService: {certs.PeerID("controlplane")}}
	}
	server, err := rpcserver.New(cfg.Server, rpcserver.Options{
		Name: runtime.Name, Logger: runtime.Logger, Registry: runtime.Registry, Quiet: true,
		Reserved: []string{decisionService}, Codec: envoyauth.Codec(),
	})
	if err != nil {
		return err
	}
	feed := rules.NewFeed(compiler, metrics, func() {
		runtime.Logger.Info("rules received; serving")
		server.SetServing(true)
		runtime.SetReady("rules", nil)
	})
	source, chooser, err := ruleSource(cfg, runtime, compiler, feed)
	if err != nil {
		return err
	}
	keeper, closeAudit, err := keep(cfg, runtime, feed.Current, server.GRPC())
	if err != nil {
		return err
	}
	defer closeAudit()
	checks := envoyauth.NewServer(feed, metrics, runtime.Logger, time.Now)
	checks.Keep(keeper)
	bounded, err := guarded(cfg, runtime, checks, chooser)
	if err != nil {
		return err
	}
	checker, selfTest, err := tested(cfg, runtime, bounded)
	if err != nil {
		return err
	}
	answering := envoyauth.NewService(checker)
	answering.Register(server.GRPC())
	if feed.Current() == nil {
		server.SetServing(false) // names the service just registered
	} else {
		server.SetServing(true)
	}
	web, err := newWebServer(cfg, runtime, answering)
	if err != nil {
		return err
	}
	if listening != nil {
		listening(server.Address())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return source(ctx) })
	group.Go(func() error { return web.run(ctx) })
	group.Go(func() error { return keeper.Run(ctx) })
	group.Go(func() error { return selfTest(ctx) })
	if keys != nil {
		group.Go(func() error { return keys.Run(ctx) })
	}
	return group.Wait()
}

// ruleSource is what keeps the rules up to date, and for a file also what chooses
// between them.
func ruleSource(cfg *settings, runtime *daemon.Runtime, compiler *extauthz.Compiler, feed *rules.Feed) (func(context.Context) error, envoyauth.Chooser, error) {
	if cfg.Rules.File == "" {
		client, err := subscribe(cfg, runtime, feed)
		if err != nil {
			return nil, nil, err
		}
		return client.Run, nil, nil
	}
	file := standalone.NewSource(cfg.Rules.File, compiler, feed, runtime.Logger)
	// The first file has to be good: there is nothing to go on with.
	if err := file.Load(); err != nil {
		return nil, nil, err
	}
	runtime.Admin.HandleFunc("GET /rules", func(w http.ResponseWriter, _ *http.Request) {
		digest, known := file.Digest()
		if !known {
			http.Error(w, "no rules", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"sha256":"%x"}`+"\n", digest)
	})
	return file.Run, file, nil
}

func subscribe(cfg *settings, runtime *daemon.Runtime, feed *rules.Feed) (*adsclient.Client, error) {
	tls, err := cfg.Server.TLS.ClientConfig(cfg.ControlPlane.Peer)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	client := adsclient.New(adsclient.Config{
		Address: cfg.ControlPlane.Address, TLS: tls, NodeID: cfg.ControlPlane.NodeID, Logger: runtime.Logger,
	})
	client.Subscribe(rules.RouteType, feed.ApplyRoutes)
	client.Subscribe(rules.ConsumerType, feed.ApplyConsumers)
	return client, nil
}
