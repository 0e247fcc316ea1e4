package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
	"weir.dev/policy/policytest"
	"weir.dev/policy/v1alpha1"
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

// Every kind of Weir's has a good object and faults in the table, and a
// definition.
func TestEveryKindIsInTheTable(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("testdata", "faults.yaml"))
	require.NoError(t, err)
	cases, err := policytest.Cases(content)
	require.NoError(t, err)
	faults := map[string]int{}
	for _, tc := range cases {
		kind, _, _ := strings.Cut(tc.Name, ":")
		faults[kind]++
	}
	parser, err := policy.NewParser()
	require.NoError(t, err)
	for _, gvk := range parser.Kinds() {
		if gvk.Group != v1alpha1.Group {
			continue
		}
		require.Greater(t, faults[gvk.Kind], 5, gvk.Kind)
		found, err := filepath.Glob(filepath.Join("..", "charts", "crds", "weir.dev_"+strings.TrimSuffix(strings.ToLower(gvk.Kind), "y")+"*.yaml"))
		require.NoError(t, err)
		require.NotEmpty(t, found, "%s: make generate", gvk.Kind)
	}
}

func TestBrokenTables(t *testing.T) {
	for name, table := range map[string]string{
		"not YAML":              "kinds: [",
		"no such place":         "kinds: [{good: {kind: K, spec: {a: [1]}}, faults: [{at: spec.a.x, to: 1}]}]",
		"below text":            "kinds: [{good: {kind: K, spec: text}, faults: [{at: spec.a, to: 1}]}]",
		"nothing to drop":       "kinds: [{good: {kind: K}, faults: [{at: spec, drop: true}]}]",
		"beyond the list":       "kinds: [{good: {kind: K, spec: [1]}, faults: [{at: spec.2, to: 1}]}]",
		"keys that no JSON has": "kinds: [{good: {kind: K, spec: {? [a] : 1}}}]",
	} {
		_, err := policytest.Cases([]byte(table))
		require.Error(t, err, name)
	}
}
