//go:build slow

package kubernetes_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/guide"
	"weir.dev/e2e/internal/harness"
)

// What the guide to Kubernetes says works, as it stands there.
func TestSlowKubernetesGuide(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, gatewayCRDs(t))
	kubeconfig, err := c.Kubeconfig("admin", "system:masters")
	require.NoError(t, err)
	root := harness.Root(t)
	raw, err := os.ReadFile(filepath.Join(root, "docs", "guides", "kubernetes.md"))
	require.NoError(t, err)
	blocks, err := guide.Blocks(string(raw))
	require.NoError(t, err)
	bin := t.TempDir()
	require.NoError(t, os.Symlink(newKubectl(t, kubeconfig).binary, filepath.Join(bin, "kubectl")))
	state, err := os.MkdirTemp("", "weir-state-")
	require.NoError(t, err)
	weir := harness.Bin(t, "weir")
	env := append(os.Environ(), "WEIR="+weir, "WEIR_STATE_DIR="+state, "POLICY="+filepath.Join(root, "examples", "quickstart"), "KUBECONFIG="+kubeconfig,
		"TMPDIR="+t.TempDir(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Cleanup(func() {
		stop, err := guide.Blocks("<!-- run -->\n```sh\n$WEIR down --purge\n```")
		require.NoError(t, err)
		_ = guide.Run(context.WithoutCancel(t.Context()), stop, root, env)
		_ = os.RemoveAll(state)
	})
	require.NoError(t, guide.Run(t.Context(), blocks, root, env))
}
