package apply

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/mesh/istio"
)

const refusing = "kind: AuthorizationPolicy\nmetadata: {name: weir-by-token-1-credentials}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {paths: [/b]}}]}]}"

// Guards of before stay while routes change, beside those to be.
func TestGuardsAreJoined(t *testing.T) {
	want := object(t, refusing)
	require.Same(t, want, with(nil, want))
	require.Same(t, want, with(object(t, refusing), want), "nothing goes")
	require.Same(t, want, with(object(t, strings.Replace(refusing, ", {to: [{operation: {paths: [/b]}}]}", "", 1)), want), "more is refused at once")
	both := with(object(t, strings.Replace(refusing, "/a", "/old", 1)), want)
	require.Len(t, entries(both, "rules"), 3)
	require.Contains(t, entries(both, "rules"), entries(object(t, strings.Replace(refusing, "/a", "/old", 1)), "rules")[0])
	require.Len(t, entries(want, "rules"), 2, "what is to be stays what it is")

	everything := object(t, "kind: AuthorizationPolicy\nspec: {action: CUSTOM, rules: [{}]}")
	some := object(t, "kind: AuthorizationPolicy\nspec: {action: CUSTOM, rules: [{to: [{operation: {notPaths: [/a]}}]}]}")
	require.Contains(t, entries(with(everything, some), "rules"), any(map[string]any{}), "extauthz is asked about everything still")

	tokens := "kind: RequestAuthentication\nspec: {jwtRules: [{issuer: one, audiences: [a], jwks: new}]}"
	joined := with(object(t, "kind: RequestAuthentication\nspec: {jwtRules: [{issuer: two}, {issuer: one, audiences: [b], jwks: old}]}"), object(t, tokens))
	require.Equal(t, []any{
		map[string]any{"issuer": "one", "audiences": []any{"a", "b"}, "jwks": "new"}, map[string]any{"issuer": "two"},
	}, entries(joined, "jwtRules"))
	require.Same(t, want, with(object(t, refusing), want))
}

const patched = `kind: EnvoyFilter
spec:
  configPatches:
    - {match: {routeConfiguration: {vhost: {route: {name: kept}}}}, patch: {value: {typed_per_filter_config: {envoy.filters.http.jwt_authn: {disabled: true}, other: {}}}}}
    - {match: {routeConfiguration: {vhost: {route: {name: back}}}}, patch: {value: {typed_per_filter_config: {envoy.filters.http.jwt_authn: {disabled: true}}}}}
    - {match: {routeConfiguration: {vhost: {route: {name: fresh}}}}, patch: {value: {typed_per_filter_config: {envoy.filters.http.jwt_authn: {disabled: true}}}}}
`

// The tokens of a route that goes back to extauthz are judged until nobody is refused
// there for having none; other routes are let be from the first.
func TestTokensAreJudgedMeanwhile(t *testing.T) {
	before := object(t, strings.NewReplacer("name: back", "name: elsewhere", "name: fresh", "name: elsewhere").Replace(patched))
	filter := &item{id: ID{"EnvoyFilter", "gw", "routes"}, before: before, want: object(t, patched)}
	services := &item{id: ID{"VirtualService", "gw", "all"}, before: object(t, "spec: {http: [{name: kept}, {name: back}]}"), want: object(t, "spec: {}")}
	tokens := &item{id: ID{"RequestAuthentication", "gw", "weir-tokens"}, before: object(t, "spec: {}"), want: object(t, "spec: {}")}
	disabled := func(value *unstructured.Unstructured) (names []string) {
		for _, patch := range entries(value, "configPatches") {
			if name, configs := ofRoute(patch); configs[jwtFilter] != nil {
				names = append(names, name)
			}
		}
		return names
	}
	r := &run{items: []*item{filter, services, tokens}}
	require.Equal(t, []string{"kept", "fresh"}, disabled(r.meanwhile(filter)))
	require.Equal(t, []string{"kept", "back", "fresh"}, disabled(filter.want), "what is to be stays what it is")
	_, configs := ofRoute(entries(r.meanwhile(filter), "configPatches")[0])
	require.Contains(t, configs, "other")

	tokens.before = nil
	require.Same(t, filter.want, r.meanwhile(filter), "nobody's tokens were judged before")

	// Where nobody's tokens are to be judged any more, other routes are spared until
	// that is so.
	tokens.before, filter.want = object(t, "spec: {}"), object(t, "kind: EnvoyFilter\nspec: {configPatches: [{match: {routeConfiguration: {vhost: {route: {name: kept}}}}, patch: {value: {typed_per_filter_config: {other: {}}}}}]}")
	r = &run{items: []*item{filter, services}, deletions: []*item{tokens}}
	require.Equal(t, []string{"kept", "elsewhere"}, disabled(r.meanwhile(filter)))
	require.Empty(t, disabled(r.asserted(filter)))
	require.Same(t, filter.want, sparing(nil, filter.want))
}

// Where nobody's tokens are to be judged any more, refusals are told in extauthz's words
// for as long as there are any.
func TestAnswersStayMeanwhile(t *testing.T) {
	const filter = `kind: EnvoyFilter
spec:
  configPatches:
    - {match: {context: GATEWAY}, patch: {value: {name: hcm, typed_config: {local_reply_config: {mappers: [native, own]}}}}}
    - {match: {listener: {portNumber: 1}}, patch: {value: {name: other}}}
`
	answers := func(value *unstructured.Unstructured) any {
		fields, _ := entries(value, "configPatches")[0].(map[string]any)
		mappers, _, _ := unstructured.NestedSlice(fields, "patch", "value", "typed_config", "local_reply_config", "mappers")
		return mappers
	}
	it := &item{id: ID{"EnvoyFilter", "gw", "connection"}, before: object(t, filter), want: object(t, strings.Replace(filter, "native, ", "", 1))}
	tokens := &item{id: ID{"RequestAuthentication", "gw", "weir-tokens"}, before: object(t, "spec: {}")}
	r := &run{items: []*item{it}, deletions: []*item{tokens}}
	require.Equal(t, []any{"native", "own"}, answers(r.meanwhile(it)))
	require.Equal(t, []any{"native", "own"}, answers(r.asserted(it)), "and it is asked for")
	require.Equal(t, []any{"own"}, answers(it.want), "what is to be stays what it is")
	require.Same(t, it.want, answering(nil, it.want))
	require.Same(t, it.want, answering(it.want, it.want))
	elsewhere := object(t, strings.Replace(filter, "GATEWAY", "ANY", 1))
	require.Same(t, it.want, answering(elsewhere, it.want))
	tokens.want = tokens.before
	r = &run{items: []*item{it, tokens}}
	require.Equal(t, []any{"own"}, answers(r.meanwhile(it)), "the answers are those of what judges")
	r = &run{items: []*item{it}}
	require.Equal(t, []any{"own"}, answers(r.meanwhile(it)), "nobody judges: there is nothing to be told meanwhile")
	require.Equal(t, []any{"own"}, answers(r.asserted(it)))
}

// A rollback brings routes back to what they were when the guards of both came, before
// the guards of before are all that there is.
func TestRoutesGoBackBeforeTheirGuards(t *testing.T) {
	before, after := object(t, live), object(t, strings.NewReplacer("name: b", "name: c", "timeout: 1s", "timeout: 9s").Replace(live))
	secret := &item{id: ID{"Secret", "ns", istio.RulesSecret}, before: object(t, "{}"), action: Changed}
	service := &item{id: ID{"VirtualService", "gw", "all"}, before: before, want: after, after: after}
	r := &run{items: []*item{secret, service}}
	names := func(value *unstructured.Unstructured) (found []string) {
		for _, entry := range entries(value, "http") {
			found = append(found, nameOf(entry)+" "+fmt.Sprint(field(entry, "timeout")))
		}
		return found
	}
	between, err := r.between(service)
	require.NoError(t, err)
	require.Equal(t, []string{"a 1s"}, names(between), "c goes, a is as it was, and b comes back after its guard")
	require.Equal(t, []Routes{{Port: 80, Count: map[string]int{"c": 0}}},
		altered([]*unstructured.Unstructured{after}, []*unstructured.Unstructured{between}, map[string]*unstructured.Unstructured{"gw/weir-80": object(t, "spec: {servers: [{port: {number: 80}}]}")}))
	secret.before = nil
	between, err = r.between(service)
	require.NoError(t, err)
	require.Equal(t, []string{"a 1s"}, names(between), "the first guards go again: what they came for is seen to go before")
	secret.before, secret.action = object(t, "{}"), Unchanged
	between, err = r.between(service)
	require.NoError(t, err)
	require.Equal(t, []string{"a 1s", "b <nil>"}, names(between), "extauthz decides as before")
	service.before = nil
	between, err = r.between(service)
	require.NoError(t, err)
	require.Nil(t, between, "it was not there")
	service.before = object(t, strings.ReplaceAll(live, "manager: weir", "manager: other"))
	between, err = r.between(service)
	require.NoError(t, err)
	require.Equal(t, []string{"a 9s"}, names(between), "what was taken over is kept where it was there")
}

// Connections are waited for where Istio is to decide about less than before.
func TestHandsBack(t *testing.T) {
	fewer := strings.Replace(refusing, ", {to: [{operation: {paths: [/b]}}]}", "", 1)
	asks := "kind: AuthorizationPolicy\nmetadata: {name: weir-extauthz}\nspec: {action: CUSTOM, rules: [{to: [{operation: {notPaths: [/a]}}]}]}"
	for _, c := range []struct {
		before, want string
		hands        bool
	}{
		{refusing, refusing, false},
		{fewer, refusing, false},
		{refusing, fewer, true},
		{refusing, "", true},
		{"", refusing, false},
		{strings.Replace(refusing, "paths: [/b]}}]", "paths: [/b]}}], when: [{key: k}]", 1), refusing, false},
		{asks, strings.Replace(asks, "/a", "/b", 1), false},
	} {
		it := &item{id: ID{"AuthorizationPolicy", "gw", "a"}}
		r := &run{items: []*item{it}}
		if c.before != "" {
			it.before = object(t, c.before)
		}
		if c.want != "" {
			it.want = object(t, c.want)
		} else {
			r = &run{deletions: []*item{it}}
		}
		require.Equal(t, c.hands, r.handsBack(), "%+v", c)
	}
}

// A route is the same whoever decides about it: it is not taken out because its
// paths are written otherwise. What refuses other spellings stays with it.
func TestIdentitiesOfDecidedRoutes(t *testing.T) {
	const matches = "match: [{uri: {exact: /a}}, {uri: {prefix: /a/}}]"
	plain := object(t, "kind: VirtualService\nmetadata: {managedFields: [{manager: weir, operation: Apply, fieldsV1: {'f:spec': {'f:http': {}}}}]}\nspec: {http: [{name: a, "+matches+"}, {name: b, match: [{uri: {exact: /b}}]}]}")
	decided := object(t, "kind: VirtualService\nmetadata: {managedFields: [{manager: weir, operation: Apply, fieldsV1: {'f:spec': {'f:http': {}}}}]}\nspec: {http: [{name: a, match: [{uri: {regex: '/a.*'}}]}, {name: a, "+matches+", directResponse: {status: 400}}, {name: b, match: [{uri: {exact: /b}}]}]}")
	for _, change := range [][2]*unstructured.Unstructured{{plain, decided}, {decided, plain}} {
		rest, removed := without(change[0], change[1], false)
		require.Nil(t, rest)
		require.Zero(t, removed)
	}
	// Where requests are handed back, one that leads elsewhere is another route, whoever decides.
	leads := func(value *unstructured.Unstructured, hosts ...string) *unstructured.Unstructured {
		made := value.DeepCopy()
		list := entries(made, "http")
		var routes []any
		for i, host := range hosts {
			routes = append(routes, map[string]any{"destination": map[string]any{"host": host}, "weight": int64(i + len(hosts))})
		}
		list[0].(map[string]any)["route"] = routes
		require.NoError(t, unstructured.SetNestedSlice(made.Object, list, "spec", "http"))
		return made
	}
	for _, change := range []struct {
		before, after *unstructured.Unstructured
		removed       int
	}{
		{leads(decided, "x"), leads(plain, "x"), 0},
		{leads(plain, "x"), leads(decided, "x"), 0},
		{leads(decided, "x"), leads(plain, "y"), 2},
		{leads(plain, "x"), leads(plain, "x", "y"), 1},
	} {
		rest, removed := without(change.before, change.after, true)
		require.Equal(t, change.removed, removed)
		if removed > 0 {
			require.Equal(t, "b", nameOf(entries(rest, "http")[0]))
		}
		_, removed = without(change.before, change.after, false)
		require.Zero(t, removed)
	}
	moved := object(t, "spec: {http: [{name: a, match: [{uri: {exact: /c}}]}]}")
	rest, removed := without(decided, moved, false)
	require.Nil(t, rest)
	require.Equal(t, 3, removed)
}
