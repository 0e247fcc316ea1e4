package cluster

import (
	"context"
	"os/exec"

	"weir.dev/e2e/cluster/images"
)

// Provider is a whole Kubernetes that pods run in: package node makes one without
// Docker, package kind one with it.
type Provider interface {
	// Up boots it, or leaves it as it is when it runs; it returns when the cluster is
	// ready for pods.
	Up(ctx context.Context) error
	// Down removes it; it is no error if there is none.
	Down(ctx context.Context) error
	// Load puts images where its pods find them.
	Load(ctx context.Context, images ...images.Image) error
	// Istio installs istiod, with further Helm values.
	Istio(ctx context.Context, envoy string, values ...string) error
	// Helm runs helm on it.
	Helm(ctx context.Context, arguments ...string) error
	// Command is a program in its network, with KUBECONFIG set and kubectl and helm in
	// the PATH.
	Command(ctx context.Context, program string, arguments ...string) *exec.Cmd
	// Kubeconfig is the path of a file by which its administrator reaches the API.
	Kubeconfig() string
}
