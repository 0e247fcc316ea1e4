package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// maxServiceEndpoints bounds what one Service's port holds.
const maxServiceEndpoints = 10_000

// slicesOf lists the EndpointSlices of each Service, by "namespace/name".
func (r *resolver) slicesOf(service ObjectRef) []typed[*discoveryv1.EndpointSlice] {
	if r.endpointSlices == nil {
		r.endpointSlices = map[string][]typed[*discoveryv1.EndpointSlice]{}
		for _, slice := range ofType[*discoveryv1.EndpointSlice](r) {
			if name, ok := slice.value.Labels[discoveryv1.LabelServiceName]; ok {
				id := slice.object.Ref.Namespace + "/" + name
				r.endpointSlices[id] = append(r.endpointSlices[id], slice)
			}
		}
	}
	return r.endpointSlices[service.Namespace+"/"+service.Name]
}

// serviceEndpoints are the endpoints of a Service's port, by its name, out of all
// of its EndpointSlices: those that are ready, or, when none is, those that
// still serve while they terminate (KEP-1669), so that the last ones of a
// rollout are not cut off.
func (r *resolver) serviceEndpoints(service ObjectRef, port string) []Endpoint {
	var ready, terminating []Endpoint
	for _, slice := range r.slicesOf(service) {
		if slice.value.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		number, ok := slicePort(slice.value.Ports, port)
		if !ok {
			continue
		}
		for _, endpoint := range slice.value.Endpoints {
			var zone string
			if endpoint.Zone != nil {
				zone = *endpoint.Zone
			}
			isReady := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
			serving := endpoint.Conditions.Serving != nil && *endpoint.Conditions.Serving
			ending := endpoint.Conditions.Terminating != nil && *endpoint.Conditions.Terminating
			for _, address := range endpoint.Addresses {
				found := Endpoint{Address: address, Port: number, Zone: zone}
				switch {
				case isReady:
					ready = append(ready, found)
				case serving && ending:
					terminating = append(terminating, found)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = terminating
	}
	slices.SortFunc(ready, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	ready = slices.CompactFunc(ready, func(a, b Endpoint) bool { return a.Address == b.Address && a.Port == b.Port })
	if len(ready) > maxServiceEndpoints {
		r.report(r.byRef[service].problem(CodeTooMany, "", fmt.Sprintf("has %d endpoints at port %q; the first %d are used", len(ready), port, maxServiceEndpoints)))
		ready = ready[:maxServiceEndpoints]
	}
	return ready
}

// slicePort is the number that a slice gives a named port.
func slicePort(ports []discoveryv1.EndpointPort, name string) (int32, bool) {
	for _, port := range ports {
		named := port.Name == nil && name == "" || port.Name != nil && *port.Name == name
		if named && port.Port != nil && (port.Protocol == nil || *port.Protocol == corev1.ProtocolTCP) {
			return *port.Port, true
		}
	}
	return 0, false
}

func (c *checker) endpointSlice(slice *discoveryv1.EndpointSlice) {
	oneOf(c, "addressType", slice.AddressType, false, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	c.count("endpoints", len(slice.Endpoints), 0, 1000)
	for i, endpoint := range slice.Endpoints {
		field := fmt.Sprintf("endpoints[%d].addresses", i)
		c.count(field, len(endpoint.Addresses), 1, 100)
		for j, address := range endpoint.Addresses {
			if slice.AddressType == discoveryv1.AddressTypeFQDN {
				continue
			}
			if _, err := netip.ParseAddr(address); err != nil {
				c.fail(CodeInvalid, fmt.Sprintf("%s[%d]", field, j), "%q is not an IP address", address)
			}
		}
	}
	c.count("ports", len(slice.Ports), 0, 100)
	for i, port := range slice.Ports {
		if port.Port != nil {
			c.port(fmt.Sprintf("ports[%d].port", i), *port.Port)
		}
	}
}

func (c *checker) service(spec *corev1.ServiceSpec) {
	c.count("spec.ports", len(spec.Ports), 0, 1000)
	for i, port := range spec.Ports {
		c.port(fmt.Sprintf("spec.ports[%d].port", i), port.Port)
	}
}
