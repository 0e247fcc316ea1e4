package policy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// The lines that are kept are those of the YAML tree, for every field of every
// object of the test data.
func TestLinesAreThoseOfTheTree(t *testing.T) {
	parser, err := NewParser()
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/*/*.yaml")
	require.NoError(t, err)
	odd := filepath.Join(t.TempDir(), "odd.yaml")
	require.NoError(t, os.WriteFile(odd, []byte(`apiVersion: v1
kind: ConfigMap
metadata: {name: odd, annotations: &a {"a.b/c": "x", "q\"uo\\te": y,
  "<html>&": z, é: "ü"}, labels: *a}
data:
  "": empty
  "[0]": |
    {"a": [1, 2]}
  list: "[]"
`), 0o600))
	checked := 0
	for _, path := range append(files, odd) {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		chunks := splitDocuments(content)
		for _, part := range chunks {
			var root yaml.Node
			if yaml.Unmarshal(part.text, &root) != nil || len(root.Content) == 0 {
				continue
			}
			documents := parser.parseDocument(path, part)
			if len(documents) != 1 || documents[0].Object == nil {
				continue
			}
			document := documents[0]
			shift(root.Content[0], part.offset, map[*yaml.Node]bool{})
			walkTree("", jsonTree(document.Object.raw), func(field, _ string) {
				parts := splitPath(field)
				node, line := root.Content[0], root.Content[0].Line
				for _, name := range parts {
					next, at := child(node, name)
					if next == nil {
						break
					}
					node, line = next, at
				}
				require.Equal(t, line, document.Object.lineOf(field), "%s: %s", path, field)
				require.Equal(t, line, document.Object.lineOf(field+".nothing[3].there"), "%s: %s", path, field)
				checked++
			})
		}
	}
	require.Greater(t, checked, 1000)
}
