package envoy

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

func alpn(protocol v1alpha1.BackendProtocol) []string {
	if protocol == v1alpha1.ProtocolHTTP {
		return []string{"http/1.1"}
	}
	return []string{"h2"}
}

// backendTLS secures the connections to a Backend.
func backendTLS(tls *policy.TLS, protocol v1alpha1.BackendProtocol) *corev3.TransportSocket {
	names := make([]*tlsv3.SubjectAltNameMatcher, len(tls.Names))
	for i, name := range tls.Names {
		names[i] = subjectAltName(name)
	}
	if tls.Trust == policy.TrustMesh {
		return tlsSocket(meshTLS(alpn(protocol), names))
	}
	context := &tlsv3.UpstreamTlsContext{
		Sni: tls.ServerName,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols: alpn(protocol),
			TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
		},
	}
	if tls.Certificate != "" {
		context.CommonTlsContext.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{sdsConfig(tls.Certificate)}
	}
	if tls.Trust == policy.TrustBundle {
		context.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa:                 &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: tls.Bundle}},
				MatchTypedSubjectAltNames: names,
			},
		}
		return tlsSocket(context)
	}
	// Envoy does not implement system_root_certs; the bootstrap knows the file.
	context.CommonTlsContext.ValidationContextType = combined(SecretPublicTrust, names)
	return tlsSocket(context)
}

// meshTLS presents the edge's identity and accepts only the given ones.
func meshTLS(alpn []string, names []*tlsv3.SubjectAltNameMatcher) *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{
		CommonTlsContext: &tlsv3.CommonTlsContext{
			AlpnProtocols:                  alpn,
			TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
			TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: SecretIdentity}},
			ValidationContextType:          combined(SecretTrust, names),
		},
	}
}

// combined checks names against the authorities of a secret of the bootstrap.
func combined(secret string, names []*tlsv3.SubjectAltNameMatcher) *tlsv3.CommonTlsContext_CombinedValidationContext {
	return &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: names},
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: secret},
		},
	}
}

func spiffeNames(peer string) []*tlsv3.SubjectAltNameMatcher {
	return []*tlsv3.SubjectAltNameMatcher{subjectAltName(gatewayv1.SubjectAltName{
		Type: gatewayv1.URISubjectAltNameType, URI: gatewayv1.AbsoluteURI(peer),
	})}
}

// subjectAltName matches one name of a certificate. A wildcard takes every name
// below it.
func subjectAltName(name gatewayv1.SubjectAltName) *tlsv3.SubjectAltNameMatcher {
	matcher := &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_DNS, Matcher: &matcherv3.StringMatcher{}}
	text := string(name.Hostname)
	if name.Type == gatewayv1.URISubjectAltNameType {
		matcher.SanType, text = tlsv3.SubjectAltNameMatcher_URI, string(name.URI)
	}
	if suffix, ok := strings.CutPrefix(text, "*."); ok && matcher.GetSanType() == tlsv3.SubjectAltNameMatcher_DNS {
		matcher.Matcher.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: "." + suffix}
	} else {
		matcher.Matcher.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: text}
	}
	return matcher
}

func tlsSocket(context *tlsv3.UpstreamTlsContext) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(context)},
	}
}
