package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// addressing is what a Gateway's spec.addresses come to.
type addressing struct {
	// bind is where its listeners bind, sorted; "" is the target's own address, and
	// none stands for that alone.
	bind []string
	// fault says why nothing is served, empty where all addresses can be had.
	fault string
	// accepted is unset where the kind of address is not supported.
	accepted bool
}

// addresses checks spec.addresses. Which of them the machine has shows when the
// proxy binds.
func (c *checker) addresses(addresses []gatewayv1.GatewaySpecAddress) {
	c.count("spec.addresses", len(addresses), 0, 16)
	seen := map[string]bool{}
	for i, address := range addresses {
		field := fmt.Sprintf("spec.addresses[%d]", i)
		kind := kindOfAddress(address)
		c.text(field+".value", address.Value, false, 253)
		if kind == gatewayv1.IPAddressType && address.Value != "" {
			parsed, err := netip.ParseAddr(address.Value)
			switch {
			case err != nil || parsed.Zone() != "":
				c.fail(CodeInvalid, field+".value", "%q is not an IP address", address.Value)
			case parsed.IsMulticast():
				c.fail(CodeInvalid, field+".value", "%q is a multicast address: nothing can listen there", address.Value)
			}
		}
		if key := string(kind) + " " + canonicalAddress(address.Value); seen[key] {
			c.fail(CodeDuplicateName, field, "%q is there twice", address.Value)
		} else {
			seen[key] = true
		}
	}
}

func kindOfAddress(address gatewayv1.GatewaySpecAddress) gatewayv1.AddressType {
	if address.Type == nil {
		return gatewayv1.IPAddressType
	}
	return cmp.Or(*address.Type, gatewayv1.IPAddressType)
}

// canonicalAddress writes an IP address in its one shortest form (RFC 5952).
func canonicalAddress(text string) string {
	if parsed, err := netip.ParseAddr(text); err == nil {
		return parsed.Unmap().String()
	}
	return text
}

// addressing follows spec.addresses of a Gateway (GatewaySpec.addresses). Without
// published addresses listeners bind to those named; with them, an address is what
// leads to the proxies from outside, and binding stays the target's affair. Where
// proxies are provisioned, it is what they are to be given.
func (r *resolver) addressing(gateway *Object, spec *gatewayv1.GatewaySpec) addressing {
	out := addressing{accepted: true}
	status := r.status(gateway)
	for i, address := range spec.Addresses {
		field, value := fmt.Sprintf("spec.addresses[%d]", i), canonicalAddress(address.Value)
		fail := func(message string) {
			out.fault = message
			r.report(gateway.problem(CodeAddress, field, message))
		}
		known := slices.Contains(r.published, value)
		switch kind := kindOfAddress(address); {
		case kind != gatewayv1.IPAddressType && !known:
			out.accepted = false
			fail(fmt.Sprintf("addresses of type %s are not supported here: write IP addresses", string(kind)))
		case r.provisioned && value != "":
			status.Addresses = appendNew(status.Addresses, value)
		case value == "":
			out.bind = append(out.bind, "")
			for _, published := range r.published {
				status.Addresses = appendNew(status.Addresses, published)
			}
		case len(r.published) == 0:
			out.bind = append(out.bind, value)
			status.Addresses = appendNew(status.Addresses, value)
		case known:
			status.Addresses = appendNew(status.Addresses, value)
		default:
			fail(fmt.Sprintf("%q is none of the addresses that lead to the proxies: %s", value, strings.Join(r.published, ", ")))
		}
	}
	slices.Sort(out.bind)
	if slices.Equal(out.bind, []string{""}) || len(r.published) > 0 || r.provisioned {
		out.bind = nil
	}
	switch {
	case out.fault == "":
		return out
	case !out.accepted:
		SetCondition(&status.Conditions, condition(gatewayv1.GatewayConditionAccepted, false, gatewayv1.GatewayReasonUnsupportedAddress, out.fault))
		SetCondition(&status.Conditions, condition(gatewayv1.GatewayConditionProgrammed, false, gatewayv1.GatewayReasonInvalid, out.fault))
	default:
		SetCondition(&status.Conditions, condition(gatewayv1.GatewayConditionAccepted, true, gatewayv1.GatewayReasonAccepted, ""))
		SetCondition(&status.Conditions, condition(gatewayv1.GatewayConditionProgrammed, false, gatewayv1.GatewayReasonAddressNotUsable, out.fault))
	}
	status.Addresses = nil
	return out
}

func appendNew(list []string, value string) []string {
	if slices.Contains(list, value) {
		return list
	}
	return append(list, value)
}

// unaddressed takes a listener out whose Gateway has no address to serve it at.
func (r *resolver) unaddressed(l *listener, fault string) {
	if l.refused != "" {
		return
	}
	l.refused = fault
	SetCondition(&r.listenerStatus(l).Conditions, condition(gatewayv1.ListenerConditionProgrammed, false, gatewayv1.ListenerReasonPending, fault))
}

// sharesAddress reports whether two listeners of a port bind to some addresses in
// common and to others not, which no proxy can do.
func sharesAddress(a, b *listener) bool {
	if a.fleet != b.fleet || a.port != b.port || a.portKey() == b.portKey() {
		return false
	}
	own := func(bind []string) []string {
		if len(bind) == 0 {
			return []string{""}
		}
		return bind
	}
	return slices.ContainsFunc(own(a.bind), func(address string) bool { return slices.Contains(own(b.bind), address) })
}

// addressTaken refuses a listener that would bind where another one does.
func (r *resolver) addressTaken(l, first *listener) {
	l.refused = fmt.Sprintf("listener %s binds port %d at some of the same addresses and not at all of them; the two Gateways need equal addresses, or none in common", first.id(), l.port)
	r.report(l.holder().problem(CodeAddress, l.field(), l.refused))
	status := r.listenerStatus(l)
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionAccepted, false, gatewayv1.ListenerReasonPortUnavailable, l.refused))
	SetCondition(&status.Conditions, condition(gatewayv1.ListenerConditionProgrammed, false, gatewayv1.ListenerReasonInvalid, l.refused))
	SetCondition(&r.status(l.gateway).Conditions, condition(gatewayv1.GatewayConditionProgrammed, false, gatewayv1.GatewayReasonAddressNotUsable, l.refused))
}
