//go:build slow

package kubernetes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"weir.dev/e2e/cluster/build"
	"weir.dev/e2e/internal/harness"
	meshapply "weir.dev/mesh/apply"
	"weir.dev/mesh/istio"
	"weir.dev/policy"
)

// istioCRDs are Istio's own definitions.
func istioCRDs(t *testing.T) string {
	t.Helper()
	return filepath.Join(pinned(t, "istio", "istio.io/istio"), "manifests", "charts", "base", "files", "crd-all.gen.yaml")
}

// pinned is the folder of a module that a component of the cluster pins.
func pinned(t *testing.T, component, module string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir, err := build.Module(ctx, filepath.Join(harness.Root(t), "e2e", "cluster", "components"), component, module)
	require.NoError(t, err)
	return dir
}

// pretended is a mesh that says what it is told to, and writes down what is there
// when it is asked.
type pretended struct {
	w *istioAPI
	// hindrances, and what is missing, by the method's name.
	says map[string][]string
	// when is called before an answer.
	when  func(method string)
	asked []string
	// there are the names of what was there at each asking.
	there []string
}

func (p *pretended) answer(method string) ([]string, error) {
	if p.when != nil {
		p.when(method)
	}
	p.asked = append(p.asked, method)
	p.there = append(p.there, method+": "+strings.Join(p.w.names(), " "))
	return p.says[method], nil
}

func (p *pretended) Ready(context.Context, time.Duration) (hindrances, notes []string, err error) {
	hindrances, err = p.answer("Ready")
	return hindrances, nil, err
}

func (p *pretended) Missing(context.Context, []*unstructured.Unstructured) ([]string, error) {
	return p.answer("Missing")
}

func (p *pretended) Unruled(_ context.Context, rules []byte) ([]string, error) {
	return p.answer("Unruled " + string(rules))
}

func (p *pretended) Unserved(_ context.Context, filters []*unstructured.Unstructured, routes []meshapply.Routes) ([]string, error) {
	raw, err := json.Marshal(routes)
	require.NoError(p.w.t, err)
	return p.answer(fmt.Sprintf("Unserved %d %s", len(filters), raw))
}

func (p *pretended) Judges(_ context.Context, ports []int32, objects []*unstructured.Unstructured) ([]string, error) {
	return p.answer(fmt.Sprintf("Judges %v %d", ports, len(objects)))
}

func (p *pretended) Draining(context.Context, time.Time) ([]string, error) {
	return p.answer("Draining")
}

// istioAPI is an API server with Istio's kinds.
type istioAPI struct {
	t       *testing.T
	root    client.Client
	cluster meshapply.Cluster
}

// kinds that are looked at.
func istioLists() []client.ObjectList {
	var lists []client.ObjectList
	for _, kind := range []string{
		"v1 Secret", "v1 ConfigMap", "networking.istio.io/v1 ServiceEntry", "networking.istio.io/v1 DestinationRule", "security.istio.io/v1 AuthorizationPolicy",
		"security.istio.io/v1 RequestAuthentication",
		"networking.istio.io/v1alpha3 EnvoyFilter", "networking.istio.io/v1 Gateway", "networking.istio.io/v1 VirtualService",
	} {
		version, name, _ := strings.Cut(kind, " ")
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(version)
		list.SetKind(name + "List")
		lists = append(lists, list)
	}
	return lists
}

// all are the objects of the two namespaces as they are said to be, by name.
func (w *istioAPI) all() map[string]string {
	w.t.Helper()
	found := map[string]string{}
	for _, list := range istioLists() {
		for _, namespace := range []string{"gw", "rules"} {
			require.NoError(w.t, w.root.List(w.t.Context(), list, client.InNamespace(namespace)))
			for _, object := range list.(*unstructured.UnstructuredList).Items { //nolint:forcetypeassert // as made
				if object.GetName() == "kube-root-ca.crt" {
					continue
				}
				name := object.GetKind() + "/" + object.GetName()
				object.SetResourceVersion("")
				object.SetGeneration(0)
				object.SetUID("")
				object.SetCreationTimestamp(metav1.Time{})
				fields := object.GetManagedFields()
				for i := range fields {
					fields[i].Time = nil
				}
				object.SetManagedFields(fields)
				raw, err := yaml.Marshal(object.Object)
				require.NoError(w.t, err)
				found[name] = string(raw)
			}
		}
	}
	return found
}

// names are those of the objects, and the routes of VirtualServices.
func (w *istioAPI) names() []string {
	var found []string
	for name, text := range w.all() {
		if strings.HasPrefix(name, "VirtualService/") {
			var service struct {
				Spec struct{ HTTP []struct{ Name string } }
			}
			require.NoError(w.t, yaml.Unmarshal([]byte(text), &service))
			for _, route := range service.Spec.HTTP {
				name += "," + route.Name
			}
		}
		found = append(found, name)
	}
	slices.Sort(found)
	return found
}

func at(name string, line int) policy.Origin {
	return policy.Origin{Object: policy.ObjectRef{Kind: "HTTPRoute", Namespace: "default", Name: name}, File: "shop.yaml", Line: line}
}

// policyOf is what a policy with some routes becomes; rules stand for what extauthz
// decides by.
func policyOf(rules string, routes ...string) []istio.Object {
	const networking = "networking.istio.io/v1"
	spec := func(text string) map[string]any {
		var body map[string]any
		if err := yaml.Unmarshal([]byte(text), &body); err != nil {
			return nil
		}
		return map[string]any{"spec": body}
	}
	var services strings.Builder
	parts := map[string]policy.Origin{}
	for i, route := range routes {
		fmt.Fprintf(&services, "  - {name: %s, match: [{uri: {exact: /%s}}], route: [{destination: {host: a, subset: %s}}]}\n", route, route, route)
		parts[route] = at(route, 10+i)
	}
	subsets := strings.Join(routes, "}, {name: ")
	objects := []istio.Object{
		{APIVersion: "v1", Kind: "Secret", Namespace: "rules", Name: istio.RulesSecret, Secret: true, Body: map[string]any{"type": "Opaque", "stringData": map[string]any{istio.RulesKey: rules}}},
		{APIVersion: networking, Kind: "ServiceEntry", Namespace: "gw", Name: "a", Body: spec("{hosts: [a.internal], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}]}")},
		{APIVersion: networking, Kind: "DestinationRule", Namespace: "gw", Name: "a", Body: spec("{host: a, subsets: [{name: " + subsets + "}]}")},
		{APIVersion: "security.istio.io/v1", Kind: "AuthorizationPolicy", Namespace: "gw", Name: "guard", Body: spec("{action: CUSTOM, provider: {name: weir-extauthz}, rules: [{}]}")},
		{APIVersion: networking, Kind: "Gateway", Namespace: "gw", Name: "weir-80", Body: spec("{servers: [{hosts: ['*'], port: {number: 80, name: http, protocol: HTTP}}]}")},
		{APIVersion: networking, Kind: "VirtualService", Namespace: "gw", Name: "all", Parts: parts, Body: spec("hosts: ['*']\ngateways: [gw/weir-80]\nhttp:\n" + services.String())},
	}
	for i := range objects {
		objects[i].Origins = []policy.Origin{at("shop", i+1)}
		objects[i].Annotations = map[string]string{istio.AnnotationOrigin: fmt.Sprint("shop.yaml:", i+1)}
	}
	return objects
}

func (w *istioAPI) request(objects []istio.Object) meshapply.Request {
	options := istio.DefaultOptions()
	options.Namespace, options.RulesNamespace = "gw", "rules"
	return meshapply.Request{Objects: objects, Options: options, Set: "shop", Wait: 700 * time.Millisecond}
}

func (w *istioAPI) apply(request meshapply.Request, mesh *pretended) *meshapply.Result {
	w.t.Helper()
	cluster := w.cluster
	if mesh != nil {
		mesh.w, cluster.Mesh = w, mesh
	}
	result, err := meshapply.Apply(w.t.Context(), cluster, request)
	require.NoError(w.t, err)
	return result
}

func (w *istioAPI) plan(request meshapply.Request) *meshapply.Result {
	w.t.Helper()
	result, err := meshapply.Plan(w.t.Context(), w.cluster, request)
	require.NoError(w.t, err)
	return result
}

func problemText(result *meshapply.Result) string {
	var text strings.Builder
	for _, problem := range result.Problems {
		text.WriteString(problem.Error() + " " + string(problem.Code) + "\n")
	}
	return text.String()
}

func actions(result *meshapply.Result) map[string]string {
	found := map[string]string{}
	for _, outcome := range result.Objects {
		found[outcome.Kind+"/"+outcome.Name] = outcome.Action
	}
	return found
}

func newIstioAPI(t *testing.T) *istioAPI {
	t.Helper()
	c := kubernetes(t)
	installCRDs(t, c, istioCRDs(t))
	root := admin(t, c)
	for _, name := range []string{"gw", "rules"} {
		require.NoError(t, root.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	config, err := c.Config("admin", "system:masters")
	require.NoError(t, err)
	cluster, err := meshapply.Connect(config)
	require.NoError(t, err)
	return &istioAPI{t: t, root: root, cluster: cluster}
}

// What is applied to Istio's kinds on a real API server; the mesh is pretended.
func TestSlowApplyToIstio(t *testing.T) {
	w := newIstioAPI(t)
	one := policyOf("one", "a", "b")
	t.Run("guards come first, and are waited for", func(t *testing.T) {
		w.t = t
		mesh := &pretended{}
		result := w.apply(w.request(one), mesh)
		require.Empty(t, result.Problems)
		require.Empty(t, result.Failed)
		require.True(t, result.Checked)
		require.Equal(t, []string{"Ready", "Missing", "Unruled one", "Missing", `Unserved 0 [{"Port":80,"Count":{"a":1,"b":1}}]`}, mesh.asked)
		for _, seen := range mesh.there[:3] {
			require.NotContains(t, seen, "VirtualService")
			require.NotContains(t, seen, "Gateway")
		}
		require.Contains(t, mesh.there[1], "AuthorizationPolicy/guard DestinationRule/a Secret/weir-extauthz-rules")
		require.Contains(t, mesh.there[3], "Gateway/weir-80")
	})
	t.Run("nothing differs afterwards", func(t *testing.T) {
		w.t = t
		result := w.plan(w.request(one))
		require.False(t, result.Differs(), "%+v", result.Objects)
		elsewhere := policyOf("one", "a", "b")
		elsewhere[5].Annotations[istio.AnnotationOrigin] = "other/shop.yaml:99"
		require.False(t, w.plan(w.request(elsewhere)).Differs(), "where a file lies changes nothing")
		for _, outcome := range result.Objects {
			require.Empty(t, outcome.Foreign, "%v", outcome.ID)
		}
	})
	t.Run("what Secrets hold is not shown", func(t *testing.T) {
		w.t = t
		raw, err := json.Marshal(w.plan(w.request(policyOf("hush", "a", "b"))))
		require.NoError(t, err)
		require.Contains(t, string(raw), "data[rules.yaml]")
		require.Contains(t, string(raw), "(hidden)")
		require.NotContains(t, string(raw), "aHVzaA") // in base64
		require.NotContains(t, string(raw), "b25l")
	})
	t.Run("routes go before the rules, subsets after the routes", func(t *testing.T) {
		w.t = t
		mesh := &pretended{}
		result := w.apply(w.request(policyOf("two", "b", "c")), mesh)
		require.Empty(t, result.Failed)
		require.Equal(t, []string{
			"Ready", "Missing", `Unserved 0 [{"Port":80,"Count":{"a":0}}]`, "Missing", "Unruled two", "Missing",
			`Unserved 0 [{"Port":80,"Count":{"a":0,"b":1,"c":1}}]`,
		}, mesh.asked)
		require.Contains(t, mesh.there[2], "VirtualService/all,b", "b alone, with the old rules")
		require.Contains(t, mesh.there[4], "VirtualService/all,b")
		require.NotContains(t, mesh.there[4], "all,b,c")
		require.Contains(t, mesh.there[6], "VirtualService/all,b,c")
		require.NotContains(t, w.all()["DestinationRule/a"], "- name: a\n", "no more than there are to be, in the end")
		require.Equal(t, "changed", actions(result)["DestinationRule/a"])
	})
	failures(t, w)
	strangers(t, w)
	deciding(t, w)
}

// failures are those after which everything is as it was.
func failures(t *testing.T, w *istioAPI) {
	next := policyOf("three", "c", "d")
	for name, says := range map[string]string{
		"istiod does not take it": "Missing", "extauthz does not get the rules": "Unruled three",
		"a patch matches nothing": `Unserved 0 [{"Port":80,"Count":{"b":0,"c":1,"d":1}}]`,
	} {
		t.Run("put back: "+name, func(t *testing.T) {
			w.t = t
			before := w.all()
			mesh := &pretended{says: map[string][]string{says: {"it is not there"}}}
			result := w.apply(w.request(next), mesh)
			require.NotEmpty(t, result.Failed)
			require.Contains(t, result.Failed[0], "it is not there")
			require.Equal(t, before, w.all(), "to the owners of fields")
			require.Equal(t, "restored", actions(result)["VirtualService/all"])
			if says == "Missing" { // then nothing can be waited for on the way back, either
				return
			}
			require.True(t, result.RolledBack)
			require.Contains(t, mesh.asked, "Unruled two", "the old routes are waited for, too")
			if strings.HasPrefix(says, "Unserved") {
				withdrawn := `Unserved 0 [{"Port":80,"Count":{"d":0}}]`
				require.Contains(t, mesh.asked, withdrawn, "new routes are gone before the old rules are back")
				require.Less(t, slices.Index(mesh.asked, withdrawn), slices.Index(mesh.asked, "Unruled two"))
			}
			if says == "Unruled three" {
				require.NotContains(t, strings.Join(mesh.there, "\n"), "all,c,d", "no route without its guard")
			}
		})
	}
	t.Run("put back: extauthz does not get the old rules again", func(t *testing.T) {
		w.t = t
		mesh := &pretended{says: map[string][]string{"Unruled two": {"late"}, "Unruled three": {"late"}}}
		result := w.apply(w.request(next), mesh)
		require.False(t, result.RolledBack)
		require.Equal(t, "not restored", actions(result)["VirtualService/all"])
		require.Contains(t, w.names(), "VirtualService/all,c", "routes that go are not brought back on chance")
		require.Empty(t, w.apply(w.request(policyOf("two", "b", "c")), &pretended{}).Failed)
	})
	t.Run("put back: the command is interrupted", func(t *testing.T) {
		w.t = t
		before := w.all()
		ctx, cancel := context.WithCancel(t.Context())
		cluster := w.cluster
		cluster.Mesh = &pretended{w: w, says: map[string][]string{"Unruled three": {"late"}}, when: func(method string) {
			if method == "Unruled three" {
				cancel()
			}
		}}
		result, err := meshapply.Apply(ctx, cluster, w.request(next))
		require.True(t, errors.Is(err, context.Canceled))
		require.True(t, result.RolledBack, "%+v", result.Failed)
		require.Equal(t, before, w.all())
	})
	t.Run("put back: a first one is deleted", func(t *testing.T) {
		w.t = t
		before := w.all()
		objects := policyOf("other", "x")[1:]
		for i := range objects {
			objects[i].Name += "-other"
			objects[i].Body = objects[i].Unstructured().DeepCopy().Object
			delete(objects[i].Body, "metadata")
			delete(objects[i].Body, "apiVersion")
			delete(objects[i].Body, "kind")
		}
		request := w.request(objects)
		request.Set = "other"
		result := w.apply(request, &pretended{says: map[string][]string{"Missing": {"no"}}})
		require.True(t, result.RolledBack, "%+v", result.Failed)
		require.Equal(t, before, w.all())
	})
	t.Run("a hindrance keeps everything as it is", func(t *testing.T) {
		w.t = t
		before := w.all()
		mesh := &pretended{says: map[string][]string{"Ready": {"no provider"}}}
		require.Equal(t, []string{"no provider"}, w.apply(w.request(next), mesh).Failed)
		require.Equal(t, before, w.all())
		require.Equal(t, []string{"Ready"}, mesh.asked)
	})
	t.Run("one refused object keeps everything as it is", func(t *testing.T) {
		w.t = t
		before := w.all()
		bad := policyOf("four", "c", "e")
		spec := bad[5].Body["spec"].(map[string]any)                                             //nolint:forcetypeassert // as made
		spec["http"].([]any)[1].(map[string]any)["timeout"] = "soon"                             //nolint:forcetypeassert // as made
		spec["http"].([]any)[1].(map[string]any)["retries"] = map[string]any{"attempts": "many"} //nolint:forcetypeassert // as made
		result := w.apply(w.request(bad), &pretended{})
		require.NotEmpty(t, result.Problems)
		text := problemText(result)
		require.Contains(t, text, "shop.yaml:11: HTTPRoute default/e", "the route's own place")
		require.Contains(t, text, "VirtualService gw/all: ")
		require.Contains(t, text, "spec.http[1].retries.attempts")
		require.Contains(t, text, "WEIR5202")
		require.Equal(t, before, w.all())
	})
}

// strangers are objects and fields that are not the set's.
func strangers(t *testing.T, w *istioAPI) {
	two := policyOf("two", "b", "c")
	t.Run("a change by hand is drift", func(t *testing.T) {
		w.t = t
		gateway := &unstructured.Unstructured{}
		gateway.SetAPIVersion("networking.istio.io/v1")
		gateway.SetKind("Gateway")
		gateway.SetNamespace("gw")
		gateway.SetName("weir-80")
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec": {"servers": [{"hosts": ["evil.example.com"], "port": {"number": 80, "name": "http", "protocol": "HTTP"}}]}}`))
		require.NoError(t, w.root.Patch(t.Context(), gateway, patch, client.FieldOwner("somebody")))
		result := w.plan(w.request(two))
		require.True(t, result.Differs())
		for _, outcome := range result.Objects {
			if outcome.Kind != "Gateway" {
				require.Equal(t, "unchanged", outcome.Action)
				continue
			}
			require.Equal(t, []policy.FieldChange{{Path: "spec.servers[0].hosts[0]", Old: "evil.example.com", New: "*"}}, outcome.Fields)
			require.Equal(t, "spec.servers", outcome.Conflicts[0].Field)
			require.Contains(t, outcome.Conflicts[0].Owner, "somebody")
		}
		before := w.all()
		refused := w.apply(w.request(two), &pretended{})
		require.Contains(t, problemText(refused), "WEIR5203")
		require.Equal(t, before, w.all())
		forced := w.request(two)
		forced.Force = true
		require.Empty(t, w.apply(forced, &pretended{}).Failed)
		require.False(t, w.plan(w.request(two)).Differs())
	})
	t.Run("only the set's own is deleted", func(t *testing.T) {
		w.t = t
		for name, labels := range map[string]map[string]string{
			"nobodys": nil, "anothers": {istio.LabelOwner: istio.OwnerValue, istio.LabelSet: "another"},
			// Labelled as the set's, but nothing that Weir applied.
			"pretended": {istio.LabelOwner: istio.OwnerValue, istio.LabelSet: "shop"},
		} {
			object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"host": name}}}
			object.SetAPIVersion("networking.istio.io/v1")
			object.SetKind("DestinationRule")
			object.SetNamespace("gw")
			object.SetName(name)
			object.SetLabels(labels)
			require.NoError(t, w.root.Create(t.Context(), object, client.FieldOwner("somebody")))
		}
		result := w.apply(w.request(two[:5]), &pretended{}) // without the VirtualService
		require.Empty(t, result.Failed)
		require.Equal(t, "deleted", actions(result)["VirtualService/all"])
		require.Subset(t, w.names(), []string{"DestinationRule/nobodys", "DestinationRule/anothers", "DestinationRule/pretended"})
		require.NotContains(t, strings.Join(w.names(), " "), "VirtualService")
	})
	t.Run("an object of another set is not taken", func(t *testing.T) {
		w.t = t
		before := w.all()
		request := w.request(two)
		request.Set = "second"
		result := w.apply(request, &pretended{})
		require.Contains(t, problemText(result), `belongs to the set "shop"`)
		require.Equal(t, before, w.all())
	})
	t.Run("what cannot be deleted midway is told", func(t *testing.T) {
		w.t = t
		result := w.plan(w.request(nil))
		require.Len(t, result.Objects, 5)
		for _, outcome := range result.Objects {
			require.Equal(t, "deleted", outcome.Action)
		}
	})
}
