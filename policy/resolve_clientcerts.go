package policy

import (
	"errors"
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// gatewayIdentity is the certificate that a Gateway presents to backends.
type gatewayIdentity struct {
	// secret is its id; empty for none.
	secret string
	// failure says why there should be one and is none.
	failure string
}

// presented is the certificate that a Gateway presents to backends that are
// spoken to over TLS (GatewaySpec.tls.backend, GEP-3155).
func (r *resolver) presented(gateway *Object) *gatewayIdentity {
	if known, ok := r.identities[gateway.Ref]; ok {
		return known
	}
	identity := &gatewayIdentity{}
	r.identities[gateway.Ref] = identity
	value, ok := gateway.Value.(*gatewayv1.Gateway)
	if !ok || value.Spec.TLS == nil || value.Spec.TLS.Backend == nil || value.Spec.TLS.Backend.ClientCertificateRef == nil {
		return identity
	}
	const field = "spec.tls.backend.clientCertificateRef"
	ref := value.Spec.TLS.Backend.ClientCertificateRef
	to := ObjectRef{Kind: "Secret", Namespace: gateway.Ref.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		to.Namespace = string(*ref.Namespace)
	}
	var err error
	problem, reason := Problem{}, gatewayv1.GatewayReasonInvalidClientCertificateRef
	switch {
	case ref.Kind != nil && *ref.Kind != "Secret" || ref.Group != nil && *ref.Group != "":
		err = errors.New("a client certificate is a Secret of type kubernetes.io/tls")
	case !r.granted(gateway.Ref, to):
		problem, reason = notGranted(gateway, field+".namespace", to), gatewayv1.GatewayReasonRefNotPermitted
	default:
		identity.secret, err = r.certificate(to)
	}
	if err != nil {
		problem = gateway.problem(CodeRefNotFound, field, err.Error())
	}
	conditions := &r.status(gateway).Conditions
	if problem.Message == "" {
		SetCondition(conditions, condition(gatewayv1.GatewayConditionResolvedRefs, true, gatewayv1.GatewayReasonResolvedRefs, ""))
		return identity
	}
	identity.failure = problem.Message
	problem.Message += "; what is to be reached with it over TLS is answered with 500"
	r.report(problem)
	SetCondition(conditions, condition(gatewayv1.GatewayConditionResolvedRefs, false, reason, problem.Message))
	return identity
}

// dressed is the id of a backend's variant as a Gateway speaks to it: with the
// Gateway's certificate, where there is one and the backend has TLS without a
// certificate of its own. It is empty where the certificate cannot be had: a
// backend may take who presents none for somebody else.
func (r *resolver) dressed(state *backendState, connection *variation, l *listener) string {
	identity := r.presented(l.gateway)
	tls := state.backend.TLS
	if tls == nil || tls.Identity || tls.Certificate != "" || *identity == (gatewayIdentity{}) {
		return r.variant(state, connection)
	}
	if identity.failure != "" {
		return ""
	}
	id := state.backend.ID + "~" + digestOf(identity.secret)
	if connection != nil {
		id += "~" + connection.digest
	}
	if _, ok := r.variants[id]; !ok {
		backend, with := *state.backend, *tls
		with.Certificate = identity.secret
		backend.ID, backend.TLS = id, &with
		if connection != nil {
			backend.Connection = connection.Connection
		}
		r.variants[id] = &backend
	}
	return id
}

// ownCertificate is the certificate that a Backend asks to be presented.
func (r *resolver) ownCertificate(state *backendState, ref *v1alpha1.SecretNameRef, tls *TLS) {
	if ref == nil {
		return
	}
	id, err := r.certificate(ObjectRef{Kind: "Secret", Namespace: state.object.Ref.Namespace, Name: ref.Name})
	if err != nil {
		state.broken = fmt.Sprintf("the certificate to present: %v", err)
		r.report(state.object.problem(CodeRefNotFound, "spec.tls.clientCertificateRef", err.Error()+"; requests to it are answered with 500"))
		return
	}
	tls.Certificate = id
}
