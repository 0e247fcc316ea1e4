package introspect

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/bearer"
	"weir.dev/extauthz/internal/claims"
	"weir.dev/extauthz/internal/clientauth"
	"weir.dev/extauthz/internal/httpask"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/jose"
)

// Defaults and bounds, as auth_tokens.proto documents them.
const (
	defaultTTL     = time.Minute
	defaultTimeout = 2 * time.Second
	maxTimeout     = 10 * time.Second
)

// methodName is the method's in metrics.
const methodName = "introspection"

// Options of Introspection; the zero value is good.
type Options struct {
	// Cache may be shared with other methods; made when nil.
	Cache   *proofs.Cache
	Chooser *bearer.Chooser
	Events  proofs.Events
	// Client may be nil.
	Client *http.Client
	// MaxTTL bounds how long an answer is remembered, whatever a policy says.
	MaxTTL time.Duration
	// Statements makes what verifies signed answers. Nil refuses policies that ask
	// for them.
	Statements func(*rulesv1.JwtAuthenticator) (Statement, error)
	// Clock is for client assertions; time.Now when nil.
	Clock func() time.Time
}

// Introspection makes the methods of introspection. Equal providers share what
// they know. Safe for concurrent use.
type Introspection struct {
	options Options
	held    proofs.Held[provider]
}

// New makes Introspection.
func New(options Options) (*Introspection, error) {
	if options.Cache == nil {
		var err error
		if options.Cache, err = proofs.New(0); err != nil {
			return nil, err
		}
	}
	if options.Chooser == nil {
		options.Chooser = bearer.NewChooser()
	}
	if options.Client == nil {
		options.Client = httpask.NewClient(nil)
	}
	if options.MaxTTL == 0 {
		options.MaxTTL = time.Hour
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	return &Introspection{options: options}, nil
}

// Build implements extauthz.Builder.
func (i *Introspection) Build(source *rulesv1.Authenticator, place extauthz.Place) (extauthz.Method, error) {
	settings := source.GetIntrospection()
	if settings == nil {
		return nil, nil //nolint:nilnil // as the interface asks
	}
	known, err := i.provider(settings)
	if err != nil {
		return nil, fmt.Errorf("introspection.%w", err)
	}
	made := &method{provider: known, chooser: i.options.Chooser}
	if bearer.Shared(place.Siblings) {
		made.mine = known.mine
	}
	return made, nil
}

func (i *Introspection) provider(settings *rulesv1.IntrospectionAuthenticator) (*provider, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(settings)
	if err != nil {
		return nil, fmt.Errorf("uri: %w", err)
	}
	digest := sha256.Sum256(append([]byte(methodName+"\n"), raw...))
	return i.held.Get(digest, func() (*provider, error) { return newProvider(settings, digest, &i.options) })
}

// provider is one endpoint with what is asked of its answers.
type provider struct {
	uri       string
	issuer    string
	audiences []string
	claims    claims.Mapping
	client    *clientauth.Client
	audience  string
	http      *http.Client
	signer    Statement // of the answers; nil when they are not signed
	asker     *proofs.Asker
}

func newProvider(settings *rulesv1.IntrospectionAuthenticator, digest [sha256.Size]byte, options *Options) (*provider, error) {
	made := &provider{
		uri: settings.GetUri(), issuer: settings.GetIssuer(), audiences: slices.Clone(settings.GetAudiences()),
		claims: claims.NewMapping(settings.GetClaims()), http: options.Client,
	}
	var errs []error
	if err := httpask.CheckURL(made.uri); err != nil {
		errs = append(errs, fmt.Errorf("uri: %q %w", made.uri, err))
	}
	if made.issuer == "" {
		errs = append(errs, errors.New("issuer: is required"))
	}
	if slices.Contains(made.audiences, "") {
		errs = append(errs, errors.New("audiences: none may be empty"))
	}
	terms := proofs.Terms{Method: methodName, Digest: digest}
	var err error
	if terms.Timeout, err = proofs.Duration("timeout", settings.GetTimeout(), defaultTimeout, maxTimeout); err != nil {
		errs = append(errs, err)
	}
	if terms.TTL, terms.RefusalTTL, err = proofs.TTLs(settings.GetCache(), defaultTTL); err != nil {
		errs = append(errs, fmt.Errorf("cache.%w", err))
	}
	terms.TTL = min(terms.TTL, options.MaxTTL)
	made.audience = cmp.Or(settings.GetAssertionAudience(), made.issuer)
	if made.client, err = clientauth.Of(settings.GetClientAuthentication(), settings.GetClientId(), settings.GetClientSecret(), options.Clock); err != nil {
		errs = append(errs, err)
	}
	if made.signer, err = signer(settings, options.Statements); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	made.asker = proofs.NewAsker(terms, options.Cache, options.Events)
	return made, nil
}

// mine reports whether a token is for this endpoint to judge, where other methods
// take tokens too.
func (p *provider) mine(look bearer.Look) bool { return !look.JWT || look.Issuer == p.issuer }

// method is the method of one authenticator.
type method struct {
	provider *provider
	chooser  *bearer.Chooser
	// mine is nil when no other method takes tokens.
	mine func(bearer.Look) bool
}

// Presence implements extauthz.Method.
func (m *method) Presence(request *extauthz.Request) extauthz.Presence {
	return m.chooser.Presence(request, m.mine)
}

// Prove implements extauthz.Method.
func (m *method) Prove(ctx context.Context, call *extauthz.Call) (*extauthz.Proof, error) {
	value, _ := call.Request.Credential(bearer.Header)
	token, err := bearer.Token(value)
	if err == nil {
		err = m.check(token)
	}
	var proof *extauthz.Proof
	if err == nil {
		var key proofs.Key
		proof, key, err = m.provider.asker.Remembered(call.Now, token)
		if proof == nil && err == nil {
			proof, err = m.ask(ctx, call.Now, key, token)
		}
	}
	if err == nil {
		return proof, nil
	}
	return nil, bearer.Refusal(call.Realm, err)
}

// ask is apart from Prove, which makes nothing for a token that is remembered.
func (m *method) ask(ctx context.Context, now time.Time, key proofs.Key, token string) (*extauthz.Proof, error) {
	return m.provider.asker.Ask(ctx, now, key, func(ctx context.Context) (proofs.Answer, error) {
		return m.provider.ask(ctx, now, token)
	})
}

// check refuses what is not to be sent to the endpoint.
func (m *method) check(token string) error {
	if len(token) > jose.MaxTokenBytes {
		return fmt.Errorf("the token is %d bytes long; the most is %d", len(token), jose.MaxTokenBytes)
	}
	if !token68(token) {
		return errors.New("the token holds characters that no token has (RFC 6750 section 2.1)")
	}
	look := m.chooser.Look(token)
	if m.mine != nil && !m.mine(look) || look.JWT && look.Issuer != "" && look.Issuer != m.provider.issuer {
		return extauthz.Refuse(extauthz.ReasonTokenIssuer, errors.New("the token is of an issuer that the policy does not accept; it was not sent to the introspection endpoint"))
	}
	return nil
}

// token68 is the syntax of b64token (RFC 6750 section 2.1).
func token68(token string) bool {
	body := strings.TrimRight(token, "=")
	for i := range len(body) {
		c := body[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && strings.IndexByte("-._~+/", c) < 0 {
			return false
		}
	}
	return body != ""
}

// Challenge implements extauthz.Method.
func (m *method) Challenge(realm string) string { return bearer.Challenge(realm) }

// CredentialHeaders implements extauthz.Method.
func (m *method) CredentialHeaders() []string { return []string{bearer.Header} }
