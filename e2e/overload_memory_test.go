package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// withoutAction is a bootstrap that lacks an action of the overload manager.
func withoutAction(t *testing.T, raw []byte, name string) []byte {
	t.Helper()
	var bootstrap map[string]any
	require.NoError(t, json.Unmarshal(raw, &bootstrap))
	manager, _ := bootstrap["overload_manager"].(map[string]any)
	actions, _ := manager["actions"].([]any)
	left := slices.DeleteFunc(slices.Clone(actions), func(action any) bool {
		return action.(map[string]any)["name"] == "envoy.overload_actions."+name
	})
	require.Len(t, left, len(actions)-1)
	manager["actions"] = left
	out, err := json.Marshal(bootstrap)
	require.NoError(t, err)
	return out
}

// With all of its actions, it lets in nobody in the end.
func TestEnvoyOutOfMemory(t *testing.T) {
	p := startEnvoyWith(t, func(p *proxied) { p.maxHeap = 1 << 20 })
	require.Eventually(t, func() bool {
		return p.stats("stop_accepting_connections.active")["overload.envoy.overload_actions.stop_accepting_connections.active"] == 1
	}, patience, 10*time.Millisecond)
}

// An Envoy whose heap is larger than it may be gives memory back, shortens its
// patience and refuses requests in the edge's own words, before it lets in nobody.
func TestEnvoyShortOfMemory(t *testing.T) {
	for name, tc := range map[string]struct {
		heap    uint64
		active  float64
		refused bool
	}{
		"short":            {1 << 20, 1, true},
		"negative control": {64 << 30, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			x := startTrafficWith(t, func(p *proxied) {
				p.maxHeap = tc.heap
				// Without the last action, so that what comes before it is seen by a client.
				p.rewrite = func(raw []byte) []byte { return withoutAction(t, raw, "stop_accepting_connections") }
			})
			x.rollout(rule("all", "a"))
			require.Eventually(t, func() bool {
				return x.stats("overload.*fixed_heap")["overload.envoy.resource_monitors.fixed_heap.pressure"] > 0 == tc.refused
			}, patience, 10*time.Millisecond)
			actions := x.stats("overload_actions.*active")
			for _, action := range []string{"shrink_heap", "disable_http_keepalive", "stop_accepting_requests"} {
				require.Equal(t, tc.active, actions["overload.envoy.overload_actions."+action+".active"], "%s: %v", action, actions)
			}
			scaled := x.stats("reduce_timeouts")["overload.envoy.overload_actions.reduce_timeouts.scale_percent"]
			require.Equal(t, 100*tc.active, scaled)
			response, body := x.ask("/all")
			if !tc.refused {
				require.Equal(t, http.StatusOK, response.StatusCode)
				return
			}
			require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
			require.Equal(t, "1", response.Header.Get("Retry-After"))
			var problem struct{ Code string }
			require.NoError(t, json.Unmarshal([]byte(body), &problem), body)
			require.Equal(t, "OVERLOADED", problem.Code, body)
			require.Zero(t, x.a.requests.Load())
		})
	}
}
