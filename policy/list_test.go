package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A List, as `kubectl get -o yaml` writes it, is its items: each with its own line,
// its own problems, and what it would close if it is broken.
func TestLists(t *testing.T) {
	parser, err := NewParser()
	require.NoError(t, err)
	documents := parser.Parse("l.yaml", []byte(`# from the cluster
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: gateway.networking.k8s.io/v1
  kind: Gateway
  metadata: {name: edge, uid: "1", resourceVersion: "7"}
  spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
- just text
- apiVersion: weir.dev/v1alpha1
  kind: AuthPolicy
  metadata: {name: a}
  spec:
    targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
    nonsense: true
---
apiVersion: v1
kind: List
items: []
`))
	require.Len(t, documents, 3)
	require.Empty(t, documents[0].Problems)
	require.Equal(t, ObjectRef{Kind: "Gateway", Namespace: "default", Name: "edge"}, documents[0].Object.Ref)
	require.Equal(t, 6, documents[0].Object.Origin("").Line)
	require.Equal(t, 9, documents[0].Object.Origin("spec.listeners[0].port").Line)
	require.Equal(t, CodeDecode, documents[1].Problems[0].Code)
	require.Equal(t, 10, documents[1].Problems[0].Line)
	require.Nil(t, documents[1].Closing, "it closes nothing for what stands beside it")
	require.NotNil(t, documents[2].Closing, "what a broken policy guards stays shut")
	require.Contains(t, documents[2].Problems[0].Error(), "l.yaml:16")

	for text, want := range map[string]string{
		"apiVersion: v1\nkind: List\n":                                                           "items of a List",
		"apiVersion: v1\nkind: List\nitems: 1\n":                                                 "items of a List",
		"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List, items: []}\n":        `the kind "List" is not known`,
		"apiVersion: v2\nkind: List\nitems: []\n":                                                `the kind "List" is not known`,
		"apiVersion: v1\nkind: List\nitems:\n" + strings.Repeat("- {}\n", MaxDocumentsPerFile+1): "more than",
	} {
		documents := parser.Parse("l.yaml", []byte(text))
		require.Len(t, documents, 1, "%.60s", text)
		require.Contains(t, documents[0].Problems[0].Message, want)
	}
	closing := parser.Parse("l.yaml", []byte("apiVersion: v1\nkind: List\nitems: {kind: AuthPolicy}\n"))
	require.NotNil(t, closing[0].Closing)
}
