package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/rules"
	"weir.dev/kit/certs"
	"weir.dev/kit/config"
	"weir.dev/kit/daemon"
)

// controlPlane is a delta ADS server whose updates a test sends by hand.
type controlPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	updates chan *discoveryv3.DeltaDiscoveryResponse
	answers chan *discoveryv3.DeltaDiscoveryRequest
}

func (c *controlPlane) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	go func() {
		for {
			request, err := stream.Recv()
			if err != nil {
				return
			}
			if request.GetResponseNonce() != "" {
				c.answers <- request
			}
		}
	}()
	for {
		select {
		case update := <-c.updates:
			if err := stream.Send(update); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// send delivers resources by name and returns the rejection's text, empty when
// they were accepted.
func (c *controlPlane) send(t *testing.T, typeURL string, resources map[string]proto.Message, removed ...string) string {
	t.Helper()
	update := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: t.Name(), RemovedResources: removed}
	for name, message := range resources {
		packed, err := anypb.New(message)
		require.NoError(t, err)
		update.Resources = append(update.Resources, &discoveryv3.Resource{Name: name, Version: "1", Resource: packed})
	}
	c.updates <- update
	select {
	case answer := <-c.answers:
		return answer.GetErrorDetail().GetMessage()
	case <-time.After(time.Minute):
		t.Fatal("no answer to the update")
		return ""
	}
}

type world struct {
	authority *certs.Authority
	dir       string
	plane     *controlPlane
	check     string // address of the gRPC server
	admin     string
	stop      func() int
}

func (w *world) files(t *testing.T, component string) certs.Files {
	files, _, err := w.authority.Ensure(component, filepath.Join(w.dir, component), time.Now())
	require.NoError(t, err)
	return files
}

func (w *world) dial(t *testing.T, as string) *grpc.ClientConn {
	tls, err := w.files(t, as).ClientConfig(certs.PeerID("extauthz"))
	require.NoError(t, err)
	conn, err := grpc.NewClient(w.check, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func start(t *testing.T, more ...string) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), plane: &controlPlane{
		updates: make(chan *discoveryv3.DeltaDiscoveryResponse), answers: make(chan *discoveryv3.DeltaDiscoveryRequest, 8),
	}}
	var err error
	w.authority, err = certs.OpenAuthority(filepath.Join(w.dir, "ca"), time.Now())
	require.NoError(t, err)
	tls, err := w.files(t, "controlplane").ServerConfig([]string{certs.PeerID("extauthz")})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	plane := grpc.NewServer(grpc.Creds(credentials.NewTLS(tls)))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(plane, w.plane)
	go func() { _ = plane.Serve(listener) }()
	t.Cleanup(plane.Stop)

	files := w.files(t, "extauthz")
	file := filepath.Join(w.dir, "extauthzd.yaml")
	text := "log: {level: debug}\nserver:\n  drainTimeout: 2s\n  tls: {certFile: " + files.CertFile + ", keyFile: " + files.KeyFile + ", caFile: " + files.CAFile + "}\n" +
		"controlPlane: {address: \"" + listener.Addr().String() + "\"}\n" + strings.Join(more, "")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))

	ctx, cancel := context.WithCancel(t.Context())
	logs, writer := io.Pipe()
	addresses, code := make(chan string, 1), make(chan int, 1)
	admin := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(logs); lines.Scan(); {
			var record struct{ Msg, Address string }
			if json.Unmarshal(lines.Bytes(), &record) == nil && record.Msg == "serving admin HTTP" {
				admin <- record.Address
			}
		}
	}()
	cfg := &settings{}
	go func() {
		code <- daemon.Execute(ctx, "extauthzd", []string{"--config", file}, cfg, func(ctx context.Context, runtime *daemon.Runtime) error {
			return run(ctx, cfg, runtime, func(address string) { addresses <- address })
		}, writer)
		_ = writer.Close()
	}()
	w.stop = func() int { cancel(); return <-code }
	select {
	case w.check = <-addresses:
		w.admin = <-admin
	case exit := <-code:
		t.Fatalf("extauthzd ended with %d", exit)
	}
	return w
}

func (w *world) ready(t *testing.T) int {
	response, err := http.Get("http://" + w.admin + "/readyz")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}

func TestDaemon(t *testing.T) {
	w := start(t)
	conn := w.dial(t, "ingress")
	client, health := authv3.NewAuthorizationClient(conn), healthpb.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	serving := func() healthpb.HealthCheckResponse_ServingStatus {
		response, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "envoy.service.auth.v3.Authorization"})
		require.NoError(t, err)
		return response.GetStatus()
	}
	ask := func(headers ...string) *authv3.CheckResponse {
		response, err := client.Check(ctx, authtest.Check("r", headers...))
		require.NoError(t, err)
		return response
	}
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, serving())
	require.Equal(t, http.StatusServiceUnavailable, w.ready(t))
	require.Contains(t, ask().GetDeniedResponse().GetBody(), "RULES_NOT_LOADED")

	consumer := authtest.Consumers()["default/shop"]
	consumer.ApiKeys[0].ExpireTime = nil // the daemon's clock is the real one
	require.Empty(t, w.plane.send(t, rules.RouteType, map[string]proto.Message{"r": authtest.Route("r", authtest.APIKey())}))
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, serving(), "one type of two is not ready")
	require.Empty(t, w.plane.send(t, rules.ConsumerType, map[string]proto.Message{"default/shop": consumer}))
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, serving())
	require.Equal(t, http.StatusOK, w.ready(t))

	require.NotNil(t, ask("x-api-key", authtest.GoodKey).GetOkResponse())
	require.EqualValues(t, 401, ask().GetDeniedResponse().GetStatus().GetCode())

	bad := authtest.WithRules(authtest.Route("r", authtest.APIKey()), authtest.Deny("d", "nonsense("))
	require.Contains(t, w.plane.send(t, rules.RouteType, map[string]proto.Message{"r": bad}), `route "r": rules[0].expression`)
	require.NotNil(t, ask("x-api-key", authtest.GoodKey).GetOkResponse(), "the old rules stay")

	denying := authtest.WithRules(authtest.Route("r", authtest.APIKey()), authtest.Deny("d", "true"))
	require.Empty(t, w.plane.send(t, rules.RouteType, map[string]proto.Message{"r": denying}))
	require.EqualValues(t, 403, ask("x-api-key", authtest.GoodKey).GetDeniedResponse().GetStatus().GetCode())
	require.Empty(t, w.plane.send(t, rules.RouteType, nil, "r"))
	require.EqualValues(t, 503, ask("x-api-key", authtest.GoodKey).GetDeniedResponse().GetStatus().GetCode())

	response, err := http.Get("http://" + w.admin + "/metrics")
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	for _, line := range []string{
		`weir_extauthz_decisions_total{decision="allow",reason="ALLOWED"} 2`, `weir_extauthz_decisions_total{decision="deny",reason="PERMISSION_DENIED"} 1`,
		`weir_extauthz_rules_loaded{kind="consumers"} 1`, `weir_extauthz_rules_rejected_total{kind="routes"} 1`,
	} {
		require.Contains(t, string(body), line)
	}
	require.Zero(t, w.stop())
}

// Only the ingress may ask: another part's certificate, valid as it is, does
// not connect.
func TestOnlyTheIngressMayAsk(t *testing.T) {
	w := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, peer := range []string{"data", "ratelimit", "controlplane"} {
		_, err := authv3.NewAuthorizationClient(w.dial(t, peer)).Check(ctx, authtest.Check("r"))
		require.Error(t, err, peer)
	}
	_, err := authv3.NewAuthorizationClient(w.dial(t, "ingress")).Check(ctx, authtest.Check("r"))
	require.NoError(t, err, "negative control")
	require.Zero(t, w.stop())
}

func TestSettingsOfTheExample(t *testing.T) {
	require.NoError(t, config.Load("../../../examples/standalone/extauthzd.yaml", &settings{}))
}

func TestSettings(t *testing.T) {
	s := &settings{}
	s.SetDefaults()
	err := s.Validate()
	for _, field := range []string{"controlPlane.address", "tls.certFile", "tls.keyFile", "tls.caFile"} {
		require.ErrorContains(t, err, field)
	}
	s.ControlPlane, s.Tokens, s.Server.AllowedPeers = controlPlaneSetting{Address: "x"}, tokenSettings{}, nil
	s.Keys = keySettings{Address: "x"}
	err = s.Validate()
	for _, field := range []string{"controlPlane.address", "controlPlane.peer", "controlPlane.nodeId", "tokens.cacheBytes", "tokens.cacheTtl", "server.allowedPeers", "keys.address", "keys.peer", "keys.maxAge"} {
		require.ErrorContains(t, err, field)
	}
}
