package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// model is a backend that tells in a header what a request has cost, and holds
// requests for as long as it is told.
type model struct {
	*httptest.Server
	held atomic.Int64
	free chan struct{}
}

func newModel(t *testing.T) *model {
	t.Helper()
	m := &model{free: make(chan struct{})}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("hold") {
			m.held.Add(1)
			defer m.held.Add(-1)
			select {
			case <-m.free:
			case <-r.Context().Done():
			}
		}
		if used := r.URL.Query().Get("used"); used != "" {
			w.Header().Set("X-Tokens-Used", used)
		}
	}))
	t.Cleanup(m.Close)
	return m
}

// ruled is a system whose route /limited to the model has the given limits.
func ruled(t *testing.T, limits string, files harness.Files, env ...string) (*harness.System, *model) {
	t.Helper()
	m := newModel(t)
	all := harness.Files{"echo.yaml": fmt.Sprintf(`apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: echo}
spec:
  endpoints: [{address: 127.0.0.1, port: %d}]
`, m.Listener.Addr().(*net.TCPAddr).Port) + strings.Replace(routeYAML("limited", "/limited"), "request: 3s", "request: 60s", 1) + `---
apiVersion: weir.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: limits}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: limited}]
  limits:
` + limits}
	for name, content := range files {
		all[name] = content
	}
	return harness.Start(t, all, env...), m
}

// members reads a RateLimit header: what remains, by the limit's name.
func remaining(answer *harness.Response, limit string) string {
	for member := range strings.SplitSeq(answer.Header.Get("RateLimit"), ", ") {
		if rest, ok := strings.CutPrefix(member, `"`+limit+`";r=`); ok {
			before, _, _ := strings.Cut(rest, ";")
			return before
		}
	}
	return "none"
}

// A request holds its place until its response is over, however it ends.
func TestConcurrencyThroughTheProxy(t *testing.T) {
	for name, env := range map[string][]string{"memory": nil, "redis": {"WEIR_REDIS_URL=" + startRedis(t)}} {
		t.Run(name, func(t *testing.T) {
			s, m := ruled(t, `    - {name: at-once, algorithm: Concurrency, requests: 3, window: 10m, by: [{type: Consumer}], failureMode: Closed}
    - {name: few, requests: 1000, window: 24h, by: [{type: Consumer}]}
`, nil, env...)
			var all sync.WaitGroup
			var passed atomic.Int64
			for range 3 {
				all.Go(func() {
					if answer, err := s.TryDo(http.MethodGet, "/limited?hold", "", s.Key()...); err == nil && answer.Status == http.StatusOK {
						passed.Add(1)
					}
				})
			}
			s.Eventually("three requests to be under way", 5*time.Second, func() bool { return m.held.Load() == 3 })
			for range 5 {
				refused := s.Get("/limited")
				refused.Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
				require.Equal(t, "1", refused.Header.Get("Retry-After"))
			}
			m.free <- struct{}{}
			s.Eventually("the place of the one that ended", 5*time.Second, func() bool { return s.Get("/limited").Status == http.StatusOK })
			s.Eventually("its place again", 5*time.Second, func() bool { return remaining(s.Get("/limited"), "at-once") == "0" })
			close(m.free)
			all.Wait()
			require.EqualValues(t, 3, passed.Load())
			s.Eventually("all places to be free", 5*time.Second, func() bool { return remaining(s.Get("/limited"), "at-once") == "2" })
		})
	}
}

// Places come back from clients that leave and backends that fail.
func TestConcurrencyAfterUnhappyEnds(t *testing.T) {
	s, m := ruled(t, "    - {name: at-once, algorithm: Concurrency, requests: 2, window: 10m}\n", nil)
	for range 5 {
		connection, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		require.NoError(t, err)
		fmt.Fprintf(connection, "GET /limited?hold HTTP/1.1\r\nHost: h\r\nX-API-Key: %s\r\n\r\n", s.APIKey)
		s.Eventually("the request to be under way", 5*time.Second, func() bool { return m.held.Load() == 1 })
		require.NoError(t, connection.Close())
		s.Eventually("it to end", 5*time.Second, func() bool { return m.held.Load() == 0 })
	}
	s.Eventually("all places to be free", 5*time.Second, func() bool { return remaining(s.Get("/limited"), "at-once") == "1" })
	m.Close()
	for range 10 {
		answer := s.Get("/limited")
		require.NotEqual(t, http.StatusOK, answer.Status)
		s.Eventually("the place of the failed request", 5*time.Second, func() bool { return s.Get("/limited").Status != http.StatusTooManyRequests })
	}
}

// An estimate is reserved and replaced by what the response says.
func TestTokenCostsAreReservedAndSettled(t *testing.T) {
	for name, env := range map[string][]string{"memory": nil, "redis": {"WEIR_REDIS_URL=" + startRedis(t)}} {
		for _, algorithm := range []string{"FixedWindow", "SlidingWindow", "GCRA"} {
			t.Run(name+" "+algorithm, func(t *testing.T) {
				s, _ := ruled(t, `    - name: tokens
      requests: 1000
      window: 240h
      algorithm: `+algorithm+`
      by: [{type: Consumer}]
      cost: {number: 100, requestHeader: X-Estimate, responseHeader: X-Tokens-Used, max: 2000}
`, nil, env...)
				left := func(want string, headers ...string) {
					t.Helper()
					s.Eventually("what is left to be "+want, 5*time.Second, func() bool {
						// Without the response's header the estimate stays; a look costs the
						// estimate and gives it back.
						return remaining(s.Get("/limited?used=0", headers...), "tokens") == want
					})
				}
				require.Equal(t, "900", remaining(s.Get("/limited?used=10"), "tokens"))
				left("890")
				// What the last look has reserved may be given back only now.
				require.Contains(t, []string{"590", "490"}, remaining(s.Get("/limited?used=400", "X-Estimate", "400"), "tokens"))
				left("490")
				require.Equal(t, http.StatusOK, s.Get("/limited").Status)
				left("390")
				s.Get("/limited", "X-Estimate", "many").Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
				left("390")
				require.Equal(t, http.StatusOK, s.Get("/limited?used=junk", "X-Estimate", "1").Status)
				left("290")
				require.Equal(t, http.StatusOK, s.Get("/limited?used=5000").Status, "more than was left, and than can be said")
				s.Eventually("the debt to refuse", 5*time.Second, func() bool {
					return s.Get("/limited?used=0").Status == http.StatusTooManyRequests
				})
			})
		}
	}
}

// Several windows and levels in one decision: what one refuses costs the others
// nothing.
func TestHierarchyIsAllOrNothing(t *testing.T) {
	const key = "a-key-of-a-sister-team-with-randomness-8c1d"
	s, _ := ruled(t, `    - {name: tenant-month, requests: 8, calendar: Month, timeZone: Europe/Berlin, by: [{type: Tenant}]}
    - {name: consumer-day, requests: 5, calendar: Day, timeZone: Europe/Berlin, by: [{type: Tenant}, {type: Consumer}]}
    - {name: consumer-hour, algorithm: SlidingWindow, requests: 4, window: 1h, by: [{type: Consumer}]}
    - {name: route-second, requests: 100, window: 1s, algorithm: GCRA, by: [{type: Route}]}
`, harness.Files{"sister.yaml": consumerYAML("sister", "demo", key)})
	mine := func() *harness.Response { return s.Get("/limited") }
	sisters := func() *harness.Response { return s.Do(http.MethodGet, "/limited", "", "X-API-Key", key) }
	for range 4 {
		require.Equal(t, http.StatusOK, mine().Status)
	}
	for range 5 {
		refused := mine()
		refused.Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
		require.Equal(t, "0", remaining(refused, "consumer-hour"))
		require.Equal(t, "1", remaining(refused, "consumer-day"), "not charged for what the hour refused")
		require.Equal(t, "4", remaining(refused, "tenant-month"))
	}
	for i := range 4 {
		answer := sisters()
		require.Equal(t, http.StatusOK, answer.Status, answer.Body)
		require.Equal(t, fmt.Sprint(3-i), remaining(answer, "tenant-month"), "one tenant")
	}
	sisters().Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
}

// The consumer's record says how many, its tier what is kept, and a tier is
// unlimited; no rule names a consumer.
func TestOverridesTiersAndReserves(t *testing.T) {
	const gold, big, free = "gold-key-with-much-randomness-1111", "big-key-with-much-randomness-2222", "free-key-with-much-randomness-3333"
	with := func(yaml, spec string) string { return strings.Replace(yaml, "spec:\n", "spec:\n"+spec, 1) }
	s, _ := ruled(t, `    - name: own
      requests: 3
      window: 240h
      by: [{type: Consumer}]
      override: {attribute: requests, max: 6}
      tiers: {gold: {unlimited: true}}
    - name: shared
      requests: 20
      window: 240h
      algorithm: SlidingWindow
      reserves: [{tier: gold, percent: 50}]
`, harness.Files{
		"gold.yaml": with(consumerYAML("gold", "demo", gold), "  tier: gold\n"),
		"big.yaml":  with(consumerYAML("big", "demo", big), "  attributes: {requests: \"1000\"}\n"),
		"free.yaml": with(consumerYAML("free", "demo", free), "  attributes: {requests: many}\n"),
	})
	call := func(key string) *harness.Response { return s.Do(http.MethodGet, "/limited", "", "X-API-Key", key) }
	for i := range 6 {
		answer := call(big)
		require.Equal(t, http.StatusOK, answer.Status, answer.Body)
		require.Equal(t, fmt.Sprint(5-i), remaining(answer, "own"), "its own number, bounded by the policy")
	}
	require.Equal(t, http.StatusTooManyRequests, call(big).Status)
	require.Equal(t, "2", remaining(call(free), "own"), "what is no number changes nothing")
	require.Equal(t, http.StatusOK, call(free).Status)
	require.Equal(t, "1", remaining(call(free), "shared"))
	require.Equal(t, http.StatusOK, s.Get("/limited").Status)
	require.Equal(t, http.StatusTooManyRequests, s.Get("/limited").Status, "half is kept for gold")
	for range 10 {
		answer := call(gold)
		require.Equal(t, http.StatusOK, answer.Status)
		require.Equal(t, "none", remaining(answer, "own"))
	}
	require.Equal(t, http.StatusTooManyRequests, call(gold).Status, "and no more than that")
}

// Refused requests count where the policy says so, and only there.
func TestCountRefused(t *testing.T) {
	s, _ := ruled(t, `    - {name: patient, algorithm: SlidingWindow, requests: 2, window: 3s, countRefused: true}
    - {name: other, requests: 100, window: 240h}
`, nil)
	require.Equal(t, http.StatusOK, s.Get("/limited").Status)
	require.Equal(t, "98", remaining(s.Get("/limited"), "other"))
	left := "98"
	// What a busy machine keeps from asking for a while, or from being counted, proves
	// nothing: it is tried anew, once it is refused again.
	keepTrying := func() (undisturbed bool) {
		last := time.Now()
		for began := last; time.Since(began) < 4*time.Second; {
			asked := time.Now()
			answer := s.Get("/limited")
			if time.Since(last) > time.Second || remaining(answer, "other") == "none" {
				return false
			}
			last = asked
			require.Equal(t, http.StatusTooManyRequests, answer.Status, "who keeps trying stays refused")
			require.Equal(t, left, remaining(answer, "other"))
		}
		return true
	}
	s.Eventually("to have kept trying for longer than the window", 10*time.Second, func() bool {
		if keepTrying() {
			return true
		}
		s.Eventually("to be refused again", 5*time.Second, func() bool {
			answer := s.Get("/limited")
			left = remaining(answer, "other")
			return answer.Status == http.StatusTooManyRequests
		})
		return false
	})
	s.Eventually("patience to be rewarded", 10*time.Second, func() bool {
		time.Sleep(4 * time.Second) // asking counts here, so it has to be left alone for longer than the window
		return s.Get("/limited").Status == http.StatusOK
	})
}
