package policy

import (
	"cmp"
	"maps"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// chainName names the chain that serves a listener's HTTP.
func (l *listener) chainName() string {
	if !l.overTLS() {
		return PlainChain
	}
	return "https/" + cmp.Or(l.hostname, "*")
}

// serverNames is what Envoy tells chains apart by; none for all others.
func serverNames(host string) []string {
	if host == "" || host == "*" {
		return nil
	}
	return []string{host}
}

// chains are those of one port.
func (r *resolver) chains(e *edge) []Chain {
	if !e.listeners[0].overTLS() { // Conflicts are settled: none is.
		return []Chain{r.plainChain(e)}
	}
	var chains []Chain
	for _, l := range e.listeners {
		switch {
		case l.protocol == gatewayv1.TLSProtocolType:
			chains = append(chains, r.streamChains(e, l)...)
		case l.closed:
			chain := closedChain(l)
			r.settings(&chain, []*listener{l})
			chains = append(chains, chain)
		default:
			chain := Chain{
				Name: l.chainName(), ServerNames: serverNames(l.hostname), TLS: l.tls,
				Hosts: r.hosts(e.hosts[l.chainName()], e, l), Listeners: []Origin{l.origin()},
			}
			r.settings(&chain, []*listener{l})
			chains = append(chains, chain)
		}
	}
	slices.SortFunc(chains, func(a, b Chain) int { return cmp.Compare(a.Name, b.Name) })
	return chains
}

// plainChain serves all listeners of a port without TLS.
func (r *resolver) plainChain(e *edge) Chain {
	chain := Chain{Name: PlainChain, Hosts: r.hosts(e.hosts[PlainChain], e, nil)}
	for _, l := range e.listeners {
		chain.Listeners = append(chain.Listeners, l.origin())
	}
	r.settings(&chain, e.listeners)
	return chain
}

// hosts sorts the routes of a chain, and adds the hosts that are not to fall to
// less specific ones: those of listeners without a route, and with TLS those of
// the port's other chains.
func (r *resolver) hosts(routes map[string][]Route, e *edge, own *listener) []Host {
	if routes == nil {
		routes = map[string][]Route{}
	}
	misdirected := map[string]bool{}
	for _, l := range e.listeners {
		name := cmp.Or(l.hostname, "*")
		if _, served := routes[name]; served {
			continue
		}
		switch {
		case own != nil && l != own:
			misdirected[name], routes[name] = true, nil
		case e.hasWider(l):
			routes[name] = nil
		}
	}
	hosts := r.order(routes)
	for i := range hosts {
		hosts[i].Misdirected = misdirected[hosts[i].Name]
	}
	return hosts
}

// hasWider reports whether another listener's hostname covers this one's.
func (e *edge) hasWider(l *listener) bool {
	return slices.ContainsFunc(e.listeners, func(other *listener) bool {
		return other != l && hostCovers(other.hostname, l.hostname)
	})
}

// closedChain ends every connection. It is there so that none falls to a less
// specific listener.
func closedChain(l *listener) Chain {
	return Chain{
		Name: l.chainName(), ServerNames: serverNames(l.hostname),
		Forward: &Forward{Origin: l.origin()}, Listeners: []Origin{l.origin()},
	}
}

// streamChains are those of a listener of protocol TLS: one per server name.
func (r *resolver) streamChains(e *edge, l *listener) []Chain {
	names := map[string]*Forward{}
	for name, stream := range e.streams {
		if stream.listener == l {
			names[name] = stream.forward
		}
	}
	own := cmp.Or(l.hostname, "*")
	if names[own] == nil && (e.hasWider(l) || len(names) == 0) { // Envoy takes no port without a chain.
		names[own] = &Forward{Origin: l.origin()}
	}
	var chains []Chain
	for _, name := range slices.Sorted(maps.Keys(names)) {
		chain := Chain{
			Name: streamChain + name, ServerNames: serverNames(name), TLS: streamTLS(l), Forward: names[name], Listeners: []Origin{l.origin()},
		}
		if l.closed {
			chain.TLS, chain.Forward = nil, &Forward{Origin: l.origin()}
		}
		r.settings(&chain, []*listener{l})
		chains = append(chains, chain)
	}
	return chains
}
