//go:build slow

package node_test

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/resource"

	"weir.dev/e2e/internal/harness"
	"weir.dev/e2e/internal/helmchart"
)

// Autoscalers follow the requests a second that Prometheus counts, by
// prometheus-adapter with the rules that users get; a metric that there is not
// changes nothing and is named. KEDA's own question has the same answer.
func TestSlowAutoscaleRequests(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	w.kubectl("", "apply", "--server-side", "-f", gatewayCRDs(t, "standard"))
	w.definitions(ctx, "github.com/prometheus-operator/prometheus-operator", "example", "prometheus-operator-crd", "*monitors.yaml")
	charts := filepath.Join(harness.Root(t), "charts", "weir")
	install := []string{
		"upgrade", "--install", "weir", charts, "-n", "weir-system", "--create-namespace", "--wait", "--timeout", "5m",
		"-f", filepath.Join(charts, "values", "dev.yaml"), "-f", filepath.Join("testdata", "autoscale-requests.yaml"),
	}
	w.helm(install...)
	require.NoError(t, w.node.Monitoring(ctx, w.scraping(), w.adapterRules()))
	s := w.policed()
	scaler := []string{"hpa", "weir-extauthz", "-n", "weir-system"}
	replicas := func() int {
		count, _ := strconv.Atoi(w.field("{.status.readyReplicas}", "deployment", "weir-extauthz", "-n", "weir-system"))
		return count
	}
	// wanted is how many the autoscaler has asked for; readiness is another's business.
	wanted := func() string {
		return w.kubectl("", "get", "deployment", "weir-extauthz", "-n", "weir-system", "-o", "jsonpath={.spec.replicas}")
	}
	// perPod is what the autoscaler goes by.
	perPod := func() (float64, bool) {
		quantity, err := resource.ParseQuantity(w.field("{.status.currentMetrics[0].pods.current.averageValue}", scaler...))
		return quantity.AsApproximateFloat64(), err == nil
	}
	w.eventually("the autoscaler knows what pods are asked", 3*time.Minute, func() bool {
		_, known := perPod()
		return known && w.condition("ScalingActive", scaler...) == "True/ValidMetricFound"
	})

	// Without load they stay as few as they may be.
	few := w.askingEvery(s, 2*time.Second)
	for range 45 {
		require.Equal(t, "2", wanted(), "nothing is asked of them")
		time.Sleep(time.Second)
	}
	idle, known := perPod()
	require.True(t, known)
	require.Less(t, idle, 20.0)

	many, more := w.askingEvery(s, 0), w.askingEvery(s, 0)
	began := time.Now()
	w.eventually("more pods serve", 5*time.Minute, func() bool { return replicas() > 2 })
	w.eventually("all of them do", 5*time.Minute, func() bool { return replicas() == 4 })
	rate := float64(many.answered()+more.answered()) / time.Since(began).Seconds()
	w.Logf("after %s under load, %.0f requests a second:\n%s", time.Since(began).Round(time.Second), rate, w.kubectl("", "get", "hpa", "-n", "weir-system"))
	w.kedaAsksTheSame(ctx, perPod)
	for part, metric := range map[string]string{"extauthz": "weir_grpc_requests_per_second", "ingress": "weir_http_requests_per_second"} {
		w.eventually("each pod of "+part+" has its number", time.Minute, func() bool {
			list, err := w.tryKubectl("", "get", "--raw", "/apis/custom.metrics.k8s.io/v1beta1/namespaces/weir-system/pods/*/"+metric+"?labelSelector=app.kubernetes.io/name="+part)
			return err == nil && strings.Count(list, `"metricName":"`+metric+`"`) == len(w.pods(part))
		})
	}

	many.ended(t, fewLost)
	more.ended(t, fewLost)
	began = time.Now()
	w.eventually("no more than are needed serve", 6*time.Minute, func() bool { return replicas() == 2 && len(w.pods("extauthz")) == 2 })
	w.Logf("%s after it:\n%s", time.Since(began).Round(time.Second), w.kubectl("", "get", "hpa", "-n", "weir-system"))

	w.helm(append(install, "--set", "extauthz.autoscaling.requestsPerSecond=0", "--set-json",
		`extauthz.autoscaling.metrics=[{"type":"Pods","pods":{"metric":{"name":"weir_requests_per_hour"},"target":{"type":"AverageValue","averageValue":"1"}}}]`)...)
	w.eventually("a metric that there is not is named", 2*time.Minute, func() bool {
		return w.condition("ScalingActive", scaler...) == "False/FailedGetPodsMetric"
	})
	said := w.kubectl("", append([]string{"get", "-o", "jsonpath={.status.conditions[?(@.type=='ScalingActive')].message}"}, scaler...)...)
	require.Contains(t, said, "weir_requests_per_hour")
	require.Equal(t, "2", wanted(), "and nothing follows it")
	few.ended(t, fewLost)
}

// kedaAsksTheSame has the API server check a ScaledObject of the charts by KEDA's
// own definition, and Prometheus answer what it would ask: under a load the answer
// is near what the autoscaler goes by, for all pods together.
func (w *world) kedaAsksTheSame(ctx context.Context, perPod func() (float64, bool)) {
	w.Helper()
	w.definitions(ctx, "github.com/kedacore/keda/v2", "config", "crd", "bases", "keda.sh_scaledobjects.yaml")
	root := harness.Root(w.T)
	values, err := helmchart.Values(root, "prod", "keda")
	require.NoError(w.T, err)
	objects, err := helmchart.Render(ctx, root, "weir", values)
	require.NoError(w.T, err)
	var query string
	checked := 0
	for _, o := range objects {
		if o.GetKind() != "ScaledObject" {
			continue
		}
		checked++
		w.kubectl(string(o.Raw), "apply", "--server-side", "--dry-run=server", "-f", "-")
		if o.GetName() == "weir-extauthz" {
			trigger := o.Object["spec"].(map[string]any)["triggers"].([]any)[2].(map[string]any)
			query = trigger["metadata"].(map[string]any)["query"].(string)
		}
	}
	require.Equal(w.T, 6, checked)
	_, err = w.tryKubectl(`{"apiVersion":"keda.sh/v1alpha1","kind":"ScaledObject","metadata":{"name":"x","namespace":"default"},"spec":{"scaleTargetRef":{"name":"x"},"triggers":[{"type":"cpu"}]}}`,
		"apply", "--server-side", "--dry-run=server", "-f", "-")
	require.Error(w.T, err, "the definition refuses a trigger that says nothing")
	w.eventually("KEDA's question has the autoscaler's answer", time.Minute, func() bool {
		all, answered := w.asked(query)
		each, known := perPod()
		pods := float64(len(w.pods("extauthz")))
		return answered && known && all > 20 && all > each*pods*0.7 && all < each*pods*1.3
	})
	_, answered := w.asked(strings.Replace(query, "weir-extauthz", "nobody", 1))
	require.False(w.T, answered, "KEDA leaves the pods as many as they are when there is no answer")
}
