package policy_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
	"weir.dev/policy/policytest"
)

// Every fault of the table is refused here; e2e/kubernetes has the same table
// refused by the custom resource definitions.
func TestFaults(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("testdata", "faults.yaml"))
	require.NoError(t, err)
	cases, err := policytest.Cases(content)
	require.NoError(t, err)
	require.Greater(t, len(cases), 100)
	parser, err := policy.NewParser()
	require.NoError(t, err)
	for _, tc := range cases {
		t.Run(tc.Name, func(t *testing.T) {
			errs := parser.ParseObject("kubernetes", tc.Object).Problems.Errors()
			require.Equal(t, tc.Refused, len(errs) > 0, "%v", errs)
		})
	}
}
