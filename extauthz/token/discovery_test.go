package token_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/token"
)

// publishes has p answer as an issuer: its document with changes (nil takes a
// member away), and keys under /keys.
func (p *provider) publishes(t *testing.T, keys string, changes map[string]any) {
	t.Helper()
	document := map[string]any{
		"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL + "/authorize",
		"id_token_signing_alg_values_supported": []any{"HS256", "RS256", "ES256"},
	}
	for name, value := range changes {
		if document[name] = value; value == nil {
			delete(document, name)
		}
	}
	raw, err := json.Marshal(document)
	require.NoError(t, err)
	p.answer.Store(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_, _ = w.Write(raw)
		case "/keys":
			_, _ = io.WriteString(w, keys)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
}

func discovered(issuer string) *rulesv1.JwtAuthenticator {
	source := authtest.Provider("")
	source.Issuer = issuer
	source.Jwks = &rulesv1.JwtAuthenticator_DiscoveredJwks{DiscoveredJwks: &rulesv1.DiscoveredJwks{
		CacheDuration: durationpb.New(time.Minute), MaxStale: durationpb.New(10 * time.Minute), Timeout: durationpb.New(2 * time.Second),
	}}
	return source
}

func TestDiscovery(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.publishes(t, authtest.KeySet(t, ring.All()...), nil)
	verifier, err := verifiers(t, token.Options{}).Verifier(discovered(p.URL))
	require.NoError(t, err)
	by := func(key authtest.Key) string {
		return key.Token(t, nil, authtest.Claims(map[string]any{"iss": p.URL}))
	}
	proof, err := verifier.Verify(t.Context(), authtest.Now(), by(ring.EC))
	require.NoError(t, err)
	require.Equal(t, p.URL, proof.Issuer)
	_, err = verifier.Verify(t.Context(), authtest.Now(), by(ring.RSA))
	require.NoError(t, err)
	_, err = verifier.Verify(t.Context(), authtest.Now(), by(ring.Ed))
	require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err), "the policy accepts EdDSA, and the document does not list it")
	require.EqualValues(t, 2, p.calls.Load(), "the document and the keys, once")

	// The document changes its mind; the next look at it counts.
	p.publishes(t, authtest.KeySet(t, ring.All()...), map[string]any{"id_token_signing_alg_values_supported": []any{"EdDSA"}})
	later := authtest.Now().Add(11 * time.Minute)
	_, err = verifier.Verify(t.Context(), later, by(ring.EC))
	require.Equal(t, extauthz.ReasonTokenInvalid, reasonOf(t, err), "and takes what it verified before along")
	_, err = verifier.Verify(t.Context(), later, by(ring.Ed))
	require.NoError(t, err)
}

func TestDiscoveryThatLies(t *testing.T) {
	ring, other := authtest.NewRing(t), newProvider(t)
	other.says(authtest.KeySet(t, ring.EC))
	for name, changes := range map[string]map[string]any{
		"other issuer":          {"issuer": "https://evil.example"},
		"issuer with a slash":   {"issuer": "SELF/"},
		"issuer in other case":  {"issuer": "SELFUP"},
		"issuer a list":         {"issuer": []any{"SELF"}},
		"no issuer":             {"issuer": nil},
		"no keys":               {"jwks_uri": nil},
		"keys a list":           {"jwks_uri": []any{"SELF/keys"}},
		"keys in the clear":     {"jwks_uri": "http://issuer.example/keys"},
		"keys of a file":        {"jwks_uri": "file:///etc/passwd"},
		"keys relative":         {"jwks_uri": "/keys"},
		"keys with a user":      {"jwks_uri": "https://a:b@issuer.example/keys"},
		"keys not there":        {"jwks_uri": "SELF/nothing"},
		"keys are the document": {"jwks_uri": "SELF/.well-known/openid-configuration"},
		"algorithms a text":     {"id_token_signing_alg_values_supported": "ES256"},
		"symmetric only":        {"id_token_signing_alg_values_supported": []any{"HS256", "none"}},
		"no algorithms":         {"id_token_signing_alg_values_supported": []any{}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t)
			for member, value := range changes {
				if text, ok := value.(string); ok {
					changes[member] = strings.NewReplacer("SELFUP", strings.ToUpper(p.URL), "SELF", p.URL).Replace(text)
				}
			}
			p.publishes(t, authtest.KeySet(t, ring.EC), changes)
			verifier, err := verifiers(t, token.Options{}).Verifier(discovered(p.URL))
			require.NoError(t, err)
			signed := ring.EC.Token(t, nil, authtest.Claims(map[string]any{"iss": p.URL}))
			_, err = verifier.Verify(t.Context(), authtest.Now(), signed)
			require.Equal(t, extauthz.ReasonProviderUnavailable, reasonOf(t, err))
			p.publishes(t, authtest.KeySet(t, ring.EC), nil)
			_, err = verifier.Verify(t.Context(), authtest.Now().Add(time.Minute), signed)
			require.NoError(t, err, "negative control")
		})
	}
}

func TestDocumentByItsOwnURI(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.publishes(t, authtest.KeySet(t, ring.EC), map[string]any{"issuer": "shop"})
	source := discovered("shop")
	source.GetDiscoveredJwks().Uri = p.URL + "/.well-known/openid-configuration"
	verifier, err := verifiers(t, token.Options{}).Verifier(source)
	require.NoError(t, err)
	_, err = verifier.Verify(t.Context(), authtest.Now(), ring.EC.Token(t, nil, authtest.Claims(map[string]any{"iss": "shop"})))
	require.NoError(t, err)
	_, err = verifiers(t, token.Options{}).Verifier(discovered("shop"))
	require.ErrorContains(t, err, "discovered_jwks.uri: ")
}

func TestIssuerWithASlashAtItsEnd(t *testing.T) {
	ring, p := authtest.NewRing(t), newProvider(t)
	p.publishes(t, authtest.KeySet(t, ring.EC), map[string]any{"issuer": p.URL + "/"})
	verifier, err := verifiers(t, token.Options{}).Verifier(discovered(p.URL + "/"))
	require.NoError(t, err)
	_, err = verifier.Verify(t.Context(), authtest.Now(), ring.EC.Token(t, nil, authtest.Claims(map[string]any{"iss": p.URL + "/"})))
	require.NoError(t, err)
}
