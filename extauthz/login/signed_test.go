package login_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// signing has the world's client prove itself by a key, and its provider take
// nothing else.
func signing(t *testing.T, w *world, audience string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	w.rules.ClientAuthentication = rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT
	w.rules.ClientSecret = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	w.rules.AssertionAudience = audience
	if audience == "" {
		audience = w.op.server.URL + "/token"
	}
	seen := map[string]bool{} // the provider's lock is held
	w.op.client = func(r *http.Request) bool {
		if _, _, basic := r.BasicAuth(); basic || r.Form.Has("client_secret") || len(r.Form["client_id"]) != 1 || r.Form.Get("client_id") != "weir-app" ||
			r.Form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
			return false
		}
		var said jwt.RegisteredClaims
		_, err := jwt.ParseWithClaims(r.Form.Get("client_assertion"), &said, func(*jwt.Token) (any, error) { return key.Public(), nil },
			jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience(audience), jwt.WithIssuer("weir-app"), jwt.WithSubject("weir-app"),
			jwt.WithExpirationRequired(), jwt.WithTimeFunc(w.clock.now))
		if err != nil || said.ID == "" || seen[said.ID] || said.ExpiresAt.Sub(w.clock.now()) > time.Minute {
			return false
		}
		seen[said.ID] = true
		return true
	}
}

func TestLoginByPrivateKeyJWT(t *testing.T) {
	for name, audience := range map[string]string{"of the token endpoint": "", "of the issuer": "https://issuer.example"} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, w *world) {
				signing(t, w, audience)
				w.op.lives = 60
				b := w.browser()
				b.login("/", "alice")
				w.clock.pass(2 * time.Minute)
				require.True(t, b.visit("/").Allowed)
				require.EqualValues(t, 1, w.op.renewals.Load(), "refreshed by the key, too")
				w.clock.pass(2 * time.Minute)
				require.True(t, b.visit("/").Allowed)
				require.EqualValues(t, 2, w.op.renewals.Load(), "and again, with another assertion, when that token is over")
				b.do(w.replica, "POST", "/oauth2/logout", "", "accept", "text/html", "sec-fetch-site", "same-origin")
				require.EqualValues(t, 1, w.op.revoked.Load())
				require.Zero(t, w.op.unproven.Load(), "the revocation is proven as well")
			})
		})
	}
}

// Without its key the client is nobody: what the tests above pass is looked at.
func TestLoginByAnotherKeyFails(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	signing(t, w, "")
	taken := w.op.client
	signing(t, w, "")
	w.op.client = taken // of the first key
	b := w.browser()
	decision := b.visit("/")
	decision = b.visit(target(w.op.authorize(location(t, &decision), "alice")))
	require.False(t, decision.Allowed)
	require.False(t, b.visit("/").Allowed)
	require.NotContains(t, decision.Cause.Error(), "PRIVATE KEY")
}

func TestLoginKeysThatAreNone(t *testing.T) {
	w := newWorld(t, rulesv1.LoginSession_STORE_COOKIE)
	w.rules.ClientAuthentication = rulesv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT
	for says, secret := range map[string]string{"client_secret: is required": "", "client_secret: is no private key in PEM": "s3cret"} {
		w.rules.ClientSecret = secret
		_, err := w.builder.Build(&rulesv1.Authenticator{Name: "people", Method: &rulesv1.Authenticator_Login{Login: w.rules}}, extauthz.Place{})
		require.ErrorContains(t, err, says)
	}
}
