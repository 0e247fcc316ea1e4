package controlplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"weir.dev/controlplane/ads"
	"weir.dev/controlplane/envoy"
	"weir.dev/policy"
)

// problemsOf says of each quarantined object what its proxy said.
func problemsOf(quarantined []Quarantine) policy.Problems {
	var problems policy.Problems
	for i, q := range quarantined {
		if policy.OfListener(q.Origin.Field) && slices.ContainsFunc(quarantined[:i], func(other Quarantine) bool {
			return other.Origin.Object == q.Origin.Object && other.Resource == q.Resource && other.Node == q.Node
		}) {
			continue // The listeners of one object at one port are said once.
		}
		serves := "it is left out"
		if q.Kept {
			serves = "its last good version serves in its place"
		}
		problem := policy.Problem{
			Origin: q.Origin, Code: policy.CodeRejected, Severity: policy.SeverityError,
			Message: q.Node + " rejected " + q.Resource + ", so " + serves + ": " + q.Message,
		}
		if policy.OfListener(q.Origin.Field) && !q.Kept {
			problem.Message += fmt.Sprintf("; it is tried again every %s", retryEvery)
		}
		if q.Among > 0 {
			problem.Code = policy.CodeRolledBack
			problem.Message = fmt.Sprintf("%s rejected %s, and which of %d changed objects is to blame was not found in %d tries, so %s: %s",
				q.Node, q.Resource, q.Among, maxTrials, serves, q.Message)
		}
		problems = append(problems, problem)
	}
	return problems
}

// rolledBack is the problem of a fleet that is on an earlier policy as a whole.
func rolledBack(fleet string, stuck error) policy.Problem {
	where := "(rollout)"
	if fleet != "" {
		where = "(rollout to fleet " + fleet + ")"
	}
	return policy.Problem{
		Origin: policy.Origin{File: where}, Code: policy.CodeRolledBack, Severity: policy.SeverityError,
		Message: "the newest policy is not in force; what was accepted last serves: " + stuck.Error(),
	}
}

// rejections are those that a rollout went on without.
func rejections(err error) []*ads.Rejection {
	var partial *ads.PartialError
	if errors.As(err, &partial) {
		return partial.Rejections
	}
	var rejection *ads.Rejection
	if errors.As(err, &rejection) {
		return []*ads.Rejection{rejection}
	}
	return nil
}

// quarantinedRules traces rules that were rejected to the policies that they are
// made from.
func quarantinedRules(gen *generation, err error) []Quarantine {
	var quarantined []Quarantine
	for _, rejection := range rejections(err) {
		for _, name := range rejection.Blamed() {
			quarantined = append(quarantined, Quarantine{
				Origin: ruleOrigin(gen, rejection.TypeURL, name), Kept: rejection.Kept[name],
				Node: rejection.Node, Resource: name, Message: rejection.Message,
			})
		}
	}
	return quarantined
}

// ruleOrigin finds what a rule is made from.
func ruleOrigin(gen *generation, typeURL, name string) policy.Origin {
	if typeURL == envoy.TypeConsumer {
		namespace, rest, _ := strings.Cut(name, "/")
		return objectOrigin(gen.input.Objects, policy.ObjectRef{Kind: "Consumer", Namespace: namespace, Name: rest})
	}
	for i := range gen.plan.Ports {
		for j := range gen.plan.Ports[i].Chains {
			for _, host := range gen.plan.Ports[i].Chains[j].Hosts {
				for _, route := range host.Routes {
					if route.Auth != nil && route.Auth.RouteID == name {
						return route.Auth.Origin
					}
					for _, limit := range route.Limits {
						if limit.Rule == name {
							return limit.Origin
						}
					}
				}
			}
		}
	}
	return policy.Origin{}
}

func objectOrigin(objects []*policy.Object, ref policy.ObjectRef) policy.Origin {
	for _, object := range objects {
		if object.Ref == ref {
			return object.Origin("")
		}
	}
	return policy.Origin{Object: ref}
}

func isPartial(err error) bool {
	var partial *ads.PartialError
	return errors.As(err, &partial)
}

// quarantineError is what a rollout's error and the objects in quarantine come
// to, nil without either.
func quarantineError(err error, blamed map[policy.ObjectRef]Quarantine) error {
	if len(blamed) == 0 {
		return err
	}
	partial := &ads.PartialError{Rejections: rejections(err)}
	for _, ref := range slices.SortedFunc(maps.Keys(blamed), compareRefs) {
		q := blamed[ref]
		partial.Rejections = append(partial.Rejections, &ads.Rejection{Node: q.Node, TypeURL: ref.Kind, Resources: []string{ref.Namespace + "/" + ref.Name}, Message: q.Message})
	}
	return partial
}

// quarantinedObjects are the objects in quarantine, and the listeners that ads
// left out by itself, traced to their Gateways.
func quarantinedObjects(next *generation, options envoy.Options, blamed map[policy.ObjectRef]Quarantine, t trial) []Quarantine {
	var quarantined []Quarantine
	for _, ref := range slices.SortedFunc(maps.Keys(blamed), compareRefs) {
		quarantined = append(quarantined, blamed[ref])
	}
	for _, rejection := range rejections(t.err) {
		for _, name := range rejection.Blamed() {
			if rejection.TypeURL != envoy.TypeListener {
				continue
			}
			q := Quarantine{Kept: rejection.Kept[name], Node: rejection.Node, Resource: name, Message: rejection.Of(name)}
			for _, q.Origin = range listenerOrigins(next, options, rejection, name) {
				quarantined = append(quarantined, q)
			}
		}
	}
	return quarantined
}

// cannotBind is how Envoy says that a listener's port cannot be opened
// (source/common/listener_manager, ListenSocketFactoryImpl).
const cannotBind = "cannot bind '"

// listenerOrigins are what a rejected listener of Envoy's is made from, the
// likeliest to blame first. Whoever that is, no listener that shares the port is
// served, so that each of them is there.
func listenerOrigins(next *generation, options envoy.Options, rejection *ads.Rejection, name string) []policy.Origin {
	listeners := envoy.ListenersOf(next.plan, options, name)
	message := rejection.Of(name)
	if strings.Contains(message, cannotBind) {
		for i := range listeners {
			listeners[i].Field += ".port"
		}
		return listeners
	}
	origins := envoy.Trace(next.plan, options, rejection.TypeURL, name, message)
	origins = origins[:min(len(origins), 1)]
	for _, listener := range listeners {
		within := func(o policy.Origin) bool {
			return o.Object == listener.Object && (o.Field == listener.Field || strings.HasPrefix(o.Field, listener.Field+"."))
		}
		if !slices.ContainsFunc(origins, within) {
			origins = append(origins, listener)
		}
	}
	if len(origins) == 0 {
		return []policy.Origin{{}}
	}
	return origins
}
