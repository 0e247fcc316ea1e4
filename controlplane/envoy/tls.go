package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	quicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/quic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// TypeSecret resources hold keys: only a proxy may have them, and Show is what
// anything else is shown.
const TypeSecret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// secret compiles a certificate or authorities. They come apart from the
// listeners, so that a new certificate closes no connection.
func secret(from *policy.Secret) *tlsv3.Secret {
	if len(from.Authorities) == 0 {
		return &tlsv3.Secret{Name: from.ID, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(from.Certificate), PrivateKey: inline(from.PrivateKey),
		}}}
	}
	context := &tlsv3.CertificateValidationContext{TrustedCa: inline(from.Authorities)}
	if len(from.RevocationLists) > 0 {
		context.Crl = inline(from.RevocationLists)
	}
	return &tlsv3.Secret{Name: from.ID, Type: &tlsv3.Secret_ValidationContext{ValidationContext: context}}
}

// fleetSecrets are those that a fleet's chains, and its backends (nil for all),
// refer to, by id. Others must not reach it.
func fleetSecrets(plan *policy.Plan, fleet string, backends map[string]bool) map[string]*policy.Secret {
	used := map[string]*policy.Secret{}
	all := map[string]*policy.Secret{}
	for i := range plan.Secrets {
		all[plan.Secrets[i].ID] = &plan.Secrets[i]
	}
	for _, port := range plan.Ports {
		if port.Fleet != fleet {
			continue
		}
		for _, chain := range port.Chains {
			if chain.TLS == nil {
				continue
			}
			for _, id := range chain.TLS.Certificates {
				used[id] = all[id]
			}
			if chain.TLS.Clients != nil {
				used[chain.TLS.Clients.Secret] = all[chain.TLS.Clients.Secret]
			}
		}
	}
	for i := range plan.Backends {
		tls := plan.Backends[i].TLS
		if tls != nil && tls.Certificate != "" && (backends == nil || backends[plan.Backends[i].ID]) {
			used[tls.Certificate] = all[tls.Certificate]
		}
	}
	return used
}

func inline(content policy.PEM) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: content}}
}

func sdsConfig(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: adsSource()}
}

// downstreamTLS is how a chain ends TLS.
func downstreamTLS(tls *policy.Termination) *tlsv3.DownstreamTlsContext {
	versions := map[v1alpha1.TLSVersion]tlsv3.TlsParameters_TlsProtocol{
		v1alpha1.TLS12: tlsv3.TlsParameters_TLSv1_2, v1alpha1.TLS13: tlsv3.TlsParameters_TLSv1_3,
	}
	common := &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: versions[tls.MinVersion], TlsMaximumProtocolVersion: versions[tls.MaxVersion],
		},
	}
	if tls.MinVersion != v1alpha1.TLS13 { // TLS 1.3 has its own
		for _, suite := range tls.CipherSuites {
			common.TlsParams.CipherSuites = append(common.TlsParams.CipherSuites, string(suite))
		}
	}
	for _, id := range tls.Certificates {
		common.TlsCertificateSdsSecretConfigs = append(common.TlsCertificateSdsSecretConfigs, sdsConfig(id))
	}
	for _, protocol := range tls.Protocols {
		switch protocol {
		case v1alpha1.HTTP2:
			common.AlpnProtocols = append(common.AlpnProtocols, "h2")
		case v1alpha1.HTTP11:
			common.AlpnProtocols = append(common.AlpnProtocols, "http/1.1")
		}
	}
	context := &tlsv3.DownstreamTlsContext{CommonTlsContext: common}
	if clients := tls.Clients; clients != nil {
		context.RequireClientCertificate = wrapperspb.Bool(clients.Required)
		common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         clientContext(clients),
				ValidationContextSdsSecretConfig: sdsConfig(clients.Secret),
			},
		}
		// A resumed session would not be looked at again after a revocation.
		context.SessionTicketKeysType = &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true}
		context.DisableStatefulSessionResumption = true
	}
	return context
}

func clientContext(clients *policy.ClientValidation) *tlsv3.CertificateValidationContext {
	context := &tlsv3.CertificateValidationContext{}
	if clients.AcceptUntrusted {
		context.TrustChainVerification = tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	}
	for _, name := range clients.SubjectAltNames {
		matcher := &tlsv3.SubjectAltNameMatcher{Matcher: &matcherv3.StringMatcher{}}
		switch name.Type {
		case v1alpha1.SubjectAltNameDNS:
			matcher.SanType = tlsv3.SubjectAltNameMatcher_DNS
		case v1alpha1.SubjectAltNameURI:
			matcher.SanType = tlsv3.SubjectAltNameMatcher_URI
		case v1alpha1.SubjectAltNameEmail:
			matcher.SanType = tlsv3.SubjectAltNameMatcher_EMAIL
		case v1alpha1.SubjectAltNameIP:
			matcher.SanType = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
		}
		switch {
		case name.Exact != "":
			matcher.Matcher.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: name.Exact}
		case name.Prefix != "":
			matcher.Matcher.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: name.Prefix}
		default:
			matcher.Matcher.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: name.Suffix}
		}
		context.MatchTypedSubjectAltNames = append(context.MatchTypedSubjectAltNames, matcher)
	}
	return context
}

func listenerSocket(tls *policy.Termination) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(downstreamTLS(tls))},
	}
}

// quicSocket is TLS 1.3 within QUIC, with ALPN of its own.
func quicSocket(tls *policy.Termination) *corev3.TransportSocket {
	context := downstreamTLS(tls)
	context.CommonTlsContext.AlpnProtocols = nil
	context.CommonTlsContext.TlsParams = nil
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.quic",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(&quicv3.QuicDownstreamTransport{
			DownstreamTlsContext: context,
			// A replayed request would be served twice.
			EnableEarlyData: wrapperspb.Bool(false),
		})},
	}
}
