package e2e

import (
	"fmt"
	"net/http"
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
			s, backend := edge(t, routeYAML("limited", "/limited")+limitYAML("limited", algorithm, 5, "1h", "Open"))
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

// Of many requests at once exactly the limit passes.
func TestRateLimitIsExactUnderConcurrency(t *testing.T) {
	s, _ := edge(t, routeYAML("limited", "/limited")+limitYAML("limited", "FixedWindow", 50, "24h", "Closed"))
	var admitted, limited atomic.Int64
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
				}
			}
		})
	}
	all.Wait()
	require.Equal(t, int64(50), admitted.Load())
	require.Equal(t, int64(150), limited.Load())
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
