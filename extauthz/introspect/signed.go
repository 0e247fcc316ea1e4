package introspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// Types of answers (RFC 7662 section 2.2, RFC 9701 section 5).
const (
	typePlain  = "application/json"
	typeSigned = "application/token-introspection+jwt"
)

// signedLife is how old a signed answer may be, and how far ahead of ours its
// maker's clock. An older one may be of a time before the token was revoked.
const signedLife = time.Minute

// Statement verifies a signed statement: form, type, signature, issuer and
// audience. Times are for the caller to judge. Safe for concurrent use.
type Statement interface {
	Statement(ctx context.Context, now time.Time, text string) (*structpb.Struct, error)
}

// signer is who signs the endpoint's answers; nil when nobody does.
func signer(settings *rulesv1.IntrospectionAuthenticator, statements func(*rulesv1.JwtAuthenticator) (Statement, error)) (Statement, error) {
	signed := settings.GetSignedResponse()
	if signed == nil {
		return nil, nil //nolint:nilnil // answers are not signed
	}
	if statements == nil {
		return nil, errors.New("signed_response: this server does not verify signed answers")
	}
	source := &rulesv1.JwtAuthenticator{
		Issuer: settings.GetIssuer(), Audiences: []string{cmp.Or(signed.GetAudience(), settings.GetClientId())},
		Algorithms: signed.GetAlgorithms(), Types: []string{strings.TrimPrefix(typeSigned, "application/")},
	}
	switch keys := signed.GetJwks().(type) {
	case *rulesv1.SignedResponse_InlineJwks:
		source.Jwks = &rulesv1.JwtAuthenticator_InlineJwks{InlineJwks: keys.InlineJwks}
	case *rulesv1.SignedResponse_RemoteJwks:
		source.Jwks = &rulesv1.JwtAuthenticator_RemoteJwks{RemoteJwks: keys.RemoteJwks}
	case *rulesv1.SignedResponse_DiscoveredJwks:
		source.Jwks = &rulesv1.JwtAuthenticator_DiscoveredJwks{DiscoveredJwks: keys.DiscoveredJwks}
	}
	made, err := statements(source)
	if err != nil {
		return nil, fmt.Errorf("signed_response.%w", err)
	}
	return made, nil
}

// unsign takes what a signed answer says of the token. Every error is one of the
// endpoint, not of the token: it holds nothing that a caller could be told.
func (p *provider) unsign(ctx context.Context, now time.Time, body []byte) (map[string]any, error) {
	text := string(body)
	if strings.Count(text, ".") == 4 { // RFC 7516 section 7.1
		return nil, errors.New("its answer is encrypted, which is not supported: register this client without introspection_encrypted_response_alg")
	}
	claims, err := p.signer.Statement(ctx, now, text)
	if err != nil {
		// Not wrapped: the refusal of a token it is not.
		return nil, fmt.Errorf("its signed answer is not to be trusted: %v", err) //nolint:errorlint // on purpose
	}
	fields := claims.GetFields()
	made, err := secondsOf(fields, "iat")
	switch {
	case err != nil || made.IsZero():
		return nil, errors.New("its signed answer does not say when it was made (iat)")
	case now.Sub(made) > signedLife:
		return nil, fmt.Errorf("its signed answer is older than %s", signedLife)
	case made.Sub(now) > signedLife:
		return nil, errors.New("its signed answer is of the future")
	}
	// RFC 9701 section 5 asks issuers to leave these two out; one that is there holds.
	expires, err := secondsOf(fields, "exp")
	if err != nil || !expires.IsZero() && !now.Before(expires) {
		return nil, errors.New("its signed answer has expired")
	}
	notBefore, err := secondsOf(fields, "nbf")
	if err != nil || notBefore.Sub(now) > signedLife {
		return nil, errors.New("its signed answer is not valid yet")
	}
	said, ok := fields["token_introspection"].GetKind().(*structpb.Value_StructValue)
	if !ok {
		return nil, errors.New("its signed answer has no object token_introspection")
	}
	return said.StructValue.AsMap(), nil
}

// secondsOf is a date, zero when there is none.
func secondsOf(fields map[string]*structpb.Value, name string) (time.Time, error) {
	value, set := fields[name]
	if !set {
		return time.Time{}, nil
	}
	return date(map[string]any{name: value.AsInterface()}, name)
}
