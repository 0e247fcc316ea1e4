package istio

import (
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// terminate has a server end TLS with a copy of the listener's certificate: Istio's
// gateways read it from the namespace that they run in.
func (c *compiler) terminate(server *networking.Server, chain *policy.Chain, at policy.Origin) {
	tls := chain.TLS
	switch {
	case len(tls.Certificates) != 1:
		c.refuse(at, "%d certificates of one listener; give each its own listener, with its hostname", len(tls.Certificates))
		return
	case !slices.Equal(tls.Protocols, []v1alpha1.HTTPProtocol{v1alpha1.HTTP2, v1alpha1.HTTP11}):
		c.refuse(at, "protocols of a listener: Istio's gateways offer HTTP/2 and HTTP/1.1")
		return
	}
	versions := map[v1alpha1.TLSVersion]networking.ServerTLSSettings_TLSProtocol{
		v1alpha1.TLS12: networking.ServerTLSSettings_TLSV1_2, v1alpha1.TLS13: networking.ServerTLSSettings_TLSV1_3,
	}
	server.Port.Name, server.Port.Protocol = "https-"+slug(chain.Name), "HTTPS"
	server.Tls = &networking.ServerTLSSettings{
		Mode: networking.ServerTLSSettings_SIMPLE, CredentialName: c.certificate(tls.Certificates[0], tls.Clients, at),
		MinProtocolVersion: versions[tls.MinVersion], MaxProtocolVersion: versions[tls.MaxVersion],
	}
	if tls.MinVersion != v1alpha1.TLS13 { // which has its own
		for _, suite := range tls.CipherSuites {
			server.Tls.CipherSuites = append(server.Tls.CipherSuites, string(suite))
		}
	}
	c.clients(server.GetTls(), tls.Clients)
	// What a client asks for (SNI) chooses the server; a listener without a hostname
	// takes all.
	server.Hosts = []string{c.options.Namespace + "/*"}
	if len(chain.ServerNames) > 0 {
		server.Hosts = widest(chain.ServerNames)
		for i := range server.Hosts {
			server.Hosts[i] = c.options.Namespace + "/" + server.Hosts[i]
		}
	}
}

// certificate makes the Secret of a certificate, once, and returns its name. What
// clients' certificates are verified with is in the same Secret, so that a gateway
// never has one of them without the other; listeners that ask for other clients with
// the same certificate have a Secret of their own, since istiod finds the authorities
// by the name of the certificate.
func (c *compiler) certificate(id string, clients *policy.ClientValidation, at policy.Origin) string {
	of := id
	if clients != nil {
		of += " for " + clients.Secret
	}
	name := "weir-" + slug(of)
	if c.certificates[of] {
		return name
	}
	secret := c.secret(id)
	if secret == nil {
		c.refuse(at, "certificate %q is not in the plan", id)
		return ""
	}
	content, origins := map[string]any{"tls.crt": string(secret.Certificate), "tls.key": string(secret.PrivateKey)}, []policy.Origin{secret.Origin}
	if clients != nil {
		trusted := c.secret(clients.Secret)
		if trusted == nil || len(trusted.Authorities) == 0 {
			c.refuse(clients.Origin, "the authorities of client certificates, %q, are not in the plan", clients.Secret)
			return ""
		}
		content[authoritiesKey], origins = string(trusted.Authorities), append(origins, clients.Origin)
		if len(trusted.RevocationLists) > 0 {
			content[revocationsKey] = string(trusted.RevocationLists)
		}
	}
	c.certificates[of] = true
	c.add(Object{
		APIVersion: "v1", Kind: "Secret", Name: name, Secret: true, Origins: origins,
		Body: map[string]any{"type": "kubernetes.io/tls", "stringData": content},
	})
	return name
}

// secret is one of the Plan's, nil for none.
func (c *compiler) secret(id string) *policy.Secret {
	for i := range c.in.Plan.Secrets {
		if secret := &c.in.Plan.Secrets[i]; secret.ID == id {
			return secret
		}
	}
	return nil
}

// overlapping refuses chains of a port of which one takes what another one is for:
// Istio serves the routes of a host on every server that takes it, where Weir's own
// proxies answer 421.
func (c *compiler) overlapping(port *policy.Port) bool {
	for i := range port.Chains {
		for j := range i {
			if one, other := &port.Chains[i], &port.Chains[j]; meet(one.ServerNames, other.ServerNames) {
				at := portOrigin(port)
				if len(one.Listeners) > 0 {
					at = one.Listeners[0]
				}
				c.refuse(at, "a listener whose hostname another listener of port %s takes too; give one of them a port of its own", strconv.Itoa(int(port.Number)))
				return true
			}
		}
	}
	return false
}

// meet reports whether a name may be of both lists, of which an empty one has all.
func meet(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	covers := func(wide, name string) bool {
		suffix, isWild := strings.CutPrefix(wide, "*")
		return wide == name || isWild && strings.HasSuffix(name, suffix)
	}
	return slices.ContainsFunc(a, func(one string) bool {
		return slices.ContainsFunc(b, func(other string) bool { return covers(one, other) || covers(other, one) })
	})
}

// guarded reports whether extauthz is asked about a port's requests: about all of
// them, once one of its routes is not for everybody.
func (c *compiler) guarded(port *policy.Port) bool {
	return slices.ContainsFunc(port.Chains, func(chain policy.Chain) bool {
		return slices.ContainsFunc(chain.Hosts, func(host policy.Host) bool {
			return slices.ContainsFunc(host.Routes, func(route policy.Route) bool { return route.Auth != nil && !route.Auth.Refuse })
		})
	})
}
