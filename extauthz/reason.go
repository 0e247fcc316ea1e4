package extauthz

import (
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

// Reason says why a decision is what it is. Reasons are stable: they appear in
// logs, metrics and Envoy's access log.
type Reason string

// Every reason that a decision can have.
const (
	ReasonAllowed Reason = "ALLOWED"

	ReasonRulesNotLoaded Reason = "RULES_NOT_LOADED"
	ReasonRouteUnknown   Reason = "ROUTE_UNKNOWN"
	// ReasonRouteNotListed is a request that no rule of a file is about; the client
	// is told PERMISSION_DENIED.
	ReasonRouteNotListed      Reason = "ROUTE_NOT_LISTED"
	ReasonRequestInvalid      Reason = "REQUEST_INVALID"
	ReasonPathNotCanonical    Reason = "PATH_NOT_CANONICAL"
	ReasonCredentialAmbiguous Reason = "CREDENTIAL_AMBIGUOUS"
	ReasonCredentialsMissing  Reason = "CREDENTIALS_MISSING"
	ReasonNoAuthenticator     Reason = "NO_AUTHENTICATOR"

	ReasonAPIKeyInvalid Reason = "API_KEY_INVALID"
	// ReasonAPIKeyExpired is for logs, metrics and metadata. The client is told
	// API_KEY_INVALID: that a key once existed is not the bearer's to learn.
	ReasonAPIKeyExpired Reason = "API_KEY_EXPIRED"

	// ReasonAPIKeyRevoked and ReasonAPIKeyConsumer, a key whose consumer is not
	// there or of another tenant, are told as API_KEY_INVALID, too.
	ReasonAPIKeyRevoked  Reason = "API_KEY_REVOKED"
	ReasonAPIKeyConsumer Reason = "API_KEY_CONSUMER_UNKNOWN"
	// ReasonKeysUnavailable is a key that may have been issued, while the issued
	// keys are not known, or known too long ago.
	ReasonKeysUnavailable Reason = "API_KEYS_UNAVAILABLE"

	ReasonTokenInvalid     Reason = "TOKEN_INVALID"
	ReasonTokenExpired     Reason = "TOKEN_EXPIRED"
	ReasonTokenNotYetValid Reason = "TOKEN_NOT_YET_VALID"
	ReasonTokenAudience    Reason = "TOKEN_AUDIENCE_MISMATCH"
	ReasonTokenIssuer      Reason = "TOKEN_ISSUER_MISMATCH"

	ReasonTenantMismatch    Reason = "TENANT_MISMATCH"
	ReasonIdentityInvalid   Reason = "IDENTITY_INVALID"
	ReasonPermissionDenied  Reason = "PERMISSION_DENIED"
	ReasonInsufficientScope Reason = "INSUFFICIENT_SCOPE"
	// ReasonRuleError is for logs, metrics and metadata; the client is told
	// PERMISSION_DENIED.
	ReasonRuleError Reason = "RULE_ERROR"

	// ReasonInsufficientAuthentication asks for a fresh or a stronger login
	// (RFC 9470).
	ReasonInsufficientAuthentication Reason = "INSUFFICIENT_AUTHENTICATION"
	// ReasonBodyInvalid is a body that rules have to read and cannot.
	ReasonBodyInvalid Reason = "REQUEST_BODY_INVALID"

	ReasonProviderUnavailable Reason = "IDENTITY_PROVIDER_UNAVAILABLE"
	// ReasonSourceUnavailable is a source of metadata, a relationship store or a
	// token exchange that gave no answer.
	ReasonSourceUnavailable Reason = "AUTHORIZATION_SOURCE_UNAVAILABLE"
	ReasonInternal          Reason = "INTERNAL"
	// ReasonOverloaded is a check that was not begun: too many were under way.
	ReasonOverloaded Reason = "OVERLOADED"
	// ReasonSelfTest is any check while the proxy in front is not known to read
	// requests as this server does.
	ReasonSelfTest Reason = "SELF_TEST_FAILED"
	// ReasonAuditUnavailable is where a policy requires a record of the decision
	// and none can be written.
	ReasonAuditUnavailable Reason = "AUDIT_UNAVAILABLE"
)

// Fault is the answer that a client gets for a denial with this reason: a code
// and a message that give away nothing about what exists. It is total: a reason
// it does not know is answered as an internal error.
func (r Reason) Fault() *fault.Error {
	switch r {
	case ReasonRulesNotLoaded:
		return fault.New(codes.Unavailable, string(r), "access rules are not loaded yet; retry shortly")
	case ReasonRouteUnknown:
		return fault.New(codes.Unavailable, string(r), "the route has no access rules yet; retry shortly")
	case ReasonRequestInvalid:
		return fault.New(codes.InvalidArgument, string(r), "the request's host or target is not valid")
	case ReasonPathNotCanonical:
		return fault.New(codes.InvalidArgument, string(r), "the path is not in canonical form; remove empty and dot segments, and escapes that are not needed")
	case ReasonCredentialAmbiguous:
		return fault.New(codes.InvalidArgument, string(r), "a credential is present more than once; send it once")
	case ReasonCredentialsMissing:
		return fault.New(codes.Unauthenticated, string(r), "credentials are required")
	case ReasonKeysUnavailable:
		return fault.New(codes.Unavailable, string(r), "API keys cannot be checked at the moment; retry shortly")
	case ReasonOverloaded:
		return fault.New(codes.Unavailable, string(r), "too many requests are being authorized; retry shortly")
	case ReasonSelfTest:
		return fault.New(codes.Unavailable, string(r), "the request could not be authorized; retry shortly")
	case ReasonAPIKeyInvalid, ReasonAPIKeyExpired, ReasonAPIKeyRevoked, ReasonAPIKeyConsumer:
		return fault.New(codes.Unauthenticated, string(ReasonAPIKeyInvalid), "the API key is not valid")
	case ReasonTokenInvalid:
		return fault.New(codes.Unauthenticated, string(r), "the token is not valid")
	case ReasonTokenExpired:
		return fault.New(codes.Unauthenticated, string(r), "the token has expired")
	case ReasonTokenNotYetValid:
		return fault.New(codes.Unauthenticated, string(r), "the token is not valid yet")
	case ReasonTokenAudience:
		return fault.New(codes.Unauthenticated, string(r), "the token is for another audience")
	case ReasonTokenIssuer:
		return fault.New(codes.Unauthenticated, string(r), "the token's issuer is not accepted here")
	case ReasonTenantMismatch:
		return fault.New(codes.PermissionDenied, string(r), "the token's tenant is not the consumer's")
	case ReasonIdentityInvalid:
		return fault.New(codes.PermissionDenied, string(r), "the caller's identity holds characters that are not accepted")
	case ReasonInsufficientScope:
		return fault.New(codes.PermissionDenied, string(r), "the request needs a scope that the caller does not have")
	case ReasonPermissionDenied, ReasonRuleError, ReasonRouteNotListed, ReasonNoAuthenticator:
		return fault.New(codes.PermissionDenied, string(ReasonPermissionDenied), "the caller may not do this")
	case ReasonInsufficientAuthentication:
		return fault.New(codes.Unauthenticated, string(r), "the request needs a more recent or a stronger login")
	case ReasonBodyInvalid:
		return fault.New(codes.InvalidArgument, string(r), "the request's body cannot be read by the access rules")
	case ReasonSourceUnavailable:
		return fault.New(codes.Unavailable, string(r), "what the request's authorization depends on cannot be reached; retry shortly")
	case ReasonProviderUnavailable:
		return fault.New(codes.Unavailable, string(r), "the identity provider cannot be reached; retry shortly")
	case ReasonAuditUnavailable:
		return fault.New(codes.Unavailable, string(r), "the decision about the request cannot be recorded; retry shortly")
	default:
		if known := r.loginFault(); known != nil {
			return known
		}
		if known := r.proofFault(); known != nil {
			return known
		}
		return fault.New(codes.Unavailable, string(ReasonInternal), "the request could not be authorized")
	}
}
