package node

import (
	"context"
	"os"
	"path/filepath"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/cluster/images"
)

// metricsImage is what the chart of metrics-server runs.
const metricsImage = "registry.k8s.io/metrics-server/metrics-server:dev"

// Metrics installs metrics-server by its own chart: five minutes to build the
// first time, then half a minute. Autoscalers go by what it says. It checks the
// kubelet's certificate, unlike most who try it.
func (n *Node) Metrics(ctx context.Context) error {
	tools, err := build.Tools(ctx, n.Sources, n.Progress, build.Metrics)
	if err != nil {
		return err
	}
	source, err := build.Module(ctx, n.Sources, "metrics", "sigs.k8s.io/metrics-server")
	if err != nil {
		return err
	}
	image, err := images.Static(metricsImage, filepath.Join(tools, "metrics-server"))
	if err != nil {
		return err
	}
	n.say("installing metrics-server ...")
	if err := n.Load(ctx, image); err != nil {
		return err
	}
	content, err := files.ReadFile("files/metrics-server.yaml")
	if err != nil {
		return err
	}
	values := n.in("metrics-server.yaml")
	if err := os.WriteFile(values, content, 0o600); err != nil {
		return err
	}
	if err := n.Helm(ctx, "upgrade", "--install", "metrics-server", filepath.Join(source, "charts", "metrics-server"), "-n", "kube-system",
		"-f", values, "--wait", "--timeout", "180s"); err != nil {
		return err
	}
	if _, err := n.kubectl(ctx, "wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=60s"); err != nil {
		return err
	}
	n.say("metrics-server is up")
	return nil
}
