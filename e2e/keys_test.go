package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

type apiKey struct{ Name, Key, State, Consumer, LastUseTime string }

func issueKey(t *testing.T, s *harness.System, body string) apiKey {
	t.Helper()
	answer := s.Do(http.MethodPost, "/v1/apiKeys", body, append(s.Key(), "Content-Type", "application/json")...)
	require.Equal(t, http.StatusOK, answer.Status, answer.Body)
	var issued apiKey
	require.NoError(t, json.Unmarshal([]byte(answer.Body), &issued))
	require.NotEmpty(t, issued.Key)
	return issued
}

// A key issued over REST is accepted within a second, and refused within a second
// of being revoked, for good: also by an extauthz that starts anew while the user
// service is away.
func TestKeysLive(t *testing.T) {
	s, _ := edge(t, "")
	status := func(key string) int { return s.Do(http.MethodGet, "/closed", "", "X-API-Key", key).Status }

	issued := issueKey(t, s, `{"displayName": "CI", "scopes": ["user:read"]}`)
	require.Equal(t, "default/quickstart", issued.Consumer)
	took := s.Eventually("the key to be accepted", time.Second, func() bool { return status(issued.Key) == http.StatusOK })
	other := issueKey(t, s, `{}`)
	s.Eventually("the other key to be accepted", time.Second, func() bool { return status(other.Key) == http.StatusOK })
	answer := s.Do(http.MethodPost, "/v1/"+issued.Name+":revoke", "", s.Key()...)
	require.Equal(t, http.StatusOK, answer.Status, answer.Body)
	gone := s.Eventually("the key to be refused", time.Second, func() bool { return status(issued.Key) == http.StatusUnauthorized })
	t.Logf("accepted after %s, refused after %s", took, gone)
	s.Do(http.MethodGet, "/closed", "", "X-API-Key", issued.Key).Problem(t, http.StatusUnauthorized, "API_KEY_INVALID")

	// The service stands still, and extauthz starts anew without it.
	user := s.Component("userd").PID
	s.Freeze(user)
	t.Cleanup(func() { _ = syscall.Kill(user, syscall.SIGCONT) })
	before := s.Component("extauthzd").PID
	s.Signal("extauthzd", syscall.SIGKILL)
	for ended := time.Now().Add(patience); ; {
		require.NotEqual(t, http.StatusOK, status(issued.Key), "at no time")
		if status(other.Key) == http.StatusOK {
			break
		}
		require.True(t, time.Now().Before(ended), "the other key is accepted again")
	}
	require.NotEqual(t, before, s.Component("extauthzd").PID)
	require.Equal(t, http.StatusUnauthorized, status(issued.Key))
	require.Equal(t, http.StatusOK, status(s.APIKey))

	require.NoError(t, syscall.Kill(user, syscall.SIGCONT))
	s.Eventually("the user service to answer", 20*time.Second, func() bool { return s.Get("/v1/apiKeys").Status == http.StatusOK })
	third := issueKey(t, s, `{}`)
	s.Eventually("the feed to go on", 5*time.Second, func() bool { return status(third.Key) == http.StatusOK })

	// No key is anywhere but with its owner.
	for _, key := range []apiKey{issued, other, third} {
		require.NoError(t, filepath.WalkDir(s.State, func(path string, entry os.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			raw, err := os.ReadFile(path)
			require.False(t, strings.Contains(string(raw), key.Key), path)
			return err
		}))
	}
}

func TestKeysOnTheCommandLine(t *testing.T) {
	s := harness.Start(t, nil)
	require.JSONEq(t, `{"apiKeys": []}`, s.Weir("keys", "list", "-o", "json", "--filter", `display_name = "nobody's"`))
	key := strings.TrimSpace(s.Weir("keys", "create", "nightly import", "--scope", "data:write", "--expires-in", "1h"))
	id := strings.Split(key, "_")[1]
	s.Eventually("the key to be accepted", time.Second, func() bool {
		return s.Do(http.MethodGet, "/v1/users", "", "X-API-Key", key).Status == http.StatusOK
	})
	list := s.Weir("keys", "list")
	require.Contains(t, list, "nightly import")
	require.NotContains(t, list, key)
	successor := strings.TrimSpace(s.Weir("keys", "rotate", id, "--overlap", "1h"))
	s.Eventually("both to be accepted", time.Second, func() bool {
		return s.Do(http.MethodGet, "/v1/users", "", "X-API-Key", successor).Status == http.StatusOK &&
			s.Do(http.MethodGet, "/v1/users", "", "X-API-Key", key).Status == http.StatusOK
	})
	s.Weir("keys", "revoke", id)
	s.Eventually("the old one to be refused", time.Second, func() bool {
		return s.Do(http.MethodGet, "/v1/users", "", "X-API-Key", key).Status == http.StatusUnauthorized
	})
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/v1/users", "", "X-API-Key", successor).Status)
	_, errs, err := s.TryWeir("keys", "create", "--scope", "everything")
	require.Error(t, err)
	require.Contains(t, errs, "API_KEY_NOT_YOURS")
}

// The feed gives out the digests of all tenants' keys: no route leads to it.
func TestKeyFeedIsNotForClients(t *testing.T) {
	s := harness.Start(t, harness.Files{"feed.yaml": `apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: feed}
spec:
  parentRefs: [{name: quickstart}]
  rules:
    - name: feed
      matches: [{method: {service: weir.keys.v1.ApiKeyFeedService}}]
      backendRefs: [{group: weir.dev, kind: Backend, name: user}]
`})
	answer := s.Do(http.MethodPost, "/weir.keys.v1.ApiKeyFeedService/WatchApiKeys", "\x00\x00\x00\x00\x00",
		append(s.Key(), "Content-Type", "application/grpc-web+proto")...)
	require.Contains(t, answer.Header.Get("grpc-status")+answer.Body, "7", "PERMISSION_DENIED, though somebody wrote a route")
	require.Contains(t, answer.Header.Get("grpc-message")+answer.Body, "may not call")
}
