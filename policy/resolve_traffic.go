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

// trafficUse is what the TrafficPolicies in effect come to, shared by the routes
// that they reach.
type trafficUse struct {
	settings v1alpha1.TrafficSettings
	traffic  *Traffic
	// connection is nil for the defaults; spare is that of what takes over.
	connection, spare *variation
	// fallback says where the reference to what takes over stands.
	fallback *statement
	field    string
}

// variation is connection settings with the digest that names them.
type variation struct {
	*Connection
	digest string
}

func variationOf(connection Connection) *variation {
	if connection == (Connection{}) {
		return nil
	}
	return &variation{&connection, digestOf(connection)}
}

// trafficOf is what is in effect, or nil for nothing.
func (r *resolver) trafficOf(set *policySet) *trafficUse {
	e := &set.kinds[kindTraffic]
	if set.traffic != nil || len(e.pieces) == 0 {
		return set.traffic
	}
	use := &trafficUse{}
	use.settings, _ = settingsOf[v1alpha1.TrafficSettings](e)
	for _, won := range e.pieces {
		if won.key == "fallback" {
			use.fallback, use.field = won.from.statement, won.origin.Field+".backendRef"
		}
	}
	connection := connectionOf(&use.settings)
	use.connection = variationOf(connection)
	// The checks are made for what it takes over from.
	connection.Health = nil
	use.spare = variationOf(connection)
	if traffic := trafficSaid(&use.settings); !reflect.ValueOf(traffic).IsZero() {
		use.traffic = &traffic
	}
	set.traffic = use
	return use
}

func trafficSaid(settings *v1alpha1.TrafficSettings) Traffic {
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
	return traffic
}

// apply puts what is in effect into a route, where the route says nothing itself.
func (u *trafficUse) apply(route *Route) {
	if u == nil {
		return
	}
	route.Traffic = u.traffic
	if timeouts := u.settings.Timeouts; timeouts != nil {
		route.Timeout = cmp.Or(route.Timeout, timeoutOf(timeouts.Request))
		route.BackendTimeout = cmp.Or(route.BackendTimeout, timeoutOf(timeouts.BackendRequest))
		route.StreamIdle = timeoutOf(timeouts.StreamIdle)
	}
	if retry := u.settings.Retry; retry != nil && route.Retry == nil {
		route.Retry = &Retry{Attempts: defaultRetries, On: retry.On, Codes: retry.Codes, Backoff: durationOr(retry.Backoff, 0)}
		if retry.Attempts != nil {
			route.Retry.Attempts = uint32(*retry.Attempts) //nolint:gosec // validated to be 0 to 10
		}
		if len(retry.On) == 0 && len(retry.Codes) == 0 {
			route.Retry.On = safeRetries()
		}
	}
}

// defaultRetries follow a first try when nothing says how many do.
const defaultRetries = 2

// safeRetries are those of tries that the backend cannot have begun to serve.
func safeRetries() []v1alpha1.RetryOn {
	return []v1alpha1.RetryOn{v1alpha1.RetryConnectFailure, v1alpha1.RetryRefusedStream, v1alpha1.RetryResetBeforeRequest}
}

// connectionOf is what settings say of connections.
func connectionOf(settings *v1alpha1.TrafficSettings) Connection {
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
	return connection
}

// fallbackFor is the backend that takes over when a rule's fail, or nil.
func (r *resolver) fallbackFor(rule *ruleSource, use *trafficUse) *backendState {
	if use == nil || use.settings.Fallback == nil || use.settings.Fallback.BackendRef == nil {
		return nil
	}
	from := &ruleSource{object: use.fallback.object, grpc: rule.grpc}
	state := r.follow(from, use.field, *use.settings.Fallback.BackendRef, "nothing takes over")
	if state == nil {
		use.fallback.broken(r.refFailures[from.object.Ref].message)
		return nil
	}
	for _, share := range rule.backends.weighted {
		if share.state != nil && (share.state.backend.Transcoding == nil) != (state.backend.Transcoding == nil) {
			r.reportOnce(from.object.problem(CodeBackendProtocol, use.field,
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
	if !r.gateways[parentOf(object, parent)] { // another controller's
		return
	}
	for _, rule := range rules {
		if rule.backends == nil {
			rule.backends = r.lookUp(rule)
		}
	}
	SetCondition(&r.status(object).parent(parent).Conditions, r.resolvedRefs(object))
}
