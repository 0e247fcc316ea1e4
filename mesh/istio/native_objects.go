package istio

import (
	"maps"
	"slices"
	"strconv"

	security "istio.io/api/security/v1beta1"
	"istio.io/api/type/v1beta1"

	"weir.dev/kit/identity"
	"weir.dev/policy"
)

// Names of the objects by which Istio decides. Envoy looks through the policies that
// refuse in the order of their names, and the first that holds says why; all come
// before weir-extauthz, for kubectl applies in that order.
const (
	TokensName      = "weir-tokens"
	nameCredentials = "weir-by-token-1-credentials" //nolint:gosec // a name
	nameIssuer      = "weir-by-token-2-issuer"
	nameAudience    = "weir-by-token-3-audience"
	nameToken       = "weir-by-token-4-token" //nolint:gosec // a name
	nameScope       = "weir-by-token-5-scope"
	nameRule        = "weir-by-token-6-rule"
)

// Headers by which AuthorizationPolicy sees what it has no words for: that a token
// ends, and that it is bound to a key. Envoy takes a client's own away, and services
// don't get them.
const (
	headerExpires = "weir-verified-exp"
	headerBound   = "weir-verified-cnf"
)

// extAuthzDecision is what extauthz said of a request, in the dynamic metadata of its
// answer, which no client can write. Istio's jwt_authn and the policies that refuse come
// after it, when it has taken the token away: whom it let in is not judged again.
const (
	extAuthzDecision = "experimental.envoy.filters.http.ext_authz[decision]"
	extAuthzAllowed  = "allow"
)

// operation is a route's requests, or those that are not.
type operation = security.Operation

// nativeAt is a route that Istio decides about, on a host.
type nativeAt struct {
	*nativeRoute
	operation *operation
}

// nativeOperations are the requests that Istio decides about, and those of the same
// hosts that extauthz is asked about: every request is one or the other, or both.
func (c *compiler) nativeOperations() (decided []nativeAt, asked []*operation) {
	var closed []string
	for _, host := range c.guardedHosts() {
		var paths []string
		names := []string{host.Name}
		if host.Name != "*" {
			names = append(names, host.Name+":*") // a Host header may have a port
		}
		// On another port the host may be one of a wildcard's.
		ports := c.portsOf(host.Name)
		of := func(made *operation) *operation {
			made.Hosts, made.Ports = names, ports
			return made
		}
		var others []*operation
		for i := range host.Routes {
			route := &host.Routes[i]
			made := c.natives.decides(route)
			if made == nil {
				continue
			}
			own := operationPaths(route.Match.Path)
			paths = append(paths, own...)
			taken := of(&operation{Paths: own})
			if route.Match.Method != "" {
				taken.Methods = []string{route.Match.Method}
				others = append(others, of(&operation{Paths: own, NotMethods: c.methodsAt(host, route.Match.Path)}))
			}
			for j := range i {
				before := &host.Routes[j]
				if !overlap(before.Match.Path, route.Match.Path) || apart(&before.Match, &route.Match) {
					continue
				}
				narrower := operationPaths(before.Match.Path)
				taken.NotPaths = append(taken.NotPaths, narrower...)
				if c.natives.decides(before) == nil {
					if earlier, all := c.decidedBefore(host, j); !all {
						others = append(others, of(&operation{Paths: narrower, NotPaths: earlier}))
					}
				} else if before.Match.Method != "" {
					others = append(others, of(&operation{Paths: narrower, NotMethods: []string{before.Match.Method}}))
				}
			}
			decided = append(decided, nativeAt{made, taken})
		}
		if len(paths) == 0 {
			continue
		}
		closed = append(closed, names...)
		slices.Sort(paths)
		asked = append(asked, of(&operation{NotPaths: slices.Compact(paths)}))
		asked = append(asked, others...)
		asked = append(asked, &operation{Hosts: names, NotPorts: append(slices.Clone(ports), c.openPorts()...)})
	}
	if len(closed) > 0 {
		asked = append([]*operation{{NotHosts: closed, NotPorts: c.openPorts()}}, asked...)
	}
	return decided, asked
}

// portsOf are the ports that have a host and on which extauthz is asked.
func (c *compiler) portsOf(name string) []string {
	var ports []string
	for i := range c.in.Plan.Ports {
		port := &c.in.Plan.Ports[i]
		has := func(chain policy.Chain) bool {
			return slices.ContainsFunc(chain.Hosts, func(host policy.Host) bool { return host.Name == name && !host.Misdirected })
		}
		if c.guarded(port) && slices.ContainsFunc(port.Chains, has) {
			ports = append(ports, strconv.Itoa(int(port.Number)))
		}
	}
	return ports
}

// decidedBefore are the paths of the route at a place of a host that Istio decides
// about, since routes before it have them; all says that it has none else. A route of
// one method is not among these: see settleMethods.
func (c *compiler) decidedBefore(host *policy.Host, at int) (paths []string, all bool) {
	of := host.Routes[at].Match.Path
	for i := range at {
		earlier := &host.Routes[i]
		if c.natives.decides(earlier) == nil || earlier.Match.Method != "" || !overlap(earlier.Match.Path, of) {
			continue
		}
		if covers(earlier.Match.Path, of) {
			return nil, true
		}
		paths = append(paths, operationPaths(earlier.Match.Path)...)
	}
	return paths, false
}

// methodsAt are those of the routes of a path that Istio decides about.
func (c *compiler) methodsAt(host *policy.Host, path policy.PathMatch) []string {
	var methods []string
	for i := range host.Routes {
		if route := &host.Routes[i]; c.natives.decides(route) != nil && route.Match.Path == path && !slices.Contains(methods, route.Match.Method) {
			methods = append(methods, route.Match.Method)
		}
	}
	return methods
}

// nativeObjects makes the RequestAuthentication and the policies that refuse.
func (c *compiler) nativeObjects(decided []nativeAt) {
	if len(decided) == 0 {
		return
	}
	var origins []policy.Origin
	for _, at := range decided {
		origins = append(origins, at.origin)
	}
	c.tokens(decided, origins)
	policies := map[string]*security.AuthorizationPolicy{}
	refuse := func(name string, at nativeAt, from []*security.Rule_From, when ...*security.Condition) {
		if policies[name] == nil {
			policies[name] = &security.AuthorizationPolicy{Selector: &v1beta1.WorkloadSelector{MatchLabels: c.selector()}, Action: security.AuthorizationPolicy_DENY}
		}
		undecided := &security.Condition{Key: extAuthzDecision, NotValues: []string{extAuthzAllowed}}
		policies[name].Rules = append(policies[name].Rules, &security.Rule{
			From: from, To: []*security.Rule_To{{Operation: at.operation}}, When: append(slices.Clone(when), undecided),
		})
	}
	for _, at := range decided {
		refuse(nameCredentials, at, []*security.Rule_From{{Source: &security.Source{NotRequestPrincipals: []string{"*"}}}})
		refuse(nameIssuer, at, nil, &security.Condition{Key: "request.auth.claims[iss]", NotValues: []string{at.issuer}})
		// RequestAuthentication takes http://x/ for x.
		refuse(nameAudience, at, nil, &security.Condition{Key: "request.auth.audiences", NotValues: at.audiences})
		// Envoy takes a token without exp, or with exp 0, for one that never ends.
		refuse(nameToken, at, nil, &security.Condition{Key: "request.headers[" + headerExpires + "]", NotValues: []string{"1*", "2*", "3*", "4*", "5*", "6*", "7*", "8*", "9*"}})
		refuse(nameToken, at, nil, &security.Condition{Key: "request.headers[" + headerBound + "]", Values: []string{"*"}})
		name := nameRule
		if at.byScope {
			name = nameScope
		}
		for _, conditions := range at.refused {
			refuse(name, at, nil, conditions...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		c.add(Object{APIVersion: securityVersion, Kind: "AuthorizationPolicy", Name: name, Body: map[string]any{"spec": message(policies[name])}, Origins: origins})
	}
}

// tokens makes the RequestAuthentication: a rule for each issuer. The token stays
// where it is until the route, so that routes that are extauthz's still find it.
func (c *compiler) tokens(decided []nativeAt, origins []policy.Origin) {
	made := &security.RequestAuthentication{Selector: &v1beta1.WorkloadSelector{MatchLabels: c.selector()}}
	byIssuer := map[string]*security.JWTRule{}
	for _, at := range decided {
		rule := byIssuer[at.issuer]
		if rule == nil {
			rule = &security.JWTRule{
				Issuer: at.issuer, Jwks: at.keys.inline, JwksUri: at.keys.uri, ForwardOriginalToken: true,
				FromHeaders: []*security.JWTHeader{{Name: "Authorization", Prefix: "Bearer "}},
				OutputClaimToHeaders: []*security.ClaimToHeader{
					{Header: headerExpires, Claim: "exp"}, {Header: headerBound, Claim: "cnf"},
				},
			}
			if at.scopes != "" {
				rule.SpaceDelimitedClaims = []string{at.scopes}
			}
			byIssuer[at.issuer] = rule
			made.JwtRules = append(made.JwtRules, rule)
		}
		for _, audience := range at.audiences {
			if !slices.Contains(rule.Audiences, audience) {
				rule.Audiences = append(rule.Audiences, audience)
			}
		}
	}
	c.add(Object{
		APIVersion: securityVersion, Kind: "RequestAuthentication", Name: TokensName,
		Body: map[string]any{"spec": message(made)}, Origins: origins,
	})
}

// nativeHeaders is what the service of a route gets and does not get.
func (n *nativeRoute) headers(change policy.HeaderChange) policy.HeaderChange {
	remove := []string{
		"authorization", "dpop", headerExpires, headerBound, identity.HeaderConsumer, identity.HeaderTenant, identity.HeaderTier, identity.HeaderScopes,
		identity.HeaderSubject, identity.HeaderPrefix + "assertion",
	}
	if n.authenticator == "" {
		remove = append(remove, identity.HeaderAuthenticator)
	} else {
		change.Set = append(slices.Clone(change.Set), policy.Header{Name: identity.HeaderAuthenticator, Value: n.authenticator})
	}
	for _, name := range change.Remove {
		if !slices.Contains(remove, name) {
			remove = append(remove, name)
		}
	}
	change.Remove = remove
	return change
}
