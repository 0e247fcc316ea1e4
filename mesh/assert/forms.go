package assert

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"weir.dev/mesh/istio"
)

// Forms says which routes of a port have other forms than are given by name, one line
// each; other routes are not looked at.
func (p *Proxy) Forms(port int32, forms map[string][]istio.Form) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(forms)) {
		want, extra := slices.Clone(forms[name]), []istio.Form(nil)
		for _, route := range p.candidates(istio.Assertion{ApplyTo: "HTTP_ROUTE", Port: port, Name: name}) {
			have := formOf(route)
			if i := slices.Index(want, have); i >= 0 {
				want = slices.Delete(want, i, i+1)
			} else {
				extra = append(extra, have)
			}
		}
		for _, form := range want {
			found = append(found, fmt.Sprintf("route %s is not there on port %d as %s", name, port, form))
		}
		for _, form := range extra {
			found = append(found, fmt.Sprintf("route %s is there on port %d still as %s", name, port, form))
		}
	}
	return found
}

// formOf is that of a route (envoy.config.route.v3.Route).
func formOf(route any) (form istio.Form) {
	// Istio has gateways match a prefix of characters.
	for field, kind := range map[string]string{"path": "exact", "prefix": "prefix"} {
		if path, ok := at(route, "match", field).(string); ok {
			form.Path = istio.FormPath(kind, path)
		}
	}
	if expression, ok := at(route, "match", "safe_regex", "regex").(string); ok {
		form.Path = istio.FormPath("regex", expression)
	}
	var to []string
	if cluster, ok := at(route, "route", "cluster").(string); ok {
		to = append(to, istio.FormCluster(cluster, 0, false))
	}
	for _, share := range list(at(route, "route", "weighted_clusters", "clusters")) {
		cluster, _ := at(share, "name").(string)
		weight, _ := at(share, "weight").(float64)
		to = append(to, istio.FormCluster(cluster, int64(weight), true))
	}
	slices.Sort(to)
	form.To = strings.Join(to, ", ")
	form.Host, _ = at(route, "route", "host_rewrite_literal").(string)
	if by := at(route, "route", "regex_rewrite"); by != nil {
		expression, _ := at(by, "pattern", "regex").(string)
		substitution, _ := at(by, "substitution").(string)
		form.Rewrite = istio.FormRewrite(expression, substitution)
	}
	if path, ok := at(route, "route", "prefix_rewrite").(string); ok && path != "" {
		form.Rewrite = path
	}
	return form
}
