package bootstrap_test

import (
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	"weir.dev/controlplane/bootstrap"
	"weir.dev/controlplane/envoy"
)

func config() bootstrap.Config {
	return bootstrap.Config{
		NodeID: "ingress-1", AdminAddress: "127.0.0.1:9901", ControlPlaneAddress: "[::1]:18000",
		ControlPlanePeer: "spiffe://weir.local/controlplane", CertDir: "/var/lib/weir/ingress",
	}
}

func TestRenders(t *testing.T) {
	raw, err := bootstrap.JSON(config())
	require.NoError(t, err)
	var got bootstrapv3.Bootstrap
	require.NoError(t, protojson.Unmarshal(raw, &got))
	require.NoError(t, got.ValidateAll(), "Envoy's own rules")
	require.Equal(t, "ingress-1", got.GetNode().GetId())
	require.Equal(t, uint32(9901), got.GetAdmin().GetAddress().GetSocketAddress().GetPortValue())

	cluster := got.GetStaticResources().GetClusters()[0]
	require.Equal(t, got.GetDynamicResources().GetAdsConfig().GetGrpcServices()[0].GetEnvoyGrpc().GetClusterName(), cluster.GetName())
	endpoint := cluster.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint()
	require.Equal(t, "::1", endpoint.GetAddress().GetSocketAddress().GetAddress())
	var socket tlsv3.UpstreamTlsContext
	require.NoError(t, cluster.GetTransportSocket().GetTypedConfig().UnmarshalTo(&socket))
	validation := socket.GetCommonTlsContext().GetCombinedValidationContext()
	require.Equal(t, "spiffe://weir.local/controlplane",
		validation.GetDefaultValidationContext().GetMatchTypedSubjectAltNames()[0].GetMatcher().GetExact(), "only the control plane is believed")

	// The clusters that come over xDS name these secrets.
	names := map[string]bool{}
	for _, secret := range got.GetStaticResources().GetSecrets() {
		names[secret.GetName()] = true
	}
	require.Equal(t, map[string]bool{envoy.SecretIdentity: true, envoy.SecretTrust: true, envoy.SecretPublicTrust: true}, names)
}

func TestMistakesAreNamedTogether(t *testing.T) {
	_, err := bootstrap.JSON(bootstrap.Config{AdminAddress: "nonsense", ControlPlaneAddress: "host:port", CertDir: "certs"})
	for _, want := range []string{"AdminAddress", "ControlPlaneAddress", "NodeID", "ControlPlanePeer", "CertDir"} {
		require.ErrorContains(t, err, want)
	}
}
