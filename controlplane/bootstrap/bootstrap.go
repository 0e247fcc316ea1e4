// Package bootstrap makes the static configuration that an Envoy starts with:
// who it is, where its control plane is, and its certificates. Everything else
// comes over xDS.
package bootstrap

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/controlplane/envoy"
	"weir.dev/kit/certs"
)

const clusterControlPlane = "weir/controlplane"

// Config of one Envoy.
type Config struct {
	// NodeID names this Envoy in the control plane's status.
	NodeID string
	// AdminAddress is host:port of Envoy's admin interface; keep it on loopback.
	AdminAddress string
	// ControlPlaneAddress is host:port; ControlPlanePeer the SPIFFE id there.
	ControlPlaneAddress string
	ControlPlanePeer    string
	// CertDir holds the ingress's tls.crt, tls.key and ca.crt.
	CertDir string
	// PublicTrustFile holds the authorities of public servers, in PEM. Default is
	// where systems keep theirs; on a system without any, no public server is
	// trusted.
	PublicTrustFile string
	// MaxRequestsPerIOCycle is how many HTTP/2 and HTTP/3 requests of one connection
	// are taken before other connections have their turn. Default 1.
	MaxRequestsPerIOCycle uint32
	// MaxConnections of clients that Envoy takes; further ones are closed. Default
	// 20000.
	MaxConnections int64
	// MaxHeapBytes is the size of Envoy's heap that its overload manager guards, see
	// overload. Default: three quarters of what the machine, or the control group
	// of the process that makes the configuration, has; 2 GiB where that is not
	// known.
	MaxHeapBytes uint64
	// Zone is where this Envoy is, for TrafficPolicies that prefer endpoints of the
	// proxy's own zone; empty means that none is preferred.
	Zone string
	// StateOfTheWorld has Envoy ask by that variant of the protocol, in which every
	// response holds all of a type, instead of by the incremental one.
	StateOfTheWorld bool
}

// publicTrustFiles are where systems keep the authorities that they trust.
func publicTrustFiles() []string {
	return []string{
		os.Getenv("SSL_CERT_FILE"),
		"/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Alpine, Arch
		"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
		"/etc/ssl/ca-bundle.pem",             // openSUSE
		"/etc/ssl/cert.pem",                  // macOS, BSD
	}
}

// publicTrust is the file to trust public servers by. Without any it is the
// mesh's authority: a secret that is missing would have Envoy reject every
// backend, and by this one it trusts no public server.
func (c *Config) publicTrust() string {
	if c.PublicTrustFile != "" {
		return c.PublicTrustFile
	}
	for _, path := range publicTrustFiles() {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return filepath.Join(c.CertDir, certs.CAFileName)
}

// JSON renders the bootstrap as Envoy's --config-path wants it.
func JSON(config Config) ([]byte, error) {
	admin, adminErr := address("AdminAddress", config.AdminAddress)
	control, controlErr := address("ControlPlaneAddress", config.ControlPlaneAddress)
	if err := errors.Join(adminErr, controlErr, config.missing()); err != nil {
		return nil, err
	}
	var packErrs []error
	pack := func(message proto.Message) *anypb.Any {
		body, err := anypb.New(message)
		packErrs = append(packErrs, err)
		return body
	}
	bootstrap := &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: config.NodeID, Cluster: "weir-ingress"},
		Admin: &bootstrapv3.Admin{Address: admin},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: &corev3.ApiConfigSource{
				ApiType: config.apiType(), TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: clusterControlPlane},
				}}},
			},
			CdsConfig: ads(), LdsConfig: ads(),
		},
		LayeredRuntime: runtimeLayers(&config),
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Secrets: secrets(config.CertDir, config.publicTrust()),
			Clusters: []*clusterv3.Cluster{{
				Name:                 clusterControlPlane,
				ConnectTimeout:       durationpb.New(time.Second),
				ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
				DnsLookupFamily:      clusterv3.Cluster_V4_PREFERRED,
				TypedExtensionProtocolOptions: map[string]*anypb.Any{
					"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(http2()),
				},
				TransportSocket: &corev3.TransportSocket{
					Name:       "envoy.transport_sockets.tls",
					ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(upstreamTLS(config.ControlPlanePeer))},
				},
				LoadAssignment: &endpointv3.ClusterLoadAssignment{
					ClusterName: clusterControlPlane,
					Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
						HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: control}},
					}}}},
				},
			}},
		},
		OverloadManager: overload(&config, pack),
	}
	inZone(bootstrap, config.Zone, admin)
	if err := errors.Join(packErrs...); err != nil {
		return nil, err
	}
	return protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(bootstrap)
}

func (c *Config) apiType() corev3.ApiConfigSource_ApiType {
	if c.StateOfTheWorld {
		return corev3.ApiConfigSource_GRPC
	}
	return corev3.ApiConfigSource_DELTA_GRPC
}

// missing names what Envoy could not start or be recognised without.
func (c *Config) missing() error {
	var errs []error
	if c.NodeID == "" {
		errs = append(errs, errors.New("NodeID: is required; the control plane's status names this Envoy by it"))
	}
	if c.ControlPlanePeer == "" {
		errs = append(errs, errors.New("ControlPlanePeer: is required; without it any certificate of the mesh would do"))
	}
	if !filepath.IsAbs(c.CertDir) {
		errs = append(errs, fmt.Errorf("CertDir: %q is not an absolute path; Envoy may run elsewhere", c.CertDir))
	}
	return errors.Join(errs...)
}

// maxRegexProgram is above what policy accepts, by more than Go's compiler and
// RE2's differ; Envoy's own default of 100 refuses an expression for a UUID.
const maxRegexProgram = 10_000

func runtimeLayers(config *Config) *bootstrapv3.LayeredRuntime {
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: "weir",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
			"re2.max_program_size.error_level": structpb.NewNumberValue(maxRegexProgram),
			"re2.max_program_size.warn_level":  structpb.NewNumberValue(maxRegexProgram),
			// Guards against clients that open and cancel requests in bulk
			// (CVE-2023-44487): Envoy's own defaults, written down, and one request of
			// a connection at a time before the others' turn.
			"overload.premature_reset_total_stream_count":          structpb.NewNumberValue(500),
			"overload.premature_reset_min_stream_lifetime_seconds": structpb.NewNumberValue(1),
			"http.max_requests_per_io_cycle":                       structpb.NewNumberValue(float64(cmp.Or(config.MaxRequestsPerIOCycle, 1))),
		}}},
	}}}
}

func secrets(dir, publicTrust string) []*tlsv3.Secret {
	file := func(name string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: filepath.Join(dir, name)}}
	}
	watched := &corev3.WatchedDirectory{Path: dir}
	return []*tlsv3.Secret{
		{Name: envoy.SecretIdentity, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: file(certs.CertFileName), PrivateKey: file(certs.KeyFileName), WatchedDirectory: watched,
		}}},
		{Name: envoy.SecretTrust, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: file(certs.CAFileName), WatchedDirectory: watched,
		}}},
		{Name: envoy.SecretPublicTrust, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: publicTrust}},
		}}},
	}
}

func upstreamTLS(peer string) *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		AlpnProtocols:                  []string{"h2"},
		TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: envoy.SecretIdentity}},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: &tlsv3.CertificateValidationContext{
					MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
						SanType: tlsv3.SubjectAltNameMatcher_URI,
						Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: peer}},
					}},
				},
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: envoy.SecretTrust},
			},
		},
	}}
}

func http2() *upstreamsv3.HttpProtocolOptions {
	return &upstreamsv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
						Interval: durationpb.New(15 * time.Second), Timeout: durationpb.New(5 * time.Second),
					}},
				},
			},
		},
	}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func address(field, hostPort string) (*corev3.Address, error) {
	host, text, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, fmt.Errorf("%s: %q is not host:port", field, hostPort)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s: %q is not a port", field, text)
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}, nil
}
