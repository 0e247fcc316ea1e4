package node

import (
	"context"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/cluster/images"
)

// Monitoring installs Prometheus, which scrapes what its configuration says, and
// prometheus-adapter, which gives answers of Prometheus to autoscalers as its rules
// say; both are YAML, in their own words. It takes three minutes to build the first
// time, then a quarter of a minute.
func (n *Node) Monitoring(ctx context.Context, prometheus, adapter []byte) error {
	tools, err := build.Tools(ctx, n.Sources, n.Progress, build.Monitoring)
	if err != nil {
		return err
	}
	var all []images.Image
	for name, repository := range map[string]string{"prometheus": "docker.io/prom/prometheus", "prometheus-adapter": "registry.k8s.io/prometheus-adapter/prometheus-adapter"} {
		image, err := images.Static(repository+":dev", filepath.Join(tools, name))
		if err != nil {
			return err
		}
		all = append(all, image)
	}
	n.say("installing Prometheus and prometheus-adapter ...")
	if err := n.Load(ctx, all...); err != nil {
		return err
	}
	objects, err := monitoringObjects(prometheus, adapter)
	if err != nil {
		return err
	}
	manifest := n.in("monitoring.yaml")
	if err := os.WriteFile(manifest, objects, 0o600); err != nil {
		return err
	}
	for _, arguments := range [][]string{
		{"apply", "--server-side", "-f", manifest},
		{"wait", "--for=condition=Available", "deployment/prometheus", "deployment/prometheus-adapter", "-n", "monitoring", "--timeout=120s"},
		{"wait", "--for=condition=Available", "apiservice/v1beta1.custom.metrics.k8s.io", "--timeout=60s"},
	} {
		if _, err := n.kubectl(ctx, arguments...); err != nil {
			return err
		}
	}
	n.say("Prometheus and prometheus-adapter are up")
	return nil
}

// monitoringObjects are the YAML documents of both, with their configurations.
func monitoringObjects(prometheus, adapter []byte) ([]byte, error) {
	var all []byte
	for _, object := range []map[string]any{
		{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "monitoring"}},
		configMap("prometheus", "prometheus.yml", prometheus),
		configMap("prometheus-adapter", "config.yaml", adapter),
	} {
		document, err := yaml.Marshal(object)
		if err != nil {
			return nil, err
		}
		all = append(append(all, document...), "---\n"...)
	}
	content, err := files.ReadFile("files/monitoring.yaml")
	return append(all, content...), err
}

func configMap(name, file string, content []byte) map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": name, "namespace": "monitoring"},
		"data":     map[string]any{file: string(content)},
	}
}
