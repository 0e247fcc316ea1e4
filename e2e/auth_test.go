package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	userv1 "weir.dev/api/gen/weir/user/v1"
	"weir.dev/e2e/internal/harness"
)

// developmentKey reads the issuer's private key, as an attacker cannot.
func developmentKey(t *testing.T, s *harness.System) (*ecdsa.PrivateKey, string) {
	t.Helper()
	var key *ecdsa.PrivateKey
	require.NoError(t, filepath.WalkDir(filepath.Join(s.State, "credentials"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || key != nil {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if parsed, err := jwt.ParseECPrivateKeyFromPEM(raw); err == nil {
			key = parsed
		}
		return nil
	}))
	require.NotNil(t, key, "no private key in the credentials folder")
	token, _, err := jwt.NewParser().ParseUnverified(s.Token, jwt.MapClaims{})
	require.NoError(t, err)
	return key, token.Header["kid"].(string)
}

func sign(t *testing.T, key any, method jwt.SigningMethod, kid string, change func(claims jwt.MapClaims, header map[string]any)) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iss": "https://issuer.weir.local", "aud": "weir", "sub": "quickstart-user", "tenant": "demo",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = kid
	token.Header["typ"] = "at+jwt"
	if change != nil {
		change(claims, token.Header)
	}
	signed, err := token.SignedString(key)
	require.NoError(t, err)
	return signed
}

func TestCredentials(t *testing.T) {
	s, backend := edge(t, "")
	key, kid := developmentKey(t, s)
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	es256 := func(change func(jwt.MapClaims, map[string]any)) string {
		return "Bearer " + sign(t, key, jwt.SigningMethodES256, kid, change)
	}
	unsigned := func() string {
		header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
		return "Bearer " + header + "." + strings.Split(s.Token, ".")[1] + "."
	}
	tampered := func() string {
		parts := strings.Split(s.Token, ".")
		raw, err := base64.RawURLEncoding.DecodeString(parts[1])
		require.NoError(t, err)
		parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(raw), "demo", "evil", 1)))
		return "Bearer " + strings.Join(parts, ".")
	}
	good := []struct {
		name    string
		headers []string
	}{
		{"key", []string{"X-API-Key", s.APIKey}},
		{"token", []string{"Authorization", "Bearer " + s.Token}},
		{"token, scheme in other case", []string{"Authorization", "bearer " + s.Token}},
	}
	for _, c := range good {
		t.Run(c.name, func(t *testing.T) {
			answer := s.Do(http.MethodGet, "/closed", "", c.headers...)
			require.Equal(t, http.StatusOK, answer.Status, answer.Body)
			var seen echoed
			require.NoError(t, json.Unmarshal([]byte(answer.Body), &seen))
			require.Equal(t, "demo", seen.Headers.Get("x-weir-tenant"))
			require.Empty(t, seen.Headers.Get("X-Api-Key"), "the credential must not reach the service")
			require.Empty(t, seen.Headers.Get("Authorization"), "the credential must not reach the service")
			require.Empty(t, answer.Header.Get("x-weir-consumer"), "identity headers are for services")
		})
	}
	bad := []struct {
		name    string
		status  int
		headers []string
	}{
		{"no credential", 401, nil},
		{"wrong key", 401, []string{"X-API-Key", "weir_" + strings.Repeat("A", 43)}},
		{"empty key", 401, []string{"X-API-Key", ""}},
		{"key twice", 400, []string{"X-API-Key", s.APIKey, "X-API-Key", s.APIKey}},
		{"basic instead of bearer", 401, []string{"Authorization", "Basic " + s.Token}},
		{"expired", 401, []string{"Authorization", es256(func(c jwt.MapClaims, _ map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() })}},
		{"no expiry", 401, []string{"Authorization", es256(func(c jwt.MapClaims, _ map[string]any) { delete(c, "exp") })}},
		{"not yet valid", 401, []string{"Authorization", es256(func(c jwt.MapClaims, _ map[string]any) { c["nbf"] = time.Now().Add(time.Hour).Unix() })}},
		{"wrong audience", 401, []string{"Authorization", es256(func(c jwt.MapClaims, _ map[string]any) { c["aud"] = "other" })}},
		{"wrong issuer", 401, []string{"Authorization", es256(func(c jwt.MapClaims, _ map[string]any) { c["iss"] = "https://evil.example" })}},
		{"unsigned", 401, []string{"Authorization", unsigned()}},
		{"tampered", 401, []string{"Authorization", tampered()}},
		{"signed by another key", 401, []string{"Authorization", "Bearer " + sign(t, foreign, jwt.SigningMethodES256, kid, nil)}},
		{"symmetric with the public key", 401, []string{"Authorization", "Bearer " + sign(t, elliptic.MarshalCompressed(elliptic.P256(), key.X, key.Y), jwt.SigningMethodHS256, kid, nil)}},
		{"wrong type", 401, []string{"Authorization", es256(func(_ jwt.MapClaims, h map[string]any) { h["typ"] = "dpop+jwt" })}},
		{"no tenant", 403, []string{"Authorization", es256(func(c jwt.MapClaims, _ map[string]any) { delete(c, "tenant"); c["sub"] = "nobody" })}},
		{"good key, bad token", 401, []string{"X-API-Key", "wrong", "Authorization", "Bearer " + s.Token}},
	}
	reached := backend.requests.Load()
	for _, c := range bad {
		t.Run(c.name, func(t *testing.T) {
			answer := s.Do(http.MethodGet, "/closed", "", c.headers...)
			require.Equal(t, c.status, answer.Status, answer.Body)
			require.Equal(t, "application/problem+json", answer.Header.Get("Content-Type"))
			var problem harness.Problem
			require.NoError(t, json.Unmarshal([]byte(answer.Body), &problem))
			require.NotEmpty(t, problem.Code)
			require.Equal(t, answer.Header.Get("X-Request-Id"), problem.RequestID)
			if c.status == 401 {
				require.NotEmpty(t, answer.Header.Get("WWW-Authenticate"))
			}
		})
	}
	require.Equal(t, reached, backend.requests.Load(), "a refused request reached the service")
}

func TestRefusalOverGRPC(t *testing.T) {
	s := harness.Start(t, nil)
	before := s.Calls("userd")
	for _, transport := range s.Transports("X-API-Key", "weir_wrong")[:2] {
		err := transport.Call(t.Context(), userv1.UserService_ListUsers_FullMethodName, &userv1.ListUsersRequest{}, &userv1.ListUsersResponse{})
		require.Equal(t, codes.Unauthenticated, status.Code(err), "%s: %v", transport.Name(), err)
		require.NotEmpty(t, status.Convert(err).Details(), transport.Name())
	}
	require.Equal(t, before, s.Calls("userd"))
}

func TestSpoofedIdentityHeaders(t *testing.T) {
	s, _ := edge(t, "")
	forged := []string{"x-weir-tenant", "evil", "X-Weir-Consumer", "default/root", "x-weir-scopes", "admin", "x-weir-anything", "1"}
	for path, tenant := range map[string]string{"/open": "", "/closed": "demo"} {
		answer := s.Get(path, forged...)
		require.Equal(t, http.StatusOK, answer.Status)
		var seen echoed
		require.NoError(t, json.Unmarshal([]byte(answer.Body), &seen))
		require.Equal(t, tenant, seen.Headers.Get("x-weir-tenant"), path)
		require.NotEqual(t, "default/root", seen.Headers.Get("x-weir-consumer"), path)
		require.NotEqual(t, "admin", seen.Headers.Get("x-weir-scopes"), path)
		require.Empty(t, seen.Headers.Get("x-weir-anything"), path)
	}
}

func TestMalformedAndOversized(t *testing.T) {
	s, _ := edge(t, "")
	key := s.Key()
	json := append([]string{"Content-Type", "application/json"}, key...)
	usersBefore := s.Calls("userd")
	s.Do(http.MethodGet, "/closed", "", append([]string{"X-Big", strings.Repeat("a", 70<<10)}, key...)...).Problem(t, 431, "HEADERS_TOO_LARGE")
	s.Do(http.MethodPost, "/v1/organizations", `{"displayName": `, json...).Problem(t, 400, "BAD_REQUEST")
	s.Do(http.MethodGet, "/v1/users?noSuchParameter=1", "", key...).Problem(t, 400, "BAD_REQUEST")
	s.Do(http.MethodGet, "/closed%2f..%2fopen", "", key...).Problem(t, 400, "BAD_REQUEST")
	s.Do(http.MethodGet, "/closed", "", append([]string{"under_score", "1"}, key...)...).Problem(t, 400, "BAD_REQUEST")
	s.Do(http.MethodGet, "/nowhere", "", key...).Problem(t, 404, "ROUTE_NOT_FOUND")
	s.Do(http.MethodGet, "/closed?slow", "", key...).Problem(t, 504, "UPSTREAM_TIMEOUT")
	require.Equal(t, usersBefore, s.Calls("userd"), "a malformed request reached the service")
	// Who refuses it, the edge or the service, depends on the pieces in which it
	// arrives: the client sees the same.
	for _, size := range []int{5 << 20, 9 << 20} {
		body := `{"displayName": "` + strings.Repeat("a", size) + `"}`
		s.Do(http.MethodPost, "/v1/organizations", body, json...).Problem(t, 413, "PAYLOAD_TOO_LARGE")
	}
}

// Requests whose path the edge and a policy could see differently must not
// slip through the open route to the closed one or the other way round.
func TestPathsAreCanonical(t *testing.T) {
	s, backend := edge(t, "")
	reached := backend.requests.Load()
	for _, path := range []string{"//closed", "/open/../closed", "/./closed", "/open/%2e%2e/closed", "/closed/", "/closed//x"} {
		answer := s.Do(http.MethodGet, path, "")
		require.Contains(t, []int{400, 401, 404}, answer.Status, "%s: %s", path, answer.Body)
	}
	require.Equal(t, reached, backend.requests.Load())
}

func TestUpstreamDownIsAProblem(t *testing.T) {
	s, backend := edge(t, "")
	backend.CloseClientConnections()
	backend.Close()
	s.Get("/closed").Problem(t, 503, "UPSTREAM_UNAVAILABLE")
}

// What cannot be passed on to a service is the client's mistake, and says so.
func TestTextThatIsNotUTF8(t *testing.T) {
	s := harness.Start(t, nil)
	answer := s.Get("/v1/organizations?filter=%ff")
	require.Equal(t, http.StatusBadRequest, answer.Status, answer.Body)
	require.Equal(t, "application/problem+json", answer.Header.Get("Content-Type"))
	require.Contains(t, answer.Body, answer.Header.Get("X-Request-Id"))
}
