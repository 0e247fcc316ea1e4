package policy

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// gateway checks a Gateway.
func (c *checker) gateway(spec *gatewayv1.GatewaySpec) {
	if spec.GatewayClassName == "" {
		c.required("spec.gatewayClassName")
	}
	c.addresses(spec.Addresses)
	c.infrastructure(spec.Infrastructure)
	c.defaults(string(spec.DefaultScope), "spec.defaultScope")
	if spec.TLS != nil {
		if backend := spec.TLS.Backend; backend != nil && backend.ClientCertificateRef != nil && backend.ClientCertificateRef.Name == "" {
			c.required("spec.tls.backend.clientCertificateRef.name")
		}
		if spec.TLS.Frontend != nil {
			c.frontend(spec.TLS.Frontend)
		}
	}
	if allowed := spec.AllowedListeners; allowed != nil && allowed.Namespaces != nil {
		c.namespacesFrom("spec.allowedListeners.namespaces", allowed.Namespaces.From, gatewayv1.NamespacesFromNone, allowed.Namespaces.Selector)
	}
	c.listeners(len(spec.Listeners), func(i int) *gatewayv1.Listener { return &spec.Listeners[i] })
}

func (c *checker) listenerSet(spec *gatewayv1.ListenerSetSpec) {
	parent := spec.ParentRef
	if parent.Name == "" {
		c.required("spec.parentRef.name")
	}
	if parent.Kind != nil && *parent.Kind != kindGateway || parent.Group != nil && *parent.Group != gatewayv1.GroupName {
		c.fail(CodeUnsupported, "spec.parentRef.kind", "listeners are added to Gateways of group %s only", gatewayv1.GroupName)
	}
	c.listeners(len(spec.Listeners), func(i int) *gatewayv1.Listener { return entryListener(&spec.Listeners[i]) })
}

// listeners checks those of one object.
func (c *checker) listeners(count int, at func(int) *gatewayv1.Listener) {
	c.count("spec.listeners", count, 1, 64)
	names := make([]string, count)
	taken := map[string]string{}
	for i := range count {
		listener, field := at(i), fmt.Sprintf("spec.listeners[%d]", i)
		names[i] = string(listener.Name)
		c.listener(field, listener)
		host := ""
		if listener.Hostname != nil {
			host = string(*listener.Hostname)
		}
		place := fmt.Sprintf("%d/%s/%s", listener.Port, listener.Protocol, host)
		if other, ok := taken[place]; ok {
			c.fail(CodeListenerConflict, field, "has the port, protocol and hostname of listener %q", other)
		}
		taken[place] = string(listener.Name)
	}
	c.unique("spec.listeners", names)
}

func (c *checker) listener(field string, listener *gatewayv1.Listener) {
	c.port(field+".port", listener.Port)
	c.text(field+".protocol", string(listener.Protocol), true, 255)
	if listener.Hostname != nil && *listener.Hostname != "" {
		c.hostname(field+".hostname", string(*listener.Hostname), true)
	}
	switch listener.Protocol {
	case gatewayv1.HTTPSProtocolType, gatewayv1.TLSProtocolType:
		if listener.TLS == nil {
			c.required(field + ".tls")
			break
		}
		c.listenerTLS(field+".tls", listener)
	default:
		if listener.TLS != nil {
			c.fail(CodeInvalid, field+".tls", "goes with protocol HTTPS or TLS, not %s", string(listener.Protocol))
		}
	}
	if allowed := listener.AllowedRoutes; allowed != nil {
		c.count(field+".allowedRoutes.kinds", len(allowed.Kinds), 0, 8)
		c.allowedNamespaces(field+".allowedRoutes.namespaces", allowed.Namespaces)
	}
}

func (c *checker) listenerTLS(field string, listener *gatewayv1.Listener) {
	spec, mode := listener.TLS, gatewayv1.TLSModeTerminate
	switch {
	case spec.Mode != nil:
		mode = *spec.Mode
	case listener.Protocol == gatewayv1.TLSProtocolType:
		c.fail(CodeRequired, field+".mode", "is required with protocol TLS: Terminate or Passthrough")
	}
	oneOf(c, field+".mode", mode, false, gatewayv1.TLSModeTerminate, gatewayv1.TLSModePassthrough)
	if listener.Protocol == gatewayv1.HTTPSProtocolType && mode == gatewayv1.TLSModePassthrough {
		c.fail(CodeInvalid, field+".mode", "an HTTPS listener ends TLS: write protocol: TLS to pass it through")
	}
	if len(spec.Options) > 0 {
		c.fail(CodeUnsupported, field+".options", "none is known to Weir: attach a %s", v1alpha1.KindTLSPolicy)
	}
	if mode == gatewayv1.TLSModePassthrough {
		c.count(field+".certificateRefs", len(spec.CertificateRefs), 0, 64)
		return
	}
	c.count(field+".certificateRefs", len(spec.CertificateRefs), 1, 64)
	for i, ref := range spec.CertificateRefs {
		if ref.Name == "" {
			c.required(fmt.Sprintf("%s.certificateRefs[%d].name", field, i))
		}
	}
}

func (c *checker) allowedNamespaces(field string, spec *gatewayv1.RouteNamespaces) {
	if spec != nil {
		c.namespacesFrom(field, spec.From, gatewayv1.NamespacesFromSame, spec.Selector)
	}
}

// namespacesFrom checks whose objects are taken; other is what From is unless it
// is written.
func (c *checker) namespacesFrom(field string, given *gatewayv1.FromNamespaces, other gatewayv1.FromNamespaces, selector *metav1.LabelSelector) {
	from := other
	if given != nil {
		from = *given
	}
	allowed := []gatewayv1.FromNamespaces{gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromSelector}
	if other == gatewayv1.NamespacesFromNone {
		allowed = append(allowed, other)
	}
	oneOf(c, field+".from", from, false, allowed...)
	switch {
	case from == gatewayv1.NamespacesFromSelector && selector == nil:
		c.required(field + ".selector")
	case from != gatewayv1.NamespacesFromSelector && selector != nil:
		c.fail(CodeInvalid, field+".selector", "has no effect without from: Selector")
	case selector != nil:
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			c.fail(CodeInvalid, field+".selector", "%v", err)
		}
	}
}

// frontend checks a Gateway's settings for client certificates (GEP-91).
func (c *checker) frontend(spec *gatewayv1.FrontendTLSConfig) {
	c.frontendValidation("spec.tls.frontend.default.validation", spec.Default.Validation)
	c.count("spec.tls.frontend.perPort", len(spec.PerPort), 0, 64)
	seen := map[gatewayv1.PortNumber]bool{}
	for i, port := range spec.PerPort {
		field := fmt.Sprintf("spec.tls.frontend.perPort[%d]", i)
		c.port(field+".port", port.Port)
		if seen[port.Port] {
			c.fail(CodeDuplicateName, field+".port", "%d is there twice", port.Port)
		}
		seen[port.Port] = true
		c.frontendValidation(field+".tls.validation", port.TLS.Validation)
	}
}

func (c *checker) frontendValidation(field string, spec *gatewayv1.FrontendTLSValidation) {
	if spec == nil {
		return
	}
	c.count(field+".caCertificateRefs", len(spec.CACertificateRefs), 1, 16)
	for i, ref := range spec.CACertificateRefs {
		if ref.Name == "" {
			c.required(fmt.Sprintf("%s.caCertificateRefs[%d].name", field, i))
		}
	}
	oneOf(c, field+".mode", spec.Mode, true, gatewayv1.AllowValidOnly, gatewayv1.AllowInsecureFallback)
}
