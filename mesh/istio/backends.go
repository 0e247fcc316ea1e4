package istio

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// backendDomain is that of hosts that stand for Backends, which are in no DNS.
const backendDomain = "backend.weir.internal"

// entryPort is the port of such a host; each endpoint has its own.
const entryPort = 80

// destination is a backend in Istio's registry.
type destination struct {
	host   string
	port   uint32
	subset string
	// refused says that a problem told why there is none.
	refused bool
}

func (d destination) destination() *networking.Destination {
	return &networking.Destination{Host: d.host, Subset: d.subset, Port: &networking.PortSelector{Number: d.port}}
}

func (d destination) cluster() string { return clusterName(d.host, d.port, d.subset) }

// to finds a backend. One that a problem told of already is not told of again.
func (c *compiler) to(id string, from policy.Origin) (destination, bool) {
	found, ok := c.destinations[id]
	if !ok {
		c.refuse(from, "backend %q is not made", id)
	}
	return found, ok && !found.refused
}

// compileBackends makes the hosts of Backends, and how each is connected to.
func (c *compiler) compileBackends() {
	byHost := map[string][]*policy.Backend{}
	var hosts []string
	for i := range c.in.Plan.Backends {
		backend := &c.in.Plan.Backends[i]
		to, ok := c.locate(backend)
		if !ok {
			c.destinations[backend.ID] = destination{refused: true}
			continue
		}
		c.destinations[backend.ID] = to
		if byHost[to.host] == nil {
			hosts = append(hosts, to.host)
		}
		byHost[to.host] = append(byHost[to.host], backend)
	}
	for _, host := range hosts {
		c.rule(host, byHost[host])
	}
}

// locate finds a backend in the registry, or puts it there.
func (c *compiler) locate(backend *policy.Backend) (destination, bool) {
	if len(backend.Members) > 0 {
		c.refuse(backend.Origin, "a Backend that stands for others in turn (fallback)")
		return destination{}, false
	}
	base, _, _ := strings.Cut(backend.ID, "~")
	namespace, name, _ := strings.Cut(base, "/")
	if backend.Origin.Object.Kind == "Service" {
		name, text, _ := strings.Cut(name, ":")
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			c.refuse(backend.Origin, "the Service's port %q is no number", text)
			return destination{}, false
		}
		return destination{host: name + "." + namespace + ".svc.cluster.local", port: uint32(port)}, true
	}
	if len(backend.Endpoints) == 1 && strings.HasSuffix(backend.Endpoints[0].Address, ".svc.cluster.local") {
		return destination{host: backend.Endpoints[0].Address, port: uint32(backend.Endpoints[0].Port)}, true //nolint:gosec // validated port
	}
	host := slug(name) + "." + slug(namespace) + "." + backendDomain
	return destination{host: host, port: entryPort}, c.entry(host, backend)
}

// entry is the ServiceEntry of a Backend. Variants of one Backend share it.
func (c *compiler) entry(host string, backend *policy.Backend) bool {
	name := "weir-" + slug(strings.TrimSuffix(host, "."+backendDomain))
	if slices.ContainsFunc(c.objects, func(o Object) bool { return o.Kind == "ServiceEntry" && o.Name == name }) {
		return true
	}
	protocols := map[v1alpha1.BackendProtocol]string{v1alpha1.ProtocolHTTP: "HTTP", v1alpha1.ProtocolHTTP2: "HTTP2", v1alpha1.ProtocolGRPC: "GRPC"}
	protocol := protocols[cmp.Or(backend.Protocol, v1alpha1.ProtocolHTTP)]
	portName := strings.ToLower(protocol)
	entry := &networking.ServiceEntry{
		Hosts: []string{host}, Location: networking.ServiceEntry_MESH_EXTERNAL, Resolution: networking.ServiceEntry_STATIC,
		Ports:    []*networking.ServicePort{{Number: entryPort, Name: portName, Protocol: protocol}},
		ExportTo: []string{"."},
	}
	for _, endpoint := range backend.Endpoints {
		if endpoint.Socket != "" {
			c.refuse(backend.Origin, "a Unix socket: the gateway's pod has none of this machine's")
			return false
		}
		if _, err := netip.ParseAddr(endpoint.Address); err != nil {
			entry.Resolution = networking.ServiceEntry_DNS
		}
		entry.Endpoints = append(entry.Endpoints, &networking.WorkloadEntry{
			Address: endpoint.Address, Ports: map[string]uint32{portName: uint32(endpoint.Port)}, Locality: endpoint.Zone, //nolint:gosec // validated port
		})
	}
	c.add(Object{
		APIVersion: networkingVersion, Kind: "ServiceEntry", Name: name,
		Body: map[string]any{"spec": message(entry)}, Origins: []policy.Origin{backend.Origin},
	})
	return true
}

// rule is the DestinationRule of a host: a subset for each way of connecting to it.
func (c *compiler) rule(host string, backends []*policy.Backend) {
	rule := &networking.DestinationRule{Host: host, ExportTo: []string{"."}}
	var origins []policy.Origin
	for _, backend := range backends {
		made, ok := c.trafficPolicy(backend)
		if !ok {
			c.destinations[backend.ID] = destination{refused: true}
			continue
		}
		if made == nil {
			continue
		}
		origins = append(origins, backend.Origin)
		if len(backends) == 1 {
			rule.TrafficPolicy = made
			continue
		}
		to := c.destinations[backend.ID]
		_, digest, _ := strings.Cut(backend.ID, "~")
		to.subset = "v-" + slug(fmt.Sprintf("%d-%s", to.port, digest))
		c.destinations[backend.ID] = to
		rule.Subsets = append(rule.Subsets, &networking.Subset{Name: to.subset, TrafficPolicy: made})
	}
	if rule.GetTrafficPolicy() == nil && len(rule.GetSubsets()) == 0 {
		return
	}
	c.add(Object{
		APIVersion: networkingVersion, Kind: "DestinationRule", Name: "weir-" + slug(host),
		Body: map[string]any{"spec": message(rule)}, Origins: origins,
	})
}

// trafficPolicy is nil where a backend is connected to as Istio does by itself.
func (c *compiler) trafficPolicy(backend *policy.Backend) (*networking.TrafficPolicy, bool) {
	made := &networking.TrafficPolicy{}
	before, used := len(c.problems.Errors()), false
	if backend.TLS != nil {
		made.Tls, used = c.backendTLS(backend), true
	}
	if settings := backend.Connection; settings != nil {
		used = true
		c.connection(backend, settings, made)
	}
	if !used {
		return nil, true
	}
	return made, len(c.problems.Errors()) == before
}

func (c *compiler) backendTLS(backend *policy.Backend) *networking.ClientTLSSettings {
	settings := backend.TLS
	made := &networking.ClientTLSSettings{Mode: networking.ClientTLSSettings_SIMPLE, Sni: settings.ServerName}
	for _, name := range settings.Names {
		made.SubjectAltNames = append(made.SubjectAltNames, string(name.Hostname)+string(name.URI))
	}
	switch {
	case settings.Trust == policy.TrustMesh && settings.Identity:
		made.Mode, made.Sni = networking.ClientTLSSettings_ISTIO_MUTUAL, ""
	case settings.Trust == policy.TrustSystem && settings.Certificate == "" && !settings.Identity:
	default:
		c.refuse(backend.Origin, "tls with authorities or a certificate of its own; use the mesh's (spiffeID) or the system's authorities")
	}
	return made
}

func (c *compiler) connection(backend *policy.Backend, settings *policy.Connection, made *networking.TrafficPolicy) {
	pool := &networking.ConnectionPoolSettings{Tcp: &networking.ConnectionPoolSettings_TCPSettings{}, Http: &networking.ConnectionPoolSettings_HTTPSettings{}}
	if settings.ConnectTimeout > 0 {
		pool.Tcp.ConnectTimeout = durationpb.New(settings.ConnectTimeout)
	}
	if limits := settings.Limits; limits != nil {
		pool.Tcp.MaxConnections = or(limits.MaxConnections, 0)
		pool.Http.Http1MaxPendingRequests = or(limits.MaxPendingRequests, 0)
		pool.Http.Http2MaxRequests = or(limits.MaxRequests, 0)
		pool.Http.MaxRetries = or(limits.MaxRetries, 0)
		pool.Http.MaxRequestsPerConnection = or(limits.MaxRequestsPerConnection, 0)
	}
	if settings.ConnectTimeout > 0 || settings.Limits != nil {
		made.ConnectionPool = pool
	}
	if budget := settings.Budget; budget != nil {
		made.RetryBudget = &networking.TrafficPolicy_RetryBudget{
			Percent: wrapperspb.Double(float64(or(budget.Percent, 20))), MinRetryConcurrency: uint32(or(budget.MinConcurrent, 3)), //nolint:gosec // validated
		}
	}
	if outliers := settings.Outliers; outliers != nil {
		made.OutlierDetection = outlierDetection(outliers)
	}
	if settings.Health != nil {
		c.refuse(backend.Origin, "health checks by the proxy; use outliers, and the pods' own probes")
	}
	if settings.Balancing != nil {
		made.LoadBalancer = c.balancing(backend, settings.Balancing)
	}
}

func outlierDetection(settings *v1alpha1.OutlierDetection) *networking.OutlierDetection {
	made := &networking.OutlierDetection{
		Consecutive_5XxErrors: wrapperspb.UInt32(uint32(or(settings.ConsecutiveErrors, 5))), //nolint:gosec // validated
		Interval:              duration(settings.Interval, 10*time.Second),
		BaseEjectionTime:      duration(settings.BaseEjectionTime, 30*time.Second),
		MaxEjectionPercent:    or(settings.MaxEjectionPercent, 50),
		MinHealthPercent:      0, // An endpoint that is out is not used because others are, too.
	}
	if settings.ConsecutiveGatewayErrors != nil {
		made.ConsecutiveGatewayErrors = wrapperspb.UInt32(uint32(*settings.ConsecutiveGatewayErrors)) //nolint:gosec // validated
	}
	return made
}

func (c *compiler) balancing(backend *policy.Backend, settings *v1alpha1.LoadBalancing) *networking.LoadBalancerSettings {
	if settings.Locality == v1alpha1.LocalityPreferZone {
		c.refuse(backend.Origin, "locality PreferZone; say localityLbSetting in the mesh's configuration")
	}
	made := &networking.LoadBalancerSettings{}
	if settings.SlowStart != nil {
		made.Warmup = &networking.WarmupConfiguration{Duration: duration(settings.SlowStart, 0)}
	}
	simple := map[v1alpha1.LoadBalancer]networking.LoadBalancerSettings_SimpleLB{
		v1alpha1.BalanceLeastRequest: networking.LoadBalancerSettings_LEAST_REQUEST,
		v1alpha1.BalanceRandom:       networking.LoadBalancerSettings_RANDOM,
		v1alpha1.BalanceRoundRobin:   networking.LoadBalancerSettings_ROUND_ROBIN, "": networking.LoadBalancerSettings_ROUND_ROBIN,
	}
	if algorithm, ok := simple[settings.Algorithm]; ok {
		made.LbPolicy = &networking.LoadBalancerSettings_Simple{Simple: algorithm}
		return made
	}
	hash := &networking.LoadBalancerSettings_ConsistentHashLB{}
	if settings.Algorithm == v1alpha1.BalanceMaglev {
		hash.HashAlgorithm = &networking.LoadBalancerSettings_ConsistentHashLB_Maglev{Maglev: &networking.LoadBalancerSettings_ConsistentHashLB_MagLev{}}
	} else {
		hash.HashAlgorithm = &networking.LoadBalancerSettings_ConsistentHashLB_RingHash_{RingHash: &networking.LoadBalancerSettings_ConsistentHashLB_RingHash{}}
	}
	hashBy := c.hashBy[backend.ID]
	if len(hashBy) != 1 {
		c.refuse(backend.Origin, "%d entries of hashBy, over all routes to it; Istio hashes by one", len(hashBy))
		return made
	}
	switch by := hashBy[0]; by.Type {
	case v1alpha1.HashByHeader:
		hash.HashKey = &networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName{HttpHeaderName: by.Name}
	case v1alpha1.HashByCookie:
		cookie := &networking.LoadBalancerSettings_ConsistentHashLB_HTTPCookie{Name: by.Name, Path: "/"}
		if by.TTL != nil {
			cookie.Ttl = duration(by.TTL, 0)
		}
		hash.HashKey = &networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie{HttpCookie: cookie}
	default:
		hash.HashKey = &networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp{UseSourceIp: true}
	}
	made.LbPolicy = &networking.LoadBalancerSettings_ConsistentHash{ConsistentHash: hash}
	return made
}

// or is the value that is set, or else the default.
func or(value *int32, otherwise int32) int32 {
	if value != nil {
		return *value
	}
	return otherwise
}

func duration(value *gatewayv1.Duration, otherwise time.Duration) *durationpb.Duration {
	if value != nil {
		if parsed, err := time.ParseDuration(string(*value)); err == nil {
			return durationpb.New(parsed)
		}
	}
	return durationpb.New(otherwise)
}
