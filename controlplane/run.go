package controlplane

import (
	"context"
	"errors"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/kube"
	"weir.dev/kit/certs"
	"weir.dev/kit/daemon"
	"weir.dev/kit/rpcserver"
	"weir.dev/policy"
)

// stopSources bounds the wait for sources to end.
const stopSources = 3 * time.Second

// Run is controlplaned's work: it wires source, loop and server together.
func Run(ctx context.Context, cfg *Config, runtime *daemon.Runtime) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parser, err := policy.NewParser()
	if err != nil {
		return err
	}
	sources, writer, err := cfg.Sources.open(parser, cfg.StateFile, runtime.Logger)
	if err != nil {
		return err
	}
	cfg.Server.AllowedPeers = cfg.peers()
	server, err := rpcserver.New(cfg.Server, rpcserver.Options{Name: runtime.Name, Logger: runtime.Logger, Registry: runtime.Registry, Quiet: true})
	if err != nil {
		return err
	}
	adsServer := ads.NewServer(Access(cfg.fleets(), certs.PeerID("extauthz"), certs.PeerID("ratelimit")), runtime.Logger, runtime.Registry)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server.GRPC(), adsServer)
	loop := &Loop{Server: adsServer, Options: cfg.options(), Fleets: cfg.fleets(), Published: cfg.published(), Provisioned: cfg.Sources.Kubernetes.Provision.Enabled, Logger: runtime.Logger}
	runtime.Admin.HandleFunc("GET /status", loop.ServeStatus)
	runtime.SetReady("plan", errors.New("the policy has not been read yet"))
	ended := make(chan error, 3)
	adminServer, err := cfg.adminServer(loop, parser, runtime.Logger)
	if err != nil {
		return err
	}
	if err := cfg.serveAdmin(ctx, server.GRPC(), adminServer, runtime.Logger, ended); err != nil {
		return err
	}

	updates, sourceEnded := Follow(ctx, sources)
	go func() { ended <- loop.Run(ctx, updates) }()
	go func() {
		select {
		case <-adsServer.Serving():
			server.SetServing(true)
			runtime.SetReady("plan", nil)
		case <-ctx.Done():
		}
	}()
	defer context.AfterFunc(ctx, adsServer.Close)()
	sourcesDone := make(chan struct{})
	go func() {
		defer close(sourcesDone)
		if err := <-sourceEnded; err != nil && ctx.Err() == nil {
			ended <- errSource(err)
		}
	}()
	defer func() {
		cancel()
		select { // What is to serve after a restart is written to disk by then.
		case <-sourcesDone:
		case <-time.After(stopSources):
		}
	}()
	if writer != nil && cfg.Sources.Kubernetes.Provision.Enabled {
		provisioner := kube.NewProvisioner(cfg.Sources.Kubernetes.Provision, writer)
		go func() {
			if err := loop.provision(ctx, provisioner); err != nil && ctx.Err() == nil {
				runtime.Logger.ErrorContext(ctx, "proxies are not run for Gateways", "error", err)
			}
		}()
	}
	if writer != nil {
		go func() {
			if err := loop.tellKubernetes(ctx, writer); err != nil && ctx.Err() == nil {
				runtime.Logger.ErrorContext(ctx, "the status of Kubernetes objects is not written", "error", err)
			}
		}()
	}
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	select {
	case err := <-served:
		return err
	case err := <-ended:
		cancel()
		return errors.Join(err, <-served)
	}
}
