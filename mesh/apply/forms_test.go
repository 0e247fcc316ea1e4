package apply

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"weir.dev/mesh/istio"
)

const shares = `
kind: VirtualService
metadata: {name: all, namespace: gw, managedFields: [{manager: weir, operation: Apply, fieldsV1: {'f:spec': {'f:http': {}, 'f:gateways': {}}}}]}
spec:
  gateways: [gw/weir-80]
  http:
    - name: a
      match: [{uri: {exact: /a}}]
      route: [{destination: {host: x, port: {number: 80}}, weight: 1}, {destination: {host: w, port: {number: 80}}, weight: 3}]
      rewrite: {authority: h, uriRegexRewrite: {match: ^/a, rewrite: /b}}
    - {name: b, match: [{uri: {exact: /b}}], timeout: 1s}
`

func gateway(t *testing.T) *unstructured.Unstructured {
	return object(t, "spec: {servers: [{port: {number: 80}}]}")
}

// What keeps its name and number is told by its form.
func TestAlteredForms(t *testing.T) {
	before := object(t, shares)
	form := istio.Form{Path: "exact /a", To: "outbound|80||w:3, outbound|80||x:1", Host: "h", Rewrite: "^/a -> /b"}
	for change, alter := range map[[2]string]func(*istio.Form){
		{"", ""}:                         nil,
		{"timeout: 1s", "timeout: 2s"}:   nil, // tells nobody apart
		{"rewrite: /b", "rewrite: /c"}:   func(f *istio.Form) { f.Rewrite = "^/a -> /c" },
		{"authority: h", "authority: i"}: func(f *istio.Form) { f.Host = "i" },
		{"host: w,", "host: z,"}:         func(f *istio.Form) { f.To = "outbound|80||x:1, outbound|80||z:3" },
		{"weight: 3", "weight: 0"}:       func(f *istio.Form) { f.To = "outbound|80||x:1" },
		{"exact: /a}", "regex: /a}"}:     func(f *istio.Form) { f.Path = "regex /a" },
	} {
		after := object(t, strings.Replace(shares, change[0], change[1], 1))
		found := altered([]*unstructured.Unstructured{before}, []*unstructured.Unstructured{after}, map[string]*unstructured.Unstructured{"gw/weir-80": gateway(t)})
		if alter == nil {
			require.Empty(t, found, change[1])
			continue
		}
		want := form
		alter(&want)
		require.Equal(t, []Routes{{Port: 80, Count: map[string]int{"a": 1}, Forms: map[string][]istio.Form{"a": {want}}}}, found, change[1])
	}
}

// Where requests are handed back, a route that is rewritten otherwise is another one,
// and goes before extauthz has the new rules.
func TestRewritesTellRoutesThatAreHandedBack(t *testing.T) {
	before, after := object(t, shares), object(t, strings.Replace(shares, "rewrite: /b", "rewrite: /c", 1))
	rest, removed := without(before, after, true)
	require.Equal(t, 1, removed)
	require.Len(t, entries(rest, "http"), 1)
	require.Equal(t, "b", nameOf(entries(rest, "http")[0]))
	_, removed = without(before, after, false)
	require.Zero(t, removed)
	_, removed = without(before, before, true)
	require.Zero(t, removed)
}

// A rollback goes on to the guards when the gateways are seen to rewrite as before.
func TestARollbackWaitsForForms(t *testing.T) {
	after := object(t, strings.Replace(shares, "rewrite: /b", "rewrite: /c", 1))
	port := &item{id: ID{"Gateway", "gw", "weir-80"}, want: gateway(t), action: Unchanged}
	service := &item{id: ID{"VirtualService", "gw", "all"}, before: object(t, shares), want: after, after: after, action: Changed, client: echo{}}
	mesh := &formMesh{}
	r := &run{
		Cluster: Cluster{Mesh: mesh}, request: Request{Wait: time.Second, Progress: func(string) {}}, result: &Result{},
		items: []*item{port, service}, written: []*item{service},
	}
	require.NoError(t, r.withdraw(t.Context(), []*item{service}))
	require.Equal(t, []Routes{{Port: 80, Count: map[string]int{"a": 1}, Forms: map[string][]istio.Form{
		"a": {{Path: "exact /a", To: "outbound|80||w:3, outbound|80||x:1", Host: "h", Rewrite: "^/a -> /b"}},
	}}}, mesh.asked)
	mesh.lacks, service.after = []string{"still as it was"}, after
	require.ErrorContains(t, r.withdraw(t.Context(), []*item{service}), "still as it was", "the guards stay")
}

// echo takes what is applied.
type echo struct{ dynamic.ResourceInterface }

func (echo) Patch(_ context.Context, _ string, _ types.PatchType, raw []byte, _ metav1.PatchOptions, _ ...string) (*unstructured.Unstructured, error) {
	made := &unstructured.Unstructured{}
	return made, json.Unmarshal(raw, &made.Object)
}

// formMesh notes which routes it is asked for.
type formMesh struct {
	Mesh
	asked []Routes
	lacks []string
}

func (m *formMesh) Missing(context.Context, []*unstructured.Unstructured) ([]string, error) {
	return nil, nil
}

func (m *formMesh) Unserved(_ context.Context, _ []*unstructured.Unstructured, routes []Routes) ([]string, error) {
	m.asked = routes
	return m.lacks, nil
}
