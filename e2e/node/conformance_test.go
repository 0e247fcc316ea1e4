//go:build slow

package node_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/cluster/images"
	"weir.dev/e2e/internal/conformance"
	"weir.dev/e2e/internal/harness"
)

// suiteTimeout bounds the run of the Gateway API's suite, which takes some minutes.
const suiteTimeout = 25 * time.Minute

// atOnce is how many of the suite's tests run side by side: some grant in a
// namespace what others need not to be granted there.
const atOnce = 1

var (
	update  = flag.Bool("update", false, "write docs/conformance")
	runTest = flag.String("conformance-test", "", "the one test of the Gateway API's suite to run; nothing is compared then")
)

// The Gateway API's own suite, on a class of Weir's with proxies for each
// Gateway. The features that it asks for are those that the class's status
// claims; what it is not to pass is in testdata/conformance. With -update the report
// and a page of it are written to docs/conformance.
func TestSlowGatewayAPIConformance(t *testing.T) {
	w := newWorld(t)
	suite := w.suite()
	w.kubectl("", "apply", "--server-side", "-k", gatewayCRDs(t, "experimental"))
	charts := filepath.Join(harness.Root(t), "charts", "weir")
	w.helm("upgrade", "--install", "weir", charts, "-n", "weir-system", "--create-namespace", "--wait", "--timeout", "5m",
		"-f", filepath.Join(charts, "values", "dev.yaml"), "-f", filepath.Join("testdata", "conformance", "values.yaml"))
	w.eventually("the class says what it serves", time.Minute, func() bool {
		return w.field("{.status.supportedFeatures[0].name}", "gatewayclass", "weir") != ""
	})
	path, output := w.runSuite(suite)
	if *runTest != "" {
		require.NotContains(t, output, "--- FAIL")
		return
	}
	raw, err := os.ReadFile(path)
	require.NoError(t, err, "the suite made no report:\n%s", last(output, 4000))
	found, err := conformance.ParseReport(raw)
	require.NoError(t, err)
	known, err := conformance.ReadExceptions(filepath.Join("testdata", "conformance", "exceptions.yaml"))
	require.NoError(t, err)
	docs := filepath.Join(harness.Root(t), "docs", "conformance")
	if *update {
		require.NoError(t, os.MkdirAll(docs, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(docs, "report.yaml"), raw, 0o644))                         //nolint:gosec // public
		require.NoError(t, os.WriteFile(filepath.Join(docs, "README.md"), []byte(found.Markdown(known)), 0o644)) //nolint:gosec // public
	}
	require.NoError(t, found.Check(known, conformance.Failed(output)...))
}

// runSuite runs it in the cluster's network. What it says is kept in out/.
func (w *world) runSuite(suite string) (report, output string) {
	w.Helper()
	report = filepath.Join(w.TempDir(), "report.yaml")
	arguments := []string{
		"-test.run=^TestConformance$", "-test.timeout", suiteTimeout.String(), "-test.v", "-test.parallel=" + strconv.Itoa(atOnce),
		"--gateway-class=weir", "--cleanup-base-resources=false", "--conformance-profiles=GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS",
		"--organization=weir", "--project=weir", "--version=" + tag, "--url=https://weir.dev", "--contact=https://weir.dev",
		"--report-output=" + report, "--usable-address=" + w.node.PoolAddress(), "--unusable-address=192.0.2.1",
	}
	if *runTest != "" {
		arguments = append(arguments, "--run-test="+*runTest)
	}
	ctx, cancel := context.WithTimeout(w.Context(), suiteTimeout)
	defer cancel()
	said, err := w.node.Command(ctx, suite, arguments...).CombinedOutput() // What fails is in the report.
	log := filepath.Join(harness.Root(w.T), "out", "conformance.log")
	require.NoError(w.T, os.MkdirAll(filepath.Dir(log), 0o755))
	require.NoError(w.T, os.WriteFile(log, said, 0o600))
	w.Logf("the suite ended (%v); what it said is in out/conformance.log", err)
	return report, string(said)
}

func last(text string, bytes int) string { return text[max(0, len(text)-bytes):] }

// suite is the compiled suite; what its manifests run is loaded.
func (w *world) suite() string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Minute)
	defer cancel()
	tools, err := build.Tools(ctx, w.node.Sources, os.Stderr, build.Conformance)
	require.NoError(w.T, err)
	var all []images.Image
	for _, reference := range []string{"gateway-api/echo-basic:v1.5.1", "gateway-api/echo-basic:v1.6.0-dev.3", "coredns/coredns:v1.12.2"} {
		image, err := images.Static("registry.k8s.io/"+reference, filepath.Join(tools, "echo-basic"))
		require.NoError(w.T, err)
		all = append(all, image)
	}
	require.NoError(w.T, w.node.Load(ctx, all...))
	return filepath.Join(tools, "conformance.test")
}
