package policy

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"weir.dev/policy/v1alpha1"
)

// edgePolicies holds the policies about connections and headers per target.
type edgePolicies struct {
	tls     map[targetKey]typed[*v1alpha1.TLSPolicy]
	headers map[targetKey]typed[*v1alpha1.HeaderPolicy]
	edge    map[targetKey]typed[*v1alpha1.EdgePolicy]
}

func (r *resolver) indexEdgePolicies() {
	nothing := func(*Object, v1alpha1.TargetRef) {}
	r.edgePolicies = edgePolicies{
		tls: indexTargets(r, ofType[*v1alpha1.TLSPolicy](r),
			func(p *v1alpha1.TLSPolicy) []v1alpha1.TargetRef { return p.Spec.TargetRefs }, r.closeListeners),
		headers: indexTargets(r, ofType[*v1alpha1.HeaderPolicy](r),
			func(p *v1alpha1.HeaderPolicy) []v1alpha1.TargetRef { return p.Spec.TargetRefs }, nothing),
		edge: indexTargets(r, ofType[*v1alpha1.EdgePolicy](r),
			func(p *v1alpha1.EdgePolicy) []v1alpha1.TargetRef { return p.Spec.TargetRefs }, nothing),
	}
}

// closeListeners closes the Gateway of a TLSPolicy whose listener is not there:
// it may have been meant to keep clients without a certificate out.
func (r *resolver) closeListeners(policy *Object, target v1alpha1.TargetRef) {
	whole := target
	whole.SectionName = nil
	if spec := policy.Value.(*v1alpha1.TLSPolicy).Spec; target.SectionName != nil && spec.ClientCertificates != nil && //nolint:forcetypeassert // of this kind only
		r.targetExists(keyOf(policy.Ref.Namespace, whole)) {
		r.tlsClosings = append(r.tlsClosings, Closing{Origin: policy.Origin(""), Policy: v1alpha1.KindTLSPolicy, Targets: []v1alpha1.TargetRef{whole}})
	}
}

// splitClosings keeps what closes listeners apart from what closes routes.
func (r *resolver) splitClosings(closings []Closing) {
	for _, closing := range closings {
		if closing.Policy == v1alpha1.KindTLSPolicy {
			r.tlsClosings = append(r.tlsClosings, closing)
		} else {
			r.closings = append(r.closings, closing)
		}
	}
}

// listenerTargets lists what governs a listener, the most specific first.
func listenerTargets(l *listener) []targetKey {
	gateway := targetKey{kind: "Gateway", namespace: l.gateway.Ref.Namespace, name: l.gateway.Ref.Name}
	own := gateway
	own.section = l.name
	return []targetKey{own, gateway}
}

// settings gives a chain what its listeners' policies say. Listeners without TLS
// share one chain, since which of them a request is for is known only once it was
// read: the first one's settings are all's.
func (r *resolver) settings(chain *Chain, listeners []*listener) {
	first := listeners[0]
	edge := r.edgeOf(first)
	for _, l := range listeners[1:] {
		if r.hasEdgePolicy(l) && !reflect.DeepEqual(r.edgeOf(l), edge) {
			r.report(l.gateway.problem(CodeSharedPort, l.field(), fmt.Sprintf(
				"shares port %d with listener %s, which comes first: its EdgePolicy and the clientAddress, forwardedClientCert and server of its HeaderPolicy are in effect here, and this listener's are not",
				l.port, first.id())))
		}
	}
	if !reflect.DeepEqual(edge, DefaultEdge()) {
		chain.Edge = &edge
	}
	if chain.Forward == nil {
		chain.Security = r.securityOf(listenerTargets(first), first.overTLS())
	}
	chain.Policies = r.chainPolicies(first)
}

func (r *resolver) hasEdgePolicy(l *listener) bool {
	for _, key := range listenerTargets(l) {
		if _, ok := r.edgePolicies.edge[key]; ok {
			return true
		}
		if _, ok := r.edgePolicies.headers[key]; ok {
			return true
		}
	}
	return false
}

// edgeOf merges the policies of a listener over those of its Gateway.
func (r *resolver) edgeOf(l *listener) Edge {
	edge := DefaultEdge()
	keys := listenerTargets(l)
	slices.Reverse(keys)
	for _, key := range keys {
		if policy, ok := r.edgePolicies.edge[key]; ok {
			r.attached[policy.object.Ref] = true
			applyEdge(&edge, &policy.value.Spec)
		}
		if policy, ok := r.edgePolicies.headers[key]; ok {
			r.attached[policy.object.Ref] = true
			applyConnectionHeaders(&edge, &policy.value.Spec)
		}
	}
	return edge
}

func put[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func putText[T ~string](to *T, from T) { *to = cmp.Or(from, *to) }

func applyEdge(edge *Edge, spec *v1alpha1.EdgePolicySpec) {
	if paths := spec.Paths; paths != nil {
		put(&edge.NormalizePath, paths.Normalize)
		put(&edge.MergeSlashes, paths.MergeSlashes)
		putText(&edge.EscapedSlashes, paths.EscapedSlashes)
	}
	if headers := spec.Headers; headers != nil {
		put(&edge.MaxHeaderKiB, headers.MaxKiB)
		put(&edge.MaxHeaders, headers.MaxCount)
		putText(&edge.Underscores, headers.Underscores)
	}
	if id := spec.RequestID; id != nil {
		put(&edge.AcceptRequestID, id.Accept)
		put(&edge.ReturnRequestID, id.Return)
	}
	if connections := spec.Connections; connections != nil {
		put(&edge.MaxConnections, connections.Max)
		put(&edge.BufferKiB, connections.BufferKiB)
		put(&edge.MaxConnectionRequests, connections.MaxRequests)
		edge.MaxConnectionDuration = durationOr(connections.MaxDuration, edge.MaxConnectionDuration)
	}
	if streams := spec.Streams; streams != nil {
		put(&edge.MaxConcurrentStreams, streams.MaxConcurrent)
		put(&edge.StreamWindowKiB, streams.WindowKiB)
		put(&edge.ConnectionWindowKiB, streams.ConnectionWindowKiB)
		put(&edge.ResetBurst, streams.ResetBurst)
		put(&edge.ResetsPerSecond, streams.ResetsPerSecond)
	}
	if timeouts := spec.Timeouts; timeouts != nil {
		edge.HandshakeTimeout = durationOr(timeouts.Handshake, edge.HandshakeTimeout)
		edge.RequestHeadersTimeout = durationOr(timeouts.RequestHeaders, edge.RequestHeadersTimeout)
		edge.RequestTimeout = durationOr(timeouts.Request, edge.RequestTimeout)
		edge.StreamIdleTimeout = durationOr(timeouts.StreamIdle, edge.StreamIdleTimeout)
		edge.ConnectionIdleTimeout = durationOr(timeouts.ConnectionIdle, edge.ConnectionIdleTimeout)
		edge.DrainTimeout = durationOr(timeouts.Drain, edge.DrainTimeout)
	}
}

func applyConnectionHeaders(edge *Edge, spec *v1alpha1.HeaderPolicySpec) {
	if address := spec.ClientAddress; address != nil {
		edge.TrustedHops, edge.TrustedCIDRs = 0, address.TrustedCIDRs
		put(&edge.TrustedHops, address.TrustedHops)
	}
	if cert := spec.ForwardedClientCert; cert != nil {
		edge.ForwardedClientCert, edge.ForwardedClientCertDetails = cert.Mode, cert.Details
		if len(cert.Details) == 0 && (cert.Mode == v1alpha1.XFCCSanitizeSet || cert.Mode == v1alpha1.XFCCAppendForward) {
			edge.ForwardedClientCertDetails = []v1alpha1.ForwardedClientCertDetail{v1alpha1.XFCCSubject, v1alpha1.XFCCURI}
		}
	}
	if server := spec.Server; server != nil {
		putText(&edge.ServerMode, server.Mode)
		putText(&edge.ServerName, server.Name)
	}
}

// securityOf is the security part of the most specific HeaderPolicy that has one.
func (r *resolver) securityOf(keys []targetKey, overTLS bool) *Security {
	for _, key := range keys {
		policy, ok := r.edgePolicies.headers[key]
		if !ok {
			continue
		}
		r.attached[policy.object.Ref] = true
		if policy.value.Spec.Security != nil {
			return security(policy.object, policy.value.Spec.Security, overTLS)
		}
	}
	return nil
}

// routeSecurity is what a rule's responses carry in the place of the chain's
// headers; nil where they are the same.
func (r *resolver) routeSecurity(rule *ruleSource, l *listener) *Security {
	if len(r.edgePolicies.headers) == 0 {
		return nil
	}
	own := r.securityOf(targetsOf(rule, l), l.overTLS())
	shared := r.securityOf(listenerTargets(r.firstOf(l)), l.overTLS())
	switch {
	case reflect.DeepEqual(own, shared):
		return nil
	case own == nil:
		return &Security{Origin: l.origin()}
	default:
		return own
	}
}

// firstOf is the listener whose settings a listener's chain has.
func (r *resolver) firstOf(l *listener) *listener {
	if l.overTLS() {
		return l
	}
	for _, other := range r.allListeners {
		if other.refused == "" && other.portKey() == l.portKey() {
			return other
		}
	}
	return l
}

// security turns the settings into headers.
func security(object *Object, spec *v1alpha1.SecurityHeaders, overTLS bool) *Security {
	out := &Security{Keep: spec.WhenPresent == v1alpha1.WhenPresentKeep, Origin: object.Origin("spec.security")}
	add := func(name, value string) {
		if value != "" {
			out.Headers = append(out.Headers, Header{Name: name, Value: value})
		}
	}
	add("content-security-policy", spec.ContentSecurityPolicy)
	add("cross-origin-embedder-policy", spec.CrossOriginEmbedderPolicy)
	add("cross-origin-opener-policy", spec.CrossOriginOpenerPolicy)
	add("cross-origin-resource-policy", spec.CrossOriginResourcePolicy)
	add("permissions-policy", spec.PermissionsPolicy)
	add("referrer-policy", spec.ReferrerPolicy)
	if hsts := spec.StrictTransportSecurity; hsts != nil && overTLS {
		value := fmt.Sprintf("max-age=%d", int(durationOr(hsts.MaxAge, 365*24*time.Hour).Seconds()))
		if hsts.IncludeSubDomains {
			value += "; includeSubDomains"
		}
		if hsts.Preload {
			value += "; preload"
		}
		add("strict-transport-security", value)
	}
	add("x-content-type-options", strings.ToLower(spec.ContentTypeOptions))
	add("x-frame-options", strings.ToUpper(spec.FrameOptions))
	return out
}

// chainPolicies lists the policies that reach a listener, and who won.
func (r *resolver) chainPolicies(l *listener) []PolicyUse {
	var uses []PolicyUse
	add := func(find func(targetKey) *Object, whole bool) {
		var winner *Object
		for i, key := range listenerTargets(l) {
			object := find(key)
			if object == nil {
				continue
			}
			use := PolicyUse{Policy: object.Origin(""), Level: []string{"listener", "gateway"}[i], Effect: PolicyApplied}
			if winner != nil {
				use.Effect, use.By, use.Reason = PolicyPartly, []Origin{winner.Origin("")}, "what the listener's own policy sets is not taken from here"
				if whole {
					use.Effect, use.Reason = PolicyOverridden, "the listener has a policy of its own"
				}
			} else {
				winner = object
			}
			uses = append(uses, use)
		}
	}
	add(objectIn(r.edgePolicies.edge), false)
	add(objectIn(r.edgePolicies.headers), false)
	if l.overTLS() && !l.passthrough() {
		add(objectIn(r.edgePolicies.tls), true)
	}
	return uses
}

func objectIn[T any](index map[targetKey]typed[T]) func(targetKey) *Object {
	return func(key targetKey) *Object { return index[key].object }
}

// unattachedEdgePolicies reports those that reach no listener.
func (r *resolver) unattachedEdgePolicies() {
	kinds := []string{v1alpha1.KindTLSPolicy, v1alpha1.KindHeaderPolicy, v1alpha1.KindEdgePolicy}
	for _, object := range r.objects {
		if slices.Contains(kinds, object.Ref.Kind) && !r.attached[object.Ref] {
			r.report(object.notice(CodeNotAttached, "spec.targetRefs", "governs no listener or route"))
		}
	}
}
