// Package adsclient subscribes to Weir's own resource types over delta ADS
// (xDS transport protocol, "incremental" variant). It is the one package of kit
// that knows xDS; see docs/adr/0003.
package adsclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/anypb"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"
)

// Bounds of reconnecting and of one message.
const (
	firstBackoff    = 50 * time.Millisecond
	maxBackoff      = 2 * time.Second
	maxMessageBytes = 64 << 20
)

// Config says where the ADS server is and who we are.
type Config struct {
	// Address is host:port of the control plane.
	Address string
	// TLS authenticates both sides.
	TLS *tls.Config
	// NodeID names this process in the control plane's status.
	NodeID string
	Logger *slog.Logger
}

// Apply receives the complete current set of one type by resource name. It
// must not keep or change the map. An error rejects (NACKs) the update: what was
// applied stays, and the next update is offered together with the rejected one,
// since a server sends each change only once per stream.
type Apply func(resources map[string]*anypb.Any) error

// Client keeps subscriptions alive across reconnects and control-plane
// restarts: what was applied stays applied until something newer comes.
type Client struct {
	config Config
	subs   []*subscription
}

type subscription struct {
	typeURL string
	apply   Apply
	// applied is what apply last took, offered what the server believes we
	// have. They differ after a rejected update.
	applied resourceSet
	offered resourceSet
}

type resourceSet struct {
	resources map[string]*anypb.Any
	versions  map[string]string
}

func (r resourceSet) clone() resourceSet {
	return resourceSet{resources: maps.Clone(r.resources), versions: maps.Clone(r.versions)}
}

// New makes a client; nothing connects before Run.
func New(config Config) *Client {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{config: config}
}

// Subscribe asks for every resource of a type. Call it before Run only.
func (c *Client) Subscribe(typeURL string, apply Apply) {
	c.subs = append(c.subs, &subscription{
		typeURL: typeURL, apply: apply,
		applied: resourceSet{resources: map[string]*anypb.Any{}, versions: map[string]string{}},
	})
}

// Run connects and reconnects until ctx ends; it returns only then, with
// ctx.Err(), or at once when the address cannot be parsed.
func (c *Client) Run(ctx context.Context) error {
	conn, err := grpc.NewClient(c.config.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.config.TLS)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: connectBackoff(), MinConnectTimeout: 2 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return fmt.Errorf("control plane address %q: %w", c.config.Address, err)
	}
	defer func() { _ = conn.Close() }()
	backoff := firstBackoff
	for ctx.Err() == nil {
		received, err := c.session(ctx, conn)
		if ctx.Err() != nil {
			break
		}
		if received {
			backoff = firstBackoff
		}
		c.config.Logger.WarnContext(ctx, "control plane stream ended; serving what was last applied",
			"address", c.config.Address, "error", err, "retry_in", backoff)
		wait := backoff/2 + rand.N(backoff) //nolint:gosec // jitter needs no secrecy
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return ctx.Err()
}

// session runs one stream; received says whether anything arrived on it.
func (c *Client) session(ctx context.Context, conn *grpc.ClientConn) (received bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, err
	}
	for i, sub := range c.subs {
		// A new stream starts from what is applied: what was rejected comes
		// again, and is rejected again unless the server has something better.
		sub.offered = sub.applied.clone()
		request := &discoveryv3.DeltaDiscoveryRequest{
			TypeUrl:                 sub.typeURL,
			ResourceNamesSubscribe:  []string{"*"},
			InitialResourceVersions: maps.Clone(sub.applied.versions),
		}
		if i == 0 {
			request.Node = &corev3.Node{Id: c.config.NodeID, Cluster: "weir"}
		}
		if err := stream.Send(request); err != nil {
			return false, err
		}
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return received, err
		}
		received = true
		ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: response.GetTypeUrl(), ResponseNonce: response.GetNonce()}
		if err := c.accept(response); err != nil {
			c.config.Logger.ErrorContext(ctx, "configuration from the control plane rejected; the last good one stays",
				"type", response.GetTypeUrl(), "error", err)
			ack.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
		}
		if err := stream.Send(ack); err != nil {
			return received, err
		}
	}
}

func (c *Client) accept(response *discoveryv3.DeltaDiscoveryResponse) error {
	for _, sub := range c.subs {
		if sub.typeURL == response.GetTypeUrl() {
			return sub.update(response)
		}
	}
	return fmt.Errorf("type %q was not asked for", response.GetTypeUrl())
}

// update offers the new set; apply swaps or refuses the whole of it.
func (s *subscription) update(response *discoveryv3.DeltaDiscoveryResponse) error {
	for _, name := range response.GetRemovedResources() {
		delete(s.offered.resources, name)
		delete(s.offered.versions, name)
	}
	for _, resource := range response.GetResources() {
		s.offered.resources[resource.GetName()] = resource.GetResource()
		s.offered.versions[resource.GetName()] = resource.GetVersion()
	}
	if err := s.apply(s.offered.resources); err != nil {
		return err
	}
	s.applied = s.offered.clone()
	return nil
}
