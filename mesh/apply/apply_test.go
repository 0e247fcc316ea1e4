package apply

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"weir.dev/mesh/istio"
	"weir.dev/policy"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	made := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &made.Object))
	return made
}

const live = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: all
  namespace: gw
  uid: 5d1c
  resourceVersion: "7"
  generation: 3
  labels: {app.kubernetes.io/managed-by: weir, theirs: label}
  annotations: {weir.dev/origin: "shop.yaml:3"}
  managedFields:
    - manager: kubectl
      operation: Update
      fieldsV1: {"f:metadata": {"f:labels": {"f:theirs": {}}}, "f:spec": {"f:exportTo": {}}}
    - manager: weir
      operation: Apply
      fieldsV1:
        "f:metadata": {"f:labels": {"f:app.kubernetes.io/managed-by": {}}, "f:annotations": {"f:weir.dev/origin": {}}}
        "f:spec": {"f:hosts": {}, "f:gateways": {}, "f:http": {}}
spec:
  hosts: ["*"]
  exportTo: ["."]
  gateways: [gw/weir-80]
  http:
    - {name: a, match: [{uri: {exact: /a}}, {uri: {prefix: /a/}}], timeout: 1s}
    - {name: b, match: [{uri: {exact: /b}}]}
status: {observedGeneration: 3}
`

func TestDifferences(t *testing.T) {
	before := said(object(t, live))
	after := said(object(t, strings.NewReplacer("timeout: 1s", "timeout: 2s", `exportTo: ["."]`, "exportTo: []", "name: b,", `name: "",`,
		"generation: 3", "generation: 4", "uid: 5d1c", "uid: 77").Replace(live)))
	require.Equal(t, []policy.FieldChange{
		{Path: "spec.exportTo", New: "[]"},
		{Path: "spec.exportTo[0]", Old: "."},
		{Path: "spec.http[0].timeout", Old: "1s", New: "2s"},
		{Path: "spec.http[1].name", Old: "b", New: `""`},
	}, differences(before, after, false))
	require.Empty(t, differences(before, said(object(t, live)), false))

	secret := func(value string) map[string]any {
		return map[string]any{"data": map[string]any{"rules.yaml": value}, "kind": "Secret"}
	}
	hidden := differences(secret("old"), secret("new"), true)
	require.Equal(t, []policy.FieldChange{{Path: "data[rules.yaml]", Old: "(hidden)", New: "(hidden) and changed"}}, hidden)
	require.Equal(t, "old", differences(secret("old"), secret("new"), false)[0].Old, "of what is no Secret it is shown")
	long := differences(secret(strings.Repeat("x", 1000)), secret("new"), false)[0]
	require.Contains(t, long.Old, "(1000 bytes, sha256 ")
}

func TestAppliedPart(t *testing.T) {
	part, err := appliedPart(object(t, live))
	require.NoError(t, err)
	want := object(t, live)
	for _, field := range [][]string{
		{"status"},
		{"spec", "exportTo"},
		{"metadata", "labels", "theirs"},
		{"metadata", "uid"},
		{"metadata", "resourceVersion"},
		{"metadata", "generation"},
		{"metadata", "managedFields"},
	} {
		unstructured.RemoveNestedField(want.Object, field...)
	}
	require.Equal(t, want.Object, part.Object)

	nobodys := object(t, strings.ReplaceAll(live, "manager: weir", "manager: other"))
	part, err = appliedPart(nobodys)
	require.NoError(t, err)
	require.Nil(t, part)
}

func TestWithout(t *testing.T) {
	had := object(t, live)
	for change, want := range map[string]struct {
		left    []string
		removed int
	}{
		"":            {nil, 0},
		"name: b":     {[]string{"a"}, 1},
		"exact: /a":   {[]string{"b"}, 1}, // another match is another route
		"timeout: 1s": {nil, 0},           // the same route, served otherwise
	} {
		next := object(t, live)
		if change != "" {
			next = object(t, strings.Replace(live, change, change+"x", 1))
			if change == "timeout: 1s" {
				next = object(t, strings.Replace(live, change, "timeout: 3s", 1))
			}
		}
		rest, removed := without(had, next, false)
		require.Equal(t, want.removed, removed, change)
		if want.left == nil {
			require.Nil(t, rest)
			continue
		}
		require.Len(t, entries(rest, "http"), len(want.left))
		require.Equal(t, want.left[0], nameOf(entries(rest, "http")[0]))
		require.Empty(t, entries(rest, "exportTo"), "what others own is not applied")
	}
	rest, removed := without(had, nil, false)
	require.Nil(t, rest)
	require.Equal(t, 2, removed)
	_, removed = without(nil, had, false)
	require.Zero(t, removed)
}

func TestWithSubsets(t *testing.T) {
	const text = "kind: DestinationRule\nspec: {host: a, subsets: [{name: one}, {name: two}]}"
	want := object(t, text)
	require.Same(t, want, with(nil, want))
	require.Same(t, want, with(object(t, text), want), "nothing goes")
	both := with(object(t, strings.Replace(text, "one", "old", 1)), want)
	require.Len(t, entries(both, "subsets"), 3)
	require.Len(t, entries(want, "subsets"), 2, "what is to be stays what it is")
	filter := object(t, strings.Replace(text, "DestinationRule", "EnvoyFilter", 1))
	require.Same(t, filter, with(object(t, text), filter))
}

func TestRoutesOf(t *testing.T) {
	gateways := map[string]*unstructured.Unstructured{"gw/weir-80": object(t, "spec: {servers: [{port: {number: 80}}]}")}
	next := object(t, strings.Replace(live, "name: b", "name: c", 1))
	services := []*unstructured.Unstructured{next, nil}
	before := []*unstructured.Unstructured{nil, object(t, live)}
	require.Equal(t, []Routes{{Port: 80, Count: map[string]int{"a": 2, "b": 0, "c": 1}}}, routesOf(services, before, gateways))
	require.Empty(t, routesOf(services, before, nil), "of no Gateway that is known")
}

// Ports that are not asked about any more are opened only when nothing is routed there.
func TestRulesChange(t *testing.T) {
	there := object(t, "kind: AuthorizationPolicy\nmetadata: {name: weir-extauthz}")
	for _, c := range []struct {
		kind, name, action string
		before             *unstructured.Unstructured
		want               bool
	}{
		{"AuthorizationPolicy", "weir-extauthz", Changed, there, true},
		{"AuthorizationPolicy", "weir-extauthz", Unchanged, there, false},
		{"AuthorizationPolicy", "weir-extauthz", Created, nil, false},
		{"Secret", istio.RulesSecret, Changed, there, true},
		{"Secret", "weir-certificate", Changed, there, false},
		{"EnvoyFilter", "weir-80-routes", Changed, there, false},
	} {
		r := &run{items: []*item{{id: ID{c.kind, "gw", c.name}, action: c.action, before: c.before}}}
		require.Equal(t, c.want, r.rulesChange(), "%+v", c)
		r = &run{deletions: r.items}
		require.Equal(t, c.want, r.rulesChange(), "%+v", c)
	}
}

// What is taken out again of what was brought is waited for, too.
func TestServing(t *testing.T) {
	before, after := object(t, live), object(t, strings.Replace(live, "name: b", "name: c", 1))
	kept := &item{id: ID{"VirtualService", "gw", "kept"}, before: before, after: after, action: NotApplied}
	r := &run{items: []*item{kept}}
	require.Same(t, before, r.serving()[0], "a dry run is no change")
	r.written, kept.action = r.items, Changed
	require.Same(t, after, r.serving()[0])
	had := r.serving()
	kept.after, kept.action = nil, Deleted
	require.Nil(t, r.serving()[0])
	gateways := map[string]*unstructured.Unstructured{"gw/weir-80": object(t, "spec: {servers: [{port: {number: 80}}]}")}
	require.Equal(t, []Routes{{Port: 80, Count: map[string]int{"a": 0, "c": 0}}}, altered(had, r.serving(), gateways))
}

// A certificate's Secret is no rules.
func TestExpectedRules(t *testing.T) {
	secret := func(name, content string) istio.Object {
		return istio.Object{APIVersion: "v1", Kind: "Secret", Name: name, Body: map[string]any{"stringData": map[string]any{istio.RulesKey: content}}}
	}
	_, _, rules, err := Expected([]istio.Object{secret(istio.RulesSecret, "rules"), secret("weir-certificate", "other")})
	require.NoError(t, err)
	require.Equal(t, "rules", string(rules))
}

// What an apply is to mend is not waited for before it has begun.
func TestAltered(t *testing.T) {
	gateways := map[string]*unstructured.Unstructured{"gw/weir-80": object(t, "spec: {servers: [{port: {number: 80}}]}")}
	all := []*unstructured.Unstructured{object(t, live)}
	rest, removed := without(all[0], object(t, strings.Replace(live, "name: b", "name: c", 1)), false)
	require.Equal(t, 1, removed)
	left := []*unstructured.Unstructured{rest}
	require.Equal(t, []Routes{{Port: 80, Count: map[string]int{"b": 0}}}, altered(all, left, gateways), "not route a, which may not be served as it should")
	require.Equal(t, []Routes{{Port: 80, Count: map[string]int{"a": 0, "b": 0}}}, altered(all, []*unstructured.Unstructured{nil}, gateways))
	require.Empty(t, altered(all, all, gateways))
	require.Empty(t, altered(all, left, nil), "the Gateway is missing, so nothing was served")
}

func TestFieldsHavePlaces(t *testing.T) {
	first, b := policy.Origin{File: "f.yaml", Line: 1}, policy.Origin{File: "f.yaml", Line: 9}
	it := &item{want: object(t, live), object: &istio.Object{Origins: []policy.Origin{first}, Parts: map[string]policy.Origin{"b": b}}}
	for field, want := range map[string]policy.Origin{
		"": first, "spec.hosts": first, "spec.http[1].route[0]": b, "spec.http[0]": first, "spec.http[7]": first,
	} {
		got, known := it.from(field)
		require.True(t, known)
		require.Equal(t, want, got, field)
	}
	filter := &item{object: it.object, want: object(t, "spec: {configPatches: [{match: {routeConfiguration: {vhost: {route: {name: b}}}}}]}")}
	got, _ := filter.from("spec.configPatches[0].patch")
	require.Equal(t, b, got)
	_, known := (&item{object: &istio.Object{}, want: it.want}).from("")
	require.False(t, known)
}

func TestAddedByOthers(t *testing.T) {
	want := object(t, "kind: X\nmetadata: {name: a}\nspec: {a: {b: 1}, list: [1]}")
	have := object(t, "kind: X\nmetadata: {name: a, labels: {x: y}}\nspec: {a: {b: 1, c: 2}, list: [1, 2], d: 3}\nextra: 1")
	require.Equal(t, []string{"extra", "spec.a.c", "spec.d"}, added(want.Object, have.Object))
	require.Empty(t, added(want.Object, want.Object))
}

// What no object is at fault of is said once, with how many it is about; what one
// is at fault of, of that one.
func TestAWebhookThatIsAwayIsSaidOnce(t *testing.T) {
	away := apierrors.NewInternalError(errors.New(`failed calling webhook "rev.validation.istio.io": failed to call webhook: connection refused`))
	r := &run{Cluster: Cluster{Host: "https://api"}, result: &Result{}}
	all := []*item{{id: ID{"VirtualService", "gw", "a"}}, {id: ID{"EnvoyFilter", "gw", "b"}}, {id: ID{"Secret", "gw", "c"}}, {id: ID{"Secret", "gw", "d"}}, {id: ID{"Secret", "gw", "e"}}}
	r.refusedAll(all, []error{away, away, nil, apierrors.NewInternalError(errors.New("etcd is away")), apierrors.NewInternalError(errors.New("etcd is away"))})
	var said []string
	for _, problem := range r.result.Problems {
		said = append(said, problem.Message)
	}
	require.Len(t, said, 3)
	require.Contains(t, said[0], "Secret gw/d: ")
	require.Contains(t, said[1], "Secret gw/e: ")
	require.Equal(t, "2 of 5 objects cannot be changed while the API server gets no answer from a webhook that it asks about them; see that what it names runs, istiod above all: "+away.Error(), said[2])
}
