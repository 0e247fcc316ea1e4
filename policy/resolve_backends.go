package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// backendUse is a backendRef with what its own filters change.
type backendUse struct {
	field  string
	ref    gatewayv1.BackendObjectReference
	weight *int32
	change WeightedBackend
	// mirrors are sent copies of this share alone.
	mirrors []mirrorUse
}

// mirrorUse is a RequestMirror filter.
type mirrorUse struct {
	field  string
	filter *gatewayv1.HTTPRequestMirrorFilter
}

// ruleBackends are the backends of a rule, looked up once for all listeners.
type ruleBackends struct {
	weighted []weightedState
	mirrors  []mirrorState
}

type weightedState struct {
	WeightedBackend
	state   *backendState
	mirrors []mirrorState
}

type mirrorState struct {
	Mirror
	state *backendState
}

// backendState is a Backend, or a port of a Service, while resolving.
type backendState struct {
	object  *Object
	backend *Backend
	used    bool
	// noREST and noGRPC say why requests of a kind of route cannot be sent there,
	// broken why none can.
	noREST, noGRPC, broken string
	// webSocket is set where the port says that it speaks that.
	webSocket bool
	// policy is the BackendTLSPolicy in effect, losers are those that lost to it.
	policy *tlsPolicyState
	losers []*tlsPolicyState
}

// refFailure is why a reference of a route cannot be followed.
type refFailure struct {
	reason  gatewayv1.RouteConditionReason
	message string
}

// lookUp finds the backends of a rule.
func (r *resolver) lookUp(rule *ruleSource) *ruleBackends {
	found := &ruleBackends{}
	for i := range rule.refs {
		use := &rule.refs[i]
		weight := uint32(1)
		if use.weight != nil {
			weight = uint32(*use.weight) //nolint:gosec // validated to be 0 to 1000000
		}
		share := weightedState{WeightedBackend: use.change}
		share.Weight = weight
		share.state = r.follow(rule, use.field, use.ref, "its share of requests is answered with 500")
		share.mirrors = r.mirrors(rule, use.mirrors)
		if weight > 0 {
			found.weighted = append(found.weighted, share)
		}
	}
	found.mirrors = r.mirrors(rule, rule.mirrors)
	return found
}

// mirrors finds where copies go, and how many.
func (r *resolver) mirrors(rule *ruleSource, uses []mirrorUse) []mirrorState {
	var found []mirrorState
	for _, use := range uses {
		state := r.follow(rule, use.field, use.filter.BackendRef, "nothing is mirrored there")
		if state == nil {
			continue
		}
		mirror := mirrorState{Mirror: Mirror{Numerator: 100, Denominator: 100}, state: state}
		switch fraction := use.filter.Fraction; {
		case use.filter.Percent != nil:
			mirror.Numerator = uint32(*use.filter.Percent) //nolint:gosec // validated to be 0 to 100
		case fraction != nil:
			mirror.Numerator = uint32(fraction.Numerator) //nolint:gosec // validated not to be negative
			if fraction.Denominator != nil {
				mirror.Denominator = uint32(*fraction.Denominator) //nolint:gosec // validated to be positive
			}
		}
		if mirror.Numerator > 0 {
			found = append(found, mirror)
		}
	}
	return found
}

// follow is the backend that a reference of a route leads to, or nil where it
// leads nowhere; otherwise says what that means for requests.
func (r *resolver) follow(rule *ruleSource, field string, ref gatewayv1.BackendObjectReference, otherwise string) *backendState {
	fail := func(code Code, part string, reason gatewayv1.RouteConditionReason, format string, args ...any) *backendState {
		message := fmt.Sprintf(format, args...) + "; " + otherwise
		r.reportOnce(rule.object.problem(code, field+part, message))
		if _, ok := r.refFailures[rule.object.Ref]; !ok {
			r.refFailures[rule.object.Ref] = refFailure{reason, field + ": " + message}
		}
		return nil
	}
	to := ObjectRef{Kind: "Service", Namespace: rule.object.Ref.Namespace, Name: string(ref.Name)}
	if ref.Kind != nil {
		to.Kind = string(*ref.Kind)
	}
	if ref.Namespace != nil {
		to.Namespace = string(*ref.Namespace)
	}
	group := ""
	if ref.Group != nil {
		group = string(*ref.Group)
	}
	if (to.Kind != "Service" || group != "") && (to.Kind != v1alpha1.KindBackend || group != v1alpha1.Group) {
		return fail(CodeBackendKind, ".kind", gatewayv1.RouteReasonInvalidKind,
			"a %s of group %q is no backend; use a Service, or a Backend of group %s", to.Kind, group, v1alpha1.Group)
	}
	if !r.granted(rule.object.Ref, to) {
		return fail(CodeRefNotPermitted, ".namespace", gatewayv1.RouteReasonRefNotPermitted, "%s", notGranted(rule.object, field, to).Message)
	}
	var state *backendState
	if to.Kind == "Service" {
		if ref.Port == nil {
			return fail(CodeRequired, ".port", gatewayv1.RouteReasonUnsupportedValue, "a Service needs a port")
		}
		state = r.resolveService(to, *ref.Port, rule.grpc)
	} else {
		state = r.resolveBackend(to.Namespace, to.Name)
	}
	switch {
	case state == nil:
		return fail(CodeRefNotFound, ".name", gatewayv1.RouteReasonBackendNotFound, "there is no %s %s/%s", to.Kind, to.Namespace, to.Name)
	case state.backend == nil:
		return fail(CodeRefNotFound, ".port", gatewayv1.RouteReasonBackendNotFound, "%s", state.broken)
	case state.broken != "":
		rule.blocked = append(rule.blocked, state)
		return fail(CodeBackendUnusable, ".name", gatewayv1.RouteReasonUnsupportedProtocol, "%s cannot be used: %s", to, state.broken)
	case !rule.grpc && !rule.stream && state.noREST != "":
		return fail(CodeRefNotFound, ".name", gatewayv1.RouteReasonUnsupportedProtocol, "%s cannot serve REST: %s", to, state.noREST)
	case rule.grpc && state.noGRPC != "":
		return fail(CodeBackendProtocol, ".name", gatewayv1.RouteReasonUnsupportedProtocol, "%s cannot serve gRPC: %s", to, state.noGRPC)
	}
	return state
}

// backends puts the backends of a rule into a route on a listener, in the
// variants that the TrafficPolicies ask for.
func (r *resolver) backends(route *Route, rule *ruleSource, l *listener, traffic *trafficUse) {
	var connection, spare *variation
	if traffic != nil {
		connection, spare = traffic.connection, traffic.spare
	}
	fallback := r.fallbackFor(rule, traffic)
	route.WebSocket = len(rule.backends.weighted) > 0
	for _, state := range rule.blocked {
		r.use(state, l)
	}
	for _, share := range rule.backends.weighted {
		backend := share.WeightedBackend
		route.WebSocket = route.WebSocket && share.state != nil && share.state.webSocket
		if share.state != nil {
			r.use(share.state, l)
			backend.Backend = r.dressed(share.state, r.fitting(share.state, connection, spare), l)
			if fallback != nil && backend.Backend != "" {
				r.use(fallback, l)
				if takesOver := r.dressed(fallback, spare, l); takesOver != "" {
					backend.Backend = r.joint(backend.Backend, share.state.backend, takesOver)
				}
			}
		}
		backend.Mirrors = r.mirrored(share.mirrors, spare, l)
		route.Backends = append(route.Backends, backend)
	}
	route.Mirrors = r.mirrored(rule.backends.mirrors, spare, l)
}

func (r *resolver) mirrored(states []mirrorState, spare *variation, l *listener) []Mirror {
	var mirrors []Mirror
	for _, mirror := range states {
		r.use(mirror.state, l)
		if mirror.Backend = r.dressed(mirror.state, spare, l); mirror.Backend != "" {
			mirrors = append(mirrors, mirror.Mirror)
		}
	}
	return mirrors
}

// fitting are the settings that a backend can have: one that speaks HTTP/1.1 has
// no gRPC health checks, and is not checked.
func (r *resolver) fitting(state *backendState, connection, spare *variation) *variation {
	if connection == nil || connection.Health == nil || connection.Health.GRPC == nil || state.backend.Protocol != v1alpha1.ProtocolHTTP {
		return connection
	}
	r.reportOnce(state.object.problem(CodeBackendProtocol, "", "speaks HTTP/1.1, and a TrafficPolicy that reaches it asks for gRPC health checks: it is not checked"))
	return spare
}

// use marks what a route on a listener needs.
func (r *resolver) use(state *backendState, l *listener) {
	for _, policy := range state.losers {
		policy.gateways[l.gateway.Ref] = true
	}
	if state.policy != nil {
		state.policy.gateways[l.gateway.Ref] = true
		state.policy.inEffect = true
	}
}

// variant is the id of a Backend with connection settings of its own, which a
// Backend has as many of as routes say different things about it.
func (r *resolver) variant(state *backendState, connection *variation) string {
	if connection == nil {
		state.used = true
		return state.backend.ID
	}
	id := state.backend.ID + "~" + connection.digest
	if _, ok := r.variants[id]; !ok {
		backend := *state.backend
		backend.ID, backend.Connection = id, connection.Connection
		r.variants[id] = &backend
	}
	return id
}

// joint is the id of a Backend that stands for two, the second of which takes
// over from the first.
func (r *resolver) joint(first string, like *Backend, second string) string {
	members := []string{first, second}
	id := like.ID + "~" + digestOf(members)
	if _, ok := r.variants[id]; !ok {
		r.variants[id] = &Backend{ID: id, Protocol: like.Protocol, Transcoding: like.Transcoding, Members: members, Origin: like.Origin}
	}
	return id
}

func (r *resolver) usedBackends() []Backend {
	all := maps.Clone(r.variants)
	for _, state := range r.states {
		if state.used {
			all[state.backend.ID] = state.backend
		}
	}
	var backends []Backend
	for _, id := range slices.Sorted(maps.Keys(all)) {
		backends = append(backends, *all[id])
	}
	return backends
}

func (r *resolver) resolveBackend(namespace, name string) *backendState {
	id := namespace + "/" + name
	if state, ok := r.states[id]; ok {
		return state
	}
	object, ok := r.byRef[ObjectRef{Kind: v1alpha1.KindBackend, Namespace: namespace, Name: name}]
	if !ok {
		return nil
	}
	value, ok := object.Value.(*v1alpha1.Backend)
	if !ok {
		return nil
	}
	state := &backendState{object: object, backend: &Backend{
		ID: id, Protocol: cmp.Or(value.Spec.Protocol, v1alpha1.ProtocolHTTP), Origin: object.Origin(""),
	}}
	for _, endpoint := range value.Spec.Endpoints {
		state.backend.Endpoints = append(state.backend.Endpoints, Endpoint{
			Address: endpoint.Address, Port: endpoint.Port, Socket: endpoint.UnixSocket, Zone: endpoint.Zone,
		})
	}
	if state.backend.Protocol == v1alpha1.ProtocolHTTP {
		state.noGRPC = "it speaks HTTP/1.1; set its protocol to GRPC or HTTP2"
	}
	r.backendTLS(state, value.Spec.TLS)
	if spec := value.Spec.Transcoding; spec != nil {
		transcoding, err := r.transcoding(namespace, spec)
		if err != nil {
			state.noREST = err.Error()
			r.report(object.problem(CodeRefNotFound, "spec.transcoding.descriptorSetRef", err.Error()))
		}
		state.backend.Transcoding = transcoding
	}
	state.backend.ID += transport(state.backend)
	r.states[id] = state
	return state
}

// transport is what follows a Backend's name in its id when it is not plain
// HTTP/1.1: with other TLS or another protocol it is another Backend, so that
// endpoints which come with the change are never spoken to in the old way.
func transport(backend *Backend) string {
	if backend.TLS == nil && backend.Protocol == v1alpha1.ProtocolHTTP {
		return ""
	}
	return "~" + digestOf([]any{backend.Protocol != v1alpha1.ProtocolHTTP, backend.TLS})
}

// backendTLS secures a Backend as it says itself, or as a BackendTLSPolicy does.
func (r *resolver) backendTLS(state *backendState, spec *v1alpha1.BackendTLS) {
	r.policyTLS(state, "", spec != nil)
	switch {
	case spec == nil:
		return
	case spec.SPIFFEID != "":
		state.backend.TLS = &TLS{
			Trust: TrustMesh, Identity: true,
			Names: []gatewayv1.SubjectAltName{{Type: gatewayv1.URISubjectAltNameType, URI: gatewayv1.AbsoluteURI(spec.SPIFFEID)}},
		}
		return
	}
	tls := &TLS{ServerName: spec.Hostname, Trust: TrustSystem, Names: spec.SubjectAltNames}
	if len(tls.Names) == 0 {
		tls.Names = []gatewayv1.SubjectAltName{{Type: gatewayv1.HostnameSubjectAltNameType, Hostname: gatewayv1.Hostname(spec.Hostname)}}
	}
	if ref := spec.CACertificateRef; ref != nil {
		tls.Trust = TrustBundle
		raw, err := r.configMapValue(state.object.Ref.Namespace, *ref)
		if err == nil {
			tls.Bundle, err = certificates(raw)
		}
		if err != nil {
			state.broken = err.Error()
			r.report(state.object.problem(CodeRefNotFound, "spec.tls.caCertificateRef", err.Error()+"; requests to it are answered with 500"))
		}
	}
	r.ownCertificate(state, spec.ClientCertificateRef, tls)
	state.backend.TLS = tls
}

// resolveService is a port of a Service with the endpoints of its EndpointSlices.
// The state's backend is nil when there is no such port.
func (r *resolver) resolveService(ref ObjectRef, port int32, grpc bool) *backendState {
	object, ok := r.byRef[ref]
	if !ok {
		return nil
	}
	service, ok := object.Value.(*corev1.Service)
	if !ok {
		return nil
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return &backendState{object: object, broken: fmt.Sprintf("%s has type ExternalName, which could lead anywhere (CVE-2021-25740); write a Backend", ref)}
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.Port == port && (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP)
	})
	if i < 0 {
		return &backendState{object: object, broken: fmt.Sprintf("%s has no TCP port %d", ref, port)}
	}
	spec := &service.Spec.Ports[i]
	name := fmt.Sprintf("%s/%s:%d", ref.Namespace, ref.Name, port)
	id := name
	if grpc && spec.AppProtocol == nil {
		id += "~grpc"
	}
	if state, ok := r.states[id]; ok {
		return state
	}
	state := &backendState{object: object, backend: &Backend{ID: name, Origin: object.Origin(fmt.Sprintf("spec.ports[%d]", i))}}
	state.appProtocol(spec.AppProtocol, grpc)
	r.policyTLS(state, spec.Name, false)
	if state.backend.TLS == nil && spec.AppProtocol != nil && strings.EqualFold(*spec.AppProtocol, "https") {
		state.broken = "its appProtocol is https, and no BackendTLSPolicy says how to trust it"
	}
	state.backend.Endpoints = r.serviceEndpoints(ref, spec.Name)
	state.backend.ID += transport(state.backend)
	r.states[id] = state
	return state
}

// appProtocol picks the protocol of a Service's port: what the port says
// (KEP-3726), or what the kind of route implies.
func (s *backendState) appProtocol(name *string, grpc bool) {
	s.backend.Protocol = v1alpha1.ProtocolHTTP
	switch {
	case name == nil && grpc:
		s.backend.Protocol = v1alpha1.ProtocolGRPC
		return
	case name == nil:
		return
	}
	// IANA's names of services are told apart without regard to case (RFC 6335, 5.1).
	switch strings.ToLower(*name) {
	case "kubernetes.io/h2c", "h2c", "http2":
		s.backend.Protocol = v1alpha1.ProtocolHTTP2
	case "grpc", "kubernetes.io/grpc":
		s.backend.Protocol = v1alpha1.ProtocolGRPC
	case "http", "https", "kubernetes.io/ws", "kubernetes.io/wss":
		s.webSocket = strings.HasPrefix(strings.ToLower(*name), "kubernetes.io/ws")
		s.noGRPC = fmt.Sprintf("the appProtocol of its port is %q", *name)
	default:
		s.broken = fmt.Sprintf("the appProtocol of its port, %q, is none that can be routed to", *name)
	}
}

// resolvedRefs is the condition of a route object that says whether all its
// references could be followed.
func (r *resolver) resolvedRefs(object *Object) Condition {
	condition := Condition{
		Type: string(gatewayv1.RouteConditionResolvedRefs), Status: metav1.ConditionTrue,
		Reason: string(gatewayv1.RouteReasonResolvedRefs),
	}
	if failure, ok := r.refFailures[object.Ref]; ok {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, string(failure.reason), failure.message
	}
	return condition
}
