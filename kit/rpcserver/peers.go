package rpcserver

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"weir.dev/kit/fault"
)

// gate keeps peers that may connect for some services only from the others.
type gate struct {
	// everything is for whom it is open; services names those of the others.
	everything []string
	services   map[string][]string
}

// peers are all who may connect.
func (g *gate) peers() []string {
	all := slices.Clone(g.everything)
	for _, peers := range g.services {
		all = append(all, peers...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// allow reports whether the caller may call a method, "/package.Service/Method".
func (g *gate) allow(ctx context.Context, method string) error {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
			for _, uri := range info.State.PeerCertificates[0].URIs {
				id := uri.String()
				if slices.Contains(g.everything, id) || slices.Contains(g.services[service], id) {
					return nil
				}
			}
		}
	}
	return fault.New(codes.PermissionDenied, "PEER_NOT_ALLOWED", "the certificate's identity may not call this service")
}

func (g *gate) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := g.allow(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (g *gate) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := g.allow(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(server, stream)
}
