package extauthz

import (
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/identity"
)

// Identity is a verified caller with what authorization expressions may ask
// about beyond what services are told.
type Identity struct {
	identity.Identity
	// Issuer of the token; empty for other methods.
	Issuer string
	// Claims of the token; nil for other methods. Shared: never changed.
	Claims *structpb.Struct
	// Attributes of the consumer, by name. Shared: never changed.
	Attributes map[string]string
	// Certificate is the client certificate; nil for other methods. Shared: never
	// changed.
	Certificate *structpb.Struct
}

// principalAnonymous is the principal of a caller that nothing identifies.
const principalAnonymous = "anonymous"

// Principal is one name for the caller, for counting and logs: the consumer's,
// else "issuer|subject", else "anonymous".
func (i *Identity) Principal() string {
	switch {
	case i.Consumer != "":
		return i.Consumer
	case i.Subject != "":
		return i.Issuer + "|" + i.Subject
	default:
		return principalAnonymous
	}
}

// Decision is the outcome for one request. The zero value denies.
type Decision struct {
	// ID is unique; empty where nobody remembers decisions.
	ID      string
	Allowed bool
	Reason  Reason
	// Route is the route's id without its version. Route, Policy and Digest name the rules that were in effect; Policy and
	// Digest are empty when the route is unknown.
	Route, Policy, Digest string
	// Client is the address of the client: who connects, or who the edge says it is
	// where other proxies stand before it. Empty where that isn't known.
	Client string
	// Rule is the name of the authorization rule that decided, empty when none
	// did.
	Rule string
	// Authenticator is the name of the one that decided, even when it refused.
	Authenticator string
	// Identity is the verified caller; zero when anonymous or not verified.
	Identity Identity
	// LimitClaims are the claims that limits of the route read, by path; nil without.
	LimitClaims map[string]string
	// Challenge is the value of WWW-Authenticate, empty when none applies.
	Challenge string
	// ResponseHeaders are added to the client's answer, whatever the outcome.
	ResponseHeaders []Header
	// Answer, if not nil, is what a refused client gets instead of the problem
	// details of Reason.
	Answer *Answer
	// CredentialHeaders are the lower-case names of headers that carry
	// credentials on this route and must not reach the service. Shared: never
	// changed.
	CredentialHeaders []string
	// CredentialCookie reports, by name, which cookies carry credentials and must
	// not reach the service; nil for none. Shared.
	CredentialCookie func(name string) bool
	// UpstreamHeaders are set on the request that the service gets, when it is
	// allowed, even where CredentialHeaders names them.
	UpstreamHeaders []Header
	// Audit says whether the decision goes to the audit log.
	Audit rulesv1.Audit
	// identified says that the caller was, so that rules decided.
	identified bool
	// found is what each authenticator of the route found.
	found [maxAuthenticators]Presence
	// IdentityHeaders are the names of the identity headers that the service
	// gets; nil is all of them. Shared: never changed.
	IdentityHeaders []string
	// OwnedHeaders are the names of other headers that only we set on this route:
	// a client's own do not reach the service. Shared: never changed.
	OwnedHeaders []string
	// Cause is for logs, nil when there is nothing to add. It holds no secret.
	Cause error
}

// routeID is the id of a route without the version that its rules are named by
// (AuthRoute.route_id).
func routeID(name string) string {
	id, _, _ := strings.Cut(name, "~")
	return id
}

// Unrecorded turns the decision into a denial, because a policy requires a record
// of it and none can be written. Nothing of what was decided is told.
func (d *Decision) Unrecorded(cause error) {
	d.Allowed, d.Reason, d.Cause = false, ReasonAuditUnavailable, cause
	d.Challenge, d.Answer, d.ResponseHeaders, d.UpstreamHeaders = "", nil, nil, nil
}
