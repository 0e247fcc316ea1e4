package envoy

import (
	"net/netip"
	"slices"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	xffv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/original_ip_detection/xff/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/identity"
	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// connectionManager follows Envoy's "Configuring Envoy as an edge proxy" and is
// tighter.
func (c *compiler) connectionManager(port *policy.Port, chain *policy.Chain) *hcmv3.HttpConnectionManager {
	edge := chain.Settings()
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:  portName(port),
		HttpFilters: c.httpFilters(port, chain),
		AccessLog:   []*accesslogv3.AccessLog{c.accessLog(port)},
		Tracing:     c.tracing(),

		NormalizePath:                wrapperspb.Bool(edge.NormalizePath),
		MergeSlashes:                 edge.MergeSlashes,
		PathWithEscapedSlashesAction: escapedSlashes()[edge.EscapedSlashes],
		GenerateRequestId:            wrapperspb.Bool(true),
		PreserveExternalRequestId:    edge.AcceptRequestID,
		AlwaysSetRequestIdInResponse: edge.ReturnRequestID,
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{
			earlyMutations(removePrefix(identity.HeaderPrefix)),
		},
		LocalReplyConfig: localReplies(),

		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:                  durationpb.New(edge.ConnectionIdleTimeout),
			HeadersWithUnderscoresAction: underscores()[edge.Underscores],
			MaxHeadersCount:              wrapperspb.UInt32(edge.MaxHeaders),
			MaxConnectionDuration:        durationOrNone(edge.MaxConnectionDuration),
		},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams:        wrapperspb.UInt32(edge.MaxConcurrentStreams),
			InitialStreamWindowSize:     wrapperspb.UInt32(windowBytes(edge.StreamWindowKiB)),
			InitialConnectionWindowSize: wrapperspb.UInt32(windowBytes(edge.ConnectionWindowKiB)),
			StreamResetBurst:            wrapperspb.UInt64(uint64(edge.ResetBurst)),
			StreamResetRate:             wrapperspb.UInt64(uint64(edge.ResetsPerSecond)),
		},
		MaxRequestHeadersKb:   wrapperspb.UInt32(edge.MaxHeaderKiB),
		StreamIdleTimeout:     durationpb.New(edge.StreamIdleTimeout),
		RequestHeadersTimeout: durationpb.New(edge.RequestHeadersTimeout),
		RequestTimeout:        durationOrNone(edge.RequestTimeout),
		DrainTimeout:          durationpb.New(edge.DrainTimeout),
	}
	if edge.MaxConnectionRequests > 0 {
		manager.CommonHttpProtocolOptions.MaxRequestsPerConnection = wrapperspb.UInt32(edge.MaxConnectionRequests)
	}
	clientAddress(manager, &edge)
	if !c.scoped(manager, port, chain) {
		manager.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: adsSource(), RouteConfigName: chainName(port, chain),
		}}
	}
	forwardedClientCert(manager, &edge)
	serverHeader(manager, &edge)
	return manager
}

// durationOrNone leaves Envoy's default, which is none.
func durationOrNone(value time.Duration) *durationpb.Duration {
	if value == 0 {
		return nil
	}
	return durationpb.New(value)
}

// windowBytes stays within what HTTP/2 can say (RFC 9113, section 6.9.1).
func windowBytes(kib uint32) uint32 { return min(kib<<10, 1<<31-1) }

func escapedSlashes() map[v1alpha1.EscapedSlashes]hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction {
	return map[v1alpha1.EscapedSlashes]hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction{
		v1alpha1.EscapedSlashesReject:   hcmv3.HttpConnectionManager_REJECT_REQUEST,
		v1alpha1.EscapedSlashesRedirect: hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT,
		v1alpha1.EscapedSlashesForward:  hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD,
		v1alpha1.EscapedSlashesKeep:     hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
	}
}

func underscores() map[v1alpha1.Underscores]corev3.HttpProtocolOptions_HeadersWithUnderscoresAction {
	return map[v1alpha1.Underscores]corev3.HttpProtocolOptions_HeadersWithUnderscoresAction{
		v1alpha1.UnderscoresReject: corev3.HttpProtocolOptions_REJECT_REQUEST,
		v1alpha1.UnderscoresDrop:   corev3.HttpProtocolOptions_DROP_HEADER,
		v1alpha1.UnderscoresAllow:  corev3.HttpProtocolOptions_ALLOW,
	}
}

func earlyMutations(mutations ...*mutationv3.HeaderMutation) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{
		Name:        "envoy.http.early_header_mutation.header_mutation",
		TypedConfig: packed(&earlyv3.HeaderMutation{Mutations: mutations}),
	}
}

// clientAddress says whose X-Forwarded-For is believed. With ranges Envoy no
// longer takes the connection for the client's own, and so would believe the
// headers that steer it (x-envoy-*): those are removed first.
func clientAddress(manager *hcmv3.HttpConnectionManager, edge *policy.Edge) {
	if len(edge.TrustedCIDRs) == 0 {
		manager.UseRemoteAddress = wrapperspb.Bool(true)
		manager.XffNumTrustedHops = edge.TrustedHops
		return
	}
	manager.UseRemoteAddress = wrapperspb.Bool(false)
	trusted := &xffv3.XffTrustedCidrs{}
	for _, text := range edge.TrustedCIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil { // validated before
			continue
		}
		trusted.Cidrs = append(trusted.Cidrs, &corev3.CidrRange{
			AddressPrefix: prefix.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(prefix.Bits())), //nolint:gosec // 0 to 128
		})
	}
	manager.OriginalIpDetectionExtensions = []*corev3.TypedExtensionConfig{{
		Name: "envoy.http.original_ip_detection.xff",
		TypedConfig: packed(&xffv3.XffConfig{
			XffTrustedCidrs: trusted, SkipXffAppend: wrapperspb.Bool(false),
		}),
	}}
	manager.EarlyHeaderMutationExtensions = []*corev3.TypedExtensionConfig{
		earlyMutations(removePrefix(identity.HeaderPrefix), removePrefix("x-envoy-")),
	}
}

// sayClientAddress tells extauthz, which else knows who connects, who the client
// is. What clients send under that name is gone by then.
func sayClientAddress(chain *policy.Chain) []*mutationv3.HeaderMutation {
	if edge := chain.Settings(); !edge.BehindProxies() {
		return nil
	}
	return []*mutationv3.HeaderMutation{{Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: identity.HeaderClientAddress, Value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}}
}

func forwardedClientCert(manager *hcmv3.HttpConnectionManager, edge *policy.Edge) {
	manager.ForwardClientCertDetails = map[v1alpha1.ForwardedClientCertMode]hcmv3.HttpConnectionManager_ForwardClientCertDetails{
		v1alpha1.XFCCSanitize:          hcmv3.HttpConnectionManager_SANITIZE,
		v1alpha1.XFCCSanitizeSet:       hcmv3.HttpConnectionManager_SANITIZE_SET,
		v1alpha1.XFCCAppendForward:     hcmv3.HttpConnectionManager_APPEND_FORWARD,
		v1alpha1.XFCCForwardOnly:       hcmv3.HttpConnectionManager_FORWARD_ONLY,
		v1alpha1.XFCCAlwaysForwardOnly: hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY,
	}[edge.ForwardedClientCert]
	if len(edge.ForwardedClientCertDetails) == 0 {
		return
	}
	details := &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{}
	for _, detail := range edge.ForwardedClientCertDetails {
		switch detail {
		case v1alpha1.XFCCSubject:
			details.Subject = wrapperspb.Bool(true)
		case v1alpha1.XFCCURI:
			details.Uri = true
		case v1alpha1.XFCCDNS:
			details.Dns = true
		case v1alpha1.XFCCCert:
			details.Cert = true
		case v1alpha1.XFCCChain:
			details.Chain = true
		}
	}
	manager.SetCurrentClientCertDetails = details
}

func serverHeader(manager *hcmv3.HttpConnectionManager, edge *policy.Edge) {
	manager.ServerName = edge.ServerName
	switch edge.ServerMode {
	case v1alpha1.ServerIfAbsent:
		manager.ServerHeaderTransformation = hcmv3.HttpConnectionManager_APPEND_IF_ABSENT
	case v1alpha1.ServerPassThrough:
		manager.ServerHeaderTransformation = hcmv3.HttpConnectionManager_PASS_THROUGH
	}
}

func http3Options(edge policy.Edge) *corev3.Http3ProtocolOptions {
	// QUIC's windows have an upper bound of their own, 16 and 24 MiB.
	return &corev3.Http3ProtocolOptions{QuicProtocolOptions: &corev3.QuicProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(edge.MaxConcurrentStreams),
		InitialStreamWindowSize:     wrapperspb.UInt32(min(windowBytes(edge.StreamWindowKiB), 16<<20)),
		InitialConnectionWindowSize: wrapperspb.UInt32(min(windowBytes(edge.ConnectionWindowKiB), 24<<20)),
	}}
}

// securityMutations add the headers to every response, the edge's own included.
func securityMutations(security *policy.Security) []*mutationv3.HeaderMutation {
	if security == nil {
		return nil
	}
	action := corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
	if security.Keep {
		action = corev3.HeaderValueOption_ADD_IF_ABSENT
	}
	var mutations []*mutationv3.HeaderMutation
	for _, option := range headerOptions(policy.HeaderChange{Set: security.Headers}) {
		option.AppendAction = action
		mutations = append(mutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: option}})
	}
	return mutations
}

// hasSecurity reports whether a chain, or a route of it, adds such headers.
func hasSecurity(chain *policy.Chain) bool {
	return chain.Security != nil || slices.ContainsFunc(chain.Hosts, func(host policy.Host) bool {
		for i := range host.Routes { // not by value: a route is large, and there are thousands
			if host.Routes[i].Security != nil {
				return true
			}
		}
		return false
	})
}
