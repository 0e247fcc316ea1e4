package check

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weir.dev/policy"
)

// Annotations of objects. The first names who answers for an object's wildcard
// hosts; the second is a list of codes, separated by commas, that are accepted in
// the object.
const (
	AnnotationOwner   = "weir.dev/owner"
	AnnotationAccepts = "weir.dev/accepts"
)

// Options of a check.
type Options struct {
	// Mesh is set where services of the cluster are asked over the mesh's own
	// mutual TLS, so that plaintext to them is none.
	Mesh bool
}

// Result is what a check found.
type Result struct {
	// Routes is how many were looked at.
	Routes   int             `json:"routes"`
	Findings policy.Problems `json:"findings"`
	// Accepted is how many findings an object's annotation accepts.
	Accepted int `json:"accepted"`

	checker *checker
}

// Plan checks what objects were resolved to. The findings are sorted, with one for
// each object, field and code; they are notices. Pure.
func Plan(plan *policy.Plan, objects []*policy.Object, options Options) *Result {
	c := &checker{annotations: map[policy.ObjectRef]map[string]string{}, seen: map[string]bool{}, options: options, found: &Result{Findings: policy.Problems{}}}
	for _, object := range objects {
		c.annotations[object.Ref] = object.Value.GetAnnotations()
	}
	for i := range plan.Ports {
		for j := range plan.Ports[i].Chains {
			c.chain(&plan.Ports[i], &plan.Ports[i].Chains[j])
		}
	}
	for i := range plan.Backends {
		c.backend(&plan.Backends[i])
	}
	c.found.checker = c
	c.found.Findings.Sort()
	return c.found
}

type checker struct {
	annotations map[policy.ObjectRef]map[string]string
	// seen are the findings there are: rules are on many listeners.
	seen    map[string]bool
	options Options
	found   *Result
}

func (c *checker) find(at policy.Origin, code policy.Code, format string, args ...any) {
	problem := policy.Problem{Origin: at, Code: code, Severity: policy.SeverityNotice, Message: fmt.Sprintf(format, args...)}
	key := fmt.Sprint(at.Object, at.Field, code, problem.Message) // Matches of a rule have lines of their own.
	if c.seen[key] {
		return
	}
	c.seen[key] = true
	for accepted := range strings.SplitSeq(c.annotations[at.Object][AnnotationAccepts], ",") {
		if strings.TrimSpace(accepted) == string(code) {
			c.found.Accepted++
			return
		}
	}
	c.found.Findings = append(c.found.Findings, problem)
}

func (c *checker) chain(port *policy.Port, chain *policy.Chain) {
	if chain.Forward != nil { // What is passed on is not looked into.
		return
	}
	serves := false
	for i := range chain.Hosts {
		host := &chain.Hosts[i]
		if host.Misdirected {
			continue
		}
		for j := range host.Routes {
			c.found.Routes++
			c.route(chain, host, &host.Routes[j])
			serves = serves || host.Routes[j].Redirect == nil
		}
	}
	if chain.TLS != nil || !serves {
		return
	}
	for _, listener := range chain.Listeners {
		c.find(listener, policy.CodeMeshPlaintext, "serves routes in plaintext on port %d; listen with HTTPS, and keep this one for a redirect", port.Number)
	}
}

func (c *checker) route(chain *policy.Chain, host *policy.Host, route *policy.Route) {
	at := route.Origin
	at.Field, _, _ = strings.Cut(at.Field, ".matches[") // Matches share what a rule has.
	if c.owner(at, chain) == "" && strings.HasPrefix(host.Name, "*") {
		c.find(at, policy.CodeMeshWildcard, "is served for %q, and neither it nor its Gateway has the annotation %s", host.Name, AnnotationOwner)
	}
	if route.Redirect != nil { // Nothing is served.
		return
	}
	if route.Auth == nil {
		c.find(at, policy.CodeMeshOpen, "no AuthPolicy reaches it: anybody is served, and nobody is asked who they are")
	}
	if len(route.Limits) == 0 {
		c.find(at, policy.CodeMeshUnlimited, "no RateLimitPolicy reaches it: one caller may take all there is")
	}
	switch {
	case route.Timeout == policy.NoTimeout && !route.WebSocket && !route.GRPC:
		c.find(at, policy.CodeMeshTimeout, "has no timeout: a service that hangs keeps its callers")
	case route.StreamIdle == policy.NoTimeout:
		c.find(at, policy.CodeMeshTimeout, "has no idle timeout: an exchange in which nothing moves is kept for ever")
	}
}

// owner is who answers for the hosts of a route.
func (c *checker) owner(route policy.Origin, chain *policy.Chain) string {
	owner := c.annotations[route.Object][AnnotationOwner]
	for _, listener := range chain.Listeners {
		if owner == "" {
			owner = c.annotations[listener.Object][AnnotationOwner]
		}
	}
	return strings.TrimSpace(owner)
}

// backend finds plaintext on the way to a service.
func (c *checker) backend(backend *policy.Backend) {
	if backend.TLS != nil || c.options.Mesh && backend.Origin.Object.Kind != "Backend" {
		return
	}
	if slices.ContainsFunc(backend.Endpoints, func(e policy.Endpoint) bool { return !nearby(e) }) {
		c.find(backend.Origin, policy.CodeMeshBackend, "requests go to %s in plaintext; give it TLS, by its tls or by a BackendTLSPolicy", backend.ID)
	}
}

// nearby reports whether what is sent to an endpoint stays on the machine.
func nearby(endpoint policy.Endpoint) bool {
	if endpoint.Socket != "" || endpoint.Address == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(endpoint.Address)
	return err == nil && address.IsLoopback()
}
