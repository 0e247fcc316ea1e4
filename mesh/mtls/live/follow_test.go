package live

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"weir.dev/mesh/mtls"
	"weir.dev/mesh/probe"
)

// on is a cluster whose API server answers by a handler.
func on(t *testing.T, answer http.HandlerFunc) *Cluster {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	config := &rest.Config{Host: server.URL}
	objects, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	reach, err := probe.NewReach(config)
	require.NoError(t, err)
	return New(objects, reach, "istio-system")
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

// A kubelet that starts anew does not find the log of a pod that runs; that is gone on
// with. Once the pod is gone it is the end.
func TestALogThatIsNotFoundIsLookedForAgain(t *testing.T) {
	var logs atomic.Int32
	cluster := on(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/log") && logs.Add(1) == 2:
			fmt.Fprintln(w, "2026-11-22T10:08:11.000000001Z one")
		case strings.HasSuffix(r.URL.Path, "/log"), logs.Load() > 2:
			w.WriteHeader(http.StatusNotFound)
			writeJSON(w, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": http.StatusNotFound})
		default:
			writeJSON(w, map[string]any{
				"kind": "Pod", "apiVersion": "v1", "status": map[string]any{"phase": "Running"},
				"metadata": map[string]any{"namespace": "shop", "name": "orders-1", "uid": "1"},
			})
		}
	})
	var lines []string
	pod := mtls.Pod{Namespace: "shop", Name: "orders-1", UID: "1", Sidecar: "istio-proxy"}
	require.NoError(t, cluster.Follow(t.Context(), pod, false, func(line []byte) { lines = append(lines, string(line)) }))
	require.Equal(t, []string{"one"}, lines)
	require.EqualValues(t, 3, logs.Load())
}

// An observer is deleted by the run that it is of, and by no other.
func TestAnObserverIsOfItsRun(t *testing.T) {
	var deleted atomic.Int32
	object := mtls.ObserverObject(mtls.Scope{Namespace: "shop"}, "one", "PERMISSIVE")
	foreign := object.DeepCopy()
	foreign.SetLabels(nil)
	cluster := on(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodDelete:
			deleted.Add(1)
			writeJSON(w, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Success"})
		case strings.HasSuffix(r.URL.Path, "/envoyfilters"):
			writeJSON(w, map[string]any{
				"kind": "EnvoyFilterList", "apiVersion": object.GetAPIVersion(), "items": []any{object.Object, foreign.Object},
			})
		default:
			writeJSON(w, object.Object)
		}
	})
	found, err := cluster.Observers(t.Context(), "shop")
	require.NoError(t, err)
	require.Equal(t, []mtls.Observer{{Namespace: "shop", Name: "weir-mtls-observer", Run: "one", Before: "PERMISSIVE"}}, found)
	require.NoError(t, cluster.Delete(t.Context(), mtls.ObserverObject(mtls.Scope{Namespace: "shop"}, "two", "")))
	require.Zero(t, deleted.Load())
	require.NoError(t, cluster.Delete(t.Context(), mtls.ObserverObject(mtls.Scope{Namespace: "shop"}, "one", "")))
	require.EqualValues(t, 1, deleted.Load())
}
