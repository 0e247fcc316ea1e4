package development_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"weir.dev/cli/development"
)

func documents(t *testing.T, files []development.File) map[string]map[string]any {
	t.Helper()
	found := map[string]map[string]any{}
	for _, file := range files {
		decoder := yaml.NewDecoder(bytes.NewReader(file.Content))
		for {
			var document map[string]any
			err := decoder.Decode(&document)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			found[document["kind"].(string)+"/"+document["metadata"].(map[string]any)["name"].(string)] = document
		}
	}
	return found
}

func TestObjects(t *testing.T) {
	in := development.Input{APIKeySHA256: strings.Repeat("ab", 32), JWKS: []byte(`{"keys":[]}`), UserPort: 4001, DataPort: 4002}
	files, err := development.Objects(in)
	require.NoError(t, err)
	again, err := development.Objects(in)
	require.NoError(t, err)
	require.Equal(t, files, again)
	got := documents(t, files)
	require.Len(t, got, 4)
	require.Equal(t, map[string]any{"jwks.json": `{"keys":[]}`}, got["ConfigMap/weir-development-issuer"]["data"])
	require.Equal(t, map[string]any{
		"tenant": "demo", "tier": "free",
		"apiKeys":       []any{map[string]any{"name": "default", "sha256": in.APIKeySHA256, "scopes": []any{"user:read", "user:write", "data:read", "data:write"}}},
		"tokenSubjects": []any{map[string]any{"issuer": "https://issuer.weir.local", "subject": "quickstart-user"}},
	}, got["Consumer/quickstart"]["spec"])
	require.Equal(t, map[string]any{
		"protocol":  "GRPC",
		"endpoints": []any{map[string]any{"address": "127.0.0.1", "port": 4002}},
		"tls":       map[string]any{"spiffeID": "spiffe://weir.local/data"},
		"transcoding": map[string]any{
			"descriptorSetRef": map[string]any{"name": "data-descriptors", "key": "descriptors.binpb"},
			"services":         []any{"weir.data.v1.DataService"},
		},
	}, got["Backend/data"]["spec"])
	require.Equal(t, "weir.dev/v1alpha1", got["Backend/user"]["apiVersion"])
}

func TestPlaceholdersHaveTheSameObjects(t *testing.T) {
	files, err := development.Placeholders()
	require.NoError(t, err)
	require.Len(t, documents(t, files), 4)
}

func TestCredentialsAreKeptAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "credentials")
	_, err := development.OpenCredentials(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	first, err := development.EnsureCredentials(dir)
	require.NoError(t, err)
	require.Regexp(t, `^weir_[A-Za-z0-9_-]{43}$`, first.APIKey())
	second, err := development.EnsureCredentials(dir)
	require.NoError(t, err)
	require.Equal(t, first, second)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	for _, entry := range entries {
		info, err := entry.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
}

func TestDamagedCredentialsAreNotReplaced(t *testing.T) {
	for _, name := range []string{"api-key", "token-signing-key.pem"} {
		dir := t.TempDir()
		_, err := development.EnsureCredentials(dir)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
		_, err = development.EnsureCredentials(dir)
		require.ErrorContains(t, err, name+" is damaged")
	}
}

func TestTokenIsVerifiedByTheJWKSAlone(t *testing.T) {
	credentials, err := development.NewCredentials()
	require.NoError(t, err)
	now := time.Now()
	token, err := credentials.Token(now)
	require.NoError(t, err)
	other, err := credentials.Token(now)
	require.NoError(t, err)
	require.NotEqual(t, token, other, "jti makes each token its own")

	raw, err := credentials.JWKS()
	require.NoError(t, err)
	require.NotContains(t, string(raw), `"d"`, "no private part")
	var set struct{ Keys []map[string]string }
	require.NoError(t, json.Unmarshal(raw, &set))
	require.Len(t, set.Keys, 1)

	key := publicKey(t, set.Keys[0])
	parsed, err := jwt.Parse(token, func(token *jwt.Token) (any, error) {
		require.Equal(t, set.Keys[0]["kid"], token.Header["kid"])
		require.Equal(t, "at+jwt", token.Header["typ"])
		return key, nil
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer("https://issuer.weir.local"), jwt.WithAudience("weir"), jwt.WithExpirationRequired())
	require.NoError(t, err)
	claims := parsed.Claims.(jwt.MapClaims)
	require.Equal(t, "quickstart-user", claims["sub"])
	require.Equal(t, "demo", claims["tenant"])
	require.Equal(t, "user:read user:write data:read data:write", claims["scope"])
	require.InDelta(t, now.Add(time.Hour).Unix(), claims["exp"], 1)
	require.NotEmpty(t, claims["jti"])
}
