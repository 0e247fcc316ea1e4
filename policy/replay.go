package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"weir.dev/kit/authzexpr"
)

// Recorded is a request that a proxy answered, as its access log has it. Headers
// and the query are not recorded.
type Recorded struct {
	Method, Host, Path, SNI, Fleet string
	Port                           int32
	// Route is the id of the route that answered; empty when none did.
	Route string
}

// Kinds of a Flip.
const (
	FlipRoute       = "route"
	FlipAuth        = "authorization"
	FlipLimits      = "limits"
	FlipDestination = "destination"
	// FlipUnknown is a route that depends on what is not recorded.
	FlipUnknown = "unknown"
)

// Flip is one way in which a recorded request would be treated differently.
type Flip struct {
	Kind string `json:"kind"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// Replay finds what another Plan would do with recorded requests. Use
// NewReplay; safe for concurrent use.
type Replay struct {
	before, after *Plan
	old, new      map[string]*authRoute
	oldLimits     map[string]*limitRule
	newLimits     map[string]*limitRule
	// programs are expressions of rules, compiled when they are first needed.
	programs map[string]*authzexpr.Program
}

// NewReplay compares the Plan that runs with a proposed one.
func NewReplay(before, after *Plan) *Replay {
	r := &Replay{before: before, after: after, old: map[string]*authRoute{}, new: map[string]*authRoute{}, oldLimits: map[string]*limitRule{}, newLimits: map[string]*limitRule{}, programs: map[string]*authzexpr.Program{}}
	for _, side := range []struct {
		plan   *Plan
		auth   map[string]*authRoute
		limits map[string]*limitRule
	}{{before, r.old, r.oldLimits}, {after, r.new, r.newLimits}} {
		for _, route := range side.plan.AuthRoutes {
			side.auth[route.GetRouteId()] = route
		}
		for _, limit := range side.plan.RateLimits {
			side.limits[limit.GetId()] = limit
		}
	}
	return r
}

// Request lists what would differ; nothing when the request is treated as
// before.
//
// Of headers, query and content type it is only known that the recorded route
// took the request and those before it did not. Where the proposed Plan asks for
// more than that, the answer is FlipUnknown with what it depends on.
func (r *Replay) Request(request Recorded) []Flip {
	old, next := possible(r.before, request), possible(r.after, request)
	winner, known, ok := recordedWinner(old, request.Route)
	if !ok {
		return []Flip{{Kind: FlipUnknown, Old: cmp.Or(request.Route, routeName(nil)), New: "the running policy does not do what was recorded: it has changed since"}}
	}
	if sameCandidates(old, next) {
		return r.compareRoutes(winner, counterpart(next, winner))
	}
	after, depends := known.decide(next)
	if depends != nil {
		return []Flip{{Kind: FlipUnknown, Old: routeName(winner), New: "depends on " + conditions(depends) + " of " + depends.ID}}
	}
	return r.compareRoutes(winner, after)
}

// facts are conditions that are known to hold or not.
type facts map[string]bool

// recordedWinner is the route of the candidates that answered, with what that
// says about the request. ok is false when none of them can have.
func recordedWinner(candidates []*Route, recorded string) (winner *Route, known facts, ok bool) {
	known = facts{}
	same := 0
	for _, route := range candidates {
		condition := conditions(route)
		switch {
		case route.ID == recorded:
			winner = cmp.Or(winner, route)
			same++
		case condition == "" && winner == nil:
			return nil, nil, false // this one would have answered
		case winner == nil:
			known[condition] = false
		}
	}
	if winner == nil {
		return nil, known, recorded == ""
	}
	// Of several matches of one rule it is not known which one held.
	if condition := conditions(winner); same == 1 && condition != "" {
		if _, contradicts := known[condition]; contradicts {
			return nil, nil, false
		}
		known[condition] = true
	}
	return winner, known, true
}

// decide is the first candidate that is known to match; depends is set when that
// cannot be told.
func (f facts) decide(candidates []*Route) (winner, depends *Route) {
	for _, route := range candidates {
		condition := conditions(route)
		switch holds, known := f[condition]; {
		case condition == "" || known && holds:
			if depends != nil && depends.ID == route.ID {
				depends = nil
			}
			return route, depends
		case !known && (depends == nil || depends.ID == route.ID):
			depends = route
		case !known:
			return nil, depends
		}
	}
	return nil, depends
}

// sameCandidates reports whether the same rules ask for the same, in the same
// order.
func sameCandidates(a, b []*Route) bool {
	return slices.EqualFunc(a, b, func(x, y *Route) bool { return x.ID == y.ID && conditions(x) == conditions(y) })
}

// counterpart is the candidate of the same rule.
func counterpart(candidates []*Route, route *Route) *Route {
	for _, candidate := range candidates {
		if route != nil && candidate.ID == route.ID {
			return candidate
		}
	}
	return nil
}

// possible lists the routes whose recorded parts match, up to the first that
// asks for nothing else.
func possible(plan *Plan, request Recorded) []*Route {
	question := Question{Method: request.Method, Host: request.Host, Path: request.Path, SNI: request.SNI, Fleet: request.Fleet, Port: request.Port}
	e := newExplainer(plan, question)
	if !e.connect() || e.chain.Forward != nil || !e.request(question) || !e.pickHost() {
		return nil
	}
	var found []*Route
	for i := range e.host.Routes {
		route := &e.host.Routes[i]
		if ok, _ := e.match.comparePath(route.Match.Path); !ok || route.Match.Method != "" && route.Match.Method != e.match.method {
			continue
		}
		found = append(found, route)
		if conditions(route) == "" {
			break
		}
	}
	return found
}

// conditions is what a route asks for that is not recorded.
func conditions(route *Route) string {
	var parts []string
	for _, header := range route.Match.Headers {
		parts = append(parts, "header "+header.text())
	}
	for _, parameter := range route.Match.Query {
		parts = append(parts, "query "+parameter.text())
	}
	if route.GRPC {
		parts = append(parts, "content-type application/grpc")
	}
	return strings.Join(parts, ", ")
}

func routeName(route *Route) string {
	if route == nil {
		return "no route (404)"
	}
	return route.ID
}

func (r *Replay) compareRoutes(old, next *Route) []Flip {
	var flips []Flip
	add := func(kind, before, after string) {
		if before != after {
			flips = append(flips, Flip{Kind: kind, Old: before, New: after})
		}
	}
	add(FlipRoute, routeName(old), routeName(next))
	if old == nil || next == nil {
		return flips
	}
	before, after := authText(old, r.old), authText(next, r.new)
	if before == after && !sameAuth(old, next, r.old, r.new) {
		before, after = before+" as it was", after+" with other rules"
	}
	add(FlipAuth, before, after)
	add(FlipLimits, limitsText(old, r.oldLimits), limitsText(next, r.newLimits))
	add(FlipDestination, destinationText(old), destinationText(next))
	return flips
}

func authText(route *Route, rules map[string]*authRoute) string {
	switch {
	case route.Auth == nil:
		return "open to anyone"
	case route.Auth.Refuse:
		return "refused for everybody"
	}
	return "by " + cmp.Or(rules[route.Auth.RouteID].GetPolicy(), route.Auth.Origin.Object.String())
}

// sameAuth compares what the rules say, not what they are called.
func sameAuth(old, next *Route, oldRules, newRules map[string]*authRoute) bool {
	if old.Auth == nil || next.Auth == nil {
		return true // the text tells
	}
	a, b := oldRules[old.Auth.RouteID], newRules[next.Auth.RouteID]
	if a == nil || b == nil {
		return a == b
	}
	bare := func(rule *authRoute) *authRoute {
		out, _ := proto.Clone(rule).(*authRoute)
		out.RouteId, out.Digest, out.Policy = "", "", ""
		return out
	}
	return proto.Equal(bare(a), bare(b))
}

func limitsText(route *Route, rules map[string]*limitRule) string {
	if len(route.Limits) == 0 {
		return "none"
	}
	var texts []string
	for i := range route.Limits {
		limit := &route.Limits[i]
		rule := rules[limit.Rule]
		text := limitText(rule.GetRequests(), rule.GetBurst(), rule) + limitDetails(limit, rule)
		for _, by := range limit.By {
			text += " by " + string(by.Type)
			if by.Header != "" {
				text += " " + by.Header
			}
		}
		if rule.GetShadow() {
			text += " (shadow)"
		}
		var tiers []string
		for name, tier := range rule.GetTiers() {
			tiers = append(tiers, ", "+name+": "+tierText(tier, rule))
		}
		slices.Sort(tiers)
		texts = append(texts, text+strings.Join(tiers, ""))
	}
	return strings.Join(texts, "; ")
}

func destinationText(route *Route) string {
	if redirect := route.Redirect; redirect != nil {
		text := fmt.Sprintf("redirect %d to %s://%s:%d", redirect.Status, redirect.Scheme, redirect.Host, redirect.Port)
		if redirect.Path != nil {
			text += redirect.Path.Full + redirect.Path.Prefix
		}
		return text
	}
	var parts []string
	for _, backend := range route.Backends {
		text := fmt.Sprintf("%s (%d)", cmp.Or(backend.Backend, "unresolved"), backend.Weight)
		if backend.Redirect != nil {
			text += fmt.Sprintf(" redirect %d to %s", backend.Redirect.Status, backend.Redirect.Host)
		}
		if backend.Path != nil {
			text += " as " + backend.Path.Full + backend.Path.Prefix
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "answered with 500"
	}
	if rewrite := route.Rewrite; rewrite != nil {
		parts = append(parts, "rewritten "+rewrite.Host)
		if rewrite.Path != nil {
			parts = append(parts, rewrite.Path.Full+rewrite.Path.Prefix)
		}
	}
	return strings.Join(parts, ", ")
}
