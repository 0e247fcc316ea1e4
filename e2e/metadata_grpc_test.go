package e2e

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	metadatav1 "weir.dev/api/gen/weir/metadata/v1"
)

// directory knows how many seats a tenant has, over gRPC.
type directory struct {
	metadatav1.UnimplementedMetadataServiceServer

	down  atomic.Bool
	calls atomic.Int32
}

func (d *directory) Lookup(ctx context.Context, request *metadatav1.LookupRequest) (*metadatav1.LookupResponse, error) {
	d.calls.Add(1)
	given, _ := grpcmetadata.FromIncomingContext(ctx)
	switch token := given.Get("authorization"); {
	case d.down.Load():
		return nil, status.Error(codes.Unavailable, "down")
	case len(token) != 1 || token[0] != "Bearer seats-token" || request.GetSource() != "seats":
		return nil, status.Error(codes.PermissionDenied, "not for you")
	}
	free := map[string]any{"free": 0}
	if request.GetParameters()["tenant"] == "demo" {
		free["free"] = 2
	}
	value, err := structpb.NewValue(free)
	return &metadatav1.LookupResponse{Value: value}, err
}

func startDirectory(t *testing.T) (*directory, string) {
	d := &directory{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	metadatav1.RegisterMetadataServiceServer(server, d)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return d, "http://" + listener.Addr().String()
}

func TestMetadataOverGRPC(t *testing.T) {
	d, address := startDirectory(t)
	s, backend := edge(t, `---
apiVersion: v1
kind: Secret
metadata: {name: tokens}
stringData: {seats: seats-token}
`+routeYAML("seats", "/seats")+`---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: seats}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: seats}]
  authentication:
    - name: token
      jwt: {issuer: "https://issuer.weir.local", audiences: [weir], algorithms: [ES256], claims: {tenant: tenant}, jwks: {configMapRef: {name: weir-development-issuer, key: jwks.json}}}
  authorization:
    metadata: [{name: seats, protocol: GRPC, url: "`+address+`", parameters: {tenant: "{identity.tenant}"}, tokenRef: {name: tokens, key: seats}, cacheDuration: 1m}]
    rules: [{name: free, effect: Allow, when: "metadata.seats.free >= 1.0"}]
`)
	key, kid := developmentKey(t, s)
	as := func(tenant string) []string {
		return []string{"Authorization", "Bearer " + sign(t, key, jwt.SigningMethodES256, kid, func(claims jwt.MapClaims, _ map[string]any) {
			if claims["tenant"] = tenant; tenant != "demo" {
				claims["sub"] = "of " + tenant // a consumer's subjects are of its tenant
			}
		})}
	}
	reached := backend.requests.Load()
	for range 2 {
		require.Equal(t, http.StatusOK, s.Get("/seats", as("demo")...).Status)
	}
	require.EqualValues(t, 1, d.calls.Load(), "the answer is kept")
	s.Get("/seats", as("full")...).Problem(t, http.StatusForbidden, "PERMISSION_DENIED")
	d.down.Store(true)
	require.Equal(t, http.StatusOK, s.Get("/seats", as("demo")...).Status, "what is kept serves on")
	s.Get("/seats", as("new")...).Problem(t, http.StatusServiceUnavailable, "AUTHORIZATION_SOURCE_UNAVAILABLE")
	require.Equal(t, reached+3, backend.requests.Load(), "a refused request reached the service")
}
