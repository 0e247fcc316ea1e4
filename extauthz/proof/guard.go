package proof

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/certauth"
	"weir.dev/extauthz/jose"
	"weir.dev/extauthz/replay"
)

const (
	headerAuthorization = "authorization"
	headerDPoP          = "dpop"
	headerDPoPNonce     = "dpop-nonce"

	claimConfirmation = "cnf"
)

// Defaults and bounds of DPoP terms.
const (
	defaultMaxAge = time.Minute
	maxMaxAge     = 10 * time.Minute
	// futureLeeway is how far a proof's time may lie ahead.
	futureLeeway = 5 * time.Second
	// nonceSkew is how far a client's clock may be off where the server's nonce
	// says how fresh the proof is.
	nonceSkew = 5 * time.Minute
)

// Options of a Guard; every field is required.
type Options struct {
	Certificates *certauth.Reader
	Nonces       *Nonces
	// Used remembers the proofs that were used.
	Used replay.Store
}

// Guard is a builder whose methods hold the bearers of tokens to what the tokens
// are bound to, whatever else they are verified by and whether or not that was
// remembered.
type Guard struct {
	inner   extauthz.Builder
	options Options
}

// NewGuard puts a guard around a builder of methods that take tokens from the
// Authorization header.
func NewGuard(inner extauthz.Builder, options Options) *Guard {
	return &Guard{inner: inner, options: options}
}

// Build implements extauthz.Builder.
func (g *Guard) Build(source *rulesv1.Authenticator, place extauthz.Place) (extauthz.Method, error) {
	inner, err := g.inner.Build(source, place)
	if inner == nil || err != nil {
		return nil, err
	}
	terms, err := g.terms(source.GetSenderConstraint())
	if err != nil {
		return nil, fmt.Errorf("sender_constraint.%w", err)
	}
	return &guarded{Method: inner, terms: terms}, nil
}

// terms are what a route demands of bound tokens.
type terms struct {
	options      Options
	require      rulesv1.SenderConstraint_Require
	source       *certauth.Source
	algorithms   []string
	maxAge       time.Duration
	requireNonce bool
	scheme       string
}

func (g *Guard) terms(source *rulesv1.SenderConstraint) (*terms, error) {
	dpop := source.GetDpop()
	t := &terms{
		options: g.options, require: source.GetRequire(), algorithms: slices.Clone(dpop.GetAlgorithms()),
		maxAge: defaultMaxAge, requireNonce: dpop.GetRequireNonce(), scheme: dpop.GetScheme(),
	}
	if _, known := rulesv1.SenderConstraint_Require_name[int32(t.require)]; !known {
		return nil, fmt.Errorf("require: %s is not known", t.require)
	}
	var err error
	if t.source, err = g.options.Certificates.Source(source.GetCertificate()); err != nil {
		return nil, fmt.Errorf("certificate.%w", err)
	}
	if len(t.algorithms) == 0 {
		t.algorithms = []string{"ES256", "ES384", "Ed25519", "EdDSA", "PS256"}
	}
	for i, name := range t.algorithms {
		if !jose.Asymmetric(name) {
			return nil, fmt.Errorf("dpop.algorithms[%d]: %q is not an asymmetric signature algorithm", i, name)
		}
	}
	if age := dpop.GetMaxAge(); age != nil {
		if t.maxAge = age.AsDuration(); age.CheckValid() != nil || t.maxAge < time.Second || t.maxAge > maxMaxAge {
			return nil, fmt.Errorf("dpop.max_age: %s is outside 1s to %s", t.maxAge, maxMaxAge)
		}
	}
	switch t.scheme {
	case "":
		t.scheme = "https"
	case "https", "http":
	default:
		return nil, fmt.Errorf("dpop.scheme: %q is neither https nor http", t.scheme)
	}
	return t, nil
}

// guarded is a method that takes tokens, guarded.
type guarded struct {
	extauthz.Method
	terms *terms
}

// Bound implements extauthz.Bound.
func (g *guarded) Bound() {}

// Presence implements extauthz.Method. Several proofs are ambiguous wherever a
// token is present (RFC 9449 section 4.3, check 1).
func (g *guarded) Presence(request *extauthz.Request) extauthz.Presence {
	presence := g.Method.Presence(request)
	if presence == extauthz.Present || presence == extauthz.Foreign {
		if _, proofs := request.Credential(headerDPoP); proofs == extauthz.Ambiguous {
			return extauthz.Ambiguous
		}
	}
	return presence
}

// CredentialHeaders implements extauthz.Method. A proof is of no use to the
// service, and one it could replay elsewhere should it be for another.
func (g *guarded) CredentialHeaders() []string {
	headers := append(slices.Clone(g.Method.CredentialHeaders()), headerDPoP)
	return append(headers, g.terms.source.Headers()...)
}

// Challenge implements extauthz.Method (RFC 9449 section 7.1).
func (g *guarded) Challenge(realm string) string {
	offer := g.terms.challenge(realm, "", "")
	if g.terms.require == rulesv1.SenderConstraint_REQUIRE_DPOP {
		return offer
	}
	inner := g.Method.Challenge(realm)
	if g.terms.require == rulesv1.SenderConstraint_REQUIRE_ANY && inner != "" {
		return inner + ", " + offer
	}
	return inner
}

// Prove implements extauthz.Method. Without a binding and without terms that
// demand one it costs a look at the claims.
func (g *guarded) Prove(ctx context.Context, call *extauthz.Call) (*extauthz.Proof, error) {
	proof, err := g.Method.Prove(ctx, call)
	if err != nil {
		return nil, g.terms.inScheme(call, err)
	}
	claim := proof.Claims.GetFields()[claimConfirmation]
	scheme, accessToken := authorization(call.Request)
	if claim == nil {
		if strings.EqualFold(scheme, "dpop") {
			return nil, g.terms.refuse(call, scheme, extauthz.ReasonTokenBinding, errors.New("the token came by the scheme DPoP and is bound to no key"))
		}
		if g.terms.require != rulesv1.SenderConstraint_REQUIRE_UNSPECIFIED {
			return nil, g.terms.refuse(call, scheme, extauthz.ReasonTokenNotBound, errors.New("the token has no cnf and the policy demands one"))
		}
		return proof, nil
	}
	bound, err := parseConfirmation(claim)
	if err != nil {
		return nil, g.terms.refuse(call, scheme, extauthz.ReasonTokenBinding, err)
	}
	headers, err := g.terms.hold(ctx, call, bound, scheme, accessToken)
	if err != nil {
		return nil, err
	}
	if len(headers) == 0 {
		return proof, nil
	}
	told := *proof //nolint:govet // a proof holds no lock
	told.ResponseHeaders = append(slices.Clone(proof.ResponseHeaders), headers...)
	return &told, nil
}

// authorization takes the header apart as package token does.
func authorization(request *extauthz.Request) (scheme, accessToken string) {
	value, _ := request.Credential(headerAuthorization)
	scheme, accessToken, _ = strings.Cut(value, " ")
	return scheme, strings.TrimLeft(accessToken, " ")
}

// hold demands everything that a token is bound to. The headers are for the
// client.
func (t *terms) hold(ctx context.Context, call *extauthz.Call, bound confirmation, scheme, accessToken string) ([]extauthz.Header, error) {
	switch {
	case t.require == rulesv1.SenderConstraint_REQUIRE_CERTIFICATE && bound.thumbprint == nil:
		return nil, t.refuse(call, scheme, extauthz.ReasonTokenNotBound, errors.New("the token is not bound to a certificate and the policy demands it"))
	case t.require == rulesv1.SenderConstraint_REQUIRE_DPOP && bound.jkt == "":
		return nil, t.refuse(call, scheme, extauthz.ReasonTokenNotBound, errors.New("the token is not bound to a DPoP key and the policy demands it"))
	case bound.jkt != "" && !strings.EqualFold(scheme, "dpop"):
		// RFC 9449 section 7.2: a token of this kind is never a plain bearer token.
		return nil, t.refuse(call, "dpop", extauthz.ReasonTokenBinding, errors.New("the token is bound to a DPoP key and came by another scheme than DPoP"))
	case bound.jkt == "" && strings.EqualFold(scheme, "dpop"):
		return nil, t.refuse(call, scheme, extauthz.ReasonTokenBinding, errors.New("the token came by the scheme DPoP and is bound to no DPoP key"))
	}
	if bound.thumbprint != nil {
		if err := t.certificate(call, bound, scheme); err != nil {
			return nil, err
		}
	}
	if bound.jkt == "" {
		return nil, nil
	}
	return t.dpop(ctx, call, bound, accessToken)
}

// certificate holds the client to the certificate of the token. Whether an
// authority vouches for it does not matter (RFC 8705 section 2.2): the
// authorization server has tied the token to this key, and TLS has proven it.
func (t *terms) certificate(call *extauthz.Call, bound confirmation, scheme string) error {
	if presence := t.source.Presence(call.Request); presence != extauthz.Present {
		return t.refuse(call, scheme, extauthz.ReasonTokenBinding, errors.New("the token is bound to a certificate and none was presented, or several"))
	}
	evidence, err := t.source.Read(call.Request)
	if err != nil {
		return t.refuse(call, scheme, extauthz.ReasonTokenBinding, err)
	}
	if subtle.ConstantTimeCompare(evidence.Thumbprint[:], bound.thumbprint) != 1 {
		return t.refuse(call, scheme, extauthz.ReasonTokenBinding, errors.New("the token is bound to another certificate"))
	}
	return nil
}

// dpop holds the client to a proof by the key of the token.
func (t *terms) dpop(ctx context.Context, call *extauthz.Call, bound confirmation, accessToken string) ([]extauthz.Header, error) {
	text, presence := call.Request.Credential(headerDPoP)
	if presence != extauthz.Present {
		return nil, t.refuseProof(call, extauthz.ReasonDPoPInvalid, errors.New("there is not exactly one DPoP header"))
	}
	proof, err := parseProof(text, t.algorithms)
	if err != nil {
		return nil, t.refuseProof(call, extauthz.ReasonDPoPInvalid, err)
	}
	if subtle.ConstantTimeCompare([]byte(proof.thumbprint), []byte(bound.jkt)) != 1 {
		return nil, t.refuseProof(call, extauthz.ReasonTokenBinding, errors.New("the proof is by another key than the token is bound to"))
	}
	method, targets, err := t.targets(call.Request)
	if err != nil {
		return nil, t.refuseProof(call, extauthz.ReasonDPoPInvalid, err)
	}
	if err := proof.isFor(method, targets, accessToken); err != nil {
		return nil, t.refuseProof(call, extauthz.ReasonDPoPInvalid, err)
	}
	if err := proof.verify(); err != nil {
		return nil, t.refuseProof(call, extauthz.ReasonDPoPInvalid, err)
	}
	return t.fresh(ctx, call, proof)
}

// targets are the request's method and the spellings of its URI, as the client
// may have sent it, in the form of canonicalTarget.
func (t *terms) targets(request *extauthz.Request) (method string, targets []string, err error) {
	method, sent := request.Sent()
	path, _, _ := strings.Cut(sent, "?")
	known, ported := request.Authorities()
	for _, authority := range []string{known, ported} {
		if authority == "" {
			continue
		}
		target, err := joinTarget(t.scheme, authority, path)
		if err != nil {
			return "", nil, fmt.Errorf("the request's target %w", err)
		}
		targets = append(targets, target)
	}
	return method, targets, nil
}

// fresh holds a verified proof to its time and nonce, and takes it once.
func (t *terms) fresh(ctx context.Context, call *extauthz.Call, proof *dpopProof) ([]extauthz.Header, error) {
	var headers []extauthz.Header
	past, future := t.maxAge, futureLeeway
	switch {
	case proof.nonce != "":
		age, err := t.options.Nonces.Check(proof.nonce, call.Now)
		if err != nil {
			return nil, t.refuseProof(call, extauthz.ReasonDPoPNonce, err)
		}
		past, future = max(past, nonceSkew), nonceSkew
		if age >= nonceRenew {
			headers = t.nonce(call.Now)
		}
	case t.requireNonce:
		return nil, t.refuseProof(call, extauthz.ReasonDPoPNonce, errors.New("the proof has no nonce and the policy demands one"))
	}
	if age := call.Now.Sub(proof.issued); age > past || age < -future {
		return nil, t.refuseProof(call, extauthz.ReasonDPoPInvalid, fmt.Errorf("its iat is %s ago; -%s to %s are accepted", age.Truncate(time.Second), future, past))
	}
	// Remembered for longer than the proof could be taken, should the clock be
	// set back meanwhile.
	first, err := t.options.Used.First(ctx, replay.NewID("dpop", proof.thumbprint, proof.id), call.Now, 2*(past+future))
	switch {
	case err != nil:
		return nil, extauthz.Refuse(extauthz.ReasonReplayUnknown, err)
	case !first:
		return nil, t.refuseProof(call, extauthz.ReasonDPoPReplayed, errors.New("the proof was used before"))
	}
	return headers, nil
}

func (t *terms) nonce(now time.Time) []extauthz.Header {
	return []extauthz.Header{{Name: headerDPoPNonce, Value: t.options.Nonces.Issue(now)}}
}
