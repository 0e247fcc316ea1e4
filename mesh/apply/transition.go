package apply

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/mesh/istio"
)

// routing reports whether objects of a kind bring requests in.
func routing(kind string) bool { return kind == "Gateway" || kind == "VirtualService" }

// rulesChange reports whether extauthz will decide otherwise, or be asked about other
// ports.
func (r *run) rulesChange() bool {
	return slices.ContainsFunc(r.guards(), func(it *item) bool { return it.before != nil })
}

// guards are the rules of extauthz and the policies, of those that change or come.
func (r *run) guards() []*item {
	return slices.DeleteFunc(slices.Concat(r.items, r.deletions), func(it *item) bool {
		guards := it.id.Kind == "Secret" && it.id.Name == istio.RulesSecret || it.id.Kind == "AuthorizationPolicy"
		return !guards || it.action == Unchanged
	})
}

// serving are the VirtualServices as they are now.
func (r *run) serving() []*unstructured.Unstructured {
	var found []*unstructured.Unstructured
	for _, it := range r.services() {
		// Before it is written, after is what a dry run said.
		if slices.Contains(r.written, it) && (it.after != nil || it.action == Deleted) {
			found = append(found, it.after)
		} else {
			found = append(found, it.before)
		}
	}
	return found
}

// services are the VirtualServices, those that go included.
func (r *run) services() []*item {
	return slices.DeleteFunc(slices.Concat(r.items, r.deletions), func(it *item) bool { return it.id.Kind != "VirtualService" })
}

// gateways are those that are there and those that come, by name.
func (r *run) gateways() map[string]*unstructured.Unstructured {
	found := r.gatewaysBefore()
	for _, it := range r.items {
		if it.id.Kind == "Gateway" {
			found[it.id.Namespace+"/"+it.id.Name] = it.want
		}
	}
	return found
}

// gatewaysBefore are those that are there.
func (r *run) gatewaysBefore() map[string]*unstructured.Unstructured {
	found := map[string]*unstructured.Unstructured{}
	for _, it := range slices.Concat(r.items, r.deletions) {
		if it.id.Kind == "Gateway" && it.before != nil {
			found[it.id.Namespace+"/"+it.id.Name] = it.before
		}
	}
	return found
}

// without is a VirtualService without the routes that another one lacks, and how
// many those are; nil when nothing is left of it.
//
// A route that takes some spellings of its paths, and refuses the others in the entry
// after it, goes for one that takes all where extauthz refuses the others: while one
// takes the other's place both guards are there. leading tells routes by where they
// lead, too.
func without(live, want *unstructured.Unstructured, leading bool) (rest *unstructured.Unstructured, removed int) {
	if live == nil {
		return nil, 0
	}
	kept := map[string]bool{}
	if want != nil {
		for _, id := range identities(entries(want, "http"), leading) {
			kept[id] = true
		}
	}
	all := entries(live, "http")
	ids := identities(all, leading)
	var left []any
	for i, entry := range all {
		if kept[ids[i]] {
			left = append(left, entry)
		}
	}
	removed = len(all) - len(left)
	if removed == 0 || len(left) == 0 {
		return nil, removed
	}
	// Everything else as it was applied; what others own is left to them.
	part, err := appliedPart(live)
	if err != nil || part == nil {
		return nil, 0
	}
	_ = unstructured.SetNestedSlice(part.Object, left, "spec", "http") // The field is there.
	return part, removed
}

// identities are what tells one route from another: its name and what it matches, and
// where it leads if that counts, with what is rewritten: not what part of the requests
// goes where.
func identities(list []any, leading bool) []string {
	made := make([]string, len(list))
	for i, entry := range list {
		match := field(entry, "match")
		if i+1 < len(list) && nameOf(list[i+1]) == nameOf(entry) && refuses(list[i+1]) {
			match = field(list[i+1], "match")
		}
		var leads []any
		if leading {
			route := entry
			if i > 0 && nameOf(list[i-1]) == nameOf(entry) && refuses(entry) {
				route = list[i-1]
			}
			leads = []any{destinations(field(route, "route")), field(route, "redirect"), field(route, "rewrite")}
		}
		if raw, err := json.Marshal([]any{nameOf(entry), match, leads}); err == nil {
			made[i] = string(raw)
		}
	}
	return made
}

// destinations are those of a list of weighted ones.
func destinations(weighted any) (made []any) {
	list, _ := weighted.([]any)
	for _, one := range list {
		made = append(made, field(one, "destination"))
	}
	return made
}

// refuses reports whether an entry answers with 400, whatever is asked.
func refuses(entry any) bool {
	answer, _ := field(entry, "directResponse").(map[string]any)
	return fmt.Sprint(answer["status"]) == "400"
}

// with is an object that has what routes of before need, too: a DestinationRule the
// subsets that they refer to, what guards whatever guarded them. Other objects are as
// they are.
func with(before, want *unstructured.Unstructured) *unstructured.Unstructured {
	if before == nil {
		return want
	}
	switch want.GetKind() {
	case "AuthorizationPolicy":
		return joined(before, want, "rules", "", "")
	case "RequestAuthentication":
		return joined(before, want, "jwtRules", "issuer", "audiences")
	case "DestinationRule":
	default:
		return want
	}
	all := entries(want, "subsets")
	for _, old := range entries(before, "subsets") {
		name := nameOf(old)
		if !slices.ContainsFunc(all, func(entry any) bool { return nameOf(entry) == name }) {
			all = append(all, old)
		}
	}
	if len(all) == len(entries(want, "subsets")) {
		return want
	}
	both := want.DeepCopy()
	_ = unstructured.SetNestedSlice(both.Object, all, "spec", "subsets") // spec is an object
	return both
}

func nameOf(entry any) string {
	fields, _ := entry.(map[string]any)
	name, _ := fields["name"].(string)
	return name
}

// entries are those of a list of the spec.
func entries(object *unstructured.Unstructured, name string) []any {
	list, _, err := unstructured.NestedSlice(object.Object, "spec", name)
	if err != nil {
		return nil
	}
	return list
}

// content is what the rules' Secret holds.
func content(secret *unstructured.Unstructured) []byte {
	text, _, err := unstructured.NestedString(secret.Object, "data", istio.RulesKey)
	if err != nil {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	return raw
}

// eachRoute calls do with the entries of VirtualServices, for each port that has them.
func eachRoute(services []*unstructured.Unstructured, gateways map[string]*unstructured.Unstructured, do func(port int32, name string, entry map[string]any)) {
	for _, service := range services {
		if service == nil {
			continue
		}
		names, _, _ := unstructured.NestedStringSlice(service.Object, "spec", "gateways")
		for _, name := range names {
			port := portOf(gateways[name])
			for _, entry := range entries(service, "http") {
				fields, _ := entry.(map[string]any)
				do(port, nameOf(entry), fields)
			}
		}
	}
}

// formsOf are the forms of the routes that ports have of VirtualServices, by name.
func formsOf(services []*unstructured.Unstructured, gateways map[string]*unstructured.Unstructured) map[int32]map[string][]istio.Form {
	found := map[int32]map[string][]istio.Form{}
	eachRoute(services, gateways, func(port int32, name string, entry map[string]any) {
		if found[port] == nil {
			found[port] = map[string][]istio.Form{}
		}
		found[port][name] = append(found[port][name], istio.Forms(entry)...)
	})
	return found
}

// reformed gives routes the forms of those names that are there before and now, and not
// in the same forms: their number alone would not tell that they changed.
func reformed(routes []Routes, before, now []*unstructured.Unstructured, gateways map[string]*unstructured.Unstructured) []Routes {
	were, are := formsOf(before, gateways), formsOf(now, gateways)
	for i := range routes {
		for name, forms := range are[routes[i].Port] {
			had := were[routes[i].Port][name]
			if len(had) == 0 || sameForms(had, forms) {
				continue
			}
			if routes[i].Forms == nil {
				routes[i].Forms = map[string][]istio.Form{}
			}
			routes[i].Forms[name] = forms
		}
	}
	return routes
}

// sameForms compares in any order.
func sameForms(a, b []istio.Form) bool {
	count := map[istio.Form]int{}
	for _, form := range a {
		count[form]++
	}
	for _, form := range b {
		count[form]--
	}
	for _, left := range count {
		if left != 0 {
			return false
		}
	}
	return true
}

// routesOf counts the routes that ports have of VirtualServices: Istio makes one of
// each match. Those that there were before and that are not there now count 0.
func routesOf(now, before []*unstructured.Unstructured, gateways map[string]*unstructured.Unstructured) []Routes {
	counts := map[int32]map[string]int{}
	count := func(services []*unstructured.Unstructured, weight int) {
		eachRoute(services, gateways, func(port int32, name string, entry map[string]any) {
			if counts[port] == nil {
				counts[port] = map[string]int{}
			}
			matches, _ := entry["match"].([]any)
			counts[port][name] += weight * max(1, len(matches))
		})
	}
	count(before, 0)
	count(now, 1)
	delete(counts, 0) // of no Gateway that is known here
	var made []Routes
	for _, port := range slices.Sorted(maps.Keys(counts)) {
		made = append(made, Routes{Port: port, Count: counts[port]})
	}
	return made
}

// altered are those routes of which there are more or fewer now than there were before,
// or others: that match other paths, lead elsewhere or are rewritten otherwise.
func altered(before, now []*unstructured.Unstructured, gateways map[string]*unstructured.Unstructured) []Routes {
	had := map[int32]map[string]int{}
	for _, routes := range routesOf(before, nil, gateways) {
		had[routes.Port] = routes.Count
	}
	found := reformed(routesOf(now, before, gateways), before, now, gateways)
	for _, routes := range found {
		maps.DeleteFunc(routes.Count, func(name string, count int) bool {
			return count == had[routes.Port][name] && routes.Forms[name] == nil
		})
	}
	return slices.DeleteFunc(found, func(routes Routes) bool { return len(routes.Count) == 0 })
}

// Expected is what a mesh has to have of objects, as Mesh is asked: EnvoyFilters,
// routes, and what extauthz decides by, nil where it is not asked.
func Expected(objects []istio.Object) (filters []*unstructured.Unstructured, routes []Routes, rules []byte, err error) {
	gateways := map[string]*unstructured.Unstructured{}
	var services []*unstructured.Unstructured
	for i := range objects {
		value := objects[i].Unstructured()
		switch value.GetKind() {
		case "EnvoyFilter":
			filters = append(filters, value)
		case "VirtualService":
			services = append(services, value)
		case "Gateway":
			gateways[value.GetNamespace()+"/"+value.GetName()] = value
		case "Secret":
			if value.GetName() != istio.RulesSecret {
				continue
			}
			if err := encodeSecret(value); err != nil {
				return nil, nil, nil, err
			}
			rules = content(value)
		}
	}
	return filters, routesOf(services, nil, gateways), rules, nil
}

// portOf is the port of a Gateway that Weir made, 0 where there is none.
func portOf(gateway *unstructured.Unstructured) int32 {
	if gateway == nil {
		return 0
	}
	for _, server := range entries(gateway, "servers") {
		fields, _ := server.(map[string]any)
		port, _ := fields["port"].(map[string]any)
		switch number := port["number"].(type) {
		case float64:
			return int32(number)
		case int64:
			return int32(number) //nolint:gosec // a port
		}
	}
	return 0
}
