package exchange

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/assertion"
	"weir.dev/extauthz/internal/answers"
	"weir.dev/extauthz/internal/clientauth"
	"weir.dev/extauthz/internal/httpask"
)

const (
	defaultTimeout = 2 * time.Second
	maxAnswerBytes = 64 << 10
	maxTokenBytes  = 16 << 10
	// maxKept bounds how long a token is kept, and early is how long before it
	// expires it is not sent any more.
	maxKept = time.Hour
	early   = 30 * time.Second

	grantType   = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessToken = "urn:ietf:params:oauth:token-type:access_token"
)

// Exchanger makes exchanges that share connections and a cache. Safe for
// concurrent use.
type Exchanger struct {
	client *http.Client
	cache  *answers.Cache[string]
	clock  func() time.Time // of assertions
}

// New makes an Exchanger; cacheBytes bounds what is kept, config may be nil for
// the system's authorities, events may be nil.
func New(config *tls.Config, cacheBytes uint64, events answers.Events) (*Exchanger, error) {
	cache, err := answers.New[string]("token_exchange", cacheBytes, events)
	if err != nil {
		return nil, err
	}
	return &Exchanger{client: httpask.NewClient(config), cache: cache, clock: time.Now}, nil
}

type exchange struct {
	exchanger *Exchanger
	source    *rulesv1.TokenExchange
	client    *clientauth.Client
	// assertedTo is whom a client's assertion is for.
	assertedTo string
	identity   string
	terms      answers.Terms
}

// Exchange implements assertion.Exchanger.
func (e *Exchanger) Exchange(source *rulesv1.TokenExchange) (assertion.Exchange, error) {
	if err := httpask.CheckURL(source.GetTokenEndpoint()); err != nil {
		return nil, fmt.Errorf("token_endpoint: %w", err)
	}
	client, err := clientauth.Of(source.GetClientAuthentication(), source.GetClientId(), source.GetClientSecret(), e.clock)
	if err != nil {
		return nil, err
	}
	terms, err := answers.NewTerms(source.GetTimeout(), defaultTimeout, durationpb.New(maxKept))
	if err != nil {
		return nil, err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(source)
	if err != nil {
		return nil, errors.New("token_endpoint: the exchange cannot be encoded")
	}
	sum := sha256.Sum256(raw)
	return &exchange{exchanger: e, source: source, client: client, assertedTo: cmp.Or(source.GetAssertionAudience(), source.GetTokenEndpoint()), identity: string(sum[:]), terms: terms}, nil
}

// Token implements assertion.Exchange. A caller without a token, such as one with
// an API key, has nothing to exchange and is refused.
func (e *exchange) Token(ctx context.Context, now time.Time, request *extauthz.Request, decision *extauthz.Decision) (string, error) {
	subject := subjectToken(request, decision)
	if subject == "" {
		return "", extauthz.Refuse(extauthz.ReasonPermissionDenied, errors.New("the caller has no token to exchange"))
	}
	sum := sha256.Sum256([]byte(subject))
	token, err := e.exchanger.cache.Ask(ctx, now, e.identity+string(sum[:]), e.terms, func(ctx context.Context) (answers.Answer[string], error) {
		return e.ask(ctx, now, subject)
	})
	if err == nil {
		return "Bearer " + token, nil
	}
	var refused *extauthz.Refusal
	if errors.As(err, &refused) {
		return "", err
	}
	return "", extauthz.Refuse(extauthz.ReasonSourceUnavailable, fmt.Errorf("token exchange: %w", err))
}

// subjectToken is the verified caller's token: the one that the method has for
// the service, as of a session, or the one presented.
func subjectToken(request *extauthz.Request, decision *extauthz.Decision) string {
	value := ""
	for _, header := range decision.UpstreamHeaders {
		if header.Name == "authorization" {
			value = header.Value
		}
	}
	if value == "" && decision.Identity.Issuer != "" {
		value, _ = request.Credential("authorization")
	}
	scheme, token, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "bearer") && !strings.EqualFold(scheme, "dpop") {
		return ""
	}
	return strings.TrimLeft(token, " ")
}

func (e *exchange) ask(ctx context.Context, now time.Time, subject string) (answers.Answer[string], error) {
	form := url.Values{
		"grant_type": {grantType}, "subject_token": {subject}, "subject_token_type": {accessToken}, "requested_token_type": {accessToken},
	}
	for name, value := range map[string]string{
		"audience": e.source.GetAudience(), "resource": e.source.GetResource(), "scope": strings.Join(e.source.GetScopes(), " "),
	} {
		if value != "" {
			form.Set(name, value)
		}
	}
	var none answers.Answer[string]
	// The proof comes before the request: two of the ways are part of the form.
	header := http.Header{}
	if err := e.client.Sign(form, header, e.assertedTo); err != nil {
		return none, err
	}
	request, err := httpask.NewPost(ctx, e.source.GetTokenEndpoint(), httpask.TypeForm, []byte(form.Encode()))
	if err != nil {
		return none, err
	}
	maps.Copy(request.Header, header)
	answer, err := httpask.Do(e.exchanger.client, request, maxAnswerBytes)
	if err != nil {
		return none, err
	}
	said, err := answer.Object(request.URL.Host)
	if err != nil {
		return none, err
	}
	return read(now, request.URL.Host, answer.Status, said)
}

// read takes an answer for what RFC 8693 section 2.2 says it is.
func read(now time.Time, host string, status int, said map[string]any) (answers.Answer[string], error) {
	var none answers.Answer[string]
	if status == http.StatusBadRequest {
		switch code, _ := said["error"].(string); code {
		case "invalid_request", "invalid_grant", "invalid_target", "invalid_scope": // about the caller's token
			return none, extauthz.Refuse(extauthz.ReasonPermissionDenied, fmt.Errorf("%s does not exchange the caller's token: %s", host, code))
		}
	}
	if status != http.StatusOK {
		return none, fmt.Errorf("%s: answered %d", host, status)
	}
	token, _ := said["access_token"].(string)
	kind, _ := said["token_type"].(string)
	issued, _ := said["issued_token_type"].(string)
	switch {
	case token == "" || len(token) > maxTokenBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return none, fmt.Errorf("%s: its answer has no access_token that fits a header", host)
	case !strings.EqualFold(kind, "Bearer"):
		return none, fmt.Errorf("%s: answered with a token of type %q; Bearer is needed", host, kind)
	case issued != "" && issued != accessToken && issued != "urn:ietf:params:oauth:token-type:jwt":
		return none, fmt.Errorf("%s: issued %q, which is no access token", host, issued)
	}
	lifetime, _ := said["expires_in"].(float64)
	if lifetime < 0 || lifetime > maxKept.Seconds() {
		lifetime = maxKept.Seconds()
	}
	// Without a lifetime it is used once.
	return answers.Answer[string]{Value: token, Size: len(token), Expires: now.Add(time.Duration(lifetime)*time.Second - early)}, nil
}
