package login

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"weir.dev/extauthz/internal/clientauth"
	"weir.dev/extauthz/internal/httpask"
)

// Timing of a provider's description.
const (
	describedFresh = time.Hour
	// describedStale is how long past that it serves while the provider fails.
	describedStale = 24 * time.Hour
	describedRetry = 2 * time.Second
)

// provider is one issuer as one client sees it. Safe for concurrent use.
type provider struct {
	issuer string
	client *http.Client
	config oauth2.Config // without endpoint and redirect
	// prover proves the client where package oauth2 does not: with an assertion,
	// if it signs, for an audience, which is the token endpoint where empty.
	prover     *clientauth.Client
	signs      bool
	audience   string
	algorithms []string
	timeout    time.Duration
	clock      func() time.Time

	mu        sync.Mutex
	known     *described
	attempted time.Time
	err       error
	fetching  chan struct{} // closed when the fetch under way ends; nil for none
}

// described is what a provider says of itself. Immutable but for its keys.
type described struct {
	endpoint                     oauth2.Endpoint
	userinfo, endSession, revoke string
	// namesIssuer says that callbacks carry "iss" (RFC 9207).
	namesIssuer bool
	keys        *keySet
	at          time.Time
}

// unavailableError says that the provider could not be asked.
type unavailableError struct{ cause error }

func (e *unavailableError) Error() string { return e.cause.Error() }
func (e *unavailableError) Unwrap() error { return e.cause }

func unavailable(err error) error { return &unavailableError{err} }

func isUnavailable(err error) bool {
	var down *unavailableError
	return errors.As(err, &down)
}

// describe returns what is known of the provider; it waits for the first fetch
// and for none after that, but when what is known has become too old.
func (p *provider) describe(ctx context.Context) (*described, error) {
	p.mu.Lock()
	now := p.clock()
	if p.known != nil {
		if age := now.Sub(p.known.at); age < describedFresh+describedStale {
			if age >= describedFresh && p.fetching == nil && now.Sub(p.attempted) >= describedRetry {
				p.begin(ctx)
			}
			defer p.mu.Unlock()
			return p.known, nil
		}
	}
	if p.err != nil && p.fetching == nil && now.Sub(p.attempted) < describedRetry {
		defer p.mu.Unlock()
		return nil, unavailable(p.err)
	}
	if p.fetching == nil {
		p.begin(ctx)
	}
	done := p.fetching
	p.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return nil, unavailable(errors.New("the provider's description did not arrive in time"))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.known == nil {
		return nil, unavailable(p.err)
	}
	return p.known, nil
}

// begin fetches without holding the lock; p.mu is held.
func (p *provider) begin(ctx context.Context) {
	done, old := make(chan struct{}), p.known
	p.fetching, p.attempted = done, p.clock()
	go func() {
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
		defer cancel()
		made, err := p.fetch(own, old)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.err = err; err == nil {
			p.known = made
		}
		p.fetching = nil
		close(done)
	}()
}

func (p *provider) fetch(ctx context.Context, old *described) (*described, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.issuer)
	if err != nil {
		return nil, fmt.Errorf("discovery of %s: %w", p.issuer, cut(err))
	}
	var more struct {
		EndSession  string `json:"end_session_endpoint"`
		Revocation  string `json:"revocation_endpoint"`
		JWKS        string `json:"jwks_uri"`
		NamesIssuer bool   `json:"authorization_response_iss_parameter_supported"`
	}
	if err := found.Claims(&more); err != nil {
		return nil, fmt.Errorf("discovery of %s: %w", p.issuer, cut(err))
	}
	made := &described{
		endpoint: found.Endpoint(), userinfo: found.UserInfoEndpoint(), endSession: more.EndSession, revoke: more.Revocation,
		namesIssuer: more.NamesIssuer, at: p.clock(),
	}
	made.endpoint.AuthStyle = p.config.Endpoint.AuthStyle
	for _, required := range []struct{ name, url string }{
		{"authorization_endpoint", made.endpoint.AuthURL}, {"token_endpoint", made.endpoint.TokenURL}, {"jwks_uri", more.JWKS},
	} {
		if err := checkURL(required.url); err != nil {
			return nil, fmt.Errorf("discovery of %s: %s %w", p.issuer, required.name, err)
		}
	}
	for _, optional := range []*string{&made.userinfo, &made.endSession, &made.revoke} {
		if *optional != "" && checkURL(*optional) != nil {
			*optional = ""
		}
	}
	if old != nil && old.keys.uri == more.JWKS {
		made.keys = old.keys
		return made, nil
	}
	made.keys = &keySet{client: p.client, uri: more.JWKS, clock: p.clock, timeout: p.timeout}
	for _, algorithm := range p.algorithms {
		made.keys.algorithms = append(made.keys.algorithms, jose.SignatureAlgorithm(algorithm))
	}
	return made, nil
}

// at is the client's configuration for one redirect URI.
func (p *provider) at(d *described, redirect string) *oauth2.Config {
	config := p.config
	config.Endpoint, config.RedirectURL = d.endpoint, redirect
	return &config
}

// exchange trades a code for tokens.
func (p *provider) exchange(ctx context.Context, d *described, redirect, code, verifier string) (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	options := []oauth2.AuthCodeOption{oauth2.VerifierOption(verifier)}
	if p.signs {
		form := url.Values{}
		if err := p.prove(d, form, nil); err != nil {
			return nil, unavailable(err)
		}
		for name := range form {
			options = append(options, oauth2.SetAuthURLParam(name, form.Get(name)))
		}
	}
	tokens, err := p.at(d, redirect).Exchange(oidc.ClientContext(ctx, p.client), code, options...)
	return tokens, tokenError(err)
}

// renew trades a refresh token for tokens.
func (p *provider) renew(ctx context.Context, d *described, refresh string) (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if p.signs {
		return p.renewSigned(ctx, d, refresh)
	}
	tokens, err := p.at(d, "").TokenSource(oidc.ClientContext(ctx, p.client), &oauth2.Token{RefreshToken: refresh}).Token()
	return tokens, tokenError(err)
}

// renewSigned is renew with an assertion, for which oauth2.Config.TokenSource has
// no place.
func (p *provider) renewSigned(ctx context.Context, d *described, refresh string) (*oauth2.Token, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	if err := p.prove(d, form, nil); err != nil {
		return nil, unavailable(err)
	}
	form.Del("client_id") // the library adds it
	config := clientcredentials.Config{
		ClientID: p.config.ClientID, TokenURL: d.endpoint.TokenURL, EndpointParams: form, AuthStyle: oauth2.AuthStyleInParams,
	}
	tokens, err := config.Token(oidc.ClientContext(ctx, p.client))
	if err != nil {
		return nil, tokenError(err)
	}
	// This grant's tokens lack what oauth2.Config fills in.
	if seconds, ok := tokens.Extra("expires_in").(float64); ok && seconds > 0 && seconds < math.MaxInt32 {
		tokens.ExpiresIn = int64(seconds)
	}
	return tokens, nil
}

// prove adds the client's proof to a request to one of the provider's endpoints.
func (p *provider) prove(d *described, form url.Values, header http.Header) error {
	return p.prover.Sign(form, header, cmp.Or(p.audience, d.endpoint.TokenURL))
}

// tokenError keeps what a token endpoint's error says and drops what it quotes:
// the answer's text may hold anything. A 4xx is the provider's word; all else
// means that it could not be asked.
func tokenError(err error) error {
	if err == nil {
		return nil
	}
	var answered *oauth2.RetrieveError
	if !errors.As(err, &answered) {
		return unavailable(fmt.Errorf("token endpoint: %w", cut(err)))
	}
	status := answered.Response.StatusCode
	said := fmt.Errorf("token endpoint answered %d %s", status, printable(answered.ErrorCode, 64))
	if status >= 500 || status == http.StatusTooManyRequests {
		return unavailable(said)
	}
	return said
}

// verify checks a token of the provider for this client, but for what is of ID
// tokens alone or of logout tokens alone.
func (p *provider) verify(ctx context.Context, d *described, text string, now time.Time) (*oidc.IDToken, error) {
	keys := &heard{keySet: d.keys}
	verifier := oidc.NewVerifier(p.issuer, keys, &oidc.Config{
		ClientID: p.config.ClientID, SupportedSigningAlgs: p.algorithms, Now: func() time.Time { return now },
	})
	verified, err := verifier.Verify(ctx, text)
	switch {
	case keys.err != nil:
		return nil, keys.err
	case err != nil:
		return nil, cut(err)
	}
	var claims struct {
		AuthorizedParty *string `json:"azp"`
	}
	if err := verified.Claims(&claims); err != nil {
		return nil, errors.New("azp is not a string")
	}
	// OpenID Connect Core 1.0 section 3.1.3.7, 4 and 5.
	if claims.AuthorizedParty == nil && len(verified.Audience) > 1 {
		return nil, errors.New("the token is for several audiences and names no authorized party")
	}
	if claims.AuthorizedParty != nil && *claims.AuthorizedParty != p.config.ClientID {
		return nil, errors.New("the token's authorized party is another client")
	}
	if verified.IssuedAt.After(now.Add(time.Minute)) {
		return nil, errors.New("the token was issued in the future")
	}
	return verified, nil
}

// heard keeps the error of a KeySet, whose kind go-oidc drops.
type heard struct {
	*keySet
	err error
}

// VerifySignature implements oidc.KeySet.
func (h *heard) VerifySignature(ctx context.Context, text string) ([]byte, error) {
	payload, err := h.keySet.VerifySignature(ctx, text)
	h.err = err
	return payload, err
}

// person asks the userinfo endpoint; the answer is of the ID token's subject.
func (p *provider) person(ctx context.Context, d *described, access, subject string) (json.RawMessage, error) {
	if d.userinfo == "" {
		return nil, errors.New("the provider has no userinfo endpoint")
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	raw, err := get(ctx, p.client, d.userinfo, access)
	if err != nil {
		return nil, unavailable(fmt.Errorf("userinfo: %w", err))
	}
	var said struct {
		Subject string `json:"sub"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return nil, errors.New("userinfo is not JSON; signed answers are not supported")
	}
	if said.Subject != subject {
		return nil, errors.New("userinfo is about another subject than the ID token")
	}
	return raw, nil
}

// revoke tells the provider that a refresh token is no longer needed (RFC 7009).
// Nothing depends on the outcome: the session is over here already.
func (p *provider) revoke(ctx context.Context, d *described, refresh string) {
	if d.revoke == "" || refresh == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	form := url.Values{"token": {refresh}, "token_type_hint": {"refresh_token"}}
	header := http.Header{}
	if p.prove(d, form, header) != nil {
		return
	}
	request, err := httpask.NewPost(ctx, d.revoke, httpask.TypeForm, []byte(form.Encode()))
	if err != nil {
		return
	}
	maps.Copy(request.Header, header)
	if response, err := p.client.Do(request); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}

// get reads a document, with a Bearer token where one is given.
func get(ctx context.Context, client *http.Client, uri, bearer string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s", response.Status)
	}
	return io.ReadAll(response.Body)
}

// payload reads the claims of a token that was verified when it was received.
func payload(text string) (map[string]any, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, errors.New("the ID token is not a JWS")
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errors.New("the ID token is not a JWS")
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		return nil, errors.New("the ID token has no claims")
	}
	return claims, nil
}

// maxErrorBytes bounds what an error repeats of others' texts.
const maxErrorBytes = 300

// cut bounds an error that may quote a whole answer.
func cut(err error) error {
	if text := err.Error(); len(text) > maxErrorBytes {
		return errors.New(printable(text, maxErrorBytes) + " …")
	}
	return err
}

func printable(text string, most int) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	return clean[:min(len(clean), most)]
}
