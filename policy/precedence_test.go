package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"weir.dev/policy"
)

// What follows reads the Gateway API's rules of precedence once more, in the
// plainest way and without a look at the code that is tested: every match of
// every route is a candidate, and the candidates are compared one criterion after
// the other.

// wanted is a match of a route as the test drew it.
type wanted struct {
	grpc              bool
	host              string
	exact             bool
	path              string // HTTP
	service, rpc      string // gRPC
	method            string
	headers, queries  []string // names; the value is always "1"
	age               int
	name              string
	rule, indexInRule int
}

func (w *wanted) id() string {
	kind := "httproute"
	if w.grpc {
		kind = "grpcroute"
	}
	return fmt.Sprintf("%s/%s/%d/%d", kind, w.name, w.rule, w.indexInRule)
}

// asked is a request.
type asked struct {
	grpc               bool
	host, path, method string
	headers, queries   []string
	service, rpc       string
}

func (w *wanted) takes(q *asked) bool {
	if suffix, wild := strings.CutPrefix(w.host, "*"); wild {
		if !strings.HasSuffix(q.host, suffix) || q.host == strings.TrimPrefix(suffix, ".") {
			return false
		}
	} else if w.host != q.host {
		return false
	}
	for _, name := range w.headers {
		if !slices.Contains(q.headers, name) {
			return false
		}
	}
	if w.grpc {
		return q.grpc && (w.service == "" || w.service == q.service) && (w.rpc == "" || w.rpc == q.rpc)
	}
	for _, name := range w.queries {
		if !slices.Contains(q.queries, name) {
			return false
		}
	}
	if w.method != "" && w.method != q.method {
		return false
	}
	if w.exact {
		return q.path == w.path
	}
	prefix := strings.TrimSuffix(w.path, "/")
	return q.path == prefix || strings.HasPrefix(q.path, prefix+"/")
}

// before says which of two matches of one kind that take the same request the
// standard prefers.
func (w *wanted) before(other *wanted) bool {
	plain := func(host string) int {
		if strings.HasPrefix(host, "*") {
			return 0
		}
		return len(host)
	}
	number := func(yes bool) int {
		if yes {
			return 1
		}
		return 0
	}
	type criterion struct{ mine, its int } // the larger wins
	criteria := []criterion{
		{plain(w.host), plain(other.host)},
		{len(w.host), len(other.host)},
	}
	if w.grpc {
		criteria = append(criteria,
			criterion{len(w.service), len(other.service)}, criterion{len(w.rpc), len(other.rpc)},
			criterion{len(w.headers), len(other.headers)})
	} else {
		criteria = append(criteria, criterion{number(w.exact), number(other.exact)})
		if !w.exact && !other.exact {
			criteria = append(criteria, criterion{len(w.path), len(other.path)})
		}
		criteria = append(criteria,
			criterion{number(w.method != ""), number(other.method != "")},
			criterion{len(w.headers), len(other.headers)}, criterion{len(w.queries), len(other.queries)})
	}
	criteria = append(criteria, criterion{other.age, w.age}) // the smaller age number is the older
	for _, c := range criteria {
		if c.mine != c.its {
			return c.mine > c.its
		}
	}
	if w.name != other.name {
		return w.name < other.name
	}
	if w.rule != other.rule {
		return w.rule < other.rule
	}
	return w.indexInRule < other.indexInRule
}

func drawRoutes(t *rapid.T, grpc bool) []*wanted {
	hosts := []string{"a.example.com", "*.example.com", "*.com"}
	names := rapid.Permutation([]string{"r1", "r2", "r10", "z", "a"}).Draw(t, "names")
	var all []*wanted
	for _, name := range names[:rapid.IntRange(1, 4).Draw(t, "routes")] {
		if grpc {
			name = "g" + name
		}
		age, host := rapid.IntRange(0, 2).Draw(t, "age"), rapid.SampledFrom(hosts).Draw(t, "host")
		for rule := range rapid.IntRange(1, 3).Draw(t, "rules") {
			for index := range rapid.IntRange(1, 2).Draw(t, "matches") {
				w := &wanted{grpc: grpc, host: host, age: age, name: name, rule: rule, indexInRule: index}
				w.headers = subset(t, "headers")
				if grpc {
					w.service = rapid.SampledFrom([]string{"", "a.B", "a.BC"}).Draw(t, "service")
					w.rpc = rapid.SampledFrom([]string{"", "Get", "List"}).Draw(t, "rpc")
				} else {
					w.exact = rapid.Bool().Draw(t, "exact")
					w.path = rapid.SampledFrom([]string{"/", "/a", "/a/b"}).Draw(t, "path")
					w.method = rapid.SampledFrom([]string{"", "GET"}).Draw(t, "method")
					w.queries = subset(t, "queries")
				}
				all = append(all, w)
			}
		}
	}
	return all
}

func subset(t *rapid.T, label string) []string {
	var some []string
	for _, name := range []string{"x-1", "x-2"} {
		if rapid.Bool().Draw(t, label) {
			some = append(some, name)
		}
	}
	return some
}

// documents writes the routes as YAML, one document each.
func documents(all []*wanted) []string {
	byName := map[string][]*wanted{}
	var names []string
	for _, w := range all {
		if byName[w.name] == nil {
			names = append(names, w.name)
		}
		byName[w.name] = append(byName[w.name], w)
	}
	var docs []string
	for _, name := range names {
		first := byName[name][0]
		kind := "HTTPRoute"
		if first.grpc {
			kind = "GRPCRoute"
		}
		doc := fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: %s, creationTimestamp: \"200%d-01-01T00:00:00Z\"}\nspec:\n  parentRefs: [{name: edge}]\n  hostnames: [%q]\n  rules:\n",
			kind, name, first.age, first.host)
		for _, w := range byName[name] {
			if w.indexInRule == 0 {
				doc += fmt.Sprintf("  - name: rule%d\n    backendRefs: [{group: weir.dev, kind: Backend, name: b}]\n    matches:\n", w.rule)
			}
			doc += "    - {" + strings.Join(w.parts(), ", ") + "}\n"
		}
		docs = append(docs, doc)
	}
	return docs
}

func (w *wanted) parts() []string {
	list := func(names []string) string {
		var parts []string
		for _, name := range names {
			parts = append(parts, fmt.Sprintf("{name: %s, value: \"1\"}", name))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	var parts []string
	if len(w.headers) > 0 {
		parts = append(parts, "headers: "+list(w.headers))
	}
	if w.grpc {
		if w.service+w.rpc != "" {
			parts = append(parts, fmt.Sprintf("method: {service: %q, method: %q}", w.service, w.rpc))
		}
		return parts
	}
	kind := "PathPrefix"
	if w.exact {
		kind = "Exact"
	}
	parts = append(parts, fmt.Sprintf("path: {type: %s, value: %s}", kind, w.path))
	if w.method != "" {
		parts = append(parts, "method: "+w.method)
	}
	if len(w.queries) > 0 {
		parts = append(parts, "queryParams: "+list(w.queries))
	}
	return parts
}

// first is the route of a plan that takes a request, found as a proxy finds it:
// the most specific hostname, and there the first match.
func first(plan *policy.Plan, q *asked) string {
	var best *policy.Host
	for i := range plan.Ports[0].Chains[0].Hosts {
		host := &plan.Ports[0].Chains[0].Hosts[i]
		if !(&wanted{host: host.Name, path: "/"}).takes(&asked{host: q.host, path: "/"}) && host.Name != "*" {
			continue
		}
		exact := host.Name == q.host
		if best == nil || exact || best.Name != q.host && len(host.Name) > len(best.Name) {
			best = host
		}
	}
	if best == nil {
		return ""
	}
	for i := range best.Routes {
		if route := &best.Routes[i]; planTakes(route, q) {
			field := route.Origin.Field
			var rule, index int
			_, _ = fmt.Sscanf(field, "spec.rules[%d].matches[%d]", &rule, &index)
			return fmt.Sprintf("%s/%s/%d/%d", strings.ToLower(route.Origin.Object.Kind), route.Origin.Object.Name, rule, index)
		}
	}
	return ""
}

func planTakes(route *policy.Route, q *asked) bool {
	if route.GRPC && !q.grpc {
		return false
	}
	for _, header := range route.Match.Headers {
		if !slices.Contains(q.headers, header.Name) {
			return false
		}
	}
	for _, query := range route.Match.Query {
		if !slices.Contains(q.queries, query.Name) {
			return false
		}
	}
	if route.Match.Method != "" && route.Match.Method != q.method {
		return false
	}
	path := route.Match.Path
	switch path.Kind {
	case policy.PathExact:
		return q.path == path.Value
	case policy.PathRegex: // a method of any service
		return strings.HasSuffix(q.path, "/"+route.Match.RPC) && strings.Count(q.path, "/") == 2
	default:
		prefix := strings.TrimSuffix(path.Value, "/")
		return q.path == prefix || strings.HasPrefix(q.path, prefix+"/")
	}
}

const precedenceBase = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: b}
spec: {protocol: GRPC, endpoints: [{address: 10.0.0.1, port: 80}]}
---
`

func drawRequest(t *rapid.T, grpc bool) *asked {
	q := &asked{
		grpc: grpc, host: rapid.SampledFrom([]string{"a.example.com", "b.a.example.com", "x.com", "other"}).Draw(t, "asked host"),
		headers: subset(t, "asked headers"), queries: subset(t, "asked queries"), method: "POST",
	}
	if grpc {
		q.service = rapid.SampledFrom([]string{"a.B", "a.BC", "other"}).Draw(t, "asked service")
		q.rpc = rapid.SampledFrom([]string{"Get", "List", "Other"}).Draw(t, "asked rpc")
		q.path, q.queries = "/"+q.service+"/"+q.rpc, nil
		return q
	}
	q.method = rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "asked method")
	q.path = rapid.SampledFrom([]string{"/", "/a", "/a/", "/a/b", "/a/b/c", "/ab"}).Draw(t, "asked path")
	return q
}

// The first match of the plan is the one that the standard prefers, whatever the
// order in which the objects are read.
func TestPrecedenceIsTheStandards(t *testing.T) {
	p := parser(t)
	for _, grpc := range []bool{false, true} {
		t.Run(fmt.Sprintf("grpc=%v", grpc), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				all := drawRoutes(t, grpc)
				docs := documents(all)
				seed := rapid.Uint64().Draw(t, "order")
				rand.New(rand.NewPCG(seed, seed)).Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] }) //nolint:gosec // a test
				var input policy.Input
				for _, document := range p.Parse("p.yaml", []byte(precedenceBase+strings.Join(docs, "---\n"))) {
					require.Empty(t, document.Problems)
					input.Objects = append(input.Objects, document.Object)
				}
				plan, _ := policy.Resolve(input)
				for range 20 {
					q := drawRequest(t, grpc)
					var best *wanted
					for _, w := range all {
						if w.takes(q) && (best == nil || w.before(best)) {
							best = w
						}
					}
					want := ""
					if best != nil {
						want = best.id()
					}
					require.Equal(t, want, first(plan, q), "%+v", q)
				}
			})
		})
	}
}
