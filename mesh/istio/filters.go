package istio

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	networking "istio.io/api/networking/v1alpha3"

	"weir.dev/policy"
)

const (
	managerName   = "envoy.filters.network.http_connection_manager"
	extAuthzName  = "envoy.filters.http.ext_authz"
	routerName    = "envoy.filters.http.router"
	jwtName       = "envoy.filters.http.jwt_authn"
	rateLimitName = "envoy.filters.http.ratelimit."
	// ownRateLimit is the name that Weir's target has for ratelimitd.
	ownRateLimit = "weir/ratelimit"
	// filterPriority puts ours after those that name none, which may change what ours
	// are put beside.
	filterPriority = 10
)

// renamed are filters that Istio's own chain has too, later in it: ours stand
// before extauthz, as preflight requests bring no credentials, and need names of
// their own for routes to say what they do.
func renamed(name string) string {
	if name == "envoy.filters.http.cors" || name == "envoy.filters.http.fault" {
		return "weir." + strings.TrimPrefix(name, "envoy.filters.http.")
	}
	return name
}

// Assertion says what one patch of an EnvoyFilter matches.
type Assertion struct {
	// Patch counts from 0.
	Patch int `json:"patch"`
	// ApplyTo is FILTER_CHAIN, NETWORK_FILTER, HTTP_FILTER or HTTP_ROUTE.
	ApplyTo string `json:"applyTo"`
	// Port is the Gateway's.
	Port int32 `json:"port"`
	// Name of the filter or route that is matched, or that is put in; of a filter chain
	// one of its server names, or nothing for one without.
	Name string `json:"name"`
	// Count is how many such there are afterwards.
	Count int `json:"count"`
}

type patches struct {
	c    *compiler
	port *policy.Port
	// chains is how many servers the port has.
	chains     int
	list       []*networking.EnvoyFilter_EnvoyConfigObjectPatch
	assertions []Assertion
	switches   *switches
	// parts are the routes that have a patch.
	parts map[string]policy.Origin
}

// filters makes the EnvoyFilters of a port, which are the same for all its chains.
func (c *compiler) filters(port *policy.Port, chains []*policy.Chain, listeners []policy.Origin) {
	managers := c.managersOf(port, chains)
	if len(managers) == 0 {
		c.refuse(portOrigin(port), "nothing is known of how port %d is to be served", port.Number)
		return
	}
	if err := alike(managers, asksClients(chains)); err != nil {
		c.refuse(portOrigin(port), "%v", err)
		return
	}
	for _, other := range managers[1:] {
		if !proto.Equal(alone(managers[0]), alone(other)) {
			c.refuse(portOrigin(port), "listeners of one port whose HeaderPolicy, TrafficPolicy or ExtensionPolicy of the whole listener differ; give them ports of their own")
			return
		}
	}
	manager := managers[0]
	connection := &patches{c: c, port: port, chains: len(chains)}
	connection.connection(manager)
	connection.add("connection", listeners)
	asked := &patches{c: c, port: port, chains: 1}
	asked.resumption(chains)
	asked.add("clients", listeners)

	limited := slices.ContainsFunc(chains, func(chain *policy.Chain) bool { return chainLimited(chain) })
	inserted := &patches{c: c, port: port, chains: len(chains), switches: &switches{}}
	inserted.httpFilters(manager, chains, limited)
	inserted.add("filters", listeners)

	routes := &patches{c: c, port: port, chains: len(chains), switches: inserted.switches, parts: map[string]policy.Origin{}}
	var origins []policy.Origin
	seen := map[string]bool{}
	for _, chain := range chains {
		for i := range chain.Hosts {
			for j := range chain.Hosts[i].Routes {
				route := &chain.Hosts[i].Routes[j]
				if !seen[route.ID] && routes.route(route) {
					origins = append(origins, route.Origin)
					routes.parts[route.ID] = route.Origin
				}
				seen[route.ID] = true
			}
		}
	}
	routes.count(c, port)
	routes.add("routes", origins)
}

// managersOf are the connection managers that Weir's own target has for chains.
func (c *compiler) managersOf(port *policy.Port, chains []*policy.Chain) []*hcmv3.HttpConnectionManager {
	var found []*hcmv3.HttpConnectionManager
	for _, chain := range c.managers[fmt.Sprintf("port-%d", port.Number)].GetFilterChains() {
		if !slices.ContainsFunc(chains, func(served *policy.Chain) bool { return served.Name == chain.GetName() }) {
			continue
		}
		for _, filter := range chain.GetFilters() {
			manager := &hcmv3.HttpConnectionManager{}
			if filter.GetTypedConfig().UnmarshalTo(manager) == nil {
				found = append(found, manager)
			}
		}
	}
	return found
}

// alone is a connection manager without what is of its chain, or of Istio.
func alone(manager *hcmv3.HttpConnectionManager) *hcmv3.HttpConnectionManager {
	made := proto.CloneOf(manager)
	made.RouteSpecifier, made.StatPrefix, made.AccessLog, made.Tracing = nil, "", nil, nil
	return made
}

func (p *patches) add(name string, origins []policy.Origin) {
	if len(p.list) == 0 {
		return
	}
	filter := &networking.EnvoyFilter{
		WorkloadSelector: &networking.WorkloadSelector{Labels: p.c.selector()}, ConfigPatches: p.list,
		Priority: filterPriority,
	}
	asserted, err := json.Marshal(p.assertions)
	if err != nil {
		p.c.refuse(portOrigin(p.port), "%v", err)
		return
	}
	p.c.add(Object{
		APIVersion: filterVersion, Kind: "EnvoyFilter", Name: gatewayName(p.port) + "-" + name,
		Body: map[string]any{"spec": message(filter)}, Origins: origins, Annotations: map[string]string{AnnotationAssertion: string(asserted)},
		Parts: p.parts,
	})
}

func (p *patches) patch(to networking.EnvoyFilter_ApplyTo, match *networking.EnvoyFilter_EnvoyConfigObjectMatch, operation networking.EnvoyFilter_Patch_Operation, value proto.Message, name string) {
	content, err := p.c.structure(value)
	if err != nil {
		p.c.refuse(portOrigin(p.port), "%s cannot be written: %v", name, err)
		return
	}
	match.Context = networking.EnvoyFilter_GATEWAY
	p.assertions = append(p.assertions, Assertion{Patch: len(p.list), ApplyTo: to.String(), Port: p.port.Number, Name: name, Count: p.chains})
	p.list = append(p.list, &networking.EnvoyFilter_EnvoyConfigObjectPatch{
		ApplyTo: to, Match: match, Patch: &networking.EnvoyFilter_Patch{Operation: operation, Value: content},
	})
}

// structure is a message as a Struct, in the names of the protos, with the
// clusters of Weir's target replaced by Istio's.
func (c *compiler) structure(value proto.Message) (*structpb.Struct, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(value)
	if err != nil {
		return nil, err
	}
	made := &structpb.Struct{}
	if err := protojson.Unmarshal(raw, made); err != nil {
		return nil, err
	}
	c.clusters(structpb.NewStructValue(made))
	return made, nil
}

func (c *compiler) clusters(value *structpb.Value) {
	switch kind := value.GetKind().(type) {
	case *structpb.Value_StructValue:
		for _, inner := range kind.StructValue.GetFields() {
			c.clusters(inner)
		}
	case *structpb.Value_ListValue:
		for _, inner := range kind.ListValue.GetValues() {
			c.clusters(inner)
		}
	case *structpb.Value_StringValue:
		if kind.StringValue == ownRateLimit {
			kind.StringValue = c.options.RateLimit.cluster()
		} else if id, ok := strings.CutPrefix(kind.StringValue, "backend/"); ok {
			if to, known := c.destinations[id]; known {
				kind.StringValue = to.cluster()
			}
		}
	}
}

func (p *patches) listener(subFilter string) *networking.EnvoyFilter_EnvoyConfigObjectMatch {
	filter := &networking.EnvoyFilter_ListenerMatch_FilterMatch{Name: managerName}
	if subFilter != "" {
		filter.SubFilter = &networking.EnvoyFilter_ListenerMatch_SubFilterMatch{Name: subFilter}
	}
	return &networking.EnvoyFilter_EnvoyConfigObjectMatch{ObjectTypes: &networking.EnvoyFilter_EnvoyConfigObjectMatch_Listener{
		Listener: &networking.EnvoyFilter_ListenerMatch{
			PortNumber:  uint32(p.port.Number), //nolint:gosec // a port
			FilterChain: &networking.EnvoyFilter_ListenerMatch_FilterChainMatch{Filter: filter},
		},
	}}
}

// connection puts in how the port guards itself and what it answers by itself.
func (p *patches) connection(from *hcmv3.HttpConnectionManager) {
	manager := alone(from)
	manager.HttpFilters = nil
	if p.c.natives.any() && p.c.guarded(p.port) {
		manager.LocalReplyConfig = nativeReplies(manager.GetLocalReplyConfig())
	}
	config := &anypb.Any{}
	if err := config.MarshalFrom(manager); err != nil {
		p.c.refuse(portOrigin(p.port), "%v", err)
		return
	}
	// As a filter: what is merged is typed_config.
	value := &hcmv3.HttpFilter{ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
	p.patch(networking.EnvoyFilter_NETWORK_FILTER, p.listener(""), networking.EnvoyFilter_Patch_MERGE, value, managerName)
}

// httpFilters puts in those before and after extauthz, which Istio itself puts in.
func (p *patches) httpFilters(from *hcmv3.HttpConnectionManager, chains []*policy.Chain, limited bool) {
	at := slices.IndexFunc(from.GetHttpFilters(), func(f *hcmv3.HttpFilter) bool { return f.GetName() == extAuthzName })
	if at < 0 {
		p.c.refuse(portOrigin(p.port), "extauthz is not among the filters")
		return
	}
	all := from.GetHttpFilters()
	for i := at - 1; i >= 0; i-- { // Each is put before those before it.
		p.insert(all[i], p.listener(""), networking.EnvoyFilter_Patch_INSERT_FIRST)
	}
	p.forwardedClientCert(chains)
	p.extAuthz(all[at])
	for _, from := range all[at+1:] {
		if from.GetName() == routerName {
			continue
		}
		if strings.HasPrefix(from.GetName(), rateLimitName) && !limited {
			continue
		}
		p.insert(from, p.listener(routerName), networking.EnvoyFilter_Patch_INSERT_BEFORE)
	}
	router := proto.CloneOf(all[len(all)-1])
	p.patch(networking.EnvoyFilter_HTTP_FILTER, p.listener(routerName), networking.EnvoyFilter_Patch_MERGE, router, routerName)
}

// insert puts a filter of Weir's target into the chain.
func (p *patches) insert(from *hcmv3.HttpFilter, match *networking.EnvoyFilter_EnvoyConfigObjectMatch, operation networking.EnvoyFilter_Patch_Operation) {
	filter := proto.CloneOf(from)
	filter.Name = renamed(filter.GetName())
	if err := p.switches.chain(filter); err != nil {
		p.c.refuse(portOrigin(p.port), "%s cannot be written: %v", filter.GetName(), err)
		return
	}
	p.patch(networking.EnvoyFilter_HTTP_FILTER, match, operation, filter, filter.GetName())
}

// extAuthz adds to Istio's filter what its provider has no words for.
func (p *patches) extAuthz(from *hcmv3.HttpFilter) {
	if !p.c.guarded(p.port) {
		return
	}
	ours := &extauthzv3.ExtAuthz{}
	if err := from.GetTypedConfig().UnmarshalTo(ours); err != nil {
		p.c.refuse(portOrigin(p.port), "%v", err)
		return
	}
	config := &anypb.Any{}
	if err := config.MarshalFrom(&extauthzv3.ExtAuthz{
		EncodeRawHeaders: ours.GetEncodeRawHeaders(), ValidateMutations: ours.GetValidateMutations(),
		IncludePeerCertificate: ours.GetIncludePeerCertificate(), EnableDynamicMetadataIngestion: ours.GetEnableDynamicMetadataIngestion(),
		StatusOnError: ours.GetStatusOnError(),
	}); err != nil {
		p.c.refuse(portOrigin(p.port), "%v", err)
		return
	}
	value := &hcmv3.HttpFilter{Name: extAuthzName, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
	p.patch(networking.EnvoyFilter_HTTP_FILTER, p.listener(extAuthzName), networking.EnvoyFilter_Patch_MERGE, value, extAuthzName)
}

// route puts in what filters do on a route.
func (p *patches) route(route *policy.Route) bool {
	lifted := p.c.lifted[route.ID]
	if lifted == nil {
		p.c.refuse(route.Origin, "nothing is known of how route %s is to be served", route.ID)
		return false
	}
	configs, err := p.switches.route(lifted.GetTypedPerFilterConfig())
	if err != nil {
		p.c.refuse(route.Origin, "%v", err)
		return false
	}
	if p.c.natives.any() && p.c.natives.decides(route) == nil {
		// RequestAuthentication is the whole gateway's: here it would refuse tokens of
		// others.
		if configs[jwtName], err = anypb.New(&jwtv3.PerRouteConfig{RequirementSpecifier: &jwtv3.PerRouteConfig_Disabled{Disabled: true}}); err != nil {
			p.c.refuse(route.Origin, "%v", err)
			return false
		}
	}
	if err := bodies(route, configs); err != nil {
		p.c.refuse(route.Origin, "%v", err)
		return false
	}
	value := &routev3.Route{TypedPerFilterConfig: configs}
	if action := lifted.GetRoute(); action != nil && (len(action.GetRateLimits()) > 0 || action.GetIdleTimeout() != nil) {
		value.Action = &routev3.Route_Route{Route: &routev3.RouteAction{RateLimits: action.GetRateLimits(), IdleTimeout: action.GetIdleTimeout()}}
	}
	if len(value.GetTypedPerFilterConfig()) == 0 && value.GetAction() == nil {
		return false
	}
	match := &networking.EnvoyFilter_EnvoyConfigObjectMatch{ObjectTypes: &networking.EnvoyFilter_EnvoyConfigObjectMatch_RouteConfiguration{
		RouteConfiguration: &networking.EnvoyFilter_RouteConfigurationMatch{
			PortNumber: uint32(p.port.Number), //nolint:gosec // a port
			Vhost: &networking.EnvoyFilter_RouteConfigurationMatch_VirtualHostMatch{
				Route: &networking.EnvoyFilter_RouteConfigurationMatch_RouteMatch{Name: route.ID},
			},
		},
	}}
	p.patch(networking.EnvoyFilter_HTTP_ROUTE, match, networking.EnvoyFilter_Patch_MERGE, value, route.ID)
	return true
}

// count says how many entries Istio makes of each route: one of every match.
func (p *patches) count(c *compiler, port *policy.Port) {
	made := map[string]int{}
	for i := range c.objects {
		if c.objects[i].Kind != "VirtualService" || !strings.HasPrefix(c.objects[i].Name, gatewayName(port)+"-") {
			continue
		}
		spec, _ := c.objects[i].Body["spec"].(map[string]any)
		entries, _ := spec["http"].([]any)
		for _, entry := range entries {
			fields, _ := entry.(map[string]any)
			name, _ := fields["name"].(string)
			matches, _ := fields["match"].([]any)
			made[name] += max(1, len(matches))
		}
	}
	for i := range p.assertions {
		p.assertions[i].Count = made[p.assertions[i].Name]
	}
}
