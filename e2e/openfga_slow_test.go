//go:build slow

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/internal/harness"
)

const openFGAToken = "preshared-token"

// openFGA is a real OpenFGA with a store in memory.
type openFGA struct {
	t       *testing.T
	url     string
	process *os.Process
	store   string
}

func startOpenFGA(t *testing.T) *openFGA {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	tools, err := build.Tools(ctx, filepath.Join(harness.Root(t), "e2e", "cluster", "components"), os.Stderr, build.OpenFGA)
	require.NoError(t, err)
	port := func() string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = listener.Close() }()
		return listener.Addr().String()
	}
	address := port()
	var output bytes.Buffer
	command := exec.CommandContext(t.Context(), filepath.Join(tools, "openfga"), "run", "--datastore-engine", "memory", //nolint:gosec // built above
		"--http-addr", address, "--grpc-addr", port(), "--playground-enabled=false", "--metrics-enabled=false",
		"--authn-method", "preshared", "--authn-preshared-keys", openFGAToken)
	command.Stdout, command.Stderr = &output, &output
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Log("OpenFGA says:\n" + output.String())
		}
	})
	f := &openFGA{t: t, url: "http://" + address, process: command.Process}
	require.Eventually(t, func() bool {
		response, err := http.Get(f.url + "/healthz") //nolint:noctx // bounded by the test
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	}, time.Minute, 20*time.Millisecond)
	f.store = f.call("/stores", `{"name": "weir"}`)["id"].(string)
	return f
}

// call posts to the API, and returns what it answers.
func (f *openFGA) call(path, body string) (answer map[string]any) {
	f.t.Helper()
	request, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.url+path, bytes.NewBufferString(body))
	require.NoError(f.t, err)
	request.Header.Set("Authorization", "Bearer "+openFGAToken)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(f.t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	require.Less(f.t, response.StatusCode, 300, "%s: %s", path, raw)
	require.NoError(f.t, json.Unmarshal(raw, &answer))
	return answer
}

// model writes the authorization model and returns its id: whoever owns a document
// may view it, as may who is named, the members of groups, and all of what is public.
func (f *openFGA) model() string {
	return f.call("/stores/"+f.store+"/authorization-models", `{"schema_version": "1.1", "type_definitions": [
		{"type": "user"},
		{"type": "group", "relations": {"member": {"this": {}}},
			"metadata": {"relations": {"member": {"directly_related_user_types": [{"type": "user"}]}}}},
		{"type": "doc", "relations": {"owner": {"this": {}}, "viewer": {"union": {"child": [{"this": {}}, {"computedUserset": {"relation": "owner"}}]}}},
			"metadata": {"relations": {
				"owner": {"directly_related_user_types": [{"type": "user"}]},
				"viewer": {"directly_related_user_types": [{"type": "user"}, {"type": "user", "wildcard": {}}, {"type": "group", "relation": "member"}]}}}}
	]}`)["authorization_model_id"].(string)
}

// change writes tuples, or deletes them.
func (f *openFGA) change(what string, tuples ...[3]string) {
	f.t.Helper()
	keys := []map[string]string{}
	for _, tuple := range tuples {
		keys = append(keys, map[string]string{"user": tuple[0], "relation": tuple[1], "object": tuple[2]})
	}
	raw, err := json.Marshal(map[string]any{what: map[string]any{"tuple_keys": keys}})
	require.NoError(f.t, err)
	f.call("/stores/"+f.store+"/write", string(raw))
}

// fgaYAML is a route whose documents are for those who may view them.
func fgaYAML(name, store string) string {
	return routeYAML(name, "/"+name) + `---
apiVersion: weir.dev/v1alpha1
kind: AuthPolicy
metadata: {name: ` + name + `}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: ` + name + `}]
  authentication:
    - name: token
      jwt: {issuer: "https://issuer.weir.local", audiences: [weir], algorithms: [ES256], jwks: {configMapRef: {name: weir-development-issuer, key: jwks.json}}}
  authorization:
    relationships: ` + store + `
    rules: [{name: viewer, effect: Allow, requireRelationship: {user: "user:{identity.subject}", relation: viewer, object: "doc:{request.path.split('/')[2]}"}}]
`
}

// The relationships that rules ask for are those that a real OpenFGA knows, its
// model's inferences included; while it does not answer, nobody is let in.
func TestSlowRelationshipsOfOpenFGA(t *testing.T) {
	f := startOpenFGA(t)
	model := f.model()
	f.change("writes", [3]string{"user:alice", "viewer", "doc:plan"}, [3]string{"user:bob", "owner", "doc:plan"}, [3]string{"group:eng#member", "viewer", "doc:plan"},
		[3]string{"user:carol", "member", "group:eng"}, [3]string{"user:*", "viewer", "doc:public"})
	source := func(store, model, key string) string {
		return fmt.Sprintf(`{url: %q, storeId: %s, modelId: %s, tokenRef: {name: fga, key: %s}, timeout: 500ms}`, f.url, store, model, key)
	}
	s, backend := edge(t, `---
apiVersion: v1
kind: Secret
metadata: {name: fga}
stringData: {token: `+openFGAToken+`, other: not-the-token}
`+fgaYAML("docs", source(f.store, model, "token"))+
		fgaYAML("stranger", source(f.store, model, "other"))+
		fgaYAML("elsewhere", source("01HVMMBCMGZNT3SED4Z17ECXCA", model, "token"))+
		fgaYAML("unmodelled", source(f.store, "01HVMMBCMGZNT3SED4Z17ECXCA", "token")))
	key, kid := developmentKey(t, s)
	as := func(subject string) []string {
		return []string{"Authorization", "Bearer " + sign(t, key, jwt.SigningMethodES256, kid, func(claims jwt.MapClaims, _ map[string]any) { claims["sub"] = subject })}
	}
	served := backend.requests.Load()
	allowed := func(subject, path string) {
		t.Helper()
		answer := s.Get(path, as(subject)...)
		require.Equal(t, http.StatusOK, answer.Status, answer.Body)
		served++
	}
	denied := func(subject, path string) {
		t.Helper()
		s.Get(path, as(subject)...).Problem(t, http.StatusForbidden, "PERMISSION_DENIED")
	}
	unavailable := func(subject, path string) {
		t.Helper()
		s.Get(path, as(subject)...).Problem(t, http.StatusServiceUnavailable, "AUTHORIZATION_SOURCE_UNAVAILABLE")
	}

	allowed("alice", "/docs/plan")
	allowed("bob", "/docs/plan")   // an owner is a viewer
	allowed("carol", "/docs/plan") // a member of a group that is one
	denied("mallory", "/docs/plan")
	denied("alice", "/docs/other")
	allowed("mallory", "/docs/public")
	// Subjects that mean something in the store's language stand for nobody.
	for _, subject := range []string{"*", "alice#viewer", "bob user:alice", "x,user:alice"} {
		answer := s.Get("/docs/plan", as(subject)...)
		require.Contains(t, []int{http.StatusForbidden, http.StatusServiceUnavailable}, answer.Status, "%q: %s", subject, answer.Body)
	}

	f.change("deletes", [3]string{"user:alice", "viewer", "doc:plan"}, [3]string{"user:carol", "member", "group:eng"})
	denied("alice", "/docs/plan") // nothing is kept unless the policy says so
	denied("carol", "/docs/plan")
	allowed("bob", "/docs/plan")
	for _, route := range []string{"stranger", "elsewhere", "unmodelled"} {
		unavailable("bob", "/"+route+"/plan")
	}

	require.NoError(t, f.process.Signal(syscall.SIGSTOP))
	unavailable("bob", "/docs/plan")
	require.NoError(t, f.process.Signal(syscall.SIGCONT))
	s.Eventually("the store to answer again", 10*time.Second, func() bool {
		answer, err := s.TryDo(http.MethodGet, "/docs/plan", "", as("bob")...)
		if err == nil && answer.Status == http.StatusOK {
			served++
			return true
		}
		return false
	})
	require.NoError(t, f.process.Kill())
	unavailable("bob", "/docs/plan")
	unavailable("mallory", "/docs/public")
	require.Equal(t, served, backend.requests.Load(), "a refused request reached the service")
}
