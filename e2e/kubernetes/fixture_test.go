//go:build slow

package kubernetes_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"weir.dev/e2e/cluster"
	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/internal/harness"
)

// TestMain keeps the client library's own log out of the way: what it has to say
// of trouble is in that of the source.
func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	log.SetLogger(klog.NewKlogr())
	os.Exit(m.Run())
}

// kubernetes starts an API server for a test, without any custom resources.
func kubernetes(t *testing.T) *cluster.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 80*time.Minute)
	defer cancel()
	tools, err := build.Tools(ctx, filepath.Join(harness.Root(t), "e2e", "cluster", "components"), os.Stderr, build.API)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "weir-cluster-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c, err := cluster.Start(ctx, tools, dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	return c
}

// admin may do everything.
func admin(t *testing.T, c *cluster.Cluster) client.Client {
	t.Helper()
	config, err := c.Config("admin", "system:masters")
	require.NoError(t, err)
	everything, err := client.New(config, client.Options{})
	require.NoError(t, err)
	return everything
}

// installCRDs installs definitions from folders, and waits until they are served.
func installCRDs(t *testing.T, c *cluster.Cluster, paths ...string) {
	t.Helper()
	config, err := c.Config("admin", "system:masters")
	require.NoError(t, err)
	_, err = envtest.InstallCRDs(config, envtest.CRDInstallOptions{Paths: paths, ErrorIfPathMissing: true, MaxTime: 30 * time.Second})
	require.NoError(t, err)
}

func weirCRDs(t *testing.T) string { return filepath.Join(harness.Root(t), "charts", "crds") }
