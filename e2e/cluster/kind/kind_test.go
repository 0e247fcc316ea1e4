package kind_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/cluster"
	"weir.dev/e2e/cluster/images"
	"weir.dev/e2e/cluster/kind"
	"weir.dev/e2e/internal/harness"
)

var _ cluster.Provider = (*kind.Kind)(nil)

// rehearsed puts programs into the PATH that note how they are called, and do
// nothing. kind says that there are the named clusters.
func rehearsed(t *testing.T, clusters string) (k *kind.Kind, calls func() []string) {
	t.Helper()
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "calls")
	script := fmt.Sprintf("#!/bin/sh\necho \"${0##*/} $*\" >> %s\nif [ \"$1 $2\" = 'get clusters' ]; then echo '%s'; fi\n", log, clusters)
	for _, program := range []string{"docker", "kind", "kubectl", "helm"} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, program), []byte(script), 0o700)) //nolint:gosec // a program
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	k, err := kind.New(filepath.Join(t.TempDir(), "state"), &bytes.Buffer{})
	require.NoError(t, err)
	return k, func() []string {
		content, err := os.ReadFile(log)
		require.NoError(t, err)
		return strings.Split(strings.TrimSpace(string(content)), "\n")
	}
}

// What the suites do to a cluster, rehearsed: no machine of ours has the Docker that
// kind needs. Each call of kind's is shown to the real program, which refuses what it
// does not know before it looks for Docker.
func TestRehearsal(t *testing.T) {
	real := realKind(t)
	ctx := t.Context()
	k, calls := rehearsed(t, "other")
	file := filepath.Join(t.TempDir(), "content")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	require.NoError(t, k.Up(ctx))
	require.NoError(t, k.Load(ctx, images.Image{Name: "docker.io/weir/x:dev", Files: []images.File{{Path: "/x", Source: file}}}))
	require.NoError(t, k.Istio(ctx, "", "values.yaml"))
	require.NoError(t, k.Command(ctx, "kubectl", "get", "pods").Run())
	require.NoError(t, k.Down(ctx))
	made := calls()
	config := k.Kubeconfig()
	archive := filepath.Join(filepath.Dir(config), "images.tar")
	charts := "upgrade --install --repo https://istio-release.storage.googleapis.com/charts --version 1.31.1 -n istio-system --create-namespace"
	require.Equal(t, []string{
		"kind get clusters",
		"kind create cluster --name weir --kubeconfig " + config + " --wait 3m",
		"kind load image-archive " + archive + " --name weir",
		"helm " + charts + " istio-base base --kubeconfig " + config,
		"helm " + charts + " istiod istiod --wait -f values.yaml --kubeconfig " + config,
		"kubectl get pods",
		"kind delete cluster --name weir --kubeconfig " + config,
	}, made)
	require.NoFileExists(t, archive)

	again, calls := rehearsed(t, "weir")
	require.NoError(t, again.Up(ctx))
	made = append(made, calls()...)
	require.Equal(t, "kind export kubeconfig --name weir --kubeconfig "+again.Kubeconfig(), made[len(made)-1], "one that is there is used")

	checked := 0
	for _, call := range made {
		words := strings.Fields(call)
		if words[0] != "kind" {
			continue
		}
		checked++
		require.NoError(t, understands(t, real, words[1:]), call)
	}
	require.Equal(t, 6, checked)
	require.ErrorContains(t, understands(t, real, []string{"create", "cluster", "--names", "weir"}), "unknown flag: --names")
}

// understands has the real kind read a command line, and do nothing.
func understands(t *testing.T, real string, arguments []string) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), real, append(arguments, "--help")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if said := "kind " + strings.Join(arguments[:2], " "); !strings.Contains(string(out), said) {
		return fmt.Errorf("%s is no command: %s", said, out)
	}
	return nil
}

func realKind(t *testing.T) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), filepath.Join(harness.Root(t), "scripts", "tools.sh"), "charts")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := command.Output()
	require.NoError(t, err)
	return filepath.Join(strings.TrimSpace(string(out)), "kind")
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := kind.New(t.TempDir(), &bytes.Buffer{})
	for _, program := range []string{"docker", "kind", "kubectl", "helm"} {
		require.ErrorContains(t, err, "a cluster by kind needs "+program+" in the PATH")
	}
}

func TestFailuresSayWhatWasCalled(t *testing.T) {
	k, _ := rehearsed(t, "other")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, k.Down(ctx), "kind delete cluster --name weir")
}
