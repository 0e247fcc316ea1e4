package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// load sends requests from several clients until stopped and counts answers.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	counts map[int]int
	errs   []string
}

func startLoad(s *harness.System, clients int, path string, headers ...string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, counts: map[int]int{}}
	s.T.Cleanup(func() { _, _ = l.stop() })
	for range clients {
		l.done.Go(func() {
			for ctx.Err() == nil {
				answer, err := s.TryDo(http.MethodGet, path, "", headers...)
				l.mu.Lock()
				if err != nil {
					l.errs = append(l.errs, err.Error())
				} else {
					l.counts[answer.Status]++
					if answer.Status != http.StatusOK && len(l.errs) < 5 {
						l.errs = append(l.errs, fmt.Sprintf("%d %s", answer.Status, answer.Body))
					}
				}
				l.mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return l
}

func (l *load) stop() (counts map[int]int, errs []string) {
	l.cancel()
	l.done.Wait()
	return maps.Clone(l.counts), l.errs
}

// extauthz killed and hung: nothing protected passes, open routes serve, and
// service is back after its return.
func TestExtAuthzOutageFailsClosed(t *testing.T) {
	s, backend := edge(t, "")
	open := startLoad(s, 2, "/open")
	stranger := startLoad(s, 2, "/closed")
	member := startLoad(s, 2, "/closed", s.Key()...)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		victim := s.Component("extauthzd").PID
		if signal == syscall.SIGKILL {
			require.NoError(t, syscall.Kill(victim, signal))
		} else {
			s.Freeze(victim)
			started := time.Now()
			s.Get("/closed").Problem(t, http.StatusServiceUnavailable, "AUTHORIZATION_UNAVAILABLE")
			require.Less(t, time.Since(started), 10*time.Second, "a frozen extauthz is not waited for")
			require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
		}
		s.Eventually("extauthzd to be restarted", 10*time.Second, func() bool {
			component := s.Component("extauthzd")
			return component.PID != victim && component.PID != 0 && component.State == "ready"
		})
		took := s.Eventually("protected requests to pass again", 2*time.Second, func() bool { return s.Get("/closed").Status == http.StatusOK })
		t.Logf("after %s: served again %s after its return", signal, took)
	}
	counts, errs := open.stop()
	require.Empty(t, errs)
	require.Positive(t, counts[200])
	require.Len(t, counts, 1, "open route: %v", counts)
	counts, _ = stranger.stop()
	require.Zero(t, counts[200], "unauthenticated requests passed: %v", counts)
	require.Positive(t, counts[503], "the outage was not seen: %v", counts)
	counts, _ = member.stop()
	require.Positive(t, counts[200])
	require.Zero(t, counts[401]+counts[403], "%v", counts)
	require.Positive(t, backend.requests.Load())
}

// Restarting the control plane, or starting it last, disturbs no traffic.
func TestControlPlaneRestartDisturbsNothing(t *testing.T) {
	s, _ := edge(t, "")
	traffic := startLoad(s, 4, "/closed", s.Key()...)
	for range 3 {
		victim := s.Component("controlplaned").PID
		require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
		s.Eventually("controlplaned to be restarted", 15*time.Second, func() bool {
			component := s.Component("controlplaned")
			return component.PID != victim && component.PID != 0 && component.State == "ready"
		})
	}
	// It still rolls out.
	s.Write("later.yaml", routeYAML("later", "/later")+openYAML("later"))
	s.Eventually("a change after the restarts to be served", 5*time.Second, func() bool { return s.Do(http.MethodGet, "/later", "").Status == http.StatusOK })
	counts, errs := traffic.stop()
	require.Empty(t, errs)
	require.Len(t, counts, 1, "%v", counts)
}

// With the control plane stopped, a restarted extauthz knows no rules: it must
// refuse, and recover when the control plane is back.
func TestExtAuthzWithoutControlPlaneRefuses(t *testing.T) {
	s, backend := edge(t, "")
	control := s.Component("controlplaned").PID
	s.Freeze(control)
	victim := s.Component("extauthzd").PID
	require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
	s.Eventually("a new extauthzd", 10*time.Second, func() bool { pid := s.Component("extauthzd").PID; return pid != victim && pid != 0 })
	reached := backend.requests.Load()
	for range 20 {
		require.Equal(t, http.StatusServiceUnavailable, s.Get("/closed").Status)
		require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/open", "").Status)
		reached++
	}
	require.Equal(t, reached, backend.requests.Load())
	require.NoError(t, syscall.Kill(control, syscall.SIGCONT))
	s.Eventually("protected requests to pass again", 10*time.Second, func() bool { return s.Get("/closed").Status == http.StatusOK })
}

// 200 edits of the folder under load: no failed request, each change served.
func TestEditsUnderLoad(t *testing.T) {
	s, _ := edge(t, "")
	closed := startLoad(s, 3, "/closed", s.Key()...)
	rest := startLoad(s, 2, "/v1/users", s.Key()...)
	var slowest time.Duration
	for i := range 200 {
		name := fmt.Sprintf("edit-%d", i)
		content := routeYAML(name, "/"+name) + openYAML(name)
		switch i % 3 {
		case 0:
			s.Write("edited.yaml", content)
		case 1: // in place, as some editors do
			require.NoError(t, os.WriteFile(filepath.Join(s.Policy, "edited.yaml"), []byte(content), 0o644))
		case 2: // and one that moves a backend's definition about
			require.NoError(t, os.WriteFile(filepath.Join(s.Policy, "edited.yaml"), []byte(content+"---\n# nothing\n"), 0o644))
		}
		if i%10 != 0 {
			time.Sleep(15 * time.Millisecond)
			continue
		}
		took := s.Eventually("the edit to be served", 2*time.Second, func() bool { return s.Do(http.MethodGet, "/"+name, "").Status == http.StatusOK })
		slowest = max(slowest, took)
	}
	t.Logf("slowest of the 20 edits that were waited for: %s", slowest)
	for _, l := range []*load{closed, rest} {
		counts, errs := l.stop()
		require.Empty(t, errs)
		require.Len(t, counts, 1, "%v", counts)
		t.Logf("%d requests, all 200", counts[200])
	}
}

// A folder with broken objects among good ones: the good ones serve, the broken
// ones stay as they last were, and the error names file, line and field.
func TestBrokenObjectsAmongGoodOnes(t *testing.T) {
	s, _ := edge(t, "")
	good := s.Read("echo.yaml")
	problems := func() string { return s.Weir("logs", "controlplaned", "-n", "200") }

	// A typo in one object of a file, and a new good one in the same file.
	s.Write("echo.yaml", good[:len(good)-1]+"\n"+routeYAML("typo", "/typo")[:0]+
		"---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: closed}\nspec:\n  parentRefs: [{name: quickstart}]\n  rulez: []\n"+
		routeYAML("fresh", "/fresh")+openYAML("fresh"))
	s.Eventually("the good new object to be served", 2*time.Second, func() bool { return s.Do(http.MethodGet, "/fresh", "").Status == http.StatusOK })
	require.Equal(t, http.StatusOK, s.Get("/closed").Status)
	require.Contains(t, problems(), "spec.rulez")
	require.Contains(t, problems(), "echo.yaml:")

	// Syntax broken: what the file held stays.
	s.Write("echo.yaml", good+"---\nkind: [unclosed\n")
	s.Eventually("the syntax error to be reported", 2*time.Second, func() bool {
		out, _, _ := s.TryWeir("logs", "controlplaned", "-n", "200")
		return strings.Contains(out, "WEIR1001")
	})
	require.Equal(t, http.StatusOK, s.Get("/closed").Status)
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/open", "").Status)

	// A broken AuthPolicy must not open what it protects, even if it is new.
	s.Write("fresh.yaml", routeYAML("private", "/private")+
		"---\napiVersion: weir.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {name: private}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: private}]\n  authentication: [{name: x, apiKy: {}}]\n")
	s.Eventually("the route to be refused", 2*time.Second, func() bool { return s.Get("/private").Status == http.StatusServiceUnavailable })
	s.Get("/private").Problem(t, 503, "POLICY_BROKEN")

	// And from a cold start with the broken folder: the good ones serve.
	fresh := harness.Start(t, harness.Files{"echo.yaml": good, "broken.yaml": "kind: HTTPRoute\nspec: [\n"})
	require.Equal(t, http.StatusOK, fresh.Get("/closed").Status)
}

// A listener whose port is taken is left out by itself: other changes go on, it
// is said, and it comes once the port is free.
func TestATakenPortHurtsItselfAlone(t *testing.T) {
	s, _ := edge(t, "")
	held, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = held.Close() }()
	port := held.Addr().(*net.TCPAddr).Port
	s.Write("second.yaml", fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: second}\nspec:\n  gatewayClassName: weir\n  listeners: [{name: http, protocol: HTTP, port: %d}]\n", port)+
		strings.ReplaceAll(routeYAML("second", "/second"), "name: quickstart", "name: second")+openYAML("second"))
	s.Write("other.yaml", routeYAML("other", "/other")+openYAML("other"))
	s.Eventually("the other change to be served", 2*time.Second, func() bool { return s.Do(http.MethodGet, "/other", "").Status == http.StatusOK })
	require.Equal(t, http.StatusOK, s.Get("/closed").Status)
	s.Eventually("the rejection to be told", 5*time.Second, func() bool {
		out, _, _ := s.TryWeir("status")
		return strings.Contains(out, fmt.Sprintf("port-%d", port))
	})
	require.NoError(t, held.Close())
	s.Eventually("the listener to come once its port is free", 30*time.Second, func() bool {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/second", port))
		return err == nil && answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	})
}

// A typo in what a policy protects must not open it, whatever it is that is
// misspelt; mending it opens the doors again.
func TestATypoInATargetClosesInsteadOfOpening(t *testing.T) {
	s, backend := edge(t, "")
	good := s.Read("policies.yaml")
	for _, wrong := range []string{
		strings.Replace(good, "name: quickstart}", "name: nope}", 1),
		strings.Replace(good, "name: quickstart}", "name: quickstart, sectionName: zz}", 1),
	} {
		reached := backend.requests.Load()
		s.Write("policies.yaml", wrong)
		s.Eventually("the mistake to be told", 5*time.Second, func() bool {
			out, _, _ := s.TryWeir("status")
			return strings.Contains(out, "WEIR3001")
		})
		for range 20 {
			require.NotEqual(t, http.StatusOK, s.Do(http.MethodGet, "/closed", "").Status)
		}
		require.Equal(t, reached, backend.requests.Load(), "a stranger reached the service")
		require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/open", "").Status, "what is open in writing stays open")
		s.Write("policies.yaml", good)
		s.Eventually("the mended policy", 5*time.Second, func() bool { return s.Get("/closed").Status == http.StatusOK })
	}
}

// A key is revoked within a second, also while something else in the policy is
// rejected by the proxy.
func TestRevocationIsNotHeldUp(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = held.Close() }()
	const key = "weir_secondsecondsecondsecondsecondsecondsec"
	s, _ := edge(t, "")
	s.Write("second.yaml", consumerYAML("second", "demo", key))
	s.Eventually("the new key", 2*time.Second, func() bool { return s.Do(http.MethodGet, "/closed", "", "X-API-Key", key).Status == http.StatusOK })
	s.Write("taken.yaml", fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: taken}\nspec:\n  gatewayClassName: weir\n  listeners: [{name: http, protocol: HTTP, port: %d}]\n", held.Addr().(*net.TCPAddr).Port))
	s.Eventually("the rejection", 5*time.Second, func() bool {
		out, _, _ := s.TryWeir("status")
		return strings.Contains(out, "rejected")
	})
	s.Write("second.yaml", strings.Replace(consumerYAML("second", "demo", key), "apiKeys: [{", "apiKeys: [] # [{", 1))
	took := s.Eventually("the key to be refused", time.Second, func() bool {
		return s.Do(http.MethodGet, "/closed", "", "X-API-Key", key).Status == http.StatusUnauthorized
	})
	t.Logf("refused %s after the edit", took)
}

// Ordinary expressions are served, overlong ones are refused by their line and
// not by the proxy.
func TestRegularExpressions(t *testing.T) {
	regex := func(name, value string) string {
		return strings.Replace(routeYAML(name, "/"), "{type: PathPrefix, value: /}", "{type: RegularExpression, value: '"+value+"'}", 1) + openYAML(name)
	}
	s, _ := edge(t, regex("uuid", "/items/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(/[a-zA-Z0-9._-]{1,63})?"))
	require.Equal(t, http.StatusOK, s.Do(http.MethodGet, "/items/123e4567-e89b-12d3-a456-426614174000/x", "").Status)
	s.Write("huge.yaml", regex("huge", "/([a-z]{1,500}){2}x"))
	s.Eventually("the refusal", 5*time.Second, func() bool {
		out, _, _ := s.TryWeir("status")
		return strings.Contains(out, "huge.yaml:") && strings.Contains(out, "too complex")
	})
	require.Equal(t, http.StatusOK, s.Get("/closed").Status)
}

// An edited port is found by status and call.
func TestEditedPortIsFollowed(t *testing.T) {
	s, _ := edge(t, "")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	require.NoError(t, free.Close())
	s.Write("gateway.yaml", strings.Replace(s.Read("gateway.yaml"), "port: 8080", fmt.Sprintf("port: %d", port), 1))
	s.Eventually("status to say so", 10*time.Second, func() bool {
		status := s.Status()
		return status.Ready && strings.HasSuffix(status.Ingress.HTTP, fmt.Sprintf(":%d", port))
	})
	require.Contains(t, s.Weir("call", "weir.user.v1.UserService/ListUsers"), "{")
}
