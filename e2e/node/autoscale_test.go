//go:build slow

package node_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// Autoscalers follow the load up and down, and nobody notices.
func TestSlowAutoscale(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	require.NoError(t, w.node.Metrics(ctx))
	w.kubectl("", "apply", "--server-side", "-f", gatewayCRDs(t, "standard"))
	charts := filepath.Join(harness.Root(t), "charts", "weir")
	w.helm("upgrade", "--install", "weir", charts, "-n", "weir-system", "--create-namespace", "--wait", "--timeout", "5m",
		"-f", filepath.Join(charts, "values", "dev.yaml"), "-f", filepath.Join("testdata", "autoscale.yaml"))
	s := w.policed()
	const object = "hpa/weir-extauthz"
	replicas := func() int {
		count, err := strconv.Atoi(w.field("{.status.readyReplicas}", "deployment", "weir-extauthz", "-n", "weir-system"))
		if err != nil {
			return 0
		}
		return count
	}
	w.eventually("the autoscaler knows what pods use", 3*time.Minute, func() bool {
		return w.field("{.status.currentMetrics[0].resource.current.averageUtilization}", object, "-n", "weir-system") != ""
	})
	w.eventually("nothing is asked of them", 2*time.Minute, func() bool { return replicas() == 2 })
	w.Logf("at rest:\n%s", w.kubectl("", "top", "pods", "-n", "weir-system", "--containers"))
	require.Equal(t, "1", w.field("{.spec.replicas}", "deployment", "weir-controlplane", "-n", "weir-system"), "one replica stays one")

	few := w.askingEvery(s, 500*time.Millisecond)
	many, more := w.askingEvery(s, 0), w.askingEvery(s, 0)
	began := time.Now()
	w.eventually("more pods serve", 5*time.Minute, func() bool { return replicas() > 2 })
	// What values.yaml say of requests is read off here.
	w.Logf("after %s under load, %.0f requests a second:\n%s\n%s", time.Since(began).Round(time.Second), float64(many.answered()+more.answered())/time.Since(began).Seconds(),
		w.kubectl("", "get", "hpa", "-n", "weir-system"), w.kubectl("", "top", "pods", "-n", "weir-system", "--containers"))
	many.ended(t, fewLost)
	more.ended(t, fewLost)
	began = time.Now()
	w.eventually("no more than are needed serve", 5*time.Minute, func() bool { return replicas() == 2 && len(w.pods("extauthz")) == 2 })
	w.Logf("%s after it:\n%s", time.Since(began).Round(time.Second), w.kubectl("", "get", "hpa", "-n", "weir-system"))
	few.ended(t, fewLost)
	if os.Getenv("WEIR_KEEP_NODE") != "" {
		w.Logf("%s", w.kubectl("", "describe", object, "-n", "weir-system"))
	}
}
