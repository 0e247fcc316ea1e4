package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// Keys under which istiod looks for what client certificates are verified with
// (pilot/pkg/credentials/kube).
const (
	authoritiesKey = "ca.crt"
	revocationsKey = "ca.crl"
)

const (
	tlsSocketName = "envoy.transport_sockets.tls"
	withoutXFCC   = "weir.forwarded_client_cert"
	headerXFCC    = "x-forwarded-client-cert"
)

// clients has a server ask for client certificates.
func (c *compiler) clients(server *networking.ServerTLSSettings, clients *policy.ClientValidation) {
	if clients == nil {
		return
	}
	server.Mode = networking.ServerTLSSettings_MUTUAL
	if !clients.Required {
		server.Mode = networking.ServerTLSSettings_OPTIONAL_MUTUAL
	}
	if clients.AcceptUntrusted {
		server.InsecureSkipVerify = wrapperspb.Bool(true)
	}
	for i, name := range clients.SubjectAltNames {
		if why := unlikeIstio(&name); why != "" {
			c.refuse(clients.Origin, "subjectAltNames[%d]: %s; write an authorization rule instead", i, why)
			continue
		}
		server.SubjectAltNames = append(server.SubjectAltNames, name.Exact)
	}
}

// notInDNS are characters that no name of a certificate's DNS names has.
const notInDNS = "/?#:@"

// unlikeIstio says why Istio cannot ask for a name, if it can't. It compares a text
// with names of all kinds, so that one which may be a name of another kind, too, would
// let in who has that one. With DNS names Envoy compares what follows the first dot,
// and takes "*" for all that is before it (Utility::dnsNameMatch of its TLS): to it
// "*.example.com" is alice@mail.example.com's name, and https://orders.example.com's.
func unlikeIstio(name *v1alpha1.SubjectAltName) string {
	switch kind := name.Type; {
	case name.Exact == "":
		return "a prefix or suffix: Istio compares whole names"
	case kind == v1alpha1.SubjectAltNameIP:
		return "an address: Istio compares names of all kinds, and a DNS name may read the same"
	case kind == v1alpha1.SubjectAltNameEmail:
		return "an address of mail: Istio compares names of all kinds, and would take a wildcard of DNS for it"
	case kind == v1alpha1.SubjectAltNameURI && (!strings.Contains(name.Exact, ":") || strings.Contains(name.Exact, "@") || wildcardMatches(name.Exact)),
		kind == v1alpha1.SubjectAltNameDNS && (strings.ContainsAny(name.Exact, notInDNS) || isAddress(name.Exact)):
		return fmt.Sprintf("%q may be a name of another kind than %s, and Istio compares those of all kinds", name.Exact, kind)
	}
	return ""
}

// wildcardMatches reports whether there may be a DNS name with a wildcard that Envoy
// takes for a text.
func wildcardMatches(text string) bool {
	_, rest, dotted := strings.Cut(text, ".")
	return dotted && !strings.ContainsAny(rest, notInDNS)
}

func isAddress(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

// asksClients reports whether one of a port's chains asks for client certificates.
func asksClients(chains []*policy.Chain) bool {
	return slices.ContainsFunc(chains, func(chain *policy.Chain) bool { return chain.TLS != nil && chain.TLS.Clients != nil })
}

// resumption has every client of a chain that asks for certificates show its own anew:
// a session that is resumed would not be looked at again, and a certificate that is
// revoked or has expired stay good for as long. Istio has no words for it. The same
// patch says once more that one is required, and counts the chains: one over QUIC, for
// which istiod asks for no certificate, is one too many.
func (p *patches) resumption(chains []*policy.Chain) {
	for _, chain := range chains {
		if chain.TLS == nil || chain.TLS.Clients == nil {
			continue
		}
		context := &tlsv3.DownstreamTlsContext{
			SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
			DisableStatefulSessionResumption: true,
		}
		if chain.TLS.Clients.Required {
			context.RequireClientCertificate = wrapperspb.Bool(true)
		}
		config, err := anypb.New(context)
		if err != nil {
			p.c.refuse(chain.TLS.Clients.Origin, "%v", err)
			return
		}
		match := p.listener("")
		match.GetListener().FilterChain = nil
		sni := ""
		if len(chain.ServerNames) > 0 {
			sni = widest(chain.ServerNames)[0]
			match.GetListener().FilterChain = &networking.EnvoyFilter_ListenerMatch_FilterChainMatch{Sni: sni}
		}
		value := &listenerv3.FilterChain{TransportSocket: &corev3.TransportSocket{
			Name: tlsSocketName, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config},
		}}
		p.patch(networking.EnvoyFilter_FILTER_CHAIN, match, networking.EnvoyFilter_Patch_MERGE, value, sni)
	}
}

// forwardedClientCert is what services are told of client certificates. Istio's
// gateways tell them always, in all detail, and may be told to believe what clients
// send: both end here, unless the policy asks for the first.
func (p *patches) forwardedClientCert(chains []*policy.Chain) {
	if edge := chains[0].Settings(); edge.ForwardedClientCert != v1alpha1.XFCCSanitize {
		return
	}
	config, err := anypb.New(&headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
		RequestMutations: []*mutationv3.HeaderMutation{{Action: &mutationv3.HeaderMutation_Remove{Remove: headerXFCC}}},
	}})
	if err != nil {
		p.c.refuse(portOrigin(p.port), "%v", err)
		return
	}
	filter := &hcmv3.HttpFilter{Name: withoutXFCC, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
	p.patch(networking.EnvoyFilter_HTTP_FILTER, p.listener(""), networking.EnvoyFilter_Patch_INSERT_FIRST, filter, withoutXFCC)
}

// forwarding refuses what the gateway cannot say of client certificates.
func (c *compiler) forwarding(edge *policy.Edge, at policy.Origin) {
	switch edge.ForwardedClientCert {
	case v1alpha1.XFCCSanitize:
	case v1alpha1.XFCCSanitizeSet: // Istio's gateways tell these whatever is asked.
		for _, detail := range []v1alpha1.ForwardedClientCertDetail{v1alpha1.XFCCSubject, v1alpha1.XFCCURI, v1alpha1.XFCCDNS, v1alpha1.XFCCCert} {
			if !slices.Contains(edge.ForwardedClientCertDetails, detail) {
				c.refuse(at, "forwardedClientCert without the detail %s: Istio's gateways always forward Subject, URI, DNS and Cert", detail)
			}
		}
	default:
		c.refuse(at, "forwardedClientCert mode %s: what clients or hops before the gateway say of certificates; the mesh's topology settings say it", edge.ForwardedClientCert)
	}
}

// alike takes away what differs between the connection managers of a port without
// making a difference: a connection on which no certificate was asked for has none to
// tell extauthz of.
func alike(managers []*hcmv3.HttpConnectionManager, certificates bool) error {
	if !certificates {
		return nil
	}
	for _, manager := range managers {
		for _, filter := range manager.GetHttpFilters() {
			config := &extauthzv3.ExtAuthz{}
			if filter.GetName() != extAuthzName {
				continue
			}
			if err := filter.GetTypedConfig().UnmarshalTo(config); err != nil {
				return err
			}
			config.IncludePeerCertificate = true
			if err := anypb.MarshalFrom(filter.GetTypedConfig(), config, proto.MarshalOptions{Deterministic: true}); err != nil {
				return err
			}
		}
	}
	return nil
}
