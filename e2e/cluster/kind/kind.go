// Package kind runs a Kubernetes by kind, for those who have Docker. It drives the
// released programs kind, kubectl and helm, which have to be in the PATH. It is not
// run by the suites.
package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weir.dev/e2e/cluster/images"
)

// name of the cluster among kind's.
const name = "weir"

// istioVersion is the release that the other provider builds.
const istioVersion = "1.31.1"

// timeout bounds each command: the first creation pulls the node's image.
const timeout = 10 * time.Minute

// Kind is the cluster. Its methods are not safe for concurrent use.
type Kind struct {
	dir      string
	progress io.Writer
}

// New checks that Docker and kind are there. dir keeps the kubeconfig.
func New(dir string, progress io.Writer) (*Kind, error) {
	var errs []error
	for _, program := range []string{"docker", "kind", "kubectl", "helm"} {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, fmt.Errorf("a cluster by kind needs %s in the PATH", program))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Kind{dir: dir, progress: progress}, os.MkdirAll(dir, 0o700)
}

// Kubeconfig is the path of a file by which its administrator reaches the API.
func (k *Kind) Kubeconfig() string { return filepath.Join(k.dir, "kubeconfig") }

// Up creates the cluster unless there is one.
func (k *Kind) Up(ctx context.Context) error {
	existing, err := k.output(ctx, "kind", "get", "clusters")
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(existing), name) {
		fmt.Fprintln(k.progress, "the cluster is up already")
		return k.run(ctx, "kind", "export", "kubeconfig", "--name", name, "--kubeconfig", k.Kubeconfig())
	}
	return k.run(ctx, "kind", "create", "cluster", "--name", name, "--kubeconfig", k.Kubeconfig(), "--wait", "3m")
}

// Down deletes the cluster.
func (k *Kind) Down(ctx context.Context) error {
	return k.run(ctx, "kind", "delete", "cluster", "--name", name, "--kubeconfig", k.Kubeconfig())
}

// Load puts images into the node's store.
func (k *Kind) Load(ctx context.Context, all ...images.Image) error {
	file := filepath.Join(k.dir, "images.tar")
	defer func() { _ = os.Remove(file) }()
	if err := images.WriteArchive(file, all...); err != nil {
		return err
	}
	return k.run(ctx, "kind", "load", "image-archive", file, "--name", name)
}

// Istio installs istiod by the charts of its release; that brings an Envoy of its
// own, so that envoy is not used.
func (k *Kind) Istio(ctx context.Context, _ string, values ...string) error {
	const charts = "https://istio-release.storage.googleapis.com/charts"
	chart := []string{"upgrade", "--install", "--repo", charts, "--version", istioVersion, "-n", "istio-system", "--create-namespace"}
	if err := k.Helm(ctx, append(slices.Clone(chart), "istio-base", "base")...); err != nil {
		return err
	}
	istiod := append(slices.Clone(chart), "istiod", "istiod", "--wait")
	for _, file := range values {
		istiod = append(istiod, "-f", file)
	}
	return k.Helm(ctx, istiod...)
}

// Helm runs helm on the cluster.
func (k *Kind) Helm(ctx context.Context, arguments ...string) error {
	return k.run(ctx, "helm", append(arguments, "--kubeconfig", k.Kubeconfig())...)
}

// Command runs on this machine: kind publishes the API there. Pods and services
// are reached by kubectl port-forward.
func (k *Kind) Command(ctx context.Context, program string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, program, arguments...)
	command.Env = append(os.Environ(), "KUBECONFIG="+k.Kubeconfig())
	return command
}

func (k *Kind) run(ctx context.Context, program string, arguments ...string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	command := k.Command(ctx, program, arguments...)
	command.Stdout, command.Stderr = k.progress, k.progress
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", program, strings.Join(arguments, " "), err)
	}
	return nil
}

func (k *Kind) output(ctx context.Context, program string, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	output, err := k.Command(ctx, program, arguments...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", program, strings.Join(arguments, " "), err)
	}
	return string(output), nil
}
