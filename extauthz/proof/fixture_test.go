package proof_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/certauth"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/proof"
	"weir.dev/extauthz/replay"
	"weir.dev/extauthz/token"
)

// fixture is a guard around real token verifiers.
type fixture struct {
	t      testing.TB
	ring   authtest.Ring
	guard  *proof.Guard
	nonces *proof.Nonces
	client authtest.Key
	other  authtest.Key
	cert   *x509.Certificate
}

func newFixture(t testing.TB, used replay.Store) *fixture {
	t.Helper()
	f := &fixture{t: t, ring: authtest.NewRing(t), cert: authtest.NewAuthority(t, "root").Client(nil, "a.example")}
	f.client, f.other = ecKey(t), ecKey(t)
	f.renew(used)
	return f
}

func ecKey(t testing.TB) authtest.Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return authtest.Key{Algorithm: "ES256", Private: private}
}

// renew gives the fixture a guard that has seen nothing yet.
func (f *fixture) renew(used replay.Store) {
	f.t.Helper()
	verifiers, err := token.NewVerifiers(token.Options{})
	require.NoError(f.t, err)
	reader, err := certauth.NewReader()
	require.NoError(f.t, err)
	f.nonces, err = proof.NewNonces()
	require.NoError(f.t, err)
	if used == nil {
		used = replay.NewMemory(0)
	}
	f.guard = proof.NewGuard(verifiers, proof.Options{Certificates: reader, Nonces: f.nonces, Used: used})
}

func (f *fixture) method(constraint *rulesv1.SenderConstraint) extauthz.Method {
	f.t.Helper()
	source := authtest.JWT("jwt", authtest.Provider(authtest.KeySet(f.t, f.ring.EC)))
	source.SenderConstraint = constraint
	method, err := f.guard.Build(source, extauthz.Place{Siblings: []*rulesv1.Authenticator{source}})
	require.NoError(f.t, err)
	return method
}

func (f *fixture) token(cnf any) string {
	return f.ring.EC.Token(f.t, nil, authtest.Claims(map[string]any{"cnf": cnf}))
}

func thumbprint(t testing.TB, key authtest.Key) string {
	t.Helper()
	_, jkt, err := proof.ParseJWK(key.JWK(t))
	require.NoError(t, err)
	return jkt
}

func (f *fixture) jkt() map[string]any { return map[string]any{"jkt": thumbprint(f.t, f.client)} }

func (f *fixture) x5t() map[string]any {
	sum := sha256.Sum256(f.cert.Raw)
	return map[string]any{"x5t#S256": authtest.B64(sum[:])}
}

// proof signs a good proof with changes; nil removes.
func (f *fixture) proof(key authtest.Key, accessToken string, header, claims map[string]any) string {
	f.t.Helper()
	return dpop(f.t, key, accessToken, header, claims)
}

func dpop(t testing.TB, key authtest.Key, accessToken string, header, claims map[string]any) string {
	t.Helper()
	sum := sha256.Sum256([]byte(accessToken))
	all := map[string]any{
		"jti": "id-1", "htm": "GET", "htu": "https://api.example/v1/users", "iat": authtest.Now().Unix(), "ath": authtest.B64(sum[:]),
	}
	for name, value := range claims {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	jwk := key.JWK(t)
	delete(jwk, "kid")
	head := map[string]any{"typ": "dpop+jwt", "jwk": jwk, "kid": nil}
	for name, value := range header {
		head[name] = value
	}
	return key.Token(t, head, all)
}

func request(headers ...string) *extauthz.Request {
	r := &extauthz.Request{Method: "GET", Target: "/v1/users?page=2", Authority: "api.example"}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, extauthz.Header{Name: headers[i], Value: headers[i+1]})
	}
	return r
}

// outcome asks as Decide does: first for presence.
func outcome(method extauthz.Method, r *extauthz.Request, now time.Time) (*extauthz.Proof, *extauthz.Refusal) {
	if presence := method.Presence(r); presence == extauthz.Ambiguous {
		return nil, extauthz.Refuse(extauthz.ReasonCredentialAmbiguous, nil)
	}
	found, err := method.Prove(context.Background(), &extauthz.Call{Now: now, Request: r, Realm: "edge"})
	if err == nil {
		return found, nil
	}
	var refusal *extauthz.Refusal
	if !errors.As(err, &refusal) {
		return nil, extauthz.Refuse(extauthz.ReasonInternal, err)
	}
	return nil, refusal
}
