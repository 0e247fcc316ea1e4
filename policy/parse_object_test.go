package policy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/policy"
)

const fromServer = `
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata:
  name: b
  namespace: shop
  generation: %GEN
  uid: 3c4d
  creationTimestamp: "2026-01-02T03:04:05Z"
  resourceVersion: "%RV"
  managedFields: [{manager: kubectl, operation: Update, time: "2026-01-02T03:04:05Z", fieldsV1: {"f:spec": {}}}]
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "%RV"}
spec: {endpoints: [{address: 127.0.0.1, port: 80}]}
status: {conditions: [{type: "%RV"}], whatever: 1}
`

func server(generation, version string) []byte {
	return []byte(strings.NewReplacer("%GEN", generation, "%RV", version).Replace(fromServer))
}

func TestObjectsAsAServerGivesThem(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	first := parser.ParseObject("kubernetes", server("1", "10"))
	require.Empty(t, first.Problems)
	require.EqualValues(t, 1, first.Object.Value.GetGeneration())
	require.Equal(t, "kubernetes: Backend shop/b: spec.endpoints", first.Object.Origin("spec.endpoints").String(), "no line")

	status := parser.ParseObject("kubernetes", server("1", "11"))
	require.True(t, policy.SameContent(first.Object, status.Object), "a change of status alone says nothing new")
	edited := parser.ParseObject("kubernetes", server("2", "12"))
	require.False(t, policy.SameContent(first.Object, edited.Object))
	require.False(t, policy.SameContent(nil, first.Object))

	file := parser.Parse("saved.yaml", server("1", "10"))
	require.Len(t, file, 1)
	require.Empty(t, file[0].Problems, "kubectl get -o yaml is a policy file")
}

func TestBrokenObjectsHaveNoLines(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	document := parser.ParseObject("kubernetes", []byte(`{"apiVersion":"weir.dev/v1alpha1","kind":"AuthPolicy","metadata":{"name":"p"},"spec":{"extra":1}}`))
	require.Nil(t, document.Object)
	require.NotNil(t, document.Closing)
	require.Zero(t, document.Closing.Origin.Line)
	require.NotEmpty(t, document.Problems)
	for _, problem := range document.Problems {
		require.Zero(t, problem.Line, problem)
	}
	require.NotEmpty(t, parser.ParseObject("kubernetes", []byte("a: 1\n---\nb: 2")).Problems)
	require.NotEmpty(t, parser.ParseObject("kubernetes", nil).Problems)
}

func TestADuplicateNamesBothPlaces(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	fromFile := parser.Parse("dir/a.yaml", server("1", "1"))
	fromAPI := parser.ParseObject("kubernetes", server("1", "1"))
	_, problems := policy.Resolve(policy.Input{Objects: []*policy.Object{fromFile[0].Object, fromAPI.Object}})
	require.Len(t, problems.Errors(), 1)
	require.Equal(t, "kubernetes: Backend shop/b: metadata.name: is already defined at dir/a.yaml:2; this one is ignored [WEIR1005]", problems.Errors()[0].Error())
}
