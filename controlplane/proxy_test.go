package controlplane_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/controlplane"
	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
	"weir.dev/kit/adsclient"
	"weir.dev/kit/certs"
	"weir.dev/kit/rpcserver"
	"weir.dev/policy"
)

// rig is a loop and its ADS server, fed by the test instead of by a source.
type rig struct {
	t         testing.TB
	authority *certs.Authority
	address   string
	loop      *controlplane.Loop
	parser    *policy.Parser
	updates   chan folder.Update
}

func newRig(t testing.TB, fleets ...controlplane.FleetConfig) *rig {
	t.Helper()
	authority, err := certs.OpenAuthority(t.TempDir(), time.Now())
	require.NoError(t, err)
	parser, err := policy.NewParser()
	require.NoError(t, err)
	r := &rig{t: t, authority: authority, parser: parser, updates: make(chan folder.Update)}
	if len(fleets) == 0 {
		fleets = []controlplane.FleetConfig{{Peers: []string{certs.PeerID("ingress")}}}
	}
	var config rpcserver.Config
	config.SetDefaults()
	config.TLS, err = authority.Issue("controlplane", t.TempDir(), time.Now())
	require.NoError(t, err)
	access := controlplane.Access(fleets, certs.PeerID("extauthz"), certs.PeerID("ratelimit"))
	config.AllowedPeers = append(slices.Collect(maps.Keys(access)), certs.PeerID("gateway/*"))
	server, err := rpcserver.New(config, rpcserver.Options{Name: "test", Logger: slog.New(slog.DiscardHandler), Quiet: true})
	require.NoError(t, err)
	adsServer := ads.NewServer(access, slog.New(slog.DiscardHandler), nil)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server.GRPC(), adsServer)
	r.loop = &controlplane.Loop{
		Server: adsServer, Fleets: fleets, Logger: slog.New(slog.DiscardHandler), RetryEvery: time.Hour,
		Options: envoy.Options{ListenAddress: "127.0.0.1", ExtAuthzAddress: "127.0.0.1:1", RateLimitAddress: "127.0.0.1:2"},
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, looped := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	go func() { looped <- r.loop.Run(ctx, r.updates) }()
	t.Cleanup(func() {
		adsServer.Close()
		cancel()
		require.NoError(t, <-served)
		require.ErrorIs(t, <-looped, context.Canceled)
	})
	r.address = server.Address()
	return r
}

// apply hands the loop a policy of several texts.
func (r *rig) apply(texts ...string) {
	r.t.Helper()
	var update folder.Update
	for i, text := range texts {
		for _, document := range r.parser.Parse(fmt.Sprintf("%d.yaml", i), []byte(text)) {
			update.Problems = append(update.Problems, document.Problems...)
			if document.Object != nil {
				update.Input.Objects = append(update.Input.Objects, document.Object)
			}
		}
	}
	r.updates <- update
}

// outcome waits for one.
func (r *rig) outcome(what string, condition func(controlplane.Outcome) bool) controlplane.Outcome {
	r.t.Helper()
	var outcome controlplane.Outcome
	if !assert.Eventually(r.t, func() bool {
		outcome = r.loop.Outcome()
		return outcome.Plan != nil && condition(outcome)
	}, patience, 2*time.Millisecond, what) {
		require.FailNow(r.t, what, "%+v\n%s", outcome.Fleets, r.loop.Status().Error)
	}
	return outcome
}

func programmed(fleet string) func(controlplane.Outcome) bool {
	return func(o controlplane.Outcome) bool { return o.Fleets[fleet].Programmed }
}

// proxy subscribes like an Envoy. It rejects what holds a poison.
type proxy struct {
	mu                sync.Mutex
	poisons           []string
	say               string
	resources         map[string]map[string]*anypb.Any
	rejected, checked int
	hung              chan struct{}
	// missing are clusters that routes led to at some time without being there.
	missing []string
	stop    func()
}

// proxy connects one of a component's certificate; say is its message on
// rejecting, with %s for the poison.
func (r *rig) proxy(component, node, say string, poisons ...string) *proxy {
	r.t.Helper()
	files, err := r.authority.Issue(component, r.t.TempDir(), time.Now())
	require.NoError(r.t, err)
	tls, err := files.ClientConfig(certs.PeerID("controlplane"))
	require.NoError(r.t, err)
	client := adsclient.New(adsclient.Config{Address: r.address, TLS: tls, NodeID: node})
	p := &proxy{poisons: poisons, say: say, resources: map[string]map[string]*anypb.Any{}}
	for _, typeURL := range []string{envoy.TypeCluster, envoy.TypeEndpoint, envoy.TypeListener, envoy.TypeRoute} {
		client.Subscribe(typeURL, func(resources map[string]*anypb.Any) error { return p.apply(typeURL, resources) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		require.ErrorIs(r.t, <-done, context.Canceled)
	})
	r.t.Cleanup(p.stop)
	return p
}

func (p *proxy) apply(typeURL string, resources map[string]*anypb.Any) error {
	p.mu.Lock()
	hung := p.hung
	p.mu.Unlock()
	if hung != nil {
		<-hung
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, resource := range resources {
		for _, poison := range p.poisons {
			if bytes.Contains(resource.GetValue(), []byte(poison)) {
				p.rejected++
				return errors.New(strings.ReplaceAll(p.say, "%s", poison))
			}
		}
	}
	p.resources[typeURL] = maps.Clone(resources)
	p.check()
	return nil
}

// check notes the clusters that routes lead to and that are not there.
func (p *proxy) check() {
	for _, resource := range p.resources[envoy.TypeRoute] {
		var config routev3.RouteConfiguration
		if proto.Unmarshal(resource.GetValue(), &config) != nil {
			continue
		}
		for _, host := range config.GetVirtualHosts() {
			for _, route := range host.GetRoutes() {
				name := route.GetRoute().GetCluster()
				p.checked++
				if _, ok := p.resources[envoy.TypeCluster][name]; name != "" && !ok && !slices.Contains(p.missing, name) {
					p.missing = append(p.missing, name)
				}
			}
		}
	}
}

// hang has the proxy answer nothing more until release.
func (p *proxy) hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung = make(chan struct{})
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.hung)
	p.hung = nil
}

// heal has the proxy reject other things, or nothing, from now on.
func (p *proxy) heal(poisons ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.poisons = poisons
}

// serves reports whether what the proxy has holds a text.
func (p *proxy) serves(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, resources := range p.resources {
		for _, resource := range resources {
			if bytes.Contains(resource.GetValue(), []byte(text)) {
				return true
			}
		}
	}
	return false
}

func (p *proxy) clusters() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, resource := range p.resources[envoy.TypeCluster] {
		var cluster clusterv3.Cluster
		if proto.Unmarshal(resource.GetValue(), &cluster) == nil && strings.HasPrefix(cluster.GetName(), "backend/") {
			names = append(names, cluster.GetName())
		}
	}
	slices.Sort(names)
	return names
}
