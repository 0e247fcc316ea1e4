package istio

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	security "istio.io/api/security/v1beta1"
	"istio.io/api/type/v1beta1"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy"
)

// Names of what Weir's servers read.
const (
	RulesSecret   = "weir-extauthz-rules"
	RulesKey      = "rules.yaml"
	LimitsMap     = "weir-ratelimit-rules"
	LimitsKey     = "policies.yaml"
	maxRulesBytes = 1 << 20 // what a Secret may hold
)

// authTable collects the rules that extauthz chooses by host and path.
type authTable struct {
	hosts  []*rulesv1.VirtualHost
	routes map[string][]policy.Route
	// guarded is set once a route is not open to everybody.
	guarded bool
	origins []policy.Origin
}

// host adds the rules of a host's routes, in order.
func (t *authTable) host(c *compiler, host *policy.Host) {
	if t.routes == nil {
		t.routes = map[string][]policy.Route{}
	}
	made := &rulesv1.VirtualHost{Name: host.Name, Domains: []string{host.Name}}
	names := map[string]int{}
	for i := range host.Routes {
		route := &host.Routes[i]
		auth := t.rules(c, route)
		t.ambiguous(c, host, i)
		// Names of the file have no slash; several matches of a rule share an id.
		name := strings.NewReplacer("/", "|", "~", "-").Replace(route.ID)
		if names[name]++; names[name] > 1 {
			name += "|" + strconv.Itoa(names[name])
		}
		made.Routes = append(made.Routes, &rulesv1.StandaloneRoute{Name: name, Match: standaloneMatch(&route.Match), Auth: auth})
	}
	if before, seen := t.routes[host.Name]; seen {
		if !slices.EqualFunc(before, host.Routes, func(a, b policy.Route) bool { return a.ID == b.ID }) {
			c.refuse(host.Routes[0].Origin, "host %q on two ports with different routes: extauthz chooses its rules by host and path alone", host.Name)
		}
		return
	}
	t.routes[host.Name] = host.Routes
	t.hosts = append(t.hosts, made)
}

// rules are those of a route; a route without any is open.
func (t *authTable) rules(c *compiler, route *policy.Route) *rulesv1.AuthRoute {
	if route.Auth == nil || route.Auth.Refuse {
		return &rulesv1.AuthRoute{
			Policy: "open", KeepCredentials: true,
			Authenticators: []*rulesv1.Authenticator{{Name: "everybody", Method: &rulesv1.Authenticator_Anonymous{Anonymous: &rulesv1.AnonymousAuthenticator{}}}},
		}
	}
	t.guarded = true
	t.origins = append(t.origins, route.Auth.Origin)
	for _, rules := range c.in.Plan.AuthRoutes {
		if rules.GetRouteId() == route.Auth.RouteID {
			alone := proto.CloneOf(rules)
			alone.RouteId, alone.Digest = "", ""
			announce(alone.GetBody())
			for _, candidate := range alone.GetCandidates() {
				announce(candidate.GetBody())
			}
			return alone
		}
	}
	c.refuse(route.Auth.Origin, "the route's rules are not in the plan")
	return &rulesv1.AuthRoute{Policy: "missing"} // without a way in: everybody is refused
}

// ambiguous refuses a route that is told by more than path and method from a
// later one with other rules, since extauthz would ask for the wrong ones.
func (t *authTable) ambiguous(c *compiler, host *policy.Host, at int) {
	route := &host.Routes[at]
	if len(route.Match.Headers)+len(route.Match.Query) == 0 && !route.GRPC {
		return
	}
	mine := t.rules(c, route)
	for i := at + 1; i < len(host.Routes); i++ {
		other := &host.Routes[i]
		if overlap(route.Match.Path, other.Match.Path) && !proto.Equal(mine, t.rules(c, other)) {
			c.refuse(route.Origin, "a match by headers or query with other rules than %s has at the same path: extauthz chooses by host, path and method alone", other.Origin.String())
			return
		}
	}
}

// overlap reports whether a path may match both.
func overlap(a, b policy.PathMatch) bool {
	if a.Kind == policy.PathRegex || b.Kind == policy.PathRegex {
		return true
	}
	within := func(path, prefix string) bool {
		prefix = strings.TrimSuffix(prefix, "/")
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	}
	switch {
	case a.Kind == policy.PathExact && b.Kind == policy.PathExact:
		return a.Value == b.Value
	case a.Kind == policy.PathExact:
		return within(a.Value, b.Value)
	case b.Kind == policy.PathExact:
		return within(b.Value, a.Value)
	}
	return within(strings.TrimSuffix(a.Value, "/"), b.Value) || within(strings.TrimSuffix(b.Value, "/"), a.Value)
}

func standaloneMatch(match *policy.Match) *rulesv1.RouteMatch {
	made := &rulesv1.RouteMatch{}
	switch path := match.Path; {
	case path.Kind == policy.PathExact:
		made.PathSpecifier = &rulesv1.RouteMatch_Path{Path: path.Value}
	case path.Kind == policy.PathRegex:
		made.PathSpecifier = &rulesv1.RouteMatch_SafeRegex{SafeRegex: path.Value}
	case strings.Trim(path.Value, "/") == "":
		made.PathSpecifier = &rulesv1.RouteMatch_Prefix{Prefix: "/"}
	default:
		made.PathSpecifier = &rulesv1.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: strings.TrimSuffix(path.Value, "/")}
	}
	if match.Method != "" {
		made.Methods = []string{strings.ToUpper(match.Method)}
	}
	return made
}

// openPorts are those of which every route is everybody's, such as one that redirects
// to another: their hosts have other rules elsewhere, and extauthz sees no ports.
func (c *compiler) openPorts() []string {
	var open []string
	for i := range c.in.Plan.Ports {
		if port := &c.in.Plan.Ports[i]; !c.guarded(port) {
			open = append(open, strconv.Itoa(int(port.Number)))
		}
	}
	return open
}

// asked is every request but those to open ports and those that Istio decides about.
func (c *compiler) asked(others []*operation) *security.Rule {
	if len(others) == 0 {
		open := c.openPorts()
		if len(open) == 0 {
			return &security.Rule{}
		}
		others = []*operation{{NotPorts: open}}
	}
	made := &security.Rule{}
	for _, one := range others {
		made.To = append(made.To, &security.Rule_To{Operation: one})
	}
	return made
}

// authorization has the gateway ask extauthz about every request that has a
// route, but for those that Istio decides about. Open ones are asked about too: what
// is left out would be open by mistake the day that its path is guarded. The rules have
// all routes, so that extauthz can be asked about any.
func (c *compiler) authorization() {
	if !c.table.guarded {
		return
	}
	rules := &rulesv1.StandaloneRules{VirtualHosts: c.table.hosts, Consumers: c.in.Plan.Consumers, IgnorePortInHostMatching: true}
	raw, err := protojson.Marshal(rules)
	if err == nil {
		var value any // protojson spaces its output at random
		if err = json.Unmarshal(raw, &value); err == nil {
			raw, err = json.Marshal(value)
		}
	}
	if err != nil {
		c.refuse(c.table.origins[0], "the rules cannot be written: %v", err)
		return
	}
	if len(raw) > maxRulesBytes {
		c.refuse(c.table.origins[0], "the rules have %d bytes, and a Secret holds %d; let extauthz follow a control plane", len(raw), maxRulesBytes)
		return
	}
	c.add(Object{
		APIVersion: "v1", Kind: "Secret", Namespace: c.options.RulesNamespace, Name: RulesSecret, Secret: true,
		Body: map[string]any{"type": "Opaque", "stringData": map[string]any{RulesKey: string(raw)}}, Origins: c.table.origins,
	})
	decided, others := c.nativeOperations()
	c.nativeObjects(decided)
	asked := &security.AuthorizationPolicy{
		Selector: &v1beta1.WorkloadSelector{MatchLabels: c.selector()},
		Action:   security.AuthorizationPolicy_CUSTOM,
		ActionDetail: &security.AuthorizationPolicy_Provider{
			Provider: &security.AuthorizationPolicy_ExtensionProvider{Name: c.options.Provider},
		},
		Rules: []*security.Rule{c.asked(others)},
	}
	c.add(Object{
		APIVersion: securityVersion, Kind: "AuthorizationPolicy", Name: "weir-extauthz",
		Body: map[string]any{"spec": message(asked)}, Origins: c.table.origins,
	})
}

// CheckTimeout is the longest that a check of a Plan's routes may take, which the
// extension provider has to allow: Istio has one timeout for all routes.
func CheckTimeout(plan *policy.Plan) time.Duration {
	longest := time.Second
	for _, port := range plan.Ports {
		for i := range port.Chains {
			for _, host := range port.Chains[i].Hosts {
				for j := range host.Routes {
					if auth := host.Routes[j].Auth; auth != nil {
						longest = max(longest, auth.CheckTimeout)
					}
				}
			}
		}
	}
	return longest
}

// limitRules are the policies that ratelimitd reads by itself.
func (c *compiler) limitRules() {
	var text strings.Builder
	var origins []policy.Origin
	if !c.limited() {
		return
	}
	for _, object := range c.in.LimitPolicies {
		text.WriteString("---\n")
		text.Write(object.JSON())
		text.WriteString("\n")
		origins = append(origins, object.Origin(""))
	}
	if text.Len() > maxRulesBytes {
		c.refuse(origins[0], "the rate limits have %d bytes, and a ConfigMap holds %d; let ratelimitd follow a control plane", text.Len(), maxRulesBytes)
		return
	}
	c.add(Object{
		APIVersion: "v1", Kind: "ConfigMap", Namespace: c.options.RulesNamespace, Name: LimitsMap,
		Body: map[string]any{"data": map[string]any{LimitsKey: text.String()}}, Origins: origins,
	})
}

// limited reports whether a route has a limit.
func (c *compiler) limited() bool {
	for _, port := range c.in.Plan.Ports {
		for i := range port.Chains {
			if chainLimited(&port.Chains[i]) {
				return true
			}
		}
	}
	return false
}

func chainLimited(chain *policy.Chain) bool {
	for _, host := range chain.Hosts {
		for i := range host.Routes {
			if len(host.Routes[i].Limits) > 0 {
				return true
			}
		}
	}
	return false
}
