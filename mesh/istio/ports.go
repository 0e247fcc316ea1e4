package istio

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"weir.dev/policy"
)

const (
	networkingVersion = "networking.istio.io/v1"
	filterVersion     = "networking.istio.io/v1alpha3"
	securityVersion   = "security.istio.io/v1"
)

// port makes the Gateway of a port and what its hosts need.
func (c *compiler) port(port *policy.Port) {
	at := portOrigin(port)
	switch {
	case len(port.Addresses) > 0:
		c.refuse(at, "a Gateway's addresses are those of the gateway's Service; leave spec.addresses out")
		return
	case c.ports[port.Number]:
		c.refuse(at, "port %d is wanted twice, and one gateway serves all; use another port", port.Number)
		return
	}
	c.ports[port.Number] = true
	if c.overlapping(port) {
		return
	}
	gateway := &networking.Gateway{Selector: c.selector()}
	var origins []policy.Origin
	var served []*policy.Chain
	for i := range port.Chains {
		chain := &port.Chains[i]
		if server := c.chain(port, chain); server != nil {
			gateway.Servers = append(gateway.Servers, server)
			origins, served = append(origins, chain.Listeners...), append(served, chain)
		}
	}
	if len(served) == 0 {
		return
	}
	c.add(Object{
		APIVersion: networkingVersion, Kind: "Gateway", Name: gatewayName(port),
		Body: map[string]any{"spec": message(gateway)}, Origins: origins,
	})
	c.filters(port, served, origins)
}

func portOrigin(port *policy.Port) policy.Origin {
	for i := range port.Chains {
		if listeners := port.Chains[i].Listeners; len(listeners) > 0 {
			return listeners[0]
		}
	}
	return policy.Origin{Object: policy.ObjectRef{Kind: "Gateway", Name: port.Gateway}}
}

// chain makes the server of a chain, and the VirtualServices of its hosts; nil where
// nothing is served.
func (c *compiler) chain(port *policy.Port, chain *policy.Chain) *networking.Server {
	at := portOrigin(port)
	if len(chain.Listeners) > 0 {
		at = chain.Listeners[0]
	}
	if chain.Closed() {
		c.refuse(at, "listeners that take no connection, since what they end TLS with is broken; mend that first")
		return nil
	}
	if chain.Forward != nil || chain.TLS != nil && len(chain.TLS.Protocols) == 0 {
		c.refuse(at, "listeners of protocol TLS; serve them by Weir's own proxies")
		return nil
	}
	edge := chain.Settings()
	standard := policy.DefaultEdge()
	if edge.MaxConnections > 0 {
		c.refuse(at, "maxConnections of a listener")
	}
	if edge.BufferKiB != standard.BufferKiB {
		c.refuse(at, "bufferKiB of a listener")
	}
	c.forwarding(&edge, at)
	served := c.hosts(port, chain)
	if len(served) == 0 {
		return nil
	}
	server := &networking.Server{
		Port:  &networking.Port{Number: uint32(port.Number), Name: "http-" + strconv.Itoa(int(port.Number)), Protocol: "HTTP"}, //nolint:gosec // a port
		Hosts: served,
	}
	if chain.TLS != nil {
		c.terminate(server, chain, at)
	}
	return server
}

func gatewayName(port *policy.Port) string { return fmt.Sprintf("weir-%d", port.Number) }

// hosts makes a VirtualService of each host, and returns the hosts of the Gateway.
func (c *compiler) hosts(port *policy.Port, chain *policy.Chain) []string {
	var served []string
	for i := range chain.Hosts {
		host := &chain.Hosts[i]
		if host.Misdirected {
			continue
		}
		service := &networking.VirtualService{
			Hosts: []string{host.Name}, Gateways: []string{c.options.Namespace + "/" + gatewayName(port)},
		}
		var origins []policy.Origin
		parts := map[string]policy.Origin{}
		for j := range host.Routes {
			route := &host.Routes[j]
			made, ok := c.route(route)
			if !ok {
				continue
			}
			parts[route.ID] = route.Origin
			service.Http = append(service.Http, made...)
			origins = append(origins, route.Origin)
			if everything(&route.Match, route.GRPC) {
				break // Nothing reaches those after it; Istio leaves them out, too.
			}
		}
		if len(service.GetHttp()) == 0 {
			continue
		}
		if c.guarded(port) {
			c.table.host(c, host)
		}
		served = append(served, host.Name)
		c.add(Object{
			APIVersion: networkingVersion, Kind: "VirtualService", Name: gatewayName(port) + "-" + hostSlug(host.Name),
			Body: map[string]any{"spec": message(service)}, Origins: origins, Parts: parts,
		})
	}
	served = widest(served)
	for i := range served {
		served[i] = c.options.Namespace + "/" + served[i]
	}
	return served
}

// everything reports whether a match is one that Istio takes for a catch-all.
func everything(match *policy.Match, grpc bool) bool {
	return !grpc && match.Method == "" && len(match.Headers)+len(match.Query) == 0 &&
		(match.Path.Kind == policy.PathPrefix && strings.Trim(match.Path.Value, "/") == "" || match.Path.Kind == policy.PathRegex && match.Path.Value == ".*")
}

// widest leaves out the hosts that a wildcard among them covers, and sorts the
// others. A Gateway that names both has the routes of the wildcard's VirtualService
// put among those of the host, in the order of the objects' age: they would be
// answered where extauthz was asked about the host's own.
func widest(hosts []string) []string {
	kept := slices.DeleteFunc(slices.Clone(hosts), func(host string) bool {
		return slices.ContainsFunc(hosts, func(wild string) bool {
			suffix, isWild := strings.CutPrefix(wild, "*")
			return isWild && host != wild && strings.HasSuffix(host, suffix)
		})
	})
	slices.Sort(kept)
	return kept
}

func hostSlug(host string) string {
	if host == "*" {
		return "all"
	}
	return slug(host)
}
