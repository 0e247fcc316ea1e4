package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// Two fleets' Envoys would be two processes; here the ingress and a second system's
// share one Redis: together they never pass more than the limit, and neither asks
// for each request.
func TestQuotasByPolicy(t *testing.T) {
	redis := "WEIR_REDIS_URL=" + startRedis(t)
	const limit = 300
	// What the second refuses has been spent of the first, so it is large.
	limits := fmt.Sprintf(`    - {name: all, mode: Quota, requests: %d, window: 744h, failureMode: Closed}
    - {name: own, mode: Quota, algorithm: GCRA, requests: 600000, window: 1m, by: [{type: Consumer}, {type: ClientIP}, {type: Route}]}
`, limit)
	one, _ := ruled(t, limits, nil, redis)
	two, _ := ruled(t, limits, nil, redis)
	var passed [2]int
	var refused [2]int
	stop := time.Now().Add(60 * time.Second)
	for time.Now().Before(stop) && (passed[0]+passed[1] < limit*9/10 || min(refused[0], refused[1]) < 50) {
		for i, s := range []*harness.System{one, two} {
			answer := s.Get("/limited")
			switch answer.Status {
			case http.StatusOK:
				passed[i]++
			default:
				refused[i]++
				answer.Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
				require.Equal(t, "5", answer.Header.Get("Retry-After"))
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	t.Logf("passed: %d and %d; refused: %d and %d", passed[0], passed[1], refused[0], refused[1])
	require.LessOrEqual(t, passed[0]+passed[1], limit, "never more than the limit")
	require.GreaterOrEqual(t, passed[0]+passed[1], limit*7/10)
	require.Positive(t, passed[0])
	require.Positive(t, passed[1])
	for _, s := range []*harness.System{one, two} {
		require.Zero(t, s.Metric("ratelimitd", "weir_ratelimit_decisions_total", `rule="default/limits/`), "the limiter is not asked for each request")
		require.Positive(t, s.Metric("ratelimitd", "weir_ratelimit_quota_assigned_total", `rule="default/limits/all"`))
	}
	explained := one.Weir("explain", "GET http://localhost/limited")
	require.Contains(t, explained, "decided by the proxy from quotas, and without one refused")
	require.Contains(t, explained, "decided by the proxy from quotas, and without one passed, and charged afterwards")
}

// What an expression says of the request is charged, and what it can't say costs
// the most.
func TestCostsByExpression(t *testing.T) {
	i := newIssuer(t)
	s, _ := ruled(t, `    - name: units
      requests: 1000
      window: 240h
      cost:
        max: 300
        expression: >-
          (request.param("n") == "" ? 1 : int(request.param("n"))) * (identity.claim("plan.name") == "big" ? 10 : 1)
          + (request.header("x-batch") != "" ? 5 : 0) + (request.size > 0 ? request.size / 10 : 0) + (request.path == "/limited/deep" ? 7 : 0)
          + (consumer.attribute("weight") != "" ? int(consumer.attribute("weight")) : 0)
`, harness.Files{
		"tokens.yaml": strings.Replace(strings.ReplaceAll(i.policyYAML(), "name: closed", "name: limited"), "  tenant: acme\n", "  tenant: acme\n  attributes: {weight: \"2\"}\n", 1),
	})
	left := 1000
	costs := func(want int, method, path, body string, headers ...string) {
		t.Helper()
		answer := s.Do(method, path, body, headers...)
		require.Equal(t, http.StatusOK, answer.Status, answer.Body)
		left -= want
		require.Equal(t, fmt.Sprint(left), remaining(answer, "units"))
	}
	key := s.Key()
	costs(1, http.MethodGet, "/limited", "", key...)
	costs(4, http.MethodGet, "/limited?n=4", "", key...)
	costs(6, http.MethodGet, "/limited?x=%26&n=1", "", append([]string{"X-Batch", "1"}, key...)...)
	costs(8, http.MethodGet, "/limited/deep?n=1", "", key...)
	costs(11, http.MethodPost, "/limited", strings.Repeat("x", 100), key...)
	big := i.token(t, func(claims jwt.MapClaims, _ map[string]any) { claims["plan"] = map[string]any{"name": "big"} })
	costs(32, http.MethodGet, "/limited?n=3", "", "Authorization", "Bearer "+big)
	costs(0+3+2, http.MethodGet, "/limited?n=3", "", "Authorization", "Bearer "+i.token(t, nil))
	costs(300, http.MethodGet, "/limited?n=many", "", key...)
	costs(300, http.MethodGet, "/limited?n=99999", "", key...)
	costs(1, http.MethodGet, "/limited?n=-5", "", key...)
}

// A model's own account of the tokens that it used is what is charged, from a body
// and from a stream; what says nothing costs the estimate.
func TestCostsFromBodies(t *testing.T) {
	s, m := ruled(t, `    - name: tokens
      requests: 1000
      window: 240h
      by: [{type: Consumer}]
      cost: {number: 100, responseField: usage.total_tokens, max: 2000}
`, nil)
	m.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		kind, used := r.URL.Query().Get("kind"), r.URL.Query().Get("used")
		body := fmt.Sprintf(`{"choices": [{"text": "%s"}], "usage": {"prompt_tokens": 1, "total_tokens": %s}}`, strings.Repeat("word ", 2000), used)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		switch kind {
		case "stream":
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			for i := range 5 {
				fmt.Fprintf(w, "data: {\"choices\": [{\"delta\": \"%d\"}], \"usage\": null}\n\n", i)
				_ = http.NewResponseController(w).Flush()
			}
			fmt.Fprintf(w, "data: %s\n\ndata: [DONE]\n\n", body)
		case "text":
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, body)
		case "broken":
			_, _ = io.WriteString(w, body[:len(body)-3])
		case "huge":
			_, _ = fmt.Fprintf(w, `{"filler": "%s", "usage": {"total_tokens": %s}}`, strings.Repeat("x", 900<<10), used)
		default:
			_, _ = io.WriteString(w, body)
		}
	})
	left := func(want string) {
		t.Helper()
		s.Eventually("what is left to be "+want, 5*time.Second, func() bool {
			return remaining(s.Get("/limited?used=0"), "tokens") == want
		})
	}
	require.Equal(t, "900", remaining(s.Get("/limited?used=10"), "tokens"))
	left("890")
	require.Equal(t, http.StatusOK, s.Get("/limited?kind=stream&used=40").Status)
	left("850")
	require.Equal(t, http.StatusOK, s.Get("/limited?used=150").Status)
	left("700")
	require.Equal(t, http.StatusOK, s.Get("/limited?kind=huge&used=20").Status)
	left("680")
	for _, kind := range []string{"text", "broken"} {
		answer := s.Get("/limited?kind=" + kind + "&used=1")
		require.Equal(t, http.StatusOK, answer.Status)
		require.Contains(t, answer.Body, "total_tokens", "passed on as it is")
	}
	left("480")
	require.Equal(t, http.StatusOK, s.Get("/limited?kind=stream&used=1500").Status, "more than was left")
	s.Eventually("the debt to refuse", 5*time.Second, func() bool {
		return s.Get("/limited?used=0").Status == http.StatusTooManyRequests
	})
}

// Numbers and tiers come from claims, bounded by the policy; nothing names a caller.
func TestNumbersFromClaims(t *testing.T) {
	i := newIssuer(t)
	s, _ := ruled(t, `    - {name: own, requests: 3, window: 240h, by: [{type: Consumer}, {type: Header, header: X-Case}], override: {claim: limits.rpm, max: 6}}
    - name: tiered
      by: [{type: Consumer}, {type: Header, header: X-Case}]
      tierFrom: {claim: plan}
      windows:
        - {requests: 100, calendar: Month, tiers: {big: {requests: 200}, partner: {unlimited: true}}}
        - {requests: 4, window: 240h, algorithm: SlidingWindow, tiers: {big: {requests: 8}, partner: {unlimited: true}}}
`, harness.Files{"tokens.yaml": strings.ReplaceAll(i.policyYAML(), "name: closed", "name: limited")})
	call := func(name string, claims jwt.MapClaims) *harness.Response {
		token := i.token(t, func(all jwt.MapClaims, _ map[string]any) {
			for name, value := range claims {
				all[name] = value
			}
		})
		return s.Do(http.MethodGet, "/limited", "", "Authorization", "Bearer "+token, "X-Case", name)
	}
	for name, test := range map[string]struct {
		claims                 jwt.MapClaims
		own, month, sliding    string
		refused, unlimitedTier bool
	}{
		"nothing said":      {nil, "2", "99", "3", false, false},
		"a number":          {jwt.MapClaims{"limits": map[string]any{"rpm": 5}}, "4", "99", "3", false, false},
		"a text":            {jwt.MapClaims{"limits": map[string]any{"rpm": "5"}}, "4", "99", "3", false, false},
		"beyond the policy": {jwt.MapClaims{"limits.rpm": 1000000}, "5", "99", "3", false, false},
		"no number":         {jwt.MapClaims{"limits": map[string]any{"rpm": []string{"9"}}}, "2", "99", "3", false, false},
		"a tier":            {jwt.MapClaims{"plan": "big"}, "2", "199", "7", false, false},
		"not limited":       {jwt.MapClaims{"plan": "partner"}, "2", "none", "none", false, true},
		"an unknown tier":   {jwt.MapClaims{"plan": "gold"}, "2", "99", "3", false, false},
		"nothing at all":    {jwt.MapClaims{"limits": map[string]any{"rpm": 0}}, "0", "99", "3", true, false},
	} {
		answer := call(strings.ReplaceAll(name, " ", "-"), test.claims)
		if test.refused {
			answer.Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
			continue
		}
		require.Equal(t, http.StatusOK, answer.Status, "%s: %s", name, answer.Body)
		require.Equal(t, test.own, remaining(answer, "own"), name)
		require.Equal(t, test.month, remaining(answer, "tiered.month"), "%s: %v", name, answer.Header)
		require.Equal(t, test.sliding, remaining(answer, "tiered.240h"), name)
	}
	// All windows or none: what one refuses costs the others nothing.
	more := jwt.MapClaims{"limits": map[string]any{"rpm": 6}}
	for range 4 {
		require.Equal(t, http.StatusOK, call("windows", more).Status)
	}
	refused := call("windows", more)
	refused.Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
	require.Equal(t, "96", remaining(refused, "tiered.month"))
	require.Equal(t, "2", remaining(refused, "own"))
}

// A leased limit is decided from slices, never above its number; one with a local
// share goes on without Redis, from the replica's part of it.
func TestLeasedAndSharedLimitsThroughTheProxy(t *testing.T) {
	url, kill := redisServer(t)
	s, _ := ruled(t, `    - {name: leased, requests: 300, window: 744h, by: [{type: Header, header: X-Leased}], leased: true, failureMode: Closed}
    - {name: shared, requests: 40, window: 744h, by: [{type: Header, header: X-Shared}], localShare: true, failureMode: Closed}
`, nil, "WEIR_REDIS_URL="+url)
	// What took too long on a busy machine may have been counted, or not.
	passes := func(times int, header string) (passed, unknown int) {
		for range times {
			switch answer := s.Get("/limited", header, "a"); answer.Status {
			case http.StatusOK:
				passed++
			case http.StatusServiceUnavailable:
				answer.Problem(t, http.StatusServiceUnavailable, "RATE_LIMIT_UNAVAILABLE")
				unknown++
			default:
				answer.Problem(t, http.StatusTooManyRequests, "RATE_LIMITED")
			}
		}
		return passed, unknown
	}
	passed, unknown := 0, 0
	s.Eventually("the whole limit to be used", 20*time.Second, func() bool {
		ok, late := passes(50, "X-Leased")
		passed, unknown = passed+ok, unknown+late
		return passed+unknown >= 300 && ok+late == 0
	})
	require.LessOrEqual(t, passed, 300, "and no more")
	require.Less(t, unknown, 30)
	require.Positive(t, s.Metric("ratelimitd", "weir_ratelimit_lease_decisions_total"))
	explained := s.Weir("explain", "GET http://localhost/limited")
	require.Contains(t, explained, "decided from slices")
	require.Contains(t, explained, "without the counters each replica admits its share")

	passed, unknown = passes(25, "X-Shared")
	require.Equal(t, 25, passed+unknown)
	kill()
	after := 0
	s.Eventually("the share to be used", 20*time.Second, func() bool {
		answer := s.Get("/limited", "X-Shared", "a")
		if answer.Status == http.StatusOK {
			after++
		}
		return answer.Status == http.StatusTooManyRequests
	})
	require.LessOrEqual(t, after, 40, "one replica's share is the whole limit")
	require.Positive(t, after)
	s.Get("/limited", "X-Leased", "b").Problem(t, http.StatusServiceUnavailable, "RATE_LIMIT_UNAVAILABLE")
	_, stderr, err := s.TryWeir("limits", "get", "default/nothing/here")
	require.Error(t, err)
	require.Contains(t, stderr, "is not known here")
}
