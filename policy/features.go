package policy

import (
	"slices"

	"sigs.k8s.io/gateway-api/pkg/features"
)

// SupportedFeatures are the names of the Gateway API's features that Weir serves,
// in alphabetical order, as GatewayClass has them in its status
// (GatewayClassStatus.supportedFeatures). The Gateway API's conformance suite
// takes them from there, and so claims what a user is told. The result is the
// caller's.
func SupportedFeatures() []string {
	names := []string{
		string(features.SupportReferenceGrant), string(features.SupportHTTPRoute), string(features.SupportGRPCRoute),
		string(features.SupportTLSRoute), string(features.SupportBackendTLSPolicy), string(features.SupportBackendTLSPolicySANValidation),
		string(features.SupportGRPCRouteNamedRouteRule), string(features.SupportTLSRouteModeTerminate), string(features.SupportTLSRouteModeMixed),
	}
	names = append(names, gatewayFeatures()...)
	names = append(names, routeFeatures()...)
	slices.Sort(names)
	return names
}

// gatewayFeatures are those of Gateways. GatewayInfrastructurePropagation is not
// among them: labels and annotations do reach what is made, but the suite looks
// for that in the Gateway's namespace, and proxies run in Weir's.
func gatewayFeatures() []string {
	return []string{
		string(features.SupportGateway),
		string(features.SupportGatewayPort8080),
		string(features.SupportGatewayStaticAddresses),
		string(features.SupportGatewayHTTPListenerIsolation),
		features.SupportGatewayHTTPSListenerDetectMisdirectedRequests,
		string(features.SupportGatewayAddressEmpty),
		string(features.SupportListenerSet),
		features.SupportGatewayBackendClientCertificate,
		string(features.SupportGatewayFrontendClientCertificateValidation),
		string(features.SupportGatewayFrontendClientCertificateValidationInsecureFallback),
	}
}

// routeFeatures are those of HTTPRoutes beyond the core.
func routeFeatures() []string {
	var names []string
	for _, name := range []features.FeatureName{
		features.SupportHTTPRouteDestinationPortMatching,
		features.SupportHTTPRouteBackendRequestHeaderModification,
		features.SupportHTTPRouteQueryParamMatching,
		features.SupportHTTPRouteMethodMatching,
		features.SupportHTTPRouteResponseHeaderModification,
		features.SupportHTTPRoutePortRedirect,
		features.SupportHTTPRouteSchemeRedirect,
		features.SupportHTTPRoutePathRedirect,
		features.SupportHTTPRouteHostRewrite,
		features.SupportHTTPRoutePathRewrite,
		features.SupportHTTPRouteRequestMirror,
		features.SupportHTTPRouteRequestMultipleMirrors,
		features.SupportHTTPRouteRequestPercentageMirror,
		features.SupportHTTPRouteRequestTimeout,
		features.SupportHTTPRouteBackendTimeout,
		features.SupportHTTPRouteParentRefPort,
		features.SupportHTTPRouteBackendProtocolH2C,
		features.SupportHTTPRouteBackendProtocolWebSocket,
		features.SupportHTTPRouteNamedRouteRule,
		features.SupportHTTPRouteCORS,
		features.SupportHTTPRoute303RedirectStatusCode,
		features.SupportHTTPRoute307RedirectStatusCode,
		features.SupportHTTPRoute308RedirectStatusCode,
		features.SupportHTTPRouteRetry,
		features.SupportHTTPRouteRetryBackendTimeout,
		features.SupportHTTPRouteRetryConnectionError,
	} {
		names = append(names, string(name))
	}
	return names
}
