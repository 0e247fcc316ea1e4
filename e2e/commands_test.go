package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
	"weir.dev/kit/certs"
	"weir.dev/policy"
)

// outcome of a command.
type outcome struct {
	code        int
	out, errors string
}

// command runs weir against a running one.
func command(t *testing.T, s *harness.System, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	run := exec.CommandContext(t.Context(), harness.Bin(t, "weir"), args...)
	run.Env, run.Stdout, run.Stderr = append(os.Environ(), "WEIR_STATE_DIR="+s.State), &stdout, &stderr
	err := run.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return outcome{code: run.ProcessState.ExitCode(), out: stdout.String(), errors: stderr.String()}
}

func policyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "change.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

const helloRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: hello}
spec:
  parentRefs: [{name: quickstart}]
  rules:
    - name: hello
      matches: [{path: {value: /hello}}]
      filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /v1/users}}}]
`

// Every command that looks into or changes the running policy, with good input
// and bad.
func TestPolicyCommands(t *testing.T) {
	s := harness.Start(t, nil)
	t.Run("get and describe", func(t *testing.T) {
		got := command(t, s, "get", "authpolicy")
		require.Equal(t, 0, got.code, got.errors)
		require.Regexp(t, `authpolicy/default/callers\s+True\s+-\s+True\s+-\s+Gateway/quickstart`, got.out)
		require.NotContains(t, got.out, "httproute")
		require.Contains(t, command(t, s, "get", "tlspolicies").out, "there is no tlspolicy object")
		require.Equal(t, 2, command(t, s, "get", "nothing").code)
		described := command(t, s, "describe", "Consumer/quickstart")
		require.Equal(t, 0, described.code, described.errors)
		require.Contains(t, described.out, "sha256: (secret ")
		missing := command(t, s, "describe", "httproutes/nothing")
		require.Equal(t, 1, missing.code)
		require.Contains(t, missing.errors, "no httproute named nothing in namespace default runs; there is httproute/default/data-rest, httproute/default/user-rest")
		require.Equal(t, 2, command(t, s, "describe", "nothing/nothing").code)
		require.Contains(t, command(t, s, "get", "wauth").out, "authpolicy/default/callers")
		require.Equal(t, 2, command(t, s, "describe", "httproute").code)
	})
	t.Run("explain", func(t *testing.T) {
		got := command(t, s, "explain", "-o", "json", "GET http://localhost/v1//users/../organizations")
		require.Equal(t, 0, got.code, got.errors)
		var explanation struct {
			Route  string
			Limits []struct{ Limit string }
		}
		require.NoError(t, json.Unmarshal([]byte(got.out), &explanation))
		require.Equal(t, "httproute/default/user-rest/api@default/quickstart/http", explanation.Route)
		require.NotEmpty(t, explanation.Limits)
		require.Equal(t, 1, command(t, s, "explain", "http://localhost/nothing").code)
	})
	t.Run("plan, diff and apply", func(t *testing.T) { planAndApply(t, s) })
	t.Run("problems", func(t *testing.T) {
		require.Contains(t, command(t, s, "problems").out, "0 errors")
		got := command(t, s, "problems", "--alone", s.Policy)
		require.Equal(t, 1, got.code)
		require.Contains(t, got.out, "WEIR3001: ")
		require.Equal(t, 2, command(t, s, "problems", "WEIR9999").code)
	})
	t.Run("replay", func(t *testing.T) {
		log := policyFile(t, `{"log":"access","method":"GET","host":"localhost","path":"/v1/users","route":"httproute/default/user-rest/api@default/quickstart/http","status":200}`+"\n")
		same := command(t, s, "replay", log, s.Policy)
		require.Equal(t, 0, same.code, same.out+same.errors)
		empty := policyFile(t, strings.Replace(helloRoute, "/hello", "/v1/users", 1))
		changed := command(t, s, "replay", log, empty)
		require.Equal(t, 2, changed.code, changed.errors)
		require.Contains(t, changed.out, "then  no route (404)")
	})
	t.Run("REST", func(t *testing.T) { adminREST(t, s) })
}

func planAndApply(t *testing.T, s *harness.System) {
	change := policyFile(t, helloRoute)
	planned := command(t, s, "plan", change)
	require.Equal(t, 2, planned.code, planned.errors)
	require.Contains(t, planned.out, "+ HTTPRoute default/hello")
	require.Equal(t, http.StatusNotFound, s.Do(http.MethodGet, "/hello", "", s.Key()...).Status, "a plan changes nothing")
	dry := command(t, s, "apply", "--dry-run", change)
	require.Equal(t, 0, dry.code, dry.errors)
	require.Equal(t, http.StatusNotFound, s.Do(http.MethodGet, "/hello", "", s.Key()...).Status)

	applied := command(t, s, "apply", change)
	require.Equal(t, 0, applied.code, applied.errors)
	require.Contains(t, applied.out, "every proxy serves it")
	require.NotEqual(t, http.StatusNotFound, s.Do(http.MethodGet, "/hello", "", s.Key()...).Status, "served once apply says so")
	require.Equal(t, 0, command(t, s, "plan", change).code, "nothing is left to do")
	require.Equal(t, 0, command(t, s, "diff", change).code)

	// Half of what is proposed is broken, so nothing of it is applied.
	broken := policyFile(t, strings.Replace(helloRoute, "name: hello}", "name: second}", 1)+"---\napiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: b}\nspec: {}\n")
	refused := command(t, s, "apply", broken)
	require.Equal(t, 1, refused.code)
	require.Contains(t, refused.errors, "nothing was applied")
	require.Contains(t, refused.errors, "change.yaml:14")
	refused = command(t, s, "apply", "-o", "json", broken)
	require.Equal(t, 1, refused.code)
	var told struct{ Problems policy.Problems }
	require.NoError(t, json.Unmarshal([]byte(refused.out), &told), refused.out)
	require.Len(t, told.Problems, 1)
	require.Equal(t, 14, told.Problems[0].Line)
	require.Contains(t, command(t, s, "get", "httproute").out, "hello")
	require.NotContains(t, command(t, s, "get", "httproute").out, "second")
	require.Equal(t, 1, command(t, s, "plan", broken).code)

	taken := command(t, s, "apply", policyFile(t, strings.Replace(helloRoute, "name: hello}", "name: user-rest}", 1)))
	require.Equal(t, 1, taken.code)
	require.Contains(t, taken.errors, "routes.yaml:2", "where to edit it instead")
	require.Contains(t, taken.errors, "WEIR5201")
	require.Equal(t, 1, command(t, s, "apply", "--prune", "HTTPRoute/user-rest").code, "not applied, so not deleted")
	require.Equal(t, 1, command(t, s, "apply", "--prune", "HTTPRoute/nothing").code)
	require.Equal(t, 2, command(t, s, "apply").code)

	pruned := command(t, s, "apply", "--prune", "httproute/hello")
	require.Equal(t, 0, pruned.code, pruned.errors)
	require.Equal(t, http.StatusNotFound, s.Do(http.MethodGet, "/hello", "", s.Key()...).Status)
}

// adminREST asks as the commands' identity, and is refused as another one's.
func adminREST(t *testing.T, s *harness.System) {
	raw, err := os.ReadFile(filepath.Join(s.State, "ports.json"))
	require.NoError(t, err)
	var ports map[string]int
	require.NoError(t, json.Unmarshal(raw, &ports))
	base := "https://127.0.0.1:" + strconv.Itoa(ports["controlplaned/rest"])
	client := func(identity string) *http.Client {
		config, err := certs.FilesIn(filepath.Join(s.State, "certs", identity)).ClientConfig(certs.PeerID("controlplane"))
		require.NoError(t, err)
		return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	}
	get := func(path string) (int, string, string) {
		response, err := client("cli").Get(base + path)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, response.Header.Get("Content-Type"), string(body)
	}
	status, _, body := get("/v1/objects?kind=Consumer")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "objects/consumer/default/quickstart")
	status, kind, body := get("/v1/objects/consumer/default/nobody")
	require.Equal(t, http.StatusNotFound, status)
	require.Equal(t, "application/problem+json", kind)
	require.Contains(t, body, "OBJECT_NOT_FOUND")
	status, _, _ = get("/v1/nothing")
	require.Equal(t, http.StatusNotFound, status)
	answer, err := client("cli").Post(base+"/v1/plan:explain", "application/json", strings.NewReader(`{"host":"localhost","path":"/v1/users"}`))
	require.NoError(t, err)
	defer answer.Body.Close()
	explained, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Contains(t, string(explained), `"route":"httproute/default/user-rest/api@default/quickstart/http"`)
	for _, identity := range []string{"ingress", "user"} {
		_, err := client(identity).Get(base + "/v1/status")
		require.Error(t, err, identity)
	}
	anonymous := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	_, err = anonymous.Get(base + "/v1/status")
	require.Error(t, err)
}
