package live

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/mesh/mtls"
)

// sidecarName is that of Istio's proxy among a pod's containers, a gateway's too.
const sidecarName = "istio-proxy"

func readPod(object *unstructured.Unstructured) mtls.Pod {
	phase, _, _ := unstructured.NestedString(object.Object, "status", "phase")
	pod := mtls.Pod{
		Namespace: object.GetNamespace(), Name: object.GetName(), UID: string(object.GetUID()), Labels: object.GetLabels(),
		Workload: workloadOf(object), Running: phase == "Running" && object.GetDeletionTimestamp() == nil,
		Ambient: object.GetAnnotations()["ambient.istio.io/redirection"] == "enabled",
	}
	pod.Node, _, _ = unstructured.NestedBool(object.Object, "spec", "hostNetwork")
	ips, _, _ := unstructured.NestedSlice(object.Object, "status", "podIPs")
	for _, value := range ips {
		if ip, ok := value.(map[string]any); ok {
			if text, ok := ip["ip"].(string); ok {
				pod.Addresses = append(pod.Addresses, text)
			}
		}
	}
	// Sidecars of Kubernetes 1.29 and later are init containers.
	for _, field := range []string{"containers", "initContainers"} {
		containers, _, _ := unstructured.NestedSlice(object.Object, "spec", field)
		for _, value := range containers {
			container, ok := value.(map[string]any)
			if !ok || container["name"] != sidecarName {
				continue
			}
			arguments, _, _ := unstructured.NestedStringSlice(container, "args")
			if slices.Contains(arguments, "router") {
				pod.Gateway = true
			} else {
				pod.Sidecar = sidecarName
			}
		}
	}
	return pod
}

// workloadOf is what a pod is of: its controller, or the Deployment of that.
func workloadOf(object *unstructured.Unstructured) string {
	for _, owner := range object.GetOwnerReferences() {
		if owner.Controller == nil || !*owner.Controller {
			continue
		}
		hash := object.GetLabels()["pod-template-hash"]
		if name, cut := strings.CutSuffix(owner.Name, "-"+hash); owner.Kind == "ReplicaSet" && hash != "" && cut {
			return "Deployment " + name
		}
		return owner.Kind + " " + owner.Name
	}
	return ""
}
