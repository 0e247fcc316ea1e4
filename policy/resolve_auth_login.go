package policy

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

// Bounds of what a login's checks may take.
const (
	// loginBodyBytes is the largest logout token that a provider may send.
	loginBodyBytes = 16 << 10
	loginTimeout   = 5 * time.Second
)

// loginPath is one of LoginPaths, with its field's name.
type loginPath struct{ name, value string }

type loginPathSet struct{ callback, login, logout, backchannel, after string }

func pathsOf(login *v1alpha1.Login) loginPathSet {
	return loginPathSet{
		callback:    cmp.Or(login.Paths.Callback, "/oauth2/callback"),
		login:       cmp.Or(login.Paths.Login, "/oauth2/login"),
		logout:      cmp.Or(login.Paths.Logout, "/oauth2/logout"),
		backchannel: cmp.Or(login.Paths.BackchannelLogout, "/oauth2/backchannel-logout"),
		after:       cmp.Or(login.Paths.AfterLogout, "/"),
	}
}

// all are those that the login answers.
func (p loginPathSet) all() []loginPath {
	return []loginPath{{"callback", p.callback}, {"login", p.login}, {"logout", p.logout}, {backchannelName, p.backchannel}}
}

const backchannelName = "backchannelLogout"

// loginWay is a login in effect somewhere.
type loginWay struct {
	authenticator *rulesv1.Authenticator
	origin        Origin
	policy        string
	paths         loginPathSet
}

// login compiles a way to log in. Its secrets have to be there: without them the
// way is left out.
func (r *resolver) login(from wonPiece, login *v1alpha1.Login) (*rulesv1.LoginAuthenticator, error) {
	namespace, field := from.from.object.Ref.Namespace, from.origin.Field+".login"
	message := &rulesv1.LoginAuthenticator{
		Issuer: login.Issuer, ClientId: login.ClientID, Scopes: login.Scopes,
		Claims:     claimMapping(&login.Claims),
		Algorithms: login.Algorithms, Userinfo: login.Userinfo, AuthorizationParameters: login.AuthorizationParameters,
		TrustedHosts: login.TrustedHosts, ForwardAccessToken: login.ForwardAccessToken,
		Timeout: durationpb.New(durationOr(login.Timeout, loginTimeout)),
		Session: &rulesv1.LoginSession{
			Store:    rulesv1.LoginSession_STORE_COOKIE,
			Cookie:   cmp.Or(login.Session.CookieName, "weir-"+digestOf([]any{login.Issuer, login.ClientID})[:8]),
			Lifetime: durationpb.New(durationOr(login.Session.Lifetime, 12*time.Hour)),
			Refresh:  durationpb.New(durationOr(login.Session.Refresh, 0)), CrossSite: login.Session.SameSite == v1alpha1.SameSiteNone,
		},
	}
	if login.PublicPort != nil {
		message.Port = uint32(*login.PublicPort) //nolint:gosec // validated
	}
	paths := pathsOf(login)
	message.Paths = &rulesv1.LoginPaths{
		Callback: paths.callback, Login: paths.login, Logout: paths.logout, BackchannelLogout: paths.backchannel, AfterLogout: paths.after,
	}
	if len(message.GetAlgorithms()) == 0 {
		message.Algorithms = []string{"RS256", "ES256"}
	}
	if login.Session.Store == v1alpha1.SessionRedis {
		message.Session.Store = rulesv1.LoginSession_STORE_REDIS
	}
	message.ClientAuthentication = clientAuthentication(login.ClientAuthentication)
	if login.ClientAuthentication == v1alpha1.ClientPrivateKeyJWT {
		message.AssertionAudience = login.AssertionAudience
	}
	fail := func(code Code, field string, err error) error {
		r.reportOnce(from.from.object.problem(code, field, err.Error()+"; nobody can log in until it is mended"))
		from.from.broken(err.Error())
		return err
	}
	if ref := login.ClientSecretRef; ref != nil {
		secret, err := r.secretValue(namespace, *ref)
		if err != nil {
			return nil, fail(CodeRefNotFound, field+".clientSecretRef", err)
		}
		if login.ClientAuthentication == v1alpha1.ClientPrivateKeyJWT {
			if err := clientKey(namespace, *ref, secret); err != nil {
				return nil, fail(CodeClientKey, field+".clientSecretRef", err)
			}
		}
		message.ClientSecret = string(bytes.TrimRight(secret, "\r\n"))
	}
	raw, err := r.secretValue(namespace, login.Session.KeysRef)
	if err != nil {
		return nil, fail(CodeRefNotFound, field+".session.keysRef", err)
	}
	if message.Session.Keys, err = sessionKeys(raw); err != nil {
		return nil, fail(CodeLoginKeys, field+".session.keysRef", fmt.Errorf("Secret %s/%s: %w", namespace, login.Session.KeysRef.Name, err)) //nolint:staticcheck // a kind's name
	}
	return message, nil
}

// reachedOn fills in the port that browsers know, where the policy does not name
// it.
func (c *compiledAuth) reachedOn(l *listener) {
	for _, way := range c.logins {
		if login := way.authenticator.GetLogin(); login.GetPort() == 0 && l.overTLS() && l.port != 443 {
			login.Port = uint32(l.port) //nolint:gosec // validated
		}
	}
}

// sessionKeys reads one key a line.
func sessionKeys(raw []byte) ([][]byte, error) {
	var keys [][]byte
	for line := range bytes.Lines(raw) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		key := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
		n, err := base64.StdEncoding.Decode(key, line)
		if err != nil || n != 32 {
			return nil, fmt.Errorf("line %d is not 32 bytes in base64: make one with `openssl rand -base64 32`", len(keys)+1)
		}
		keys = append(keys, key[:n])
	}
	if len(keys) == 0 || len(keys) > 8 {
		return nil, errors.New("has no key or more than 8")
	}
	return keys, nil
}

// loginRoutes are the paths of the logins that protect a route, on one host of
// its listener: they are answered there whatever routes there are, so that no
// HTTPRoute has to match a callback.
func (r *resolver) loginRoutes(e *edge, l *listener, host string, built []Route) []Route {
	if len(built) == 0 || built[0].Auth == nil || built[0].Auth.Refuse {
		return nil
	}
	var routes []Route
	for _, way := range r.logins[built[0].Auth.RouteID] {
		for _, path := range way.paths.all() {
			key := l.id() + " " + host + " " + path.value
			if other, taken := e.loginPaths[key]; taken {
				if digestMessage(other.authenticator.GetLogin()) != digestMessage(way.authenticator.GetLogin()) {
					r.reportOnce(r.byRef[way.origin.Object].problem(CodeLoginPaths, way.origin.Field+".login.paths."+path.name, fmt.Sprintf(
						"%s on host %q is answered by the login at %s, which is another one: give this one other paths", path.value, host, other.origin)))
				}
				continue
			}
			e.loginPaths[key] = way
			routes = append(routes, r.loginRoute(way, l, path))
		}
	}
	return routes
}

// loginRoute has no backend: extauthz answers before one would be needed.
func (r *resolver) loginRoute(way *loginWay, l *listener, path loginPath) Route {
	id := "authpolicy/" + way.origin.Object.Namespace + "/" + way.origin.Object.Name + "/" + way.authenticator.GetName() + "@" + l.id()
	auth := &Auth{
		RouteID: id + "~" + digestMessage(way.authenticator), Origin: way.origin, CheckTimeout: loginCheckTimeout(way.authenticator), Login: true,
		Authenticators: []AuthPart{{Name: way.authenticator.GetName(), Origin: way.origin}},
	}
	if path.name == backchannelName {
		auth.BodyBytes = loginBodyBytes
	}
	r.addAuthRoute(&authRoute{RouteId: auth.RouteID, Policy: way.policy, Realm: "weir", Authenticators: []*rulesv1.Authenticator{way.authenticator}})
	return Route{ID: id, Match: Match{Path: PathMatch{Kind: PathExact, Value: path.value}}, Origin: way.origin, Auth: auth}
}
