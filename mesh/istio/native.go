package istio

import (
	"fmt"
	"slices"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// AnnotationDecide on an AuthPolicy says who decides on Istio about the routes that
// it is in effect on: DecideExtauthz, which is what none says, or DecideIstio.
const AnnotationDecide = "istio.weir.dev/decide"

// Values of AnnotationDecide.
const (
	DecideExtauthz = "extauthz"
	// DecideIstio has Istio's RequestAuthentication and AuthorizationPolicy decide
	// where their answers are the same. Other routes are extauthz's still, and a
	// notice of code WEIR6002 says why.
	DecideIstio = "istio"
)

// maxNative bounds the routes that Istio decides about; each is in several
// AuthorizationPolicies, and every gateway goes through them with each request.
const maxNative = 100

// nativeRoute is what Istio is told of the rules of a route.
type nativeRoute struct {
	issuer    string
	audiences []string
	keys      keySet
	// authenticator is the identity header that the service gets, empty for none.
	authenticator string
	// refused says whom the rules refuse, in words of AuthorizationPolicy.
	refused formula
	// byScope is set where the rules look at scopes alone.
	byScope bool
	// scopes is the claim that holds them, where Istio has to be told.
	scopes string
	origin policy.Origin
}

// natives are the routes that Istio decides about.
type natives struct {
	// routes are by their id, nil for those that are extauthz's.
	routes map[string]*nativeRoute
	// told are the reasons that were given, with their places, and reasons is how many
	// a route has: what is told of one is not told again of another.
	told    map[string]bool
	reasons int
	// wanted are the AuthPolicies that ask for it, by namespace and name.
	wanted map[string]*policy.Object
}

// decides reports whether Istio decides about a route by itself.
func (n *natives) decides(route *policy.Route) *nativeRoute { return n.routes[route.ID] }

// any reports whether it does about some.
func (n *natives) any() bool { return len(n.routes) > 0 }

// decide finds out which routes Istio can decide about with the same answers.
func (c *compiler) decide() {
	n := &c.natives
	n.routes, n.told, n.wanted = map[string]*nativeRoute{}, map[string]bool{}, map[string]*policy.Object{}
	for _, object := range c.in.AuthPolicies {
		value, said := object.Value.GetAnnotations()[AnnotationDecide]
		switch {
		case !said || value == DecideExtauthz:
		case value == DecideIstio:
			n.wanted[object.Ref.Namespace+"/"+object.Ref.Name] = object
		default:
			c.refuse(object.Origin("metadata.annotations"), "the annotation %s is %q; it is %s or %s", AnnotationDecide, value, DecideExtauthz, DecideIstio)
		}
	}
	if len(n.wanted) == 0 {
		return
	}
	hosts := c.guardedHosts()
	kept := map[string]bool{} // ids with a match that extauthz has to keep
	for _, host := range hosts {
		for i := range host.Routes {
			route := &host.Routes[i]
			made := c.native(hosts, host, i)
			if made == nil {
				kept[route.ID] = true
			} else if !kept[route.ID] && n.routes[route.ID] == nil {
				if len(n.routes) == maxNative {
					c.keep(route.Origin, "%d routes are decided by Istio already, and that is the most", maxNative)
					kept[route.ID] = true
					continue
				}
				n.routes[route.ID] = made
			}
		}
	}
	for id := range kept {
		delete(n.routes, id)
	}
	c.settleMethods(hosts)
	c.settleIssuers(hosts)
}

// settleMethods keeps a route of one method with extauthz where another route that
// Istio decides about has some of its paths: what extauthz is asked about is told by
// path, so it would be asked about requests of both. Routes of the same paths are told
// by their methods.
func (c *compiler) settleMethods(hosts []*policy.Host) {
	var kept []*policy.Route
	for _, host := range hosts {
		for i := range host.Routes {
			route := &host.Routes[i]
			if route.Match.Method == "" || c.natives.decides(route) == nil {
				continue
			}
			shares := func(other policy.Route) bool {
				return c.natives.decides(&other) != nil && overlap(other.Match.Path, route.Match.Path) && (other.Match.Method == "" || other.Match.Path != route.Match.Path)
			}
			if slices.ContainsFunc(host.Routes, shares) {
				kept = append(kept, route)
			}
		}
	}
	for _, route := range kept {
		c.keep(route.Origin, "a match by a method, where another route that Istio decides about has some of its paths, by another prefix or any method")
		delete(c.natives.routes, route.ID)
	}
}

// settleIssuers keeps a route with extauthz whose issuer has other keys than an
// earlier route says: Istio has one set for each issuer.
func (c *compiler) settleIssuers(hosts []*policy.Host) {
	first := map[string]*nativeRoute{}
	for _, host := range hosts {
		for i := range host.Routes {
			id := host.Routes[i].ID
			made := c.natives.routes[id]
			if made == nil {
				continue
			}
			before := first[made.issuer]
			if before == nil {
				first[made.issuer] = made
				continue
			}
			if before.keys != made.keys || before.scopes != made.scopes {
				c.keep(made.origin, "jwt: %s says other keys, algorithms or scopes of issuer %q, and Istio has one set of each for an issuer", before.origin.String(), made.issuer)
				delete(c.natives.routes, id)
			}
		}
	}
}

// guardedHosts are those of the ports on which extauthz is asked, each once.
func (c *compiler) guardedHosts() []*policy.Host {
	var hosts []*policy.Host
	seen := map[string]bool{}
	for i := range c.in.Plan.Ports {
		port := &c.in.Plan.Ports[i]
		if !c.guarded(port) {
			continue
		}
		for j := range port.Chains {
			for k := range port.Chains[j].Hosts {
				if host := &port.Chains[j].Hosts[k]; !host.Misdirected && !seen[host.Name] {
					seen[host.Name] = true
					hosts = append(hosts, host)
				}
			}
		}
	}
	return hosts
}

// keep says why a route whose policy asks for Istio is extauthz's still.
func (c *compiler) keep(at policy.Origin, format string, arguments ...any) {
	problem := policy.Problem{
		Origin: at, Code: policy.CodeIstioKept, Severity: policy.SeverityNotice,
		Message: "decided by extauthz, not by Istio: " + fmt.Sprintf(format, arguments...),
	}
	c.natives.reasons++
	if key := problem.Error(); !c.natives.told[key] {
		c.natives.told[key] = true
		c.problems = append(c.problems, problem)
	}
}

// native is what Istio is told of a route; nil where extauthz keeps it.
func (c *compiler) native(hosts []*policy.Host, host *policy.Host, at int) *nativeRoute {
	route := &host.Routes[at]
	if route.Auth == nil || route.Auth.Refuse {
		return nil
	}
	rules := c.authRoute(route)
	policies := strings.Split(rules.GetPolicy(), ",")
	if !slices.ContainsFunc(policies, func(name string) bool { return c.natives.wanted[name] != nil }) {
		return nil
	}
	c.natives.reasons = 0
	if len(policies) > 1 {
		c.keep(route.Auth.Origin, "the rules of %s are merged of %s; ask for Istio where one policy says all", route.Origin.String(), strings.Join(policies, " and "))
		return nil
	}
	c.nativePlace(hosts, host, at)
	c.nativeRoute(route)
	made := c.nativeRules(route, rules)
	if c.natives.reasons > 0 {
		return nil
	}
	return made
}

// authRoute are the rules of a route, nil for none.
func (c *compiler) authRoute(route *policy.Route) *rulesv1.AuthRoute {
	at := slices.IndexFunc(c.in.Plan.AuthRoutes, func(r *rulesv1.AuthRoute) bool { return r.GetRouteId() == route.Auth.RouteID })
	if at < 0 {
		return nil
	}
	return c.in.Plan.AuthRoutes[at]
}

// nativePlace says what keeps the requests of a route from being told by host, path
// and method, as AuthorizationPolicy tells them.
func (c *compiler) nativePlace(hosts []*policy.Host, host *policy.Host, at int) {
	route := &host.Routes[at]
	switch {
	case host.Name == "*" && len(hosts) > 1, host.Name != "*" && strings.HasPrefix(host.Name, "*"):
		c.keep(route.Origin, "host %q is a wildcard, and AuthorizationPolicy would take hosts for its that have routes of their own", host.Name)
	case route.GRPC || len(route.Match.Headers)+len(route.Match.Query) > 0:
		c.keep(route.Origin, "a match by headers, query or RPC, of which AuthorizationPolicy knows nothing")
	case route.Match.Path.Kind == policy.PathRegex:
		c.keep(route.Origin, "a match by an expression, which AuthorizationPolicy has not")
	case strings.ContainsAny(route.Match.Path.Value, "*{}%;") || !canonical(route.Match.Path.Value):
		c.keep(route.Origin, "the path %q, in which AuthorizationPolicy would read a pattern, or which can be read in two ways", route.Match.Path.Value)
	case len(within(route.Match.Path)) > maxExpression:
		c.keep(route.Origin, "the path is too long for an expression of Istio's, which has %d bytes at most", maxExpression)
	}
	for i := range at {
		before := &host.Routes[i]
		if !overlap(before.Match.Path, route.Match.Path) || apart(&before.Match, &route.Match) {
			continue
		}
		switch {
		case before.Match.Path.Kind == policy.PathRegex || strings.ContainsAny(before.Match.Path.Value, "*{}"):
			c.keep(route.Origin, "%s stands before it and matches by an expression", before.Origin.String())
		case covers(before.Match.Path, route.Match.Path):
			c.keep(route.Origin, "%s stands before it at the same path", before.Origin.String())
		}
	}
	for i := range host.Routes {
		for _, backend := range host.Routes[i].Backends {
			if known := c.backends[backend.Backend]; known != nil && known.Transcoding != nil {
				c.keep(route.Origin, "%s of the same host is translated from REST to gRPC before Istio decides, which then sees the path of the RPC", host.Routes[i].Origin.String())
				return
			}
		}
	}
}

// nativeRoute says what else of a route needs extauthz.
func (c *compiler) nativeRoute(route *policy.Route) {
	if c.underscored() {
		c.keep(route.Origin, "headers.underscores is Allow, and extauthz alone takes identity headers away that are spelt so (x_weir_tenant)")
	}
	if len(route.Extensions) > 0 {
		c.keep(route.Extensions[0].Origin, "extensions may ask who calls, which extauthz tells")
	}
	if len(route.Backends) == 0 {
		c.keep(route.Origin, "no service is behind it")
	}
	for i := range route.Backends {
		change := &route.Backends[i].RequestHeaders
		if slices.ContainsFunc(slices.Concat(change.Set, change.Add), func(h policy.Header) bool { return strings.EqualFold(h.Name, "authorization") }) {
			c.keep(route.Origin, "a backend is given an Authorization header of its own, which the removal of the caller's would take away")
		}
	}
	if lifted := c.lifted[route.ID]; route.Match.Path.Kind == policy.PathPrefix && (len(lifted.GetRoute().GetRateLimits()) > 0 || lifted.GetRoute().GetIdleTimeout() != nil) {
		c.keep(route.Origin, "a prefix with limits or a timeout of streams: what refuses other spellings of its paths can have neither")
	}
	for i := range route.Limits {
		limit := &route.Limits[i]
		byCaller := limit.ByTier || limit.ByClass || limit.Override != "" || limit.TierFrom != "" || len(limit.CostInputs) > 0
		for _, by := range limit.By {
			byCaller = byCaller || !slices.Contains(callerless(), string(by.Type))
		}
		if byCaller {
			c.keep(limit.Origin, "a limit by who calls, which extauthz tells")
		}
	}
}

// underscored reports whether a port lets names of headers with underscores pass.
func (c *compiler) underscored() bool {
	return slices.ContainsFunc(c.in.Plan.Ports, func(port policy.Port) bool {
		return slices.ContainsFunc(port.Chains, func(chain policy.Chain) bool { return chain.Settings().Underscores == v1alpha1.UnderscoresAllow })
	})
}

// callerless are the parts of a limit that say nothing of who calls.
func callerless() []string { return []string{"Route", "ClientIP", "Header"} }

// apart reports whether no request has both matches, by their methods.
func apart(a, b *policy.Match) bool { return a.Method != "" && b.Method != "" && a.Method != b.Method }

// covers reports whether every path of b is one of a.
func covers(a, b policy.PathMatch) bool {
	if a.Kind == policy.PathExact {
		return b.Kind == policy.PathExact && a.Value == b.Value
	}
	whole, part := strings.TrimSuffix(a.Value, "/"), strings.TrimSuffix(b.Value, "/")
	return part == whole || strings.HasPrefix(part, whole+"/")
}
