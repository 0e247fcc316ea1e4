package conformance_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/conformance"
	"weir.dev/e2e/internal/harness"
)

var update = flag.Bool("update", false, "write docs/conformance/README.md")

const some = `
gatewayAPIChannel: experimental
gatewayAPIVersion: v1.6.1
profiles:
- name: GATEWAY-HTTP
  core: {result: failure, statistics: {Passed: 3, Failed: 1, Skipped: 0}, failedTests: [First]}
  extended:
    result: success
    statistics: {Passed: 2, Failed: 0, Skipped: 0}
    supportedFeatures: [A]
    unsupportedFeatures: [B]
`

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, report string
		known        conformance.Exceptions
		problem      string
	}{
		{"as known", some, conformance.Exceptions{Tests: map[string]string{"First": "why"}, Features: map[string]string{"B": "why"}}, ""},
		{"a test failed", some, conformance.Exceptions{Features: map[string]string{"B": "why"}}, "test First failed"},
		{"an exception without a reason", some, conformance.Exceptions{Tests: map[string]string{"First": ""}, Features: map[string]string{"B": "why"}}, "test First failed"},
		{"an exception passed", some, conformance.Exceptions{Tests: map[string]string{"First": "why", "Second": "why"}, Features: map[string]string{"B": "why"}}, "test Second is said to fail, and did not"},
		{"a feature is not claimed", some, conformance.Exceptions{Tests: map[string]string{"First": "why"}}, "feature B is not claimed"},
		{"a feature is claimed", some, conformance.Exceptions{Tests: map[string]string{"First": "why"}, Features: map[string]string{"A": "why", "B": "why"}}, "feature A is said not to be served"},
		{"nothing passed", "profiles: [{name: GATEWAY-HTTP, core: {result: success}}]", conformance.Exceptions{}, "no test passed"},
		{"a test was left out", "profiles: [{name: GATEWAY-HTTP, core: {statistics: {Passed: 1}, skippedTests: [First]}}]", conformance.Exceptions{}, "First was left out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			report, err := conformance.ParseReport([]byte(c.report))
			require.NoError(t, err)
			err = report.Check(&c.known)
			if c.problem == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.problem)
		})
	}
	_, err := conformance.ParseReport([]byte("kind: Other"))
	require.ErrorContains(t, err, "no profiles")
}

func TestFailed(t *testing.T) {
	require.Equal(t, []string{"Second"}, conformance.Failed(`
    --- PASS: TestConformance/First (0.10s)
    --- FAIL: TestConformance/Second (0.10s)
        --- FAIL: TestConformance/Second/part (0.10s)
--- FAIL: TestConformance (0.20s)
`))
	report, err := conformance.ParseReport([]byte(some))
	require.NoError(t, err)
	known := conformance.Exceptions{Tests: map[string]string{"First": "why"}, Features: map[string]string{"B": "why"}}
	require.ErrorContains(t, report.Check(&known, "Second"), "test Second failed")
}

// The page that is committed says what the committed report does.
func TestPage(t *testing.T) {
	root := harness.Root(t)
	raw, err := os.ReadFile(filepath.Join(root, "docs", "conformance", "report.yaml"))
	require.NoError(t, err)
	report, err := conformance.ParseReport(raw)
	require.NoError(t, err)
	known, err := conformance.ReadExceptions(filepath.Join(root, "e2e", "node", "testdata", "conformance", "exceptions.yaml"))
	require.NoError(t, err)
	require.NoError(t, report.Check(known))
	path := filepath.Join(root, "docs", "conformance", "README.md")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(report.Markdown(known)), 0o644)) //nolint:gosec // public
	}
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, report.Markdown(known), string(page))
}
