package rpcserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	"weir.dev/kit/fault"
	"weir.dev/kit/identity"
	"weir.dev/kit/identity/assertion"
)

// What extauthz signed counts more than what the headers say.
func TestAssertionsNameTheCaller(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	point, err := private.PublicKey.Bytes()
	require.NoError(t, err)
	b64 := base64.RawURLEncoding.EncodeToString
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","kid":"k","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	}))
	defer server.Close()
	sign := func(audience string) string {
		payload, err := json.Marshal(map[string]any{
			"iss": "i", "aud": []string{audience}, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "caller": "alice", "scope": "a b",
		})
		require.NoError(t, err)
		input := b64([]byte(`{"alg":"ES256","kid":"k","typ":"weir-assertion+jwt"}`)) + "." + b64(payload)
		digest := sha256.Sum256([]byte(input))
		r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
		require.NoError(t, err)
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return input + "." + b64(signature)
	}
	verifier, err := assertion.NewVerifier("i", "users", server.URL, nil)
	require.NoError(t, err)
	call := func(g *guard, method string, pairs ...string) (identity.Identity, string) {
		ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs(pairs...))
		ctx, _, err := g.withCaller(ctx, method)
		if err != nil {
			return identity.Identity{}, fault.From(err).Reason
		}
		caller, _ := identity.FromContext(ctx)
		return caller, ""
	}
	const method = "/weir.user.v1.UserService/GetUser"
	optional, required, without := &guard{assertions: verifier}, &guard{assertions: verifier, asserted: true}, &guard{}
	for name, test := range map[string]struct {
		guard   *guard
		method  string
		pairs   []string
		subject string
		reason  string
	}{
		"signed":                 {optional, method, []string{"x-weir-assertion", sign("users"), "x-weir-subject", "root"}, "alice", ""},
		"signed, required":       {required, method, []string{"x-weir-assertion", sign("users")}, "alice", ""},
		"for others":             {optional, method, []string{"x-weir-assertion", sign("data")}, "", "ASSERTION_INVALID"},
		"twice":                  {optional, method, []string{"x-weir-assertion", sign("users"), "x-weir-assertion", sign("users")}, "", "IDENTITY_AMBIGUOUS"},
		"none":                   {optional, method, []string{"x-weir-subject", "bob"}, "bob", ""},
		"none, required":         {required, method, []string{"x-weir-subject", "bob"}, "", "ASSERTION_REQUIRED"},
		"health is not asked":    {required, "/grpc.health.v1.Health/Check", nil, "", ""},
		"where nothing verifies": {without, method, []string{"x-weir-assertion", "forged", "x-weir-subject", "bob"}, "bob", ""},
	} {
		caller, reason := call(test.guard, test.method, test.pairs...)
		require.Equal(t, test.reason, reason, name)
		require.Equal(t, test.subject, caller.Subject, name)
	}
	for says, config := range map[string]AssertionConfig{
		"keySet":               {KeySet: "http://example.com/", Issuer: "i", Audience: "a"},
		"issuer and audience":  {KeySet: "https://example.com/"},
		"not an https address": {Required: true},
	} {
		require.ErrorContains(t, config.validate(), says)
	}
}
