package introspect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/httpask"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/jose"
)

// maxAnswerBytes bounds an answer.
const maxAnswerBytes = 64 << 10

// ask asks the endpoint about one token. An error that is no refusal says that
// the endpoint did not answer as it has to.
func (p *provider) ask(ctx context.Context, now time.Time, token string) (proofs.Answer, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	header := http.Header{}
	if err := p.client.Sign(form, header, p.audience); err != nil {
		return proofs.Answer{}, err
	}
	request, err := httpask.NewPost(ctx, p.uri, httpask.TypeForm, []byte(form.Encode()))
	if err != nil {
		return proofs.Answer{}, err
	}
	maps.Copy(request.Header, header)
	if p.signer != nil {
		request.Header.Set("Accept", typeSigned)
	}
	answer, err := httpask.Do(p.http, request, maxAnswerBytes)
	if err != nil {
		return proofs.Answer{}, err
	}
	said, err := p.read(ctx, now, answer)
	if err != nil {
		return proofs.Answer{}, fmt.Errorf("introspection endpoint %s: %w", request.URL.Host, err)
	}
	expires, err := p.check(said, now)
	if err != nil {
		return proofs.Answer{}, err
	}
	proof, err := p.claims.Proof(p.issuer, said)
	if err != nil {
		return proofs.Answer{}, invalid("the introspection's answer: %w", err)
	}
	return proofs.Answer{Proof: proof, Expires: expires, Size: len(answer.Body)}, nil
}

// read takes an answer for what RFC 7662 section 2.2 says it is, and nothing else.
// Signed answers are taken where the policy asks for them, and only those.
func (p *provider) read(ctx context.Context, now time.Time, answer httpask.Answer) (said map[string]any, err error) {
	switch {
	case answer.Status == http.StatusUnauthorized, answer.Status == http.StatusForbidden:
		return nil, fmt.Errorf("answered %d: it does not take the policy's client credentials", answer.Status)
	case answer.Status != http.StatusOK:
		return nil, fmt.Errorf("answered %d", answer.Status)
	case p.signer != nil && answer.Type == typePlain:
		return nil, errors.New("answered without a signature, which signedResponse asks for: register this client with introspection_signed_response_alg")
	case p.signer == nil && answer.Type == typeSigned:
		return nil, errors.New("answered with a signed answer (RFC 9701): write signedResponse, or have it answer this client in JSON")
	case answer.Type != typePlain && answer.Type != typeSigned:
		return nil, fmt.Errorf("answered with content type %q", answer.Type)
	}
	if p.signer != nil {
		said, err = p.unsign(ctx, now, answer.Body)
	} else if said, err = jose.ParseObject(answer.Body); err != nil {
		err = fmt.Errorf("its answer %w", err)
	}
	if err != nil {
		return nil, err
	}
	if _, ok := said["active"].(bool); !ok {
		return nil, errors.New(`its answer has no "active" that is true or false`)
	}
	return said, nil
}

func invalid(format string, args ...any) error {
	return extauthz.Refuse(extauthz.ReasonTokenInvalid, fmt.Errorf(format, args...))
}

// check decides by an answer, and returns when the token expires, zero when that
// is not said.
func (p *provider) check(said map[string]any, now time.Time) (expires time.Time, err error) {
	if said["active"] != true {
		return expires, invalid("the issuer says that the token is not active")
	}
	if err := checkUse(said); err != nil {
		return expires, err
	}
	if issuer, set := said["iss"]; set && issuer != p.issuer {
		return expires, extauthz.Refuse(extauthz.ReasonTokenIssuer, errors.New("iss of the answer is not the policy's issuer"))
	}
	if len(p.audiences) > 0 && !anyOf(said["aud"], p.audiences) {
		return expires, extauthz.Refuse(extauthz.ReasonTokenAudience, errors.New("aud of the answer names none of the policy's audiences"))
	}
	expires, err = date(said, "exp")
	if err != nil {
		return expires, err
	}
	if !expires.IsZero() && !now.Before(expires) {
		return expires, extauthz.Refuse(extauthz.ReasonTokenExpired, errors.New("exp of the answer has passed"))
	}
	notBefore, err := date(said, "nbf")
	if err != nil {
		return expires, err
	}
	if now.Before(notBefore) {
		return expires, extauthz.Refuse(extauthz.ReasonTokenNotYetValid, errors.New("nbf of the answer is in the future"))
	}
	return expires, nil
}

// checkUse refuses refresh and ID tokens: endpoints call those active as well,
// and each product has its own way to tell which kind it is.
func checkUse(said map[string]any) error {
	for _, kind := range []struct {
		name    string
		allowed []string
	}{
		{"token_type", []string{"bearer", "dpop", "access_token"}},
		{"token_use", []string{"access_token", "access"}},
		{"typ", []string{"bearer", "dpop", "at+jwt", "jwt", "access_token"}},
	} {
		value, set := said[kind.name]
		if !set || value == nil {
			continue
		}
		if text, ok := value.(string); !ok || !slices.Contains(kind.allowed, strings.ToLower(text)) {
			return invalid("%s of the answer is not that of an access token", kind.name)
		}
	}
	return nil
}

func anyOf(value any, wanted []string) bool {
	switch value := value.(type) {
	case string:
		return slices.Contains(wanted, value)
	case []any:
		for _, element := range value {
			if text, ok := element.(string); ok && slices.Contains(wanted, text) {
				return true
			}
		}
	}
	return false
}

// maxDate is the last second of the year 9999; no later one is a date.
const maxDate = 253402300799

// date reads a date, zero when there is none.
func date(said map[string]any, name string) (time.Time, error) {
	value, set := said[name]
	if !set || value == nil {
		return time.Time{}, nil
	}
	seconds, ok := value.(float64)
	if !ok || seconds < 0 || seconds > maxDate {
		return time.Time{}, invalid("%s of the answer is not a date", name)
	}
	return time.Unix(int64(seconds), 0), nil
}
