//go:build slow

package node_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// istiod stops Istio's control plane as a crash does, or starts it again.
func (w *istioWorld) istiod(replicas string) {
	w.Helper()
	w.kubectl("", "scale", "-n", "istio-system", "deployment/istiod", "--replicas="+replicas)
	if replicas == "0" {
		w.kubectl("", "delete", "pod", "-n", "istio-system", "-l", "app=istiod", "--grace-period=0", "--force", "--ignore-not-found")
		return
	}
	w.kubectl("", "rollout", "status", "-n", "istio-system", "deployment/istiod", "--timeout", "4m")
}

// istiodGone is what becomes of requests, and of changes, while istiod is away.
func istiodGone(t *testing.T, w *istioWorld, s *harness.System, base []string) {
	extra := t.TempDir()
	all := append(append([]string{}, base...), extra)
	write := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(extra, "extra.yaml"), []byte(text), 0o600))
	}
	unchanged := func(w *istioWorld) {
		w.Helper()
		w.eventually("nothing differs", 30*time.Second, func() bool {
			_, code := w.weir(append([]string{"plan", "--target", "istio"}, all...)...)
			return code == 0
		})
	}
	apply := append([]string{"apply", "--target", "istio", "--wait", "20s"}, all...)
	write("")
	load := w.asking(s)
	t.Run("istiod is killed, and stays away", func(t *testing.T) {
		w := w.in(t)
		w.istiod("0")
		write(elsewhere)
		out, code := w.weir(apply...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "nothing was changed")
		out, code = w.weir(append([]string{"doctor", "--target", "istio"}, all...)...)
		require.Equal(t, 1, code, out)
		require.Contains(t, out, "no istiod is ready in istio-system")
		require.Equal(t, http.StatusUnauthorized, answers(w.address, "/v1/roles"))
		w.istiod("1")
		write("")
		unchanged(w)
	})
	t.Run("istiod is killed while a change is applied", func(t *testing.T) {
		w := w.in(t)
		// What is to be there never comes, so that apply waits for it, and puts back.
		w.kubectl(removing, "apply", "-f", "-")
		write(elsewhere)
		type end struct {
			out  string
			code int
		}
		ended := make(chan end, 1)
		go func() {
			out, code := w.weir(apply...)
			ended <- end{out, code}
		}()
		w.eventually("the route is written", time.Minute, func() bool {
			return len(hashOf(w)) == 8
		})
		w.istiod("0")
		got := <-ended
		require.Equal(t, 1, got.code, got.out)
		require.NotContains(t, got.out, "every gateway serves it")
		// Without istiod no gateway can lose what it has: then the guards stay, and it is said.
		require.Regexp(t, `stopped midway: see above what was changed|everything was put back as it was`, got.out)
		require.Equal(t, http.StatusUnauthorized, answers(w.address, "/v1/roles"))
		w.istiod("1")
		w.kubectl(removing, "delete", "-f", "-")
		write("")
		w.applied(all...)
		unchanged(w)
		w.eventually("the host is gone", 20*time.Second, func() bool {
			return answers(w.address, "/", "Host", "elsewhere.example.com") == http.StatusNotFound
		})
	})
	load.ended(t, fewLost)
}
