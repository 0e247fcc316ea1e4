package e2e

import (
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

// auditYAML has what happens on /closed written, and a stricter policy beside it.
const auditYAML = `---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: closed-live}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: closed}]
  audit: required
  authentication: [{name: key, apiKey: {}}]
  authorization:
    rules:
      - {name: no-delete, effect: Deny, when: request.method == "DELETE"}
      - {name: trial, effect: Deny, shadow: true, when: request.path == "/closed/trial"}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: closed-next}
spec:
  mode: Shadow
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: closed}]
  authentication: [{name: key, apiKey: {}}]
  authorization:
    rules:
      - {name: nobody, effect: Deny, when: request.path.startsWith("/closed/beta")}
---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: open-next}
spec:
  mode: Shadow
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: open}]
  authentication: [{name: key, apiKey: {}}]
`

func TestDecisionsAreRecordedExplainedAndCompared(t *testing.T) {
	s, _ := edge(t, auditYAML)
	key := []string{"X-API-Key", s.APIKey}
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/closed/a?token=c4n4ry&page=2", "", key...).Status)
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/closed/beta", "", key...).Status, "the shadow decides nothing")
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/closed/trial", "", key...).Status)
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/open/a", "", "Authorization", "Bearer c4n4ry").Status)
	require.Equal(t, http.StatusUnauthorized, s.Do(http.MethodGet, "/closed/a", "").Status)
	refused := s.Do(http.MethodDelete, "/closed/a", "", key...)

	why := s.Weir("explain", "--decision", refused.Problem(t, http.StatusForbidden, "PERMISSION_DENIED").RequestID)
	for _, part := range []string{"refused: DELETE", `rule "no-delete" holds (PERMISSION_DENIED)`, "apiKey", "proves the caller", "policy    default/closed-live"} {
		require.Contains(t, why, part)
	}
	require.NotContains(t, why, s.APIKey)

	var listed string
	s.Eventually("the candidates to be compared", 10*time.Second, func() bool {
		listed = s.Weir("get", "candidates")
		return strings.Contains(listed, `would refuse 1, by rule "trial"`) && strings.Contains(listed, `would refuse 1, by rule "nobody"`) &&
			strings.Contains(listed, "default/open-next") && strings.Contains(listed, "CREDENTIALS_MISSING")
	})
	problems := s.Weir("problems")
	for _, flip := range []string{`would refuse 1 of `, `by rule "trial"`, `by rule "nobody"`, " since 2", "weir explain --decision ID", "0 errors"} {
		require.Contains(t, problems, flip)
	}
	require.NotContains(t, s.Weir("problems", "--errors"), "in the shadow")
	require.NotContains(t, s.Weir("problems", s.Policy), "in the shadow", "a folder decides nothing")

	export := s.Weir("audit", "export")
	require.Equal(t, 5, strings.Count(export, `"id":"d-`), "what is not audited is not there\n%s", export)
	for _, secret := range []string{"c4n4ry", s.APIKey} {
		require.NotContains(t, export, secret)
	}
	replayDecisions(t, s, export)

	require.Contains(t, s.Weir("audit", "export", "--format", "ocsf"), `"class_uid":6003`)
	require.Contains(t, s.Weir("audit", "tail", "-n", "1"), "DELETE")
	checkpoint := filepath.Join(t.TempDir(), "checkpoint")
	s.Eventually("everything to be signed", 10*time.Second, func() bool {
		return strings.Contains(s.Weir("audit", "verify"), " 0 not signed yet")
	})
	content, err := os.ReadFile(filepath.Join(s.State, "audit", "checkpoint"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(checkpoint, content, 0o600))
	require.Contains(t, s.Weir("audit", "verify", "--checkpoint", checkpoint), "as it was written")

	tamper(t, filepath.Join(s.State, "audit"))
	out, _, err := s.TryWeir("audit", "verify", "--checkpoint", checkpoint)
	require.Error(t, err)
	require.Contains(t, out, "NOT as it was written")
}

// replayDecisions asks what recorded decisions would be under the policy as it is,
// and under one that refuses what one of the five asked for.
func replayDecisions(t *testing.T, s *harness.System, export string) {
	t.Helper()
	recorded, proposed := filepath.Join(t.TempDir(), "decisions.jsonl"), t.TempDir()
	require.NoError(t, os.WriteFile(recorded, []byte(export), 0o600))
	require.Contains(t, s.Weir("replay", recorded, s.Policy), "5 requests")
	files, err := filepath.Glob(filepath.Join(s.Policy, "*.yaml"))
	require.NoError(t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		changed := strings.Replace(string(content), `"/closed/trial"}`, `"/closed/trial"}
      - {name: beta, effect: Deny, when: request.path == "/closed/beta"}`, 1)
		require.NoError(t, os.WriteFile(filepath.Join(proposed, filepath.Base(file)), []byte(changed), 0o600))
	}
	out, _, err := s.TryWeir("replay", recorded, proposed)
	require.Error(t, err, "something would change\n%s", out)
	require.Contains(t, out, `refused by rule "beta"`)
	require.Contains(t, out, "GET")
	require.NotContains(t, out, "DELETE")
}

// tamper makes an allowed request out of a refused one.
func tamper(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	content, err := os.ReadFile(files[0])
	require.NoError(t, err)
	changed := strings.Replace(string(content), `"reason":"PERMISSION_DENIED"`, `"allowed":true,"reason":"ALLOWED"`, 1)
	require.NotEqual(t, string(content), changed)
	require.NoError(t, os.WriteFile(files[0], []byte(changed), 0o600))
}

// No record, no access: an extauthz whose log was changed refuses what must be
// recorded, and nothing else.
func TestAuditRequiredRefusesWithoutALog(t *testing.T) {
	s, e := edge(t, auditYAML)
	key := []string{"X-API-Key", s.APIKey}
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/closed/a", "", key...).Status, "negative control")
	damage(t, filepath.Join(s.State, "audit"))
	s.Signal("extauthzd", syscall.SIGKILL)
	s.Eventually("requests that need a record to be refused", 30*time.Second, func() bool {
		answer := s.Do(http.MethodGet, "/closed/a", "", key...)
		return answer.Status == http.StatusServiceUnavailable && strings.Contains(answer.Body, "AUDIT_UNAVAILABLE")
	})
	before := e.requests.Load()
	for range 20 {
		require.Equal(t, http.StatusServiceUnavailable, s.Do(http.MethodGet, "/closed/a", "", key...).Status)
	}
	require.Equal(t, before, e.requests.Load(), "nothing came through")
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/open/a", "").Status)
}

// damage edits a record that is signed.
func damage(t *testing.T, dir string) {
	t.Helper()
	require.Eventually(t, func() bool {
		content, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
		return err == nil && !strings.Contains(string(content), "\n1\n")
	}, patience, 10*time.Millisecond)
	files, err := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	require.NoError(t, err)
	content, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files[0], []byte(strings.Replace(string(content), `"seq":1,`, `"seq":2,`, 1)), 0o600))
}
