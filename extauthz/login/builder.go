package login

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"golang.org/x/oauth2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/claims"
	"weir.dev/extauthz/internal/clientauth"
)

// Bounds of what one process remembers of all logins together.
const (
	maxRemembered  = 8 << 10
	maxRevocations = 100_000
)

// Options of a Builder; the zero value is good.
type Options struct {
	// Redis is what replicas share; nil for none: then sessions in Redis are
	// refused, and those in cookies are refreshed by each process for itself.
	Redis Store
	// Events may be nil.
	Events Events
	// Clock is time.Now when nil.
	Clock func() time.Time
	// Client talks to providers; nil for one with bounds of its own.
	Client *http.Client
}

// Builder makes Logins; equal rules share one. Safe for concurrent use.
type Builder struct {
	options     Options
	local, gone *Memory

	mu sync.Mutex
	// made holds on weakly: what no rule uses any more goes away by itself.
	made map[[sha256.Size]byte]weak.Pointer[Login]
}

// NewBuilder makes a Builder.
func NewBuilder(options Options) *Builder {
	if options.Events == nil {
		options.Events = noEvents{}
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	if options.Client == nil {
		options.Client = newClient()
	}
	return &Builder{
		options: options,
		local:   NewMemory(maxRemembered, options.Clock, nil),
		gone:    NewMemory(maxRevocations, options.Clock, options.Events.LoginRevocationDropped),
		made:    map[[sha256.Size]byte]weak.Pointer[Login]{},
	}
}

type noEvents struct{}

func (noEvents) LoginRefresh(error)      {}
func (noEvents) LoginRevocationDropped() {}

// Build implements extauthz.Builder.
func (b *Builder) Build(source *rulesv1.Authenticator, _ extauthz.Place) (extauthz.Method, error) {
	rules := source.GetLogin()
	if rules == nil {
		return nil, nil //nolint:nilnil // documented
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(rules)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	digest := sha256.Sum256(raw)
	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.made[digest].Value(); known != nil {
		return known, nil
	}
	made, err := b.login(rules)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(b.made, func(_ [sha256.Size]byte, held weak.Pointer[Login]) bool { return held.Value() == nil })
	b.made[digest] = weak.Make(made)
	return made, nil
}

func (b *Builder) login(rules *rulesv1.LoginAuthenticator) (*Login, error) {
	l := &Login{
		issuer: rules.GetIssuer(), clientID: rules.GetClientId(),
		claims: claims.NewMapping(rules.GetClaims()), userinfo: rules.GetUserinfo(), forward: rules.GetForwardAccessToken(), trusted: map[string]bool{}, port: rules.GetPort(),
		paths: paths{
			callback: rules.GetPaths().GetCallback(), login: rules.GetPaths().GetLogin(), logout: rules.GetPaths().GetLogout(),
			backchannel: rules.GetPaths().GetBackchannelLogout(), after: rules.GetPaths().GetAfterLogout(),
		},
		events: b.options.Events, local: b.gone, shared: b.local,
	}
	var errs []error
	fail := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("login.%s: %w", field, err))
		}
	}
	fail("issuer", checkURL(l.issuer))
	if l.clientID == "" {
		fail("client_id", errors.New("is required"))
	}
	fail("paths", l.paths.check())
	l.session(rules.GetSession(), fail)
	for _, host := range rules.GetTrustedHosts() {
		l.trusted[strings.ToLower(host)] = true
	}
	for _, name := range slices.Sorted(maps.Keys(rules.GetAuthorizationParameters())) {
		if !freeParameter(name) {
			fail("authorization_parameters", fmt.Errorf("%q is set by the login itself", name))
		}
		l.parameters = append(l.parameters, oauth2.SetAuthURLParam(name, rules.GetAuthorizationParameters()[name]))
	}
	var err error
	l.timeout, err = duration(rules.GetTimeout(), defaultTimeout, 0, maxTimeout)
	fail("timeout", err)
	for i, algorithm := range rules.GetAlgorithms() {
		if !asymmetric(algorithm) {
			fail(fmt.Sprintf("algorithms[%d]", i), fmt.Errorf("%q is not an asymmetric signature algorithm", algorithm))
		}
	}
	if len(rules.GetAlgorithms()) == 0 {
		fail("algorithms", errors.New("at least one is required"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if l.provider, err = b.provider(rules, l.timeout); err != nil {
		return nil, fmt.Errorf("login.%w", err)
	}
	if b.options.Redis != nil {
		l.shared = b.options.Redis
	} else if l.redis {
		l.shared = missing{}
	}
	l.once = &once{store: l.shared}
	l.proofs, err = newProofCache()
	return l, err
}

func (b *Builder) provider(rules *rulesv1.LoginAuthenticator, timeout time.Duration) (*provider, error) {
	how, style, secret := clientauth.Basic, oauth2.AuthStyleInHeader, rules.GetClientSecret()
	switch {
	case rules.GetClientAuthentication() == rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT:
		how, style, secret = clientauth.PrivateKeyJWT, oauth2.AuthStyleInParams, "" // a key is never sent
	case secret == "":
		how, style = clientauth.None, oauth2.AuthStyleInParams
	case rules.GetClientAuthentication() == rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_POST:
		how, style = clientauth.Post, oauth2.AuthStyleInParams
	}
	prover, err := clientauth.New(how, rules.GetClientId(), rules.GetClientSecret(), b.options.Clock)
	if err != nil {
		return nil, err
	}
	scopes := []string{"openid"}
	for _, scope := range rules.GetScopes() {
		if !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return &provider{
		issuer: rules.GetIssuer(), client: b.options.Client, prover: prover, signs: how == clientauth.PrivateKeyJWT, audience: rules.GetAssertionAudience(),
		algorithms: slices.Clone(rules.GetAlgorithms()), timeout: timeout, clock: b.options.Clock,
		config: oauth2.Config{
			ClientID: rules.GetClientId(), ClientSecret: secret, Scopes: scopes, Endpoint: oauth2.Endpoint{AuthStyle: style},
		},
	}, nil
}

// session reads how sessions are kept.
func (l *Login) session(rules *rulesv1.LoginSession, fail func(field string, err error)) {
	var err error
	l.ring, err = newKeyring(rules.GetKeys())
	fail("session.keys", err)
	switch rules.GetStore() {
	case rulesv1.LoginSession_STORE_COOKIE:
	case rulesv1.LoginSession_STORE_REDIS:
		l.redis = true
	default:
		fail("session.store", fmt.Errorf("%s is neither cookie nor redis", rules.GetStore()))
	}
	name := rules.GetCookie()
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		fail("session.cookie", fmt.Errorf("%q is not 1 to 64 letters, digits, dashes and underscores", name))
	}
	l.jar = jar{base: "__Host-" + name, sameSite: "Lax"}
	if rules.GetCrossSite() {
		l.jar.sameSite = "None"
	}
	l.lifetime, err = duration(rules.GetLifetime(), defaultLifetime, time.Minute, maxLifetime)
	fail("session.lifetime", err)
	l.refresh, err = duration(rules.GetRefresh(), 0, time.Second, maxLifetime)
	fail("session.refresh", err)
	sum := sha256.Sum256([]byte(l.issuer + "\x00" + l.clientID + "\x00" + name))
	l.namespace = hex.EncodeToString(sum[:8]) + ":"
}

func (p *paths) check() error {
	seen := map[string]bool{}
	for _, path := range []string{p.callback, p.login, p.logout, p.backchannel} {
		if len(path) < 2 || path[0] != '/' || strings.ContainsAny(path, "?#\\ %\"<>") || strings.Contains(path, "//") {
			return fmt.Errorf("%q is not an absolute path of plain characters", path)
		}
		if seen[path] {
			return fmt.Errorf("%q is there twice", path)
		}
		seen[path] = true
	}
	if p.after == "" || p.after[0] != '/' || strings.HasPrefix(p.after, "//") || strings.ContainsAny(p.after, "\\ \"<>") || seen[p.after] {
		return fmt.Errorf("after_logout: %q is not a path of the service", p.after)
	}
	return nil
}

// freeParameter reports whether a parameter of the authorization request is the
// operator's to choose.
func freeParameter(name string) bool {
	switch name {
	case "", "client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce",
		"code_challenge", "code_challenge_method", "request", "request_uri":
		return false
	}
	return true
}

func asymmetric(algorithm string) bool {
	switch algorithm {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA":
		return true
	}
	return false
}

func duration(value *durationpb.Duration, usual, least, most time.Duration) (time.Duration, error) {
	if value == nil || value.AsDuration() == 0 {
		return usual, nil
	}
	given := value.AsDuration()
	if value.CheckValid() != nil || given < least || given > most {
		return 0, fmt.Errorf("%s is outside %s to %s", given, least, most)
	}
	return given, nil
}

// missing stands for a Redis that this process was not given: the rules stay
// usable for all other routes, and those of this login are refused.
type missing struct{}

var errMissing = errors.New("the rules keep sessions in Redis, and this process knows of none: set sessions.redis.url in its configuration")

func (missing) Get(context.Context, string) ([]byte, error)              { return nil, errMissing }
func (missing) Put(context.Context, string, []byte, time.Duration) error { return errMissing }
func (missing) Add(context.Context, string, []byte, time.Duration) (bool, error) {
	return false, errMissing
}

func (missing) Replace(context.Context, string, []byte, time.Duration) (bool, error) {
	return false, errMissing
}
func (missing) Delete(context.Context, ...string) error { return errMissing }
func (missing) Append(context.Context, string, string, int, time.Duration) ([]string, error) {
	return nil, errMissing
}
func (missing) Members(context.Context, string) ([]string, error) { return nil, errMissing }
