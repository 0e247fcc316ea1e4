package policy

import (
	"fmt"
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ruleSource is one rule of a route object, of either kind.
type ruleSource struct {
	object *Object
	index  int
	name   string
	grpc   bool
	// stream is set for a TLSRoute: whatever the backend speaks is passed on.
	stream bool
	// matches and what they are called in the object
	matches []Match
	// spec is what the rule takes and does, as written, and hostnames those of its
	// object; versioned is their digest, once it was asked for
	spec        any
	hostnames   []gatewayv1.Hostname
	versioned   string
	persistence *gatewayv1.SessionPersistence
	fill        func(*Route)
	refs        []backendUse
	mirrors     []mirrorUse
	// backends are the refs and mirrors, once they were looked up
	backends *ruleBackends
	// blocked are backends that it refers to and that cannot be used
	blocked []*backendState
}

func (s *ruleSource) field() string { return fmt.Sprintf("spec.rules[%d]", s.index) }

// id names the rule: by its name where it has one, so that reordering does not
// change it.
func (s *ruleSource) id() string {
	// No name can hold "#", so that no rule is taken for another one.
	name := "#" + strconv.Itoa(s.index)
	if s.name != "" {
		name = s.name
	}
	return s.group() + "/" + name
}

func (s *ruleSource) group() string {
	return strings.ToLower(s.object.Ref.Kind) + "/" + s.object.Ref.Namespace + "/" + s.object.Ref.Name
}

// version changes with what the rule takes and where requests go. Rules of
// authentication are named by it: those that are new never stand in front of what
// the route was before, nor the old ones in front of what it becomes.
func (s *ruleSource) version() string {
	if s.versioned == "" {
		s.versioned = digestOf([]any{s.hostnames, s.spec})
	}
	return s.versioned
}

// build makes the routes of one rule on one listener. open is set when nothing
// says who may call them.
func (r *resolver) build(rule *ruleSource, l *listener) (routes []Route, open bool) {
	base := Route{ID: rule.id() + "@" + l.id(), GRPC: rule.grpc}
	rule.fill(&base)
	if rule.backends == nil {
		rule.backends = r.lookUp(rule)
	}
	set := r.policiesOf(rule, l)
	traffic := r.trafficOf(set)
	traffic.apply(&base)
	if base.Redirect == nil {
		r.backends(&base, rule, l, traffic)
	}
	base.Limits = r.limitsOf(set, rule)
	base.Auth, open = r.authFor(rule, set, base.ID+"~"+rule.version())
	if base.CORS == nil {
		base.CORS = r.corsOf(set)
	}
	base.Policies, base.Extensions = set.uses, r.extensionsOf(set)
	base.Security = r.routeSecurity(set, l)
	routes = make([]Route, len(rule.matches))
	for i, match := range rule.matches {
		routes[i] = base
		routes[i].Match = match
		routes[i].Session = rule.session(match)
		routes[i].Origin = rule.object.Origin(fmt.Sprintf("%s.matches[%d]", rule.field(), i))
	}
	return routes, open && base.Redirect == nil
}
