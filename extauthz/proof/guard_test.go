package proof_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/proof"
	"weir.dev/extauthz/replay"
)

// Each line but the good ones is a guard: with it off, the line would be good.
func TestDPoP(t *testing.T) {
	f := newFixture(t, nil)
	now := authtest.Now()
	bound, plain := f.token(f.jkt()), f.token(nil)
	private := f.client.JWK(t)
	private["d"] = "AAAA"
	good := func(header, claims map[string]any) []string {
		return []string{"authorization", "DPoP " + bound, "dpop", f.proof(f.client, bound, header, claims)}
	}
	claims := func(more map[string]any) []string { return good(nil, more) }
	invalid := extauthz.ReasonDPoPInvalid
	for name, test := range map[string]struct {
		headers []string
		reason  extauthz.Reason
		says    string
	}{
		"good":                         {claims(nil), "", ""},
		"scheme in other case":         {[]string{"authorization", "dpop " + bound, "dpop", f.proof(f.client, bound, nil, nil)}, "", ""},
		"default port":                 {claims(map[string]any{"htu": "HTTPS://API.example:443/v1/users"}), "", ""},
		"query and fragment ignored":   {claims(map[string]any{"htu": "https://api.example/v1/users?x=1#y"}), "", ""},
		"escape that is not needed":    {claims(map[string]any{"htu": "https://api.example/v1/%75sers"}), "", ""},
		"a little ahead":               {claims(map[string]any{"iat": now.Add(5 * time.Second).Unix()}), "", ""},
		"token not bound":              {[]string{"authorization", "Bearer " + plain}, "", ""},
		"bound token as bearer":        {[]string{"authorization", "Bearer " + bound}, extauthz.ReasonTokenBinding, "another scheme"},
		"as bearer, with a proof":      {[]string{"authorization", "Bearer " + bound, "dpop", f.proof(f.client, bound, nil, nil)}, extauthz.ReasonTokenBinding, "another scheme"},
		"not bound, as DPoP":           {[]string{"authorization", "DPoP " + plain, "dpop", f.proof(f.client, plain, nil, nil)}, extauthz.ReasonTokenBinding, "bound to no key"},
		"no proof":                     {[]string{"authorization", "DPoP " + bound}, invalid, "exactly one"},
		"two proofs":                   {append(claims(nil), "dpop", f.proof(f.client, bound, nil, map[string]any{"jti": "2"})), extauthz.ReasonCredentialAmbiguous, ""},
		"two proofs in one header":     {[]string{"authorization", "DPoP " + bound, "dpop", f.proof(f.client, bound, nil, nil) + ", " + f.proof(f.client, bound, nil, nil)}, invalid, ""},
		"another key":                  {[]string{"authorization", "DPoP " + bound, "dpop", f.proof(f.other, bound, nil, nil)}, extauthz.ReasonTokenBinding, "another key"},
		"the jwk of another key":       {good(map[string]any{"jwk": f.other.JWK(t)}, nil), extauthz.ReasonTokenBinding, "another key"},
		"signed by another key":        {[]string{"authorization", "DPoP " + bound, "dpop", f.proof(f.other, bound, map[string]any{"jwk": f.client.JWK(t)}, nil)}, invalid, "signature"},
		"private key inside":           {good(map[string]any{"jwk": private}, nil), invalid, "private"},
		"symmetric key inside":         {good(map[string]any{"jwk": map[string]any{"kty": "oct", "k": "AAAA"}, "alg": "HS256"}, nil), invalid, "alg"},
		"alg none":                     {good(map[string]any{"alg": "none"}, nil), invalid, "alg"},
		"alg not listed":               {good(map[string]any{"alg": "RS256"}, nil), invalid, "alg"},
		"no jwk":                       {good(map[string]any{"jwk": nil}, nil), invalid, "no jwk"},
		"typ of a token":               {good(map[string]any{"typ": "JWT"}, nil), invalid, "typ"},
		"no typ":                       {good(map[string]any{"typ": nil}, nil), invalid, "typ"},
		"crit":                         {good(map[string]any{"crit": []string{"x"}}, nil), invalid, "crit"},
		"other method":                 {claims(map[string]any{"htm": "POST"}), invalid, "htm"},
		"method in lower case":         {claims(map[string]any{"htm": "get"}), invalid, "htm"},
		"no method":                    {claims(map[string]any{"htm": nil}), invalid, "htm"},
		"other path":                   {claims(map[string]any{"htu": "https://api.example/v1/admin"}), invalid, "htu"},
		"path in other case":           {claims(map[string]any{"htu": "https://api.example/V1/users"}), invalid, "htu"},
		"other host":                   {claims(map[string]any{"htu": "https://evil.example/v1/users"}), invalid, "htu"},
		"other port":                   {claims(map[string]any{"htu": "https://api.example:8443/v1/users"}), invalid, "htu"},
		"other scheme":                 {claims(map[string]any{"htu": "http://api.example/v1/users"}), invalid, "htu"},
		"user in the target":           {claims(map[string]any{"htu": "https://a@api.example/v1/users"}), invalid, "htu"},
		"path alone":                   {claims(map[string]any{"htu": "/v1/users"}), invalid, "htu"},
		"dot segments":                 {claims(map[string]any{"htu": "https://api.example/x/../v1/users"}), invalid, "htu"},
		"slash escaped":                {claims(map[string]any{"htu": "https://api.example/v1%2Fusers"}), invalid, "htu"},
		"escape cut off":               {claims(map[string]any{"htu": "https://api.example/v1/users%2"}), invalid, "htu"},
		"no target":                    {claims(map[string]any{"htu": ""}), invalid, "htu"},
		"no hash of the token":         {claims(map[string]any{"ath": nil}), invalid, "ath"},
		"hash of another token":        {[]string{"authorization", "DPoP " + bound, "dpop", f.proof(f.client, plain, nil, nil)}, invalid, "ath"},
		"too old":                      {claims(map[string]any{"iat": now.Add(-61 * time.Second).Unix()}), invalid, "iat"},
		"too far ahead":                {claims(map[string]any{"iat": now.Add(6 * time.Second).Unix()}), invalid, "iat"},
		"no time":                      {claims(map[string]any{"iat": nil}), invalid, "iat"},
		"time as text":                 {claims(map[string]any{"iat": "1"}), invalid, "iat"},
		"no id":                        {claims(map[string]any{"jti": nil}), invalid, "jti"},
		"id too long":                  {claims(map[string]any{"jti": strings.Repeat("a", 257)}), invalid, "jti"},
		"nonce of another":             {claims(map[string]any{"nonce": "abc"}), extauthz.ReasonDPoPNonce, "nonce"},
		"nonce that is no text":        {claims(map[string]any{"nonce": 1}), invalid, "nonce"},
		"not a JWT":                    {[]string{"authorization", "DPoP " + bound, "dpop", "abc"}, invalid, ""},
		"huge":                         {[]string{"authorization", "DPoP " + bound, "dpop", strings.Repeat("a", 9<<10)}, invalid, "bytes"},
		"token wrong":                  {[]string{"authorization", "DPoP " + bound[:len(bound)-4], "dpop", f.proof(f.client, bound, nil, nil)}, extauthz.ReasonTokenInvalid, ""},
		"jkt is no hash":               {[]string{"authorization", "DPoP " + f.token(map[string]any{"jkt": "abc"})}, extauthz.ReasonTokenBinding, "jkt"},
		"cnf with a member unknown":    {[]string{"authorization", "Bearer " + f.token(map[string]any{"kid": "a"})}, extauthz.ReasonTokenBinding, "none of"},
		"cnf with one member unknown":  {[]string{"authorization", "DPoP " + f.token(map[string]any{"jkt": f.jkt()["jkt"], "osc": "a"})}, extauthz.ReasonTokenBinding, "none of"},
		"cnf without members":          {[]string{"authorization", "Bearer " + f.token(map[string]any{})}, extauthz.ReasonTokenBinding, "members"},
		"cnf that is no object":        {[]string{"authorization", "Bearer " + f.token("a")}, extauthz.ReasonTokenBinding, "members"},
		"bound to a certificate, none": {[]string{"authorization", "Bearer " + f.token(f.x5t())}, extauthz.ReasonTokenBinding, "none was presented"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newGuardOf(f)
			method := f.method(nil)
			found, refusal := outcome(method, request(test.headers...), now)
			if test.reason == "" {
				require.Nil(t, refusal, "%v", refusal)
				require.Equal(t, "alice", found.Subject)
				return
			}
			require.NotNil(t, refusal, "accepted")
			require.Equal(t, test.reason, refusal.Reason, "%v", refusal)
			require.ErrorContains(t, refusal, test.says)
			if scheme, _, _ := strings.Cut(test.headers[1], " "); scheme == "DPoP" && test.reason != extauthz.ReasonCredentialAmbiguous {
				require.Contains(t, refusal.Challenge, `DPoP realm="edge", error="`)
				require.Contains(t, refusal.Challenge, `algs="ES256 ES384 Ed25519 EdDSA PS256"`)
			}
			require.NotContains(t, refusal.Error(), bound[len(bound)-20:])
		})
	}
}

// newGuardOf is the fixture with a guard that has seen nothing yet.
func newGuardOf(f *fixture) *fixture {
	fresh := *f
	fresh.renew(nil)
	return &fresh
}

func TestProofsAreTakenOnce(t *testing.T) {
	f := newFixture(t, nil)
	method, now := f.method(nil), authtest.Now()
	bound := f.token(f.jkt())
	use := func(now time.Time, claims map[string]any) extauthz.Reason {
		_, refusal := outcome(method, request("authorization", "DPoP "+bound, "dpop", f.proof(f.client, bound, nil, claims)), now)
		if refusal == nil {
			return ""
		}
		require.Contains(t, refusal.Challenge, "invalid_dpop_proof")
		return refusal.Reason
	}
	require.Empty(t, use(now, nil))
	require.Equal(t, extauthz.ReasonDPoPReplayed, use(now, nil))
	require.Equal(t, "DPOP_PROOF_INVALID", extauthz.ReasonDPoPReplayed.Fault().Reason, "what was used before is not the client's to learn")
	require.Empty(t, use(now, map[string]any{"jti": "id-2"}))
	// Seen until it is too old, whatever the clock does in between.
	require.Equal(t, extauthz.ReasonDPoPReplayed, use(now.Add(time.Minute), nil))
	require.Equal(t, extauthz.ReasonDPoPReplayed, use(now, nil))
	require.Equal(t, extauthz.ReasonDPoPInvalid, use(now.Add(61*time.Second), nil))
}

type brokenStore struct{}

func (brokenStore) First(context.Context, replay.ID, time.Time, time.Duration) (bool, error) {
	return true, errors.New("down")
}

func TestStoreThatCannotSay(t *testing.T) {
	f := newFixture(t, brokenStore{})
	bound := f.token(f.jkt())
	_, refusal := outcome(f.method(nil), request("authorization", "DPoP "+bound, "dpop", f.proof(f.client, bound, nil, nil)), authtest.Now())
	require.Equal(t, extauthz.ReasonReplayUnknown, refusal.Reason)
	require.Equal(t, "Unavailable", refusal.Reason.Fault().Kind.String())
}

func TestNonces(t *testing.T) {
	f := newFixture(t, nil)
	method := f.method(&rulesv1.SenderConstraint{Dpop: &rulesv1.DpopTerms{RequireNonce: true}})
	bound := f.token(f.jkt())
	start := authtest.Now()
	ask := func(now time.Time, claims map[string]any) (*extauthz.Proof, *extauthz.Refusal) {
		return outcome(method, request("authorization", "DPoP "+bound, "dpop", f.proof(f.client, bound, nil, claims)), now)
	}
	_, refusal := ask(start, nil)
	require.Equal(t, extauthz.ReasonDPoPNonce, refusal.Reason)
	require.Contains(t, refusal.Challenge, `error="use_dpop_nonce"`)
	require.Equal(t, "dpop-nonce", refusal.ResponseHeaders[0].Name)
	nonce := refusal.ResponseHeaders[0].Value
	found, refusal := ask(start, map[string]any{"nonce": nonce, "jti": "a"})
	require.Nil(t, refusal)
	require.Empty(t, found.ResponseHeaders, "a new nonce needs no other yet")
	// A client whose clock is off is told the time by the nonce.
	_, refusal = ask(start, map[string]any{"nonce": nonce, "jti": "b", "iat": start.Add(-4 * time.Minute).Unix()})
	require.Nil(t, refusal)
	_, refusal = ask(start, map[string]any{"nonce": nonce, "jti": "c", "iat": start.Add(-6 * time.Minute).Unix()})
	require.Equal(t, extauthz.ReasonDPoPInvalid, refusal.Reason)
	// An older one still works and is replaced; then it does not work any more.
	found, refusal = ask(start.Add(3*time.Minute), map[string]any{"nonce": nonce, "jti": "d"})
	require.Nil(t, refusal)
	require.NotEqual(t, nonce, found.ResponseHeaders[0].Value)
	_, refusal = ask(start.Add(6*time.Minute), map[string]any{"nonce": nonce, "jti": "e", "iat": start.Add(6 * time.Minute).Unix()})
	require.Equal(t, extauthz.ReasonDPoPNonce, refusal.Reason)
	require.NotEqual(t, nonce, refusal.ResponseHeaders[0].Value)
	// One from the future is not ours.
	_, refusal = ask(start.Add(-time.Minute), map[string]any{"nonce": nonce, "jti": "f", "iat": start.Add(-time.Minute).Unix()})
	require.Equal(t, extauthz.ReasonDPoPNonce, refusal.Reason)
}

func TestNonceSecrets(t *testing.T) {
	now := authtest.Now()
	a, b := []byte(strings.Repeat("a", 32)), []byte(strings.Repeat("b", 32))
	old, err := proof.NewNonces(a)
	require.NoError(t, err)
	both, err := proof.NewNonces(b, a)
	require.NoError(t, err)
	next, err := proof.NewNonces(b)
	require.NoError(t, err)
	_, err = both.Check(old.Issue(now), now)
	require.NoError(t, err)
	_, err = next.Check(both.Issue(now), now)
	require.NoError(t, err)
	_, err = next.Check(old.Issue(now), now)
	require.Error(t, err)
	for _, text := range []string{"", "a", old.Issue(now) + "A", strings.Repeat("A", 32)} {
		_, err = old.Check(text, now)
		require.Error(t, err, text)
	}
	_, err = proof.NewNonces([]byte("short"))
	require.ErrorContains(t, err, "32")
}

func TestCertificateBoundTokens(t *testing.T) {
	f := newFixture(t, nil)
	other := authtest.NewAuthority(t, "other").Client(nil, "a.example")
	bound := f.token(f.x5t())
	both := f.token(map[string]any{"x5t#S256": f.x5t()["x5t#S256"], "jkt": f.jkt()["jkt"]})
	header := &rulesv1.ClientCertificateSource{From: rulesv1.ClientCertificateSource_FROM_CLIENT_CERT, TrustedAddresses: []string{"10.0.0.0/8"}}
	for name, test := range map[string]struct {
		source      *rulesv1.ClientCertificateSource
		certificate *x509.Certificate
		peer        string
		headers     []string
		reason      extauthz.Reason
	}{
		"good":                       {nil, f.cert, "", []string{"authorization", "Bearer " + bound}, ""},
		"another certificate":        {nil, other, "", []string{"authorization", "Bearer " + bound}, extauthz.ReasonTokenBinding},
		"none":                       {nil, nil, "", []string{"authorization", "Bearer " + bound}, extauthz.ReasonTokenBinding},
		"as DPoP":                    {nil, f.cert, "", []string{"authorization", "DPoP " + bound}, extauthz.ReasonTokenBinding},
		"in a header not asked for":  {nil, nil, "10.0.0.1", []string{"authorization", "Bearer " + bound, "client-cert", der(f.cert)}, extauthz.ReasonTokenBinding},
		"told by a hop":              {header, nil, "10.0.0.1", []string{"authorization", "Bearer " + bound, "client-cert", der(f.cert)}, ""},
		"told by anybody":            {header, nil, "11.0.0.1", []string{"authorization", "Bearer " + bound, "client-cert", der(f.cert)}, extauthz.ReasonTokenBinding},
		"told twice":                 {header, nil, "10.0.0.1", []string{"authorization", "Bearer " + bound, "client-cert", der(f.cert), "client-cert", der(f.cert)}, extauthz.ReasonTokenBinding},
		"told another":               {header, nil, "10.0.0.1", []string{"authorization", "Bearer " + bound, "client-cert", der(other)}, extauthz.ReasonTokenBinding},
		"both, both proven":          {nil, f.cert, "", []string{"authorization", "DPoP " + both, "dpop", f.proof(f.client, both, nil, nil)}, ""},
		"both, no proof":             {nil, f.cert, "", []string{"authorization", "DPoP " + both}, extauthz.ReasonDPoPInvalid},
		"both, no certificate":       {nil, nil, "", []string{"authorization", "DPoP " + both, "dpop", f.proof(f.client, both, nil, nil)}, extauthz.ReasonTokenBinding},
		"both, as bearer":            {nil, f.cert, "", []string{"authorization", "Bearer " + both}, extauthz.ReasonTokenBinding},
		"thumbprint that is no hash": {nil, f.cert, "", []string{"authorization", "Bearer " + f.token(map[string]any{"x5t#S256": "abc"})}, extauthz.ReasonTokenBinding},
		"thumbprint that is a list":  {nil, f.cert, "", []string{"authorization", "Bearer " + f.token(map[string]any{"x5t#S256": []string{"abc"}})}, extauthz.ReasonTokenBinding},
	} {
		t.Run(name, func(t *testing.T) {
			f := newGuardOf(f)
			r := request(test.headers...)
			if r.Source = test.peer; test.certificate != nil {
				r.Certificate = authtest.EncodedPEM(test.certificate)
			}
			_, refusal := outcome(f.method(&rulesv1.SenderConstraint{Certificate: test.source}), r, authtest.Now())
			if test.reason == "" {
				require.Nil(t, refusal, "%v", refusal)
				return
			}
			require.NotNil(t, refusal, "accepted")
			require.Equal(t, test.reason, refusal.Reason, "%v", refusal)
		})
	}
}

func der(certificate *x509.Certificate) string {
	return ":" + base64.StdEncoding.EncodeToString(certificate.Raw) + ":"
}

// A token that was verified before is as bound as the first time.
func TestTheCacheLiftsNothing(t *testing.T) {
	f := newFixture(t, nil)
	method, now := f.method(nil), authtest.Now()
	bound := f.token(f.jkt())
	_, refusal := outcome(method, request("authorization", "DPoP "+bound, "dpop", f.proof(f.client, bound, nil, nil)), now)
	require.Nil(t, refusal)
	for _, headers := range [][]string{
		{"authorization", "Bearer " + bound},
		{"authorization", "DPoP " + bound},
		{"authorization", "DPoP " + bound, "dpop", f.proof(f.other, bound, nil, nil)},
	} {
		_, refusal = outcome(method, request(headers...), now)
		require.NotNil(t, refusal)
	}
}

func TestWhatIsDemanded(t *testing.T) {
	f := newFixture(t, nil)
	none, jkt, x5t := f.token(nil), f.token(f.jkt()), f.token(f.x5t())
	type demand = rulesv1.SenderConstraint_Require
	for name, test := range map[string]struct {
		require   demand
		good, bad []string
		challenge string
	}{
		"nothing":     {rulesv1.SenderConstraint_REQUIRE_UNSPECIFIED, []string{none, jkt, x5t}, nil, `Bearer realm="edge"`},
		"any":         {rulesv1.SenderConstraint_REQUIRE_ANY, []string{jkt, x5t}, []string{none}, `Bearer realm="edge", DPoP realm="edge", algs="ES256 ES384 Ed25519 EdDSA PS256"`},
		"certificate": {rulesv1.SenderConstraint_REQUIRE_CERTIFICATE, []string{x5t}, []string{none, jkt}, `Bearer realm="edge"`},
		"DPoP":        {rulesv1.SenderConstraint_REQUIRE_DPOP, []string{jkt}, []string{none, x5t}, `DPoP realm="edge", algs="ES256 ES384 Ed25519 EdDSA PS256"`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newGuardOf(f)
			method := f.method(&rulesv1.SenderConstraint{Require: test.require})
			require.Equal(t, test.challenge, method.Challenge("edge"))
			ask := func(text string) *extauthz.Refusal {
				headers := []string{"authorization", "Bearer " + text}
				if text == jkt {
					headers = []string{"authorization", "DPoP " + text, "dpop", f.proof(f.client, text, nil, nil)}
				}
				r := request(headers...)
				r.Certificate = authtest.EncodedPEM(f.cert)
				_, refusal := outcome(method, r, authtest.Now())
				return refusal
			}
			for i, text := range test.good {
				require.Nil(t, ask(text), i)
			}
			for i, text := range test.bad {
				require.Equal(t, extauthz.ReasonTokenNotBound, ask(text).Reason, i)
			}
		})
	}
}

// Envoy takes the port off the host, so the one that was connected to counts.
func TestPorts(t *testing.T) {
	f := newFixture(t, nil)
	bound := f.token(f.jkt())
	for i, test := range []struct {
		authority string
		port      uint32
		target    string
		ok        bool
	}{
		{"api.example", 8443, "https://api.example:8443/v1/users", true},
		{"api.example", 8443, "https://api.example/v1/users", true},
		{"api.example", 8443, "https://api.example:9443/v1/users", false},
		{"api.example", 0, "https://api.example:8443/v1/users", false},
		{"api.example:9443", 8443, "https://api.example:9443/v1/users", true},
		{"api.example:9443", 8443, "https://api.example:8443/v1/users", false},
		{"[::1]", 8443, "https://[::1]:8443/v1/users", true},
	} {
		r := request("authorization", "DPoP "+bound, "dpop", f.proof(f.client, bound, nil, map[string]any{"htu": test.target, "jti": strconv.Itoa(i)}))
		r.Authority, r.Port = test.authority, test.port
		_, refusal := outcome(f.method(nil), r, authtest.Now())
		require.Equal(t, test.ok, refusal == nil, "%v: %v", test, refusal)
	}
}

// What a gateway translates is proven as the client sent it.
func TestTranscodedRequests(t *testing.T) {
	f := newFixture(t, nil)
	bound := f.token(f.jkt())
	r := request("authorization", "DPoP "+bound, "dpop", f.proof(f.client, bound, nil, nil),
		"x-envoy-original-path", "/v1/users?page=2", "x-envoy-original-method", "GET")
	r.Method, r.Target = "POST", "/weir.user.v1.UserService/ListUsers"
	_, refusal := outcome(f.method(nil), r, authtest.Now())
	require.NotNil(t, refusal, "the headers count for what was translated to gRPC only")
	r.GRPC = true
	_, refusal = outcome(f.method(nil), r, authtest.Now())
	require.Nil(t, refusal)
}

func TestConstraintsThatCannotWork(t *testing.T) {
	f := newFixture(t, nil)
	for says, constraint := range map[string]*rulesv1.SenderConstraint{
		"require: 9":                    {Require: 9},
		"certificate.source.from":       {Certificate: &rulesv1.ClientCertificateSource{From: 9}},
		`dpop.algorithms[0]: "HS256"`:   {Dpop: &rulesv1.DpopTerms{Algorithms: []string{"HS256"}}},
		"dpop.max_age: 0s":              {Dpop: &rulesv1.DpopTerms{MaxAge: durationpb.New(0)}},
		"dpop.max_age: 11m0s":           {Dpop: &rulesv1.DpopTerms{MaxAge: durationpb.New(11 * time.Minute)}},
		`dpop.scheme: "ftp" is neither`: {Dpop: &rulesv1.DpopTerms{Scheme: "ftp"}},
	} {
		source := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, f.ring.EC)))
		source.SenderConstraint = constraint
		_, err := f.guard.Build(source, extauthz.Place{})
		require.ErrorContains(t, err, "sender_constraint."+says)
	}
	method, err := f.guard.Build(authtest.APIKey(), extauthz.Place{})
	require.NoError(t, err)
	require.Nil(t, method)
	c, err := extauthz.NewCompiler(f.guard)
	require.NoError(t, err)
	key := authtest.APIKey()
	key.SenderConstraint = &rulesv1.SenderConstraint{}
	_, err = c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", key)})
	require.ErrorContains(t, err, "sender_constraint: is for methods that take tokens")
}
