package policy

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weir.dev/policy/v1alpha1"
)

// withTLSClosings puts broken TLSPolicies that ask for client certificates among
// the good ones, and those whose listener is not there: their whole Gateway takes
// no connection then.
func (r *resolver) withTLSClosings(statements []*statement) []*statement {
	closings := slices.Clone(r.tlsClosings)
	for _, s := range statements {
		if !slices.ContainsFunc(s.pieces, func(p piece) bool { return p.key == clientCertificates }) {
			continue
		}
		for _, target := range s.targets {
			whole := target
			whole.SectionName = nil
			if target.SectionName != nil && !r.targetExists(keyOf(s.namespace(), target)) && r.targetExists(keyOf(s.namespace(), whole)) {
				closings = append(closings, Closing{
					Origin: s.origin, Policy: v1alpha1.KindTLSPolicy, Targets: []v1alpha1.TargetRef{whole}, Created: metav1.NewTime(s.created()),
				})
			}
		}
	}
	all := slices.Clone(statements)
	for i := range closings {
		if closings[i].Targets != nil {
			closings[i].Merge = true // What it says besides is not known.
			all = append(all, closings[i].statement())
		}
	}
	slices.SortStableFunc(all, comparePrecedenceOf)
	return all
}

// splitClosings keeps apart what closes listeners, backends and routes.
func (r *resolver) splitClosings(closings []Closing) {
	for _, closing := range closings {
		switch closing.Policy {
		case v1alpha1.KindTLSPolicy:
			r.tlsClosings = append(r.tlsClosings, closing)
		case kindBackendTLSPolicy:
			r.backendClosings = append(r.backendClosings, closing)
		default:
			r.closings = append(r.closings, closing)
		}
	}
}

// settings gives a chain what its listeners' policies say. Listeners without TLS
// share one chain, since which of them a request is for is known only once it was
// read: the first one's settings are all's.
func (r *resolver) settings(chain *Chain, listeners []*listener) {
	first := listeners[0]
	edge := r.edgeOf(first)
	for _, l := range listeners {
		set := r.policiesAt(l)
		kinds := []int{kindEdge, kindHeaders}
		if l.overTLS() && !l.passthrough() {
			kinds = append(kinds, kindTLS)
		}
		set.account(l, kinds...)
		if l != first && len(set.kinds[kindEdge].pieces)+len(set.kinds[kindHeaders].pieces) > 0 && !reflect.DeepEqual(r.edgeOf(l), edge) {
			r.report(l.holder().problem(CodeSharedPort, l.field(), fmt.Sprintf(
				"shares port %d with listener %s, which comes first: its EdgePolicy and the clientAddress, forwardedClientCert and server of its HeaderPolicy are in effect here, and this listener's are not",
				l.port, first.id())))
		}
	}
	if !reflect.DeepEqual(edge, DefaultEdge()) {
		chain.Edge = &edge
	}
	if chain.Forward == nil {
		chain.Security = securityOf(r.policiesAt(first), first.overTLS())
	}
	chain.Policies = chainPolicies(r.policiesAt(first), first)
}

// edgeOf is what the policies of a listener come to.
func (r *resolver) edgeOf(l *listener) Edge {
	edge := DefaultEdge()
	set := r.policiesAt(l)
	spec, _ := settingsOf[v1alpha1.EdgeSettings](&set.kinds[kindEdge])
	applyEdge(&edge, &spec)
	headers, _ := settingsOf[v1alpha1.HeaderSettings](&set.kinds[kindHeaders])
	applyConnectionHeaders(&edge, &headers)
	return edge
}

func put[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func putText[T ~string](to *T, from T) { *to = cmp.Or(from, *to) }

func applyEdge(edge *Edge, spec *v1alpha1.EdgeSettings) {
	if paths := spec.Paths; paths != nil {
		put(&edge.NormalizePath, paths.Normalize)
		put(&edge.MergeSlashes, paths.MergeSlashes)
		putText(&edge.EscapedSlashes, paths.EscapedSlashes)
		putText(&edge.PathParameters, paths.Parameters)
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

func applyConnectionHeaders(edge *Edge, spec *v1alpha1.HeaderSettings) {
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

// securityOf are the security headers that a set of policies comes to.
func securityOf(set *policySet, overTLS bool) *Security {
	for _, won := range set.kinds[kindHeaders].pieces {
		if spec, ok := won.value.(*v1alpha1.SecurityHeaders); ok {
			return security(spec, won.origin, overTLS)
		}
	}
	return nil
}

// routeSecurity is what a rule's responses carry in the place of the chain's
// headers; nil where they are the same.
func (r *resolver) routeSecurity(set *policySet, l *listener) *Security {
	if len(r.policies.statements[kindHeaders]) == 0 {
		return nil
	}
	own := securityOf(set, l.overTLS())
	shared := securityOf(r.policiesAt(r.firstOf(l)), l.overTLS())
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
func security(spec *v1alpha1.SecurityHeaders, origin Origin, overTLS bool) *Security {
	out := &Security{Keep: spec.WhenPresent == v1alpha1.WhenPresentKeep, Origin: origin}
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

// chainPolicies lists the policies about connections that reach a listener, and
// who won.
func chainPolicies(set *policySet, l *listener) []PolicyUse {
	kinds := []int{kindEdge, kindHeaders}
	if l.overTLS() && !l.passthrough() {
		kinds = append(kinds, kindTLS)
	}
	var uses []PolicyUse
	for _, kind := range kinds {
		for _, layer := range set.kinds[kind].layers {
			if use, ok := layer.use(); ok {
				uses = append(uses, use)
			}
		}
	}
	return uses
}
