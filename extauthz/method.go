package extauthz

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// Presence is what a method finds where its credential belongs.
type Presence uint8

// What a method can find.
const (
	// Absent leaves the request to the next method.
	Absent Presence = iota
	// Present is one credential of the method's own: it decides, right or wrong.
	Present
	// Foreign is something in the method's place that another method may be
	// meant to judge, such as a token of another issuer. When none does, the
	// first method that found it has to prove it.
	Foreign
	// Ambiguous is a credential given more than once; it refuses the request.
	Ambiguous
)

// Method is one way to prove who is calling, compiled for one route. Safe for
// concurrent use.
type Method interface {
	// Presence looks for the method's credential and judges nothing. It waits
	// for nothing and is called several times for a request.
	Presence(request *Request) Presence
	// Prove returns who presents the credential. Every error refuses the
	// request; one that wraps a *Refusal carries the reason and what to answer,
	// any other counts as an internal error. No error holds a secret part of a
	// credential. It may wait for what it has to ask, never past ctx.
	Prove(ctx context.Context, call *Call) (*Proof, error)
	// Challenge is the method's part of WWW-Authenticate when no credential was
	// presented (RFC 9110 section 11.6.1); empty when it has none.
	Challenge(realm string) string
	// CredentialHeaders are the lower-case names of the headers that carry its
	// credential and must not reach the service.
	CredentialHeaders() []string
}

// Teller is a Method that tells callers without credentials, beside its
// Challenge, what it accepts.
type Teller interface {
	// Tells are headers of the answer when no credential was presented. They are
	// the same for every request.
	Tells() []Header
}

// Call is one attempt to prove a caller.
type Call struct {
	// Now is the decision's clock.
	Now     time.Time
	Request *Request
	// Realm is printable and without quotes.
	Realm string
	// Consumers are those in effect; never nil.
	Consumers *ConsumerSet
}

// Proof is who a credential stands for. Methods share it between requests: it
// is never changed once returned.
type Proof struct {
	// Issuer vouched for the caller; empty for a consumer's own credentials.
	Issuer, Subject string
	// Tenant is empty when the credential names none.
	Tenant string
	Scopes []string
	Claims *structpb.Struct
	// Client is who the credential was issued to, where that is another than the
	// subject and stands for the consumer; empty otherwise.
	Client string
	// Consumer is the owner of the credential. When it is nil, the consumer with
	// this issuer and client, else subject, is taken, if there is one.
	Consumer *Consumer
	// Certificate describes the client certificate that identified the caller, as
	// AuthzInput has it; nil for other methods.
	Certificate *structpb.Struct
	// ResponseHeaders are added to the client's answer, such as Set-Cookie.
	ResponseHeaders []Header
	// UpstreamHeaders are set on the request that the service gets, in the place
	// of those of the client.
	UpstreamHeaders []Header
}

// Bound marks a method that holds the bearer of a token to what the token is
// bound to (its claim "cnf"). The proofs of others may not have that claim, and
// they cannot have a sender constraint.
type Bound interface {
	Method
	// Bound does nothing.
	Bound()
}

// claimConfirmation binds a token to a key (RFC 7800 section 3.1).
const claimConfirmation = "cnf"

// Builder makes the methods of one kind. Safe for concurrent use.
type Builder interface {
	// Build returns nil without an error when source is of another kind. An
	// error begins with the field of source at fault.
	Build(source *rulesv1.Authenticator, place Place) (Method, error)
}

// Place is where a method stands.
type Place struct {
	// Route is the id of the route, with its version.
	Route string
	// Siblings are all authenticators of the route, in order, the one that is
	// built among them.
	Siblings []*rulesv1.Authenticator
}

// Answer is a response that replaces the usual one to a denial, such as the
// redirect that begins a login.
type Answer struct {
	// Status is the HTTP status, 200 to 599.
	Status  int
	Headers []Header
	Body    string
}

// Refusal is an error of a method that carries the reason of the denial and
// what the client is told. Its cause is for logs and holds no part of a
// credential's secret.
type Refusal struct {
	Reason Reason
	Cause  error
	// Challenge is the value of WWW-Authenticate, empty when none applies.
	Challenge string
	// ResponseHeaders are added to the answer.
	ResponseHeaders []Header
	// Answer, if not nil, is sent instead of the usual problem details.
	Answer *Answer
}

// Refuse makes a Refusal.
func Refuse(reason Reason, cause error) *Refusal { return &Refusal{Reason: reason, Cause: cause} }

// Error implements error, for logs.
func (r *Refusal) Error() string {
	if r.Cause == nil {
		return string(r.Reason)
	}
	return string(r.Reason) + ": " + r.Cause.Error()
}

// Unwrap returns the cause, nil if there is none.
func (r *Refusal) Unwrap() error { return r.Cause }

// refusal reads the Refusal out of any error of a method.
func refusal(err error) *Refusal {
	var known *Refusal
	if errors.As(err, &known) {
		return known
	}
	return Refuse(ReasonInternal, err)
}
