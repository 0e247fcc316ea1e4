package kubeauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/bearer"
	"weir.dev/extauthz/internal/claims"
	"weir.dev/extauthz/internal/proofs"
	"weir.dev/extauthz/jose"
)

// Defaults and bounds, as auth_tokens.proto documents them.
const (
	defaultTTL     = time.Minute
	defaultTimeout = 2 * time.Second
	maxTimeout     = 10 * time.Second
	defaultIssuer  = "kubernetes"
)

// methodName is the method's in metrics.
const methodName = "kubernetes"

// Options of Reviews; the zero value is good.
type Options struct {
	// Cache may be shared with other methods; made when nil.
	Cache   *proofs.Cache
	Chooser *bearer.Chooser
	Events  proofs.Events
	// Server is the API server; with an empty address every token is refused.
	Server Server
	// MaxTTL bounds how long an answer is remembered, whatever a policy says.
	MaxTTL time.Duration
}

// Reviews makes the methods that ask the API server. Equal settings share what
// they know. Safe for concurrent use.
type Reviews struct {
	options Options
	api     *api
	held    proofs.Held[reviewer]
}

// New makes Reviews. The error names the field of Server at fault.
func New(options Options) (*Reviews, error) {
	if options.Chooser == nil {
		options.Chooser = bearer.NewChooser()
	}
	if options.MaxTTL == 0 {
		options.MaxTTL = time.Hour
	}
	if options.Cache == nil {
		var err error
		if options.Cache, err = proofs.New(0); err != nil {
			return nil, err
		}
	}
	server, err := newAPI(options.Server)
	if err != nil {
		return nil, err
	}
	return &Reviews{options: options, api: server}, nil
}

// Build implements extauthz.Builder.
func (r *Reviews) Build(source *rulesv1.Authenticator, place extauthz.Place) (extauthz.Method, error) {
	settings := source.GetKubernetes()
	if settings == nil {
		return nil, nil //nolint:nilnil // as the interface asks
	}
	known, err := r.reviewer(settings)
	if err != nil {
		return nil, fmt.Errorf("kubernetes.%w", err)
	}
	made := &method{reviewer: known, chooser: r.options.Chooser}
	if bearer.Shared(place.Siblings) {
		made.mine = func(look bearer.Look) bool { return look.Kubernetes }
	}
	return made, nil
}

func (r *Reviews) reviewer(settings *rulesv1.KubernetesAuthenticator) (*reviewer, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(settings)
	if err != nil {
		return nil, fmt.Errorf("audiences: %w", err)
	}
	digest := sha256.Sum256(append([]byte(methodName+"\n"), raw...))
	return r.held.Get(digest, func() (*reviewer, error) { return r.make(settings, digest) })
}

func (r *Reviews) make(settings *rulesv1.KubernetesAuthenticator, digest [sha256.Size]byte) (*reviewer, error) {
	made := &reviewer{
		audiences: slices.Clone(settings.GetAudiences()), issuer: settings.GetIssuer(),
		claims: claims.NewMapping(settings.GetClaims()), api: r.api,
	}
	if made.issuer == "" {
		made.issuer = defaultIssuer
	}
	var errs []error
	if len(made.audiences) == 0 || slices.Contains(made.audiences, "") {
		errs = append(errs, errors.New("audiences: at least one is required, and none may be empty"))
	}
	terms := proofs.Terms{Method: methodName, Digest: digest}
	var err error
	if terms.Timeout, err = proofs.Duration("timeout", settings.GetTimeout(), defaultTimeout, maxTimeout); err != nil {
		errs = append(errs, err)
	}
	if terms.TTL, terms.RefusalTTL, err = proofs.TTLs(settings.GetCache(), defaultTTL); err != nil {
		errs = append(errs, fmt.Errorf("cache.%w", err))
	}
	terms.TTL = min(terms.TTL, r.options.MaxTTL)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	made.asker = proofs.NewAsker(terms, r.options.Cache, r.options.Events)
	return made, nil
}

// method is the method of one authenticator.
type method struct {
	reviewer *reviewer
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
		proof, key, err = m.reviewer.asker.Remembered(call.Now, token)
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
	return m.reviewer.asker.Ask(ctx, now, key, func(ctx context.Context) (proofs.Answer, error) {
		return m.reviewer.ask(ctx, now, token)
	})
}

// check refuses what is no ServiceAccount's token before anyone is asked.
func (m *method) check(token string) error {
	if len(token) > jose.MaxTokenBytes {
		return fmt.Errorf("the token is %d bytes long; the most is %d", len(token), jose.MaxTokenBytes)
	}
	if !m.chooser.Look(token).Kubernetes {
		return errors.New("the token is not that of a ServiceAccount, bound to a time and an audience")
	}
	return nil
}

// Challenge implements extauthz.Method.
func (m *method) Challenge(realm string) string { return bearer.Challenge(realm) }

// CredentialHeaders implements extauthz.Method.
func (m *method) CredentialHeaders() []string { return []string{bearer.Header} }
