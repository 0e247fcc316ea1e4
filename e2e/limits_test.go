package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	userv1 "weir.dev/api/gen/weir/user/v1"
)

func TestRateLimitsAnswer(t *testing.T) {
	for _, algorithm := range []string{"FixedWindow", "GCRA"} {
		t.Run(algorithm, func(t *testing.T) {
			s, backend := edge(t, routeYAML("limited", "/limited")+limitYAML("limited", algorithm, 5, "24h", "Open"))
			for i := range 5 {
				answer := s.Get("/limited")
				require.Equal(t, http.StatusOK, answer.Status, answer.Body)
				require.Contains(t, answer.Header.Get("RateLimit-Policy"), `q=5`)
				require.Contains(t, answer.Header.Get("RateLimit"), fmt.Sprintf("r=%d", 4-i))
			}
			reached := backend.requests.Load()
			answer := s.Get("/limited")
			answer.Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
			seconds, err := strconv.Atoi(answer.Header.Get("Retry-After"))
			require.NoError(t, err)
			require.Positive(t, seconds)
			require.Contains(t, answer.Header.Get("RateLimit"), "r=0")
			require.Equal(t, reached, backend.requests.Load())
			// Another caller has a budget of its own, other routes are not counted.
			require.Equal(t, http.StatusOK, s.Get("/closed").Status)
		})
	}
}

// Clients are told in the headers that each limit asks for, the answer's body
// names those that refused, and operators see who it was and set it right.
func TestRateLimitsAreToldAndSteered(t *testing.T) {
	s, _ := edge(t, routeYAML("limited", "/limited")+`---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: told}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: limited}]
  limits:
    - {name: few, requests: 2, window: 240h, by: [{type: Consumer}], headers: [Standard, XRateLimit]}
    - {name: many, requests: 100, window: 240h, headers: [Older]}
    - {name: quiet, requests: 100, window: 240h, headers: [None]}
`)
	answer := s.Get("/limited")
	require.Equal(t, http.StatusOK, answer.Status, answer.Body)
	require.Equal(t, `"few";q=2;w=864000`, answer.Header.Get("RateLimit-Policy"))
	require.Equal(t, "2", answer.Header.Get("X-RateLimit-Limit"))
	require.Equal(t, "1", answer.Header.Get("X-RateLimit-Remaining"))
	require.Equal(t, "100", answer.Header.Get("RateLimit-Limit"))
	require.Equal(t, "99", answer.Header.Get("RateLimit-Remaining"))
	require.NotEmpty(t, answer.Header.Get("RateLimit-Reset"))
	require.Equal(t, http.StatusOK, s.Get("/limited").Status)
	refused := s.Get("/limited")
	refused.Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
	var body map[string]any
	require.NoError(t, json.Unmarshal([]byte(refused.Body), &body))
	require.Equal(t, []any{"few"}, body["violated-policies"])
	require.NotContains(t, refused.Body, "told", "the policy's name is not the client's business")

	list := s.Weir("limits", "list", "--refusing")
	require.Contains(t, list, "default/told/few")
	require.NotContains(t, list, "many")
	consumer := regexp.MustCompile(`consumer=\S+`).FindString(list)
	require.NotEmpty(t, consumer, list)
	require.Regexp(t, `few .*consumer=\S+ +2 per 240h +0 `, s.Weir("limits", "get", "default/told/few", consumer))
	require.Contains(t, s.Weir("limits", "reset", "default/told/few", consumer), "reset; it held before:")
	require.Equal(t, http.StatusOK, s.Get("/limited").Status)
	require.Regexp(t, `"audit":"rate_limit_counter_reset".*"actor":"spiffe://weir.local/cli"`, s.Weir("logs", "controlplaned", "-n", "1000", "-o", "json"))
	require.Positive(t, s.Metric("ratelimitd", "weir_ratelimit_near_limit_total"))
}

// Of many requests at once exactly the limit passes. What has no answer of
// ratelimit within 100 ms is refused (failureMode Closed), and was counted or not.
func TestRateLimitIsExactUnderConcurrency(t *testing.T) {
	s, _ := edge(t, routeYAML("limited", "/limited")+limitYAML("limited", "FixedWindow", 50, "24h", "Closed"))
	var admitted, limited, unknown atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 10 {
				answer, err := s.TryDo(http.MethodGet, "/limited", "", s.Key()...)
				if err != nil {
					continue
				}
				switch answer.Status {
				case http.StatusOK:
					admitted.Add(1)
				case http.StatusTooManyRequests:
					limited.Add(1)
				case http.StatusServiceUnavailable:
					unknown.Add(1)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d admitted, %d limited, %d without an answer", admitted.Load(), limited.Load(), unknown.Load())
	require.LessOrEqual(t, admitted.Load(), int64(50))
	require.GreaterOrEqual(t, admitted.Load()+unknown.Load(), int64(50))
	require.Equal(t, int64(200), admitted.Load()+limited.Load()+unknown.Load())
	require.Less(t, unknown.Load(), int64(20), "enough was answered to mean something")
}

// With ratelimitd stopped, each limit does what its policy says.
func TestRateLimitOutage(t *testing.T) {
	s, backend := edge(t, routeYAML("limited", "/limited")+limitYAML("limited", "GCRA", 100000, "1h", "Open")+
		routeYAML("strict", "/strict")+limitYAML("strict", "GCRA", 100000, "1h", "Closed"))
	require.Equal(t, http.StatusOK, s.Get("/limited").Status)
	require.Equal(t, http.StatusOK, s.Get("/strict").Status)
	hung := s.Component("ratelimitd").PID
	s.Freeze(hung)
	reached := backend.requests.Load()
	for range 20 {
		require.Equal(t, http.StatusOK, s.Get("/limited").Status)
		s.Get("/strict").Problem(t, http.StatusServiceUnavailable, "RATE_LIMIT_UNAVAILABLE")
	}
	require.Equal(t, reached+20, backend.requests.Load())
	require.NoError(t, syscall.Kill(hung, syscall.SIGKILL))
	s.Eventually("limits to work again", 5*time.Second, func() bool {
		return s.Get("/strict").Status == http.StatusOK
	})
	require.NotEqual(t, hung, s.Component("ratelimitd").PID)
	require.True(t, strings.Contains(s.Get("/strict").Header.Get("RateLimit"), "few"))
}

// The counters of several ratelimit servers are one when they share a Redis.
func TestRateLimitInRedis(t *testing.T) {
	url := startRedis(t)
	s, _ := edge(t, routeYAML("limited", "/limited")+limitYAML("limited", "GCRA", 3, "1h", "Closed"), "WEIR_REDIS_URL="+url)
	for range 3 {
		require.Equal(t, http.StatusOK, s.Get("/limited").Status)
	}
	require.Equal(t, http.StatusTooManyRequests, s.Get("/limited").Status)
	s.Signal("ratelimitd", syscall.SIGKILL)
	s.Eventually("the limit to be kept over a restart", 5*time.Second, func() bool {
		return s.Get("/limited").Status == http.StatusTooManyRequests
	})
}

// Over gRPC and gRPC-web the same refusal is RESOURCE_EXHAUSTED with details.
func TestRateLimitOverGRPC(t *testing.T) {
	policy := strings.ReplaceAll(limitYAML("user-grpc", "FixedWindow", 2, "24h", "Open"), "kind: HTTPRoute", "kind: GRPCRoute")
	s, _ := edge(t, policy)
	for i, transport := range s.Transports(s.Key()...)[:2] {
		call := func() error {
			return transport.Call(t.Context(), userv1.UserService_ListUsers_FullMethodName, &userv1.ListUsersRequest{}, &userv1.ListUsersResponse{})
		}
		if i == 0 {
			require.NoError(t, call())
			require.NoError(t, call())
		}
		err := call()
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%s: %v", transport.Name(), err)
		require.Equal(t, "RATE_LIMITED", reasonOf(err), transport.Name())
	}
}
