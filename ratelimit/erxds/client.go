package erxds

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/ratelimit/erconfig"
)

// TypeURL is the type of the resources.
const TypeURL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"

// maxNack bounds what a refusal says to the server.
const maxNack = 4 << 10

// Options of a Client. All but Headers and Metadata are required.
type Options struct {
	// Address is host:port of the server.
	Address     string
	Credentials credentials.TransportCredentials
	// NodeID and Metadata are who asks.
	NodeID   string
	Metadata map[string]string
	// Headers are sent with the stream.
	Headers map[string]string
	// MaxMessageBytes bounds an answer.
	MaxMessageBytes int
	// FirstPause and MaxPause are the pauses before trying again, which double.
	FirstPause, MaxPause time.Duration
	Logger               *slog.Logger
	// Apply brings a whole configuration into effect, or says why not. It is
	// called by one goroutine.
	Apply func(files []erconfig.File) error
}

// Run fetches until ctx ends and returns ctx's error, or why the options cannot
// be used.
func Run(ctx context.Context, options Options) error {
	conn, err := grpc.NewClient(options.Address, grpc.WithTransportCredentials(options.Credentials), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(options.MaxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	if err != nil {
		return fmt.Errorf("configuration server %s: %w", options.Address, err)
	}
	defer func() { _ = conn.Close() }()
	pause := options.FirstPause
	for {
		answered, err := options.stream(ctx, conn)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if answered {
			pause = options.FirstPause
		}
		options.Logger.Warn("the stream of configurations ended; what was in effect stays", "server", options.Address, "error", err, "again_in", pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause - rand.N(pause/5+1)): //nolint:gosec // jitter needs no secrecy
		}
		pause = min(2*pause, options.MaxPause)
	}
}

// stream serves one stream and says whether anything came by it.
func (o *Options) stream(ctx context.Context, conn *grpc.ClientConn) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(
		metadata.NewOutgoingContext(ctx, metadata.New(o.Headers)))
	if err != nil {
		return false, err
	}
	fields := map[string]*structpb.Value{}
	for name, value := range o.Metadata {
		fields[name] = structpb.NewStringValue(value)
	}
	node := &corev3.Node{Id: o.NodeID, Metadata: &structpb.Struct{Fields: fields}}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{Node: node, TypeUrl: TypeURL}); err != nil {
		return false, err
	}
	version := ""
	for {
		answer, err := stream.Recv()
		if err != nil {
			return answered, err
		}
		answered = true
		request := &discoveryv3.DiscoveryRequest{Node: node, TypeUrl: TypeURL, ResponseNonce: answer.GetNonce()}
		if err := o.apply(answer); err != nil {
			text := err.Error()
			request.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: text[:min(len(text), maxNack)]}
		} else {
			version = answer.GetVersionInfo()
		}
		request.VersionInfo = version
		if err := stream.Send(request); err != nil {
			return answered, err
		}
	}
}

func (o *Options) apply(answer *discoveryv3.DiscoveryResponse) error {
	if answer.GetTypeUrl() != TypeURL {
		return fmt.Errorf("resources of type %s were not asked for", answer.GetTypeUrl())
	}
	files, err := Files(answer.GetResources())
	if err != nil {
		return err
	}
	return o.Apply(files)
}
