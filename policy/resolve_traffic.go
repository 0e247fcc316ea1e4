package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

func (r *resolver) indexTraffic() {
	r.traffic = indexTargets(r, ofType[*v1alpha1.TrafficPolicy](r),
		func(p *v1alpha1.TrafficPolicy) []v1alpha1.TargetRef { return p.Spec.TargetRefs }, func(*Object, v1alpha1.TargetRef) {})
}

// trafficFor is what the TrafficPolicies say about a rule on a listener, nil for
// nothing, and the object whose references are followed from.
func (r *resolver) trafficFor(rule *ruleSource, l *listener) (*v1alpha1.TrafficSettings, *Object) {
	for _, key := range targetsOf(rule, l) {
		if policy, ok := r.traffic[key]; ok {
			r.attached[policy.object.Ref] = true
			return &policy.value.Spec.TrafficSettings, policy.object
		}
	}
	return nil, nil
}

// applyTraffic puts what a TrafficPolicy says into a route, where the route says
// nothing itself, and returns what it says of connections.
func (r *resolver) applyTraffic(route *Route, settings *v1alpha1.TrafficSettings) *Connection {
	if settings == nil {
		return nil
	}
	if timeouts := settings.Timeouts; timeouts != nil {
		route.Timeout = cmp.Or(route.Timeout, timeoutOf(timeouts.Request))
		route.BackendTimeout = cmp.Or(route.BackendTimeout, timeoutOf(timeouts.BackendRequest))
		route.StreamIdle = timeoutOf(timeouts.StreamIdle)
	}
	if retry := settings.Retry; retry != nil && route.Retry == nil {
		route.Retry = &Retry{Attempts: defaultRetries, On: retry.On, Codes: retry.Codes, Backoff: durationOr(retry.Backoff, 0)}
		if retry.Attempts != nil {
			route.Retry.Attempts = uint32(*retry.Attempts) //nolint:gosec // validated to be 0 to 10
		}
		if len(retry.On) == 0 && len(retry.Codes) == 0 {
			route.Retry.On = safeRetries()
		}
	}
	traffic := Traffic{
		Fault: settings.Fault, Adaptive: settings.AdaptiveConcurrency, Admission: settings.AdmissionControl, Compression: settings.Compression,
	}
	if settings.Fallback != nil {
		traffic.Response = settings.Fallback.Response
	}
	if settings.RequestBody != nil {
		traffic.MaxRequestBytes = settings.RequestBody.MaxBytes
	}
	if settings.LoadBalancing != nil {
		traffic.HashBy = settings.LoadBalancing.HashBy
	}
	if !reflect.ValueOf(traffic).IsZero() {
		route.Traffic = &traffic
	}
	return connectionOf(settings)
}

// defaultRetries follow a first try when nothing says how many do.
const defaultRetries = 2

// safeRetries are those of tries that the backend cannot have begun to serve.
func safeRetries() []v1alpha1.RetryOn {
	return []v1alpha1.RetryOn{v1alpha1.RetryConnectFailure, v1alpha1.RetryRefusedStream, v1alpha1.RetryResetBeforeRequest}
}

// connectionOf is what settings say of connections; nil for nothing.
func connectionOf(settings *v1alpha1.TrafficSettings) *Connection {
	connection := Connection{
		Budget: settings.RetryBudget, Limits: settings.ConnectionLimits, Outliers: settings.OutlierDetection, Health: settings.HealthCheck,
	}
	if settings.Timeouts != nil {
		connection.ConnectTimeout = durationOr(settings.Timeouts.Connect, 0)
	}
	if balancing := settings.LoadBalancing; balancing != nil {
		// What is hashed is the route's business; two routes that hash differently
		// share a cluster.
		of := *balancing
		of.HashBy = nil
		connection.Balancing = &of
	}
	if reflect.ValueOf(connection).IsZero() {
		return nil
	}
	return &connection
}

// fallbackFor is the backend that takes over when a route's fail, or nil.
func (r *resolver) fallbackFor(rule *ruleSource, settings *v1alpha1.TrafficSettings, policy *Object) *backendState {
	if settings == nil || settings.Fallback == nil || settings.Fallback.BackendRef == nil {
		return nil
	}
	from := &ruleSource{object: policy, grpc: rule.grpc}
	state := r.follow(from, "spec.fallback.backendRef", *settings.Fallback.BackendRef, "nothing takes over")
	if state == nil {
		return nil
	}
	for _, share := range rule.backends.weighted {
		if share.state == nil {
			continue
		}
		if (share.state.backend.Transcoding == nil) != (state.backend.Transcoding == nil) {
			r.reportOnce(policy.problem(CodeBackendProtocol, "spec.fallback.backendRef",
				fmt.Sprintf("%s cannot take over from %s: one of them is reached by transcoding, and the other is not", state.object.Ref, share.state.object.Ref)))
			return nil
		}
	}
	return state
}

// digestOf tells values apart: 8 hexadecimal digits.
func digestOf(value any) string {
	raw, err := json.Marshal(value)
	if err != nil { // plain data always marshals
		return "0"
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:4])
}

// refsStatus says of a route at a Gateway of Weir whether its references resolve.
func (r *resolver) refsStatus(object *Object, parent gatewayv1.ParentReference, rules []*ruleSource) {
	ref := ObjectRef{Kind: "Gateway", Namespace: object.Ref.Namespace, Name: string(parent.Name)}
	if parent.Namespace != nil {
		ref.Namespace = string(*parent.Namespace)
	}
	found, ok := r.byRef[ref]
	if !ok {
		return
	}
	if gateway, ok := found.Value.(*gatewayv1.Gateway); !ok || !r.classes[string(gateway.Spec.GatewayClassName)] {
		return
	}
	for _, rule := range rules {
		if rule.backends == nil {
			rule.backends = r.lookUp(rule)
		}
	}
	SetCondition(&r.status(object).parent(parent).Conditions, r.resolvedRefs(object))
}
