package v1alpha1

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ConnectionLimits break the circuit: what goes beyond is answered with 503 at
// once. They are per proxy. Each is 1 to 1000000, default 10000.
type ConnectionLimits struct {
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxConnections *int32 `json:"maxConnections,omitempty"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxPendingRequests *int32 `json:"maxPendingRequests,omitempty"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`
	// MaxRetries in flight. Default 100. A RetryBudget replaces it.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxRetries *int32 `json:"maxRetries,omitempty"`
	// MaxRequestsPerConnection closes a connection after so many. Default no
	// limit.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxRequestsPerConnection *int32 `json:"maxRequestsPerConnection,omitempty"`
}

// OutlierDetection takes endpoints that fail out of rotation for a while.
type OutlierDetection struct {
	// ConsecutiveErrors are 5xx answers or failed connections in a row after
	// which an endpoint is ejected: 1 to 1000. Default 5.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	ConsecutiveErrors *int32 `json:"consecutiveErrors,omitempty"`
	// ConsecutiveGatewayErrors are the same of 502, 503, 504 and failed
	// connections alone. Default none.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	ConsecutiveGatewayErrors *int32 `json:"consecutiveGatewayErrors,omitempty"`
	// Interval between two looks. 100ms to 10m, default 10s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('10m')",message="is 100ms to 10m"
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
	// BaseEjectionTime times the number of its ejections is how long an endpoint
	// stays out. 1s to 1h, default 30s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="is 1s to 1h"
	BaseEjectionTime *gatewayv1.Duration `json:"baseEjectionTime,omitempty"`
	// MaxEjectionPercent of the endpoints are out at once, though always one:
	// 1 to 100. Default 50.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxEjectionPercent *int32 `json:"maxEjectionPercent,omitempty"`
}

// HealthCheck asks each endpoint whether it is well. Exactly one of http, grpc
// and tcp is set.
//
// +kubebuilder:validation:XValidation:rule="(has(self.http) ? 1 : 0) + (has(self.grpc) ? 1 : 0) + (has(self.tcp) ? 1 : 0) == 1",message="set exactly one of http, grpc, tcp"
type HealthCheck struct {
	// Interval between two checks. 100ms to 10m, default 10s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('10m')",message="is 100ms to 10m"
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
	// Timeout of one check. 10ms to 1m, default 1s.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('1m')",message="is 10ms to 1m"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
	// UnhealthyThreshold is how many failures in a row take an endpoint out: 1
	// to 100. Default 3.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	UnhealthyThreshold *int32 `json:"unhealthyThreshold,omitempty"`
	// HealthyThreshold is how many successes in a row take it back: 1 to 100.
	// Default 2.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	HealthyThreshold *int32           `json:"healthyThreshold,omitempty"`
	HTTP             *HTTPHealthCheck `json:"http,omitempty"`
	GRPC             *GRPCHealthCheck `json:"grpc,omitempty"`
	TCP              *TCPHealthCheck  `json:"tcp,omitempty"`
}

// HTTPHealthCheck sends a GET.
type HTTPHealthCheck struct {
	// Path that is asked for, such as /healthz.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[^\x00-\x1f\x7f]*$`
	Path string `json:"path"`
	// Host of the request. Default the backend's name.
	//
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="size(self) == 0 || (!isIP(self) && !format.dns1123Subdomain().validate(self).hasValue())",message="is not a lower-case DNS name"
	Host string `json:"host,omitempty"`
	// Statuses that are well. Default 200; at most 16.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +kubebuilder:validation:items:Minimum=200
	// +kubebuilder:validation:items:Maximum=599
	Statuses []int32 `json:"statuses,omitempty"`
}

// GRPCHealthCheck calls grpc.health.v1.Health.Check.
type GRPCHealthCheck struct {
	// Service asked about. Default "": the server as a whole.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[^\x00-\x1f\x7f]*$`
	Service string `json:"service,omitempty"`
}

// TCPHealthCheck opens a connection.
type TCPHealthCheck struct{}

// LoadBalancing chooses an endpoint.
//
// +kubebuilder:validation:XValidation:rule="has(self.hashBy) && size(self.hashBy) > 0 ? has(self.algorithm) && self.algorithm in ['Maglev', 'RingHash'] : !has(self.algorithm) || !(self.algorithm in ['Maglev', 'RingHash'])",message="Maglev and RingHash need hashBy, the others take none"
// +kubebuilder:validation:XValidation:rule="!has(self.slowStart) || !has(self.algorithm) || self.algorithm in ['LeastRequest', 'RoundRobin']",message="slowStart needs algorithm RoundRobin or LeastRequest"
type LoadBalancing struct {
	// Algorithm is RoundRobin (default), LeastRequest, Random, Maglev or
	// RingHash. The last two send equal hashes to the same endpoint.
	Algorithm LoadBalancer `json:"algorithm,omitempty"`
	// HashBy is what Maglev and RingHash hash: the first that a request has is
	// enough. 1 to 4.
	//
	// +kubebuilder:validation:MaxItems=4
	// +listType=atomic
	HashBy []HashBy `json:"hashBy,omitempty"`
	// SlowStart lets a new endpoint's share grow over this time. 1s to 1h; with
	// LeastRequest and RoundRobin only. Default none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')",message="is 1s to 1h"
	SlowStart *gatewayv1.Duration `json:"slowStart,omitempty"`
	// Locality is None (default) or PreferZone: endpoints of the proxy's own zone
	// are used as long as there are any that are well.
	Locality Locality `json:"locality,omitempty"`
}

// LoadBalancer is a way to choose an endpoint.
//
// +kubebuilder:validation:Enum=LeastRequest;RoundRobin;Random;Maglev;RingHash
type LoadBalancer string

// Ways to choose an endpoint.
const (
	BalanceLeastRequest LoadBalancer = "LeastRequest"
	BalanceRoundRobin   LoadBalancer = "RoundRobin"
	BalanceRandom       LoadBalancer = "Random"
	BalanceMaglev       LoadBalancer = "Maglev"
	BalanceRingHash     LoadBalancer = "RingHash"
)

// Locality says what the zone of an endpoint means.
//
// +kubebuilder:validation:Enum=None;PreferZone
type Locality string

// Meanings of zones.
const (
	LocalityNone       Locality = "None"
	LocalityPreferZone Locality = "PreferZone"
)

// HashBy is one source of the hash.
//
// +kubebuilder:validation:XValidation:rule="self.type == 'ClientIP' ? !has(self.name) || size(self.name) == 0 : has(self.name) && size(self.name) > 0",message="name is that of the header or cookie"
// +kubebuilder:validation:XValidation:rule="!has(self.ttl) || self.type == 'Cookie'",message="ttl needs type Cookie"
// +kubebuilder:validation:XValidation:rule="self.type != 'Header' || !has(self.name) || !self.name.lowerAscii().startsWith('x-weir-')",message="names that start with x-weir- are the edge's own"
type HashBy struct {
	// Type is Header, Cookie or ClientIP.
	Type HashByType `json:"type"`
	// Name of the header or cookie.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_\x60|~-]*$`
	Name string `json:"name,omitempty"`
	// TTL, of a cookie: a client without it is given one for so long. Default
	// none is given. At most 720h.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('720h')",message="is 1s to 720h"
	TTL *gatewayv1.Duration `json:"ttl,omitempty"`
}

// HashByType is a kind of source of a hash.
//
// +kubebuilder:validation:Enum=Header;Cookie;ClientIP
type HashByType string

// Sources of a hash.
const (
	HashByHeader   HashByType = "Header"
	HashByCookie   HashByType = "Cookie"
	HashByClientIP HashByType = "ClientIP"
)
