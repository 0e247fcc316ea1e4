package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
)

// Actions of a Change.
const (
	ChangeAdded   = "added"
	ChangeRemoved = "removed"
	ChangeChanged = "changed"
)

// What a Change is about.
const (
	AboutObject   = "object"
	AboutPort     = "port"
	AboutHost     = "host"
	AboutRoute    = "route"
	AboutBackend  = "backend"
	AboutAuth     = "auth"
	AboutLimit    = "limit"
	AboutConsumer = "consumer"
	AboutSecret   = "secret"
)

// Change is one difference between two policies. Its JSON is that of
// weir.admin.v1.Change.
type Change struct {
	// About is one of the About constants.
	About string `json:"about"`
	// Name within About, such as "HTTPRoute default/users" or a route's id with
	// the place that serves it.
	Name string `json:"name"`
	// Action is one of the Change constants.
	Action string `json:"action"`
	// Fields that differ, of a changed thing.
	Fields []FieldChange `json:"fields,omitempty"`
	// Old and New are where the thing is defined before and after.
	Old *Origin `json:"old,omitempty"`
	New *Origin `json:"new,omitempty"`
}

// FieldChange is one field; an empty text stands for absence.
type FieldChange struct {
	Path string `json:"path"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// Diff is what is served differently by two Plans: ports and hosts, routes, auth
// rules, limits, consumers, backends and certificates, in this order, each sorted by name. Keys
// and other secrets are named by hash or not at all. It is empty when the digests
// are equal. Either Plan may be nil.
func Diff(before, after *Plan) []Change {
	return slices.Concat(
		compare(AboutPort, portItems(before), portItems(after)),
		compareHosts(before, after),
		compare(AboutRoute, routeItems(before), routeItems(after)),
		compare(AboutAuth, authItems(before), authItems(after)),
		compare(AboutLimit, limitItems(before), limitItems(after)),
		compare(AboutConsumer, consumerItems(before), consumerItems(after)),
		compare(AboutBackend, backendItems(before), backendItems(after)),
		compare(AboutSecret, secretItems(before), secretItems(after)),
	)
}

// item is one thing of a kind: its content as a tree and where it is from.
type item struct {
	tree   func() any
	same   any // comparable digest of the content; nil when the trees decide
	origin *Origin
}

// compare lists what differs between two lists of items of one kind.
func compare(about string, before, after map[string]item) []Change {
	names := map[string]bool{}
	for name := range before {
		names[name] = true
	}
	for name := range after {
		names[name] = true
	}
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(names)) {
		old, was := before[name]
		next, is := after[name]
		change := Change{About: about, Name: name, Old: old.origin, New: next.origin}
		switch {
		case !was:
			change.Action = ChangeAdded
		case !is:
			change.Action = ChangeRemoved
		case old.same != nil && old.same == next.same:
			continue
		default:
			change.Action, change.Fields = ChangeChanged, compareTrees(redact("", old.tree()), redact("", next.tree()))
			if len(change.Fields) == 0 {
				continue
			}
		}
		changes = append(changes, change)
	}
	return changes
}

// compareTrees lists the leaves that differ, by path.
func compareTrees(before, after any) []FieldChange {
	old, next := map[string]string{}, map[string]string{}
	for _, leaf := range flatten(before) {
		old[leaf.path] = leaf.value
	}
	for _, leaf := range flatten(after) {
		next[leaf.path] = leaf.value
	}
	paths := maps.Clone(old)
	maps.Copy(paths, next)
	var changes []FieldChange
	for _, path := range slices.SortedFunc(maps.Keys(paths), comparePaths) {
		if old[path] != next[path] {
			changes = append(changes, FieldChange{Path: path, Old: old[path], New: next[path]})
		}
	}
	return changes
}

// comparePaths sorts rules[2] before rules[10].
func comparePaths(a, b string) int {
	x, y := splitPath(a), splitPath(b)
	for i := range min(len(x), len(y)) {
		if order := cmp.Or(compareNumbers(x[i], y[i]), cmp.Compare(x[i], y[i])); order != 0 {
			return order
		}
	}
	return cmp.Compare(len(x), len(y))
}

func compareNumbers(a, b string) int {
	if strings.Trim(a, "0123456789") != "" || strings.Trim(b, "0123456789") != "" {
		return 0
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func place(port *Port) string {
	text := fmt.Sprintf("port %d", port.Number)
	if len(port.Addresses) > 0 {
		text += " at " + addressText(port)
	}
	if port.Fleet != "" {
		text = "fleet " + port.Fleet + ", " + text
	}
	return text
}

// chains calls visit for every chain of a Plan with the name of its place.
func chains(plan *Plan, visit func(place string, port *Port, chain *Chain)) {
	if plan == nil {
		return
	}
	for i := range plan.Ports {
		port := &plan.Ports[i]
		for j := range port.Chains {
			name := place(port)
			if port.Chains[j].Name != PlainChain {
				name += ", " + port.Chains[j].Name
			}
			visit(name, port, &port.Chains[j])
		}
	}
}

// portItems are the chains without their hosts.
func portItems(plan *Plan) map[string]item {
	items := map[string]item{}
	chains(plan, func(place string, port *Port, chain *Chain) {
		bare, bones := *chain, *port
		bare.Hosts, bare.Name, bare.Policies, bare.Listeners, bones.Chains = nil, "", nil, nil, nil
		items[place] = item{tree: func() any {
			return map[string]any{"port": treeOf(bones), "chain": treeOf(bare)}
		}}
	})
	return items
}

// compareHosts lists hosts that come and go, and those whose routes change their
// order of precedence among each other.
func compareHosts(before, after *Plan) []Change {
	old, oldItems := hostItems(before)
	next, nextItems := hostItems(after)
	changes := compare(AboutHost, oldItems, nextItems)
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if next[name] == nil || old[name] == next[name] {
			continue
		}
		if field, ok := compareOrder(routeNames(old[name]), routeNames(next[name])); ok {
			changes = append(changes, Change{About: AboutHost, Name: name, Action: ChangeChanged, Fields: []FieldChange{field}})
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.Name, b.Name) })
	return changes
}

func hostItems(plan *Plan) (map[string]*Host, map[string]item) {
	hosts, items := map[string]*Host{}, map[string]item{}
	chains(plan, func(place string, _ *Port, chain *Chain) {
		for i := range chain.Hosts {
			host := &chain.Hosts[i]
			name := place + ", host " + host.Name
			hosts[name] = host
			items[name] = item{tree: func() any {
				bare := *host
				bare.Routes = nil
				return treeOf(bare)
			}}
		}
	})
	return hosts, items
}

// compareOrder finds the first two names that both lists have, in different
// order.
func compareOrder(before, after []string) (FieldChange, bool) {
	common := func(list, other []string) []string {
		in := map[string]bool{}
		for _, name := range other {
			in[name] = true
		}
		return slices.DeleteFunc(slices.Clone(list), func(name string) bool { return !in[name] })
	}
	old, next := common(before, after), common(after, before)
	for i := range old {
		if old[i] != next[i] {
			return FieldChange{Path: "precedence", Old: old[i] + " before " + next[i], New: next[i] + " before " + old[i]}, true
		}
	}
	return FieldChange{}, false
}

// routeNames tells the routes of a host apart: by id and which of the rule's
// matches they are.
func routeNames(host *Host) []string {
	names := make([]string, len(host.Routes))
	seen := map[string]int{}
	for i := range host.Routes {
		route := &host.Routes[i]
		name := route.ID
		if _, match, ok := strings.Cut(route.Origin.Field, ".matches"); ok && match != "[0]" {
			name += " match" + match
		}
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s (%d)", name, seen[name])
		}
		names[i] = name
	}
	return names
}

func routeItems(plan *Plan) map[string]item {
	items := map[string]item{}
	chains(plan, func(place string, _ *Port, chain *Chain) {
		for i := range chain.Hosts {
			host := &chain.Hosts[i]
			for j, name := range routeNames(host) {
				route := &host.Routes[j]
				origin := route.Origin
				items[place+", host "+host.Name+": "+name] = item{origin: &origin, tree: func() any {
					bare := *route
					if route.Auth != nil {
						auth := *route.Auth
						auth.RouteID, bare.Auth = withoutVersion(auth.RouteID), &auth
					}
					return treeOf(bare)
				}}
			}
		}
	})
	return items
}

// messageItems are rules; origins says where those that are known are from.
func messageItems[M proto.Message](messages []M, name, digest func(M) string, origins map[string]Origin) map[string]item {
	items := map[string]item{}
	for _, message := range messages {
		next := item{same: digest(message), tree: func() any {
			tree := messageTree(WithoutSecrets(message))
			if fields, ok := tree.(map[string]any); ok {
				delete(fields, "digest") // says no more than what differs
				delete(fields, "routeId")
			}
			return tree
		}}
		if origin, ok := origins[name(message)]; ok {
			next.origin = &origin
		}
		items[name(message)] = next
	}
	return items
}

// ruleOrigins is where a Plan's auth rules and limits are from, by their names.
func ruleOrigins(plan *Plan) map[string]Origin {
	origins := map[string]Origin{}
	chains(plan, func(_ string, _ *Port, chain *Chain) {
		for i := range chain.Hosts {
			for j := range chain.Hosts[i].Routes {
				route := &chain.Hosts[i].Routes[j]
				if route.Auth != nil {
					origins[withoutVersion(route.Auth.RouteID)] = route.Auth.Origin
				}
				for k := range route.Limits {
					origins[route.Limits[k].Rule] = route.Limits[k].Origin
				}
			}
		}
	})
	return origins
}

// withoutVersion is the id of a route's rules without what changes with their
// content, so that a change of them is one.
func withoutVersion(routeID string) string {
	bare, _, _ := strings.Cut(routeID, "~")
	return bare
}

func authItems(plan *Plan) map[string]item {
	if plan == nil {
		return nil
	}
	return messageItems(plan.AuthRoutes, func(r *authRoute) string { return withoutVersion(r.GetRouteId()) },
		(*authRoute).GetDigest, ruleOrigins(plan))
}

func limitItems(plan *Plan) map[string]item {
	if plan == nil {
		return nil
	}
	return messageItems(plan.RateLimits, (*limitRule).GetId, (*limitRule).GetDigest, ruleOrigins(plan))
}

func consumerItems(plan *Plan) map[string]item {
	if plan == nil {
		return nil
	}
	return messageItems(plan.Consumers, (*consumer).GetName, func(c *consumer) string { return digestMessage(c) }, nil)
}

func backendItems(plan *Plan) map[string]item {
	items := map[string]item{}
	if plan == nil {
		return items
	}
	for i := range plan.Backends {
		backend := &plan.Backends[i]
		origin := backend.Origin
		items[backend.ID] = item{origin: &origin, tree: func() any { return treeOf(*backend) }}
	}
	return items
}

// secretItems are certificates and keys, which are named by hash.
func secretItems(plan *Plan) map[string]item {
	items := map[string]item{}
	if plan == nil {
		return items
	}
	for i := range plan.Secrets {
		secret := &plan.Secrets[i]
		origin := secret.Origin
		items[secret.ID] = item{origin: &origin, tree: func() any { return treeOf(*secret) }}
	}
	return items
}
