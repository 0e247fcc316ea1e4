package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A control plane that has just been started divides a chain's routes otherwise
// than the one before it did, which had fewer when it first did so. Requests go
// on, on connections from before too, and changes are served.
func TestControlPlaneRestartDisturbsNoShards(t *testing.T) {
	s, _ := edge(t, "")
	many := func(from, to int) string {
		var text strings.Builder
		for i := from; i < to; i++ {
			name := fmt.Sprintf("many-%03d", i)
			text.WriteString("---\n" + routeYAML(name, fmt.Sprintf("/many/%03d", i)) + openYAML(name))
		}
		return text.String()
	}
	s.Write("many.yaml", many(0, 300))
	s.Eventually("300 routes", 20*time.Second, func() bool { return s.Do(http.MethodGet, "/many/299", "").Status == http.StatusOK })
	s.Write("more.yaml", many(300, 420))
	s.Eventually("120 more", 20*time.Second, func() bool { return s.Do(http.MethodGet, "/many/419", "").Status == http.StatusOK })
	traffic := startLoad(s, 2, "/closed", s.Key()...)
	others := startLoad(s, 2, "/many/250")
	for range 2 {
		victim := s.Component("controlplaned").PID
		require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
		s.Eventually("controlplaned to be restarted", 15*time.Second, func() bool {
			component := s.Component("controlplaned")
			return component.PID != victim && component.PID != 0 && component.State == "ready"
		})
		s.Write("later.yaml", routeYAML("later", "/later/"+fmt.Sprint(victim))+openYAML("later"))
		s.Eventually("a change after the restart to be served", 10*time.Second, func() bool {
			return s.Do(http.MethodGet, "/later/"+fmt.Sprint(victim), "").Status == http.StatusOK
		})
	}
	for _, l := range []*load{traffic, others} {
		counts, errs := l.stop()
		require.Empty(t, errs)
		require.Len(t, counts, 1, "%v", counts)
	}
}
