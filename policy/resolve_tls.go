package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// defaultAuthorities and defaultRevocations are the keys of a PEMRef without one.
const (
	defaultAuthorities = "ca.crt"
	defaultRevocations = "ca.crl"
)

// secure finds out how a listener ends TLS. One that lacks what it needs is
// closed.
func (r *resolver) secure(l *listener) {
	if !l.overTLS() {
		return
	}
	r.overlaps(l)
	if l.passthrough() {
		return
	}
	l.tls = &Termination{MinVersion: v1alpha1.TLS12, MaxVersion: v1alpha1.TLS13, CipherSuites: v1alpha1.CipherSuites()}
	if l.protocol == gatewayv1.HTTPSProtocolType {
		l.tls.Protocols = []v1alpha1.HTTPProtocol{v1alpha1.HTTP2, v1alpha1.HTTP11}
	}
	r.certificates(l)
	r.frontend(l)
	r.tlsPolicy(l)
	if clients := l.tls.Clients; clients != nil && l.tls.Offers(v1alpha1.HTTP3) {
		r.report(r.byRef[clients.Origin.Object].problem(CodeHTTP3Clients, clients.Origin.Field, fmt.Sprintf(
			"listener %s does not offer HTTP/3: Envoy verifies no client certificates over it", l.id())))
		l.tls.Protocols = withoutHTTP3(l.tls.Protocols)
	}
	if l.closed {
		l.tls = nil
	}
}

// overlaps says, as the standard asks, which listeners of a port serve names that
// another one does, too: a client may send requests for one over a connection to
// the other, and is told to open its own (421).
func (r *resolver) overlaps(l *listener) {
	for _, other := range r.allListeners {
		if other == l || other.refused != "" || other.portKey() != l.portKey() {
			continue
		}
		if hostCovers(l.hostname, other.hostname) || hostCovers(other.hostname, l.hostname) {
			SetCondition(&r.listenerStatus(l).Conditions, condition(gatewayv1.ListenerConditionOverlappingTLSConfig, true,
				gatewayv1.ListenerReasonOverlappingHostnames, "some names are those of listener "+other.id()+", too"))
			return
		}
	}
}

// unresolved notes that a listener's reference does not resolve.
func (r *resolver) unresolved(l *listener, reason gatewayv1.ListenerConditionReason, message string) {
	SetCondition(&r.listenerStatus(l).Conditions, condition(gatewayv1.ListenerConditionResolvedRefs, false, reason, message))
}

// close has a listener take no connection.
func (r *resolver) close(l *listener, message string) {
	l.closed = true
	SetCondition(&r.listenerStatus(l).Conditions, condition(gatewayv1.ListenerConditionProgrammed, false, gatewayv1.ListenerReasonInvalid, message))
}

// certificates resolves certificateRefs. Those that resolve serve; with none the
// listener is closed.
func (r *resolver) certificates(l *listener) {
	for i, ref := range l.spec.TLS.CertificateRefs {
		field := fmt.Sprintf("%s.tls.certificateRefs[%d]", l.field(), i)
		to := ObjectRef{Kind: "Secret", Namespace: l.holder().Ref.Namespace, Name: string(ref.Name)}
		if ref.Namespace != nil {
			to.Namespace = string(*ref.Namespace)
		}
		fail := func(problem Problem, reason gatewayv1.ListenerConditionReason) {
			r.report(problem)
			r.unresolved(l, reason, problem.Message)
		}
		if ref.Kind != nil && *ref.Kind != "Secret" || ref.Group != nil && *ref.Group != "" {
			fail(l.holder().problem(CodeRefNotFound, field+".kind", "certificates are Secrets of type kubernetes.io/tls"), gatewayv1.ListenerReasonInvalidCertificateRef)
			continue
		}
		if !r.granted(l.holder().Ref, to) {
			fail(notGranted(l.holder(), field+".namespace", to), gatewayv1.ListenerReasonRefNotPermitted)
			continue
		}
		id, err := r.certificate(to)
		if err != nil {
			fail(l.holder().problem(CodeRefNotFound, field+".name", err.Error()), gatewayv1.ListenerReasonInvalidCertificateRef)
			continue
		}
		if !slices.Contains(l.tls.Certificates, id) {
			l.tls.Certificates = append(l.tls.Certificates, id)
		}
	}
	if len(l.tls.Certificates) == 0 {
		r.close(l, "none of its certificates can be had, so it takes no connection")
	}
}

// certificate is the id of the Secret that a reference names.
func (r *resolver) certificate(ref ObjectRef) (string, error) {
	id := "certificate/" + ref.Namespace + "/" + ref.Name
	if _, ok := r.secrets[id]; ok {
		return id, nil
	}
	object, ok := r.byRef[ref]
	if !ok {
		return "", fmt.Errorf("there is no %s, or it is broken", ref)
	}
	secret, ok := object.Value.(*corev1.Secret)
	if !ok || secret.Type != corev1.SecretTypeTLS {
		return "", fmt.Errorf("%s is not of type %s", ref, corev1.SecretTypeTLS)
	}
	r.secrets[id] = &Secret{
		ID: id, Certificate: secret.Data[corev1.TLSCertKey], PrivateKey: secret.Data[corev1.TLSPrivateKeyKey], Origin: object.Origin(""),
	}
	return id, nil
}

// frontend applies the Gateway's own settings for client certificates
// (GatewaySpec.tls.frontend, GEP-91).
func (r *resolver) frontend(l *listener) {
	gateway, ok := l.gateway.Value.(*gatewayv1.Gateway)
	if !ok || l.protocol != gatewayv1.HTTPSProtocolType || gateway.Spec.TLS == nil || gateway.Spec.TLS.Frontend == nil {
		return
	}
	validation, field := gateway.Spec.TLS.Frontend.Default.Validation, "spec.tls.frontend.default.validation"
	for i, port := range gateway.Spec.TLS.Frontend.PerPort {
		if port.Port == l.port {
			validation, field = port.TLS.Validation, fmt.Sprintf("spec.tls.frontend.perPort[%d].tls.validation", i)
		}
	}
	if validation == nil {
		return
	}
	var authorities []byte
	for i, ref := range validation.CACertificateRefs {
		part, reason, problem := r.authority(l, fmt.Sprintf("%s.caCertificateRefs[%d]", field, i), ref)
		if problem != nil {
			r.reportOnce(*problem) // Other listeners have it, too.
			r.unresolved(l, reason, problem.Message)
			continue
		}
		authorities = append(authorities, part...)
	}
	if len(authorities) == 0 {
		message := "no authority for client certificates can be had, so it takes no connection"
		r.close(l, message)
		SetCondition(&r.listenerStatus(l).Conditions, condition(gatewayv1.ListenerConditionAccepted, false, gatewayv1.ListenerReasonNoValidCACertificate, message))
		return
	}
	insecure := validation.Mode == gatewayv1.AllowInsecureFallback
	if insecure {
		SetCondition(&r.status(l.gateway).Conditions, condition(gatewayv1.GatewayConditionInsecureFrontendValidationMode, true,
			gatewayv1.GatewayReasonConfigurationChanged, "client certificates are asked for and not enforced"))
	}
	id := fmt.Sprintf("clients/gateway/%s/%s/%d", l.gateway.Ref.Namespace, l.gateway.Ref.Name, l.port)
	r.secrets[id] = &Secret{ID: id, Authorities: authorities, Origin: l.gateway.Origin(field)}
	l.tls.Clients = &ClientValidation{Secret: id, Required: !insecure, AcceptUntrusted: insecure, Origin: l.gateway.Origin(field)}
}

// authority reads one caCertificateRef of a Gateway.
func (r *resolver) authority(l *listener, field string, ref gatewayv1.ObjectReference) ([]byte, gatewayv1.ListenerConditionReason, *Problem) {
	to := ObjectRef{Kind: string(ref.Kind), Namespace: l.gateway.Ref.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		to.Namespace = string(*ref.Namespace)
	}
	if ref.Group != "" || ref.Kind != "ConfigMap" && ref.Kind != "Secret" {
		problem := l.gateway.problem(CodeRefNotFound, field+".kind", "authorities are ConfigMaps or Secrets with a key ca.crt")
		return nil, gatewayv1.ListenerReasonInvalidCACertificateKind, &problem
	}
	if !r.granted(l.gateway.Ref, to) {
		problem := notGranted(l.gateway, field+".namespace", to)
		return nil, gatewayv1.ListenerReasonRefNotPermitted, &problem
	}
	bundle, _, err := r.bundle(to.Namespace, []v1alpha1.PEMRef{{Kind: to.Kind, Name: to.Name}}, defaultAuthorities, checkAuthorities)
	if err != nil {
		problem := l.gateway.problem(CodeRefNotFound, field+".name", err.Error())
		return nil, gatewayv1.ListenerReasonInvalidCACertificateRef, &problem
	}
	return bundle, "", nil
}

// tlsPolicy applies what the TLSPolicies of the listener and its Gateway come to.
// Where a broken one is attached, or may be, the listener is closed: it asked for
// client certificates.
func (r *resolver) tlsPolicy(l *listener) {
	e := &r.policiesAt(l).kinds[kindTLS]
	for _, won := range e.pieces {
		if won.from.closing != nil {
			r.closeFor(l, won.origin)
			return
		}
	}
	if len(e.pieces) == 0 {
		for _, closing := range r.tlsClosings {
			if l.covered(&closing) {
				r.closeFor(l, closing.Origin)
				return
			}
		}
	}
	spec, origins := settingsOf[v1alpha1.TLSSettings](e)
	if clients := spec.ClientCertificates; clients != nil {
		r.clients(l, clients, origins[clientCertificates])
	}
	l.tls.MinVersion = cmp.Or(spec.MinVersion, l.tls.MinVersion)
	l.tls.MaxVersion = cmp.Or(spec.MaxVersion, l.tls.MaxVersion)
	if l.tls.MinVersion > l.tls.MaxVersion { // of different policies
		l.tls.MaxVersion = l.tls.MinVersion
	}
	if len(spec.CipherSuites) > 0 {
		l.tls.CipherSuites = spec.CipherSuites
	}
	if len(spec.Protocols) > 0 && l.protocol == gatewayv1.HTTPSProtocolType {
		l.tls.Protocols = spec.Protocols
	}
	if l.tls.MaxVersion == v1alpha1.TLS12 {
		l.tls.Protocols = withoutHTTP3(l.tls.Protocols)
	}
}

func withoutHTTP3(protocols []v1alpha1.HTTPProtocol) []v1alpha1.HTTPProtocol {
	return slices.DeleteFunc(slices.Clone(protocols), func(p v1alpha1.HTTPProtocol) bool { return p == v1alpha1.HTTP3 })
}

func (r *resolver) closeFor(l *listener, origin Origin) {
	message := "takes no connection: the TLSPolicy at " + origin.String() + " is broken, and it is attached here or may be"
	r.report(l.holder().problem(CodeListenerClosed, l.field(), message))
	r.close(l, message)
}

// clients applies a policy's settings for client certificates.
func (r *resolver) clients(l *listener, spec *v1alpha1.ClientCertificates, origin Origin) {
	policy := r.byRef[origin.Object]
	authorities, at, err := r.bundle(policy.Ref.Namespace, spec.CACertificateRefs, defaultAuthorities, checkAuthorities)
	if err != nil {
		r.closeForRef(l, policy, fmt.Sprintf("%s.caCertificateRefs[%d]", origin.Field, at), err)
		return
	}
	lists, at, err := r.bundle(policy.Ref.Namespace, spec.CRLRefs, defaultRevocations, checkRevocationLists)
	if err != nil {
		r.closeForRef(l, policy, fmt.Sprintf("%s.crlRefs[%d]", origin.Field, at), err)
		return
	}
	id := "clients/policy/" + policy.Ref.Namespace + "/" + policy.Ref.Name
	r.secrets[id] = &Secret{ID: id, Authorities: authorities, RevocationLists: lists, Origin: origin}
	l.tls.Clients = &ClientValidation{
		Secret: id, Required: spec.Mode != v1alpha1.ClientCertificateOptional, SubjectAltNames: spec.SubjectAltNames, Origin: origin,
	}
}

// closeForRef closes a listener whose TLSPolicy refers to what cannot be had.
func (r *resolver) closeForRef(l *listener, policy *Object, field string, err error) {
	problem := policy.problem(CodeListenerClosed, field, err.Error()+"; until it is there, listeners with this policy take no connection")
	r.reportOnce(problem)
	r.close(l, problem.Message)
}

// usedSecrets are those that chains and backends refer to.
func (r *resolver) usedSecrets(ports []Port, backends []Backend) []Secret {
	used := map[string]bool{}
	for _, port := range ports {
		for _, chain := range port.Chains {
			if chain.TLS == nil {
				continue
			}
			for _, id := range chain.TLS.Certificates {
				used[id] = true
			}
			if chain.TLS.Clients != nil {
				used[chain.TLS.Clients.Secret] = true
			}
		}
	}
	for i := range backends {
		if tls := backends[i].TLS; tls != nil && tls.Certificate != "" {
			used[tls.Certificate] = true
		}
	}
	var secrets []Secret
	for _, id := range slices.Sorted(maps.Keys(used)) {
		secrets = append(secrets, *r.secrets[id])
	}
	return secrets
}
