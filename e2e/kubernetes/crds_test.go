//go:build slow

package kubernetes_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"weir.dev/e2e/internal/harness"
	"weir.dev/policy"
	"weir.dev/policy/policytest"
	"weir.dev/policy/v1alpha1"
)

// tries asks the API server whether it would take an object.
func tries(t *testing.T, c client.Client, raw []byte) error {
	t.Helper()
	value := &unstructured.Unstructured{}
	require.NoError(t, json.Unmarshal(raw, &value.Object))
	value.SetNamespace("default") // There is no other.
	return c.Create(t.Context(), value, client.DryRunAll, client.FieldValidation("Strict"))
}

func TestSlowCustomResources(t *testing.T) {
	c := kubernetes(t)
	installCRDs(t, c, weirCRDs(t))
	root := admin(t, c)

	t.Run("faults", func(t *testing.T) {
		content, err := os.ReadFile(filepath.Join(harness.Root(t), "policy", "testdata", "faults.yaml"))
		require.NoError(t, err)
		cases, err := policytest.Cases(content)
		require.NoError(t, err)
		require.Greater(t, len(cases), 100)
		for _, tc := range cases {
			t.Run(tc.Name, func(t *testing.T) {
				err := tries(t, root, tc.Object)
				switch {
				case tc.OnlyParser != "" && tc.Refused:
					require.NoError(t, err, "it is refused after all: take onlyParser away")
				case tc.OnlyParser != "" || tc.Refused:
					require.Error(t, err)
					require.NotContains(t, err.Error(), "no matches for kind")
				default:
					require.NoError(t, err)
				}
			})
		}
	})

	t.Run("broken files are refused", func(t *testing.T) {
		tried := 0
		parser, err := policy.NewParser()
		require.NoError(t, err)
		for file, document := range documents(t, "broken") {
			// What is broken only together with other objects is not refused alone.
			if document.err == nil && len(parser.ParseObject(file, document.raw).Problems.Errors()) > 0 {
				tried++
				require.Error(t, tries(t, root, document.raw), file)
			}
		}
		require.Greater(t, tried, 10)
	})

	t.Run("good files are taken", func(t *testing.T) {
		tried := 0
		parser, err := policy.NewParser()
		require.NoError(t, err)
		for file, document := range documents(t, "plan") {
			// Goldens of what is broken on purpose have such objects too.
			if document.err == nil && len(parser.ParseObject(file, document.raw).Problems.Errors()) == 0 {
				tried++
				require.NoError(t, tries(t, root, document.raw), file)
			}
		}
		require.Greater(t, tried, 20)
	})

	t.Run("columns say something", func(t *testing.T) {
		definition := &unstructured.Unstructured{}
		definition.SetAPIVersion("apiextensions.k8s.io/v1")
		definition.SetKind("CustomResourceDefinition")
		require.NoError(t, root.Get(t.Context(), client.ObjectKey{Name: "authpolicies.weir.dev"}, definition))
		raw, err := definition.MarshalJSON()
		require.NoError(t, err)
		for _, want := range []string{`"Accepted"`, `"Enforced"`, `"Target"`, `"Age"`, `"shortNames"`, `"categories":["weir"]`, `"status":{}`} {
			require.Contains(t, string(raw), want)
		}
	})
}

type document struct {
	raw []byte
	err error
}

// documents are those of Weir's own kinds in a folder of policy/testdata.
func documents(t *testing.T, folder string) map[string]document {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(harness.Root(t), "policy", "testdata", folder, "*.yaml"))
	require.NoError(t, err)
	found := map[string]document{}
	for _, path := range paths {
		if strings.HasSuffix(path, ".out.yaml") {
			continue
		}
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		for i, part := range strings.Split(string(content), "\n---\n") {
			raw, err := yaml.YAMLToJSON([]byte(part))
			var head struct{ APIVersion, Kind string }
			if err == nil {
				err = json.Unmarshal(raw, &head)
			}
			if err == nil && head.APIVersion == v1alpha1.APIVersion && installed(head.Kind) {
				found[filepath.Base(path)+"#"+string(rune('0'+i%10))+head.Kind+part[:min(60, len(part))]] = document{raw: raw}
			}
		}
	}
	return found
}

// installed leaves out kinds that do not exist, which broken files have.
func installed(kind string) bool {
	return strings.HasSuffix(kind, "Policy") || kind == v1alpha1.KindBackend || kind == v1alpha1.KindConsumer
}
