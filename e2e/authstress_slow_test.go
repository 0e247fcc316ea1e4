//go:build slow

package e2e

import (
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// extauthz is stopped, hung and killed under load: nobody gets an answer that is
// another's. A member is served or told 503, a stranger 401 or 503; no third
// thing, and never the other's.
func TestSlowExtAuthzUnderLoad(t *testing.T) {
	s, _ := edge(t, "")
	for name, hurt := range map[string]func(pid int){
		"told to end": func(pid int) { require.NoError(t, syscall.Kill(pid, syscall.SIGTERM)) },
		"killed":      func(pid int) { require.NoError(t, syscall.Kill(pid, syscall.SIGKILL)) },
		"hung": func(pid int) {
			s.Freeze(pid)
			hungProblem(t, s)
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		},
		"hung for a while": func(pid int) {
			s.Freeze(pid)
			hungProblem(t, s)
			require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
		},
	} {
		t.Run(name, func(t *testing.T) {
			member := startLoad(s, 3, "/closed", s.Key()...)
			stranger := startLoad(s, 2, "/closed")
			forger := startLoad(s, 2, "/closed", "X-API-Key", "weir_forged")
			open := startLoad(s, 1, "/open")
			victim := s.Component("extauthzd").PID
			hurt(victim)
			s.Eventually("extauthz to be back", 30*time.Second, func() bool {
				component := s.Component("extauthzd")
				return component.State == "ready" && (component.PID != victim || name == "hung for a while")
			})
			s.Eventually("members to be served", 10*time.Second, func() bool {
				answer, err := s.TryDo(http.MethodGet, "/closed", "", s.Key()...)
				return err == nil && answer.Status == http.StatusOK
			})
			memberCounts, memberErrs := member.stop()
			strangerCounts, strangerErrs := stranger.stop()
			forgerCounts, forgerErrs := forger.stop()
			openCounts, _ := open.stop()
			t.Logf("members %v, strangers %v, forgers %v, open %v", memberCounts, strangerCounts, forgerCounts, openCounts)
			for _, err := range slices.Concat(memberErrs, strangerErrs, forgerErrs) {
				require.Regexp(t, `^(401|503) \{`, err, "no answer, or one that is no problem")
			}
			requireOnly(t, memberCounts, http.StatusOK, http.StatusServiceUnavailable)
			requireOnly(t, strangerCounts, http.StatusUnauthorized, http.StatusServiceUnavailable)
			requireOnly(t, forgerCounts, http.StatusUnauthorized, http.StatusServiceUnavailable)
			// The control: the same load finds what is served to strangers.
			require.Positive(t, openCounts[http.StatusOK])
			require.Positive(t, memberCounts[http.StatusOK])
			require.Positive(t, strangerCounts[http.StatusUnauthorized])
		})
	}
}

// hungProblem waits for the answer that a client gets while nothing authorizes.
func hungProblem(t *testing.T, s *harness.System) {
	t.Helper()
	s.Eventually("requests to be refused", 10*time.Second, func() bool {
		answer, err := s.TryDo(http.MethodGet, "/closed", "", s.Key()...)
		return err == nil && answer.Status == http.StatusServiceUnavailable
	})
	s.Get("/closed", s.Key()...).Problem(t, http.StatusServiceUnavailable, "AUTHORIZATION_UNAVAILABLE")
}

func requireOnly(t *testing.T, counts map[int]int, allowed ...int) {
	t.Helper()
	for status := range counts {
		require.Contains(t, allowed, status, "%v", counts)
	}
}
