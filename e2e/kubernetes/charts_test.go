//go:build slow

package kubernetes_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weir.dev/e2e/internal/harness"
	"weir.dev/e2e/internal/helmchart"
)

// The API server takes what the charts make, with every values file, in a
// namespace that enforces the restricted pod security standard.
func TestSlowChartsAreTaken(t *testing.T) {
	c := kubernetes(t)
	keda := filepath.Join(pinned(t, "monitoring", "github.com/kedacore/keda/v2"), "config", "crd", "bases", "keda.sh_scaledobjects.yaml")
	installCRDs(t, c, weirCRDs(t), gatewayCRDs(t), istioCRDs(t), keda)
	root := admin(t, c)
	for _, name := range []string{helmchart.Namespace, "shop"} {
		require.NoError(t, root.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
		}}))
	}
	for name, files := range helmchart.Deliveries() {
		t.Run(name, func(t *testing.T) {
			values, err := helmchart.Values(harness.Root(t), files...)
			require.NoError(t, err)
			objects, err := helmchart.Render(t.Context(), harness.Root(t), "weir", values)
			require.NoError(t, err)
			for _, o := range objects {
				if strings.HasPrefix(o.GetAPIVersion(), "monitoring.coreos.com/") {
					continue // The operator's definitions are not here.
				}
				require.NoError(t, root.Create(t.Context(), o.Unstructured, client.DryRunAll, client.FieldValidation("Strict")), o.ID())
			}
		})
	}
}
