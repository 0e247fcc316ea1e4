package policy

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// caKey is the key of a ConfigMap that holds a bundle (BackendTLSPolicyValidation).
const caKey = "ca.crt"

// maxBundleBytes bounds the authorities of one backend.
const maxBundleBytes = 1 << 20

// tlsPolicyState is a BackendTLSPolicy while resolving.
type tlsPolicyState struct {
	object *Object
	spec   *gatewayv1.BackendTLSPolicySpec
	tls    *TLS
	// failure is set when an authority cannot be read; noneValid when none can.
	failure   error
	reason    gatewayv1.PolicyConditionReason
	noneValid bool
	// lostTo is set for a target that another policy has, inEffect when there is
	// one that no other has.
	lostTo   string
	inEffect bool
	// gateways are those that reach a target.
	gateways map[ObjectRef]bool
}

// indexTLSPolicies gives each target to the policy of highest precedence: the
// older, then the first by namespace and name (BackendTLSPolicySpec, targetRefs).
func (r *resolver) indexTLSPolicies() {
	r.tlsPolicies = map[targetKey][]*tlsPolicyState{}
	for _, policy := range ofType[*gatewayv1.BackendTLSPolicy](r) {
		state := &tlsPolicyState{object: policy.object, spec: &policy.value.Spec, gateways: map[ObjectRef]bool{}}
		state.validation(r)
		r.allTLSPolicies = append(r.allTLSPolicies, state)
		for i, target := range policy.value.Spec.TargetRefs {
			field := fmt.Sprintf("spec.targetRefs[%d]", i)
			key := keyOf(policy.object.Ref.Namespace, target)
			if _, ok := r.byRef[ObjectRef{Kind: key.kind, Namespace: key.namespace, Name: key.name}]; !ok {
				r.report(policy.object.problem(CodeRefNotFound, field, fmt.Sprintf("there is no %s", describeTarget(key))))
				continue
			}
			if first := r.tlsPolicies[key]; len(first) > 0 {
				state.lostTo = first[0].object.Ref.Namespace + "/" + first[0].object.Ref.Name
				r.report(policy.object.problem(CodeOverridden, field, fmt.Sprintf("%s is already secured by %s, which comes first (the older, then the first by namespace and name)",
					describeTarget(key), first[0].object.Ref)))
			}
			r.tlsPolicies[key] = append(r.tlsPolicies[key], state)
		}
	}
}

// validation turns a policy into TLS settings.
func (s *tlsPolicyState) validation(r *resolver) {
	validation := &s.spec.Validation
	s.tls = &TLS{ServerName: string(validation.Hostname), Trust: TrustSystem, Names: validation.SubjectAltNames}
	if len(s.tls.Names) == 0 {
		s.tls.Names = []gatewayv1.SubjectAltName{{Type: gatewayv1.HostnameSubjectAltNameType, Hostname: gatewayv1.Hostname(validation.Hostname)}}
	}
	if len(validation.CACertificateRefs) == 0 {
		return
	}
	s.tls.Trust = TrustBundle
	var bundles []string
	for i, ref := range validation.CACertificateRefs {
		field := fmt.Sprintf("spec.validation.caCertificateRefs[%d]", i)
		bundle, reason, err := r.caBundle(s.object.Ref.Namespace, ref)
		if err != nil {
			s.failure, s.reason = fmt.Errorf("%s: %w", field, err), reason
			r.report(s.object.problem(CodeRefNotFound, field, err.Error()+"; requests to what the policy secures are answered with 500"))
			continue
		}
		bundles = append(bundles, bundle)
	}
	s.noneValid = len(bundles) == 0
	s.tls.Bundle = strings.Join(bundles, "\n")
}

func (r *resolver) caBundle(namespace string, ref gatewayv1.LocalObjectReference) (string, gatewayv1.PolicyConditionReason, error) {
	if ref.Group != "" || ref.Kind != "ConfigMap" {
		return "", gatewayv1.BackendTLSPolicyReasonInvalidKind, fmt.Errorf("authorities are in a ConfigMap, not in a %s of group %q", ref.Kind, ref.Group)
	}
	raw, err := r.configMapValue(namespace, v1alpha1.ConfigMapKeyRef{Name: string(ref.Name), Key: caKey})
	if err != nil {
		return "", gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef, err
	}
	bundle, err := certificates(raw)
	if err != nil {
		return "", gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef, fmt.Errorf("ConfigMap %s/%s, key %q: %w", namespace, ref.Name, caKey, err)
	}
	return bundle, "", nil
}

// certificates checks that a text is certificates in PEM, at least one, and
// nothing else but remarks; what it returns has no remarks.
func certificates(raw []byte) (string, error) {
	if len(raw) > maxBundleBytes {
		return "", fmt.Errorf("has %d bytes; the most is %d", len(raw), maxBundleBytes)
	}
	var out strings.Builder
	for {
		block, rest := pem.Decode(raw)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("holds a %s; only certificates belong there", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		raw = rest
	}
	if out.Len() == 0 {
		return "", errors.New("holds no certificate in PEM")
	}
	return out.String(), nil
}

// policyTLS secures a backend by the BackendTLSPolicy for its port, or else for
// the whole of it. own is set where the Backend says itself how it is secured.
func (r *resolver) policyTLS(state *backendState, port string, own bool) {
	ref := state.object.Ref
	whole := targetKey{kind: ref.Kind, namespace: ref.Namespace, name: ref.Name}
	section := whole
	section.section = port
	var all []*tlsPolicyState
	if port != "" {
		all = append(all, r.tlsPolicies[section]...)
	}
	all = append(all, r.tlsPolicies[whole]...)
	if !own {
		var winner *tlsPolicyState
		if len(all) > 0 {
			winner = all[0]
		}
		if why := r.closedBackend(ref, port, winner); why != "" {
			state.broken = why
		}
	}
	if len(all) == 0 {
		return
	}
	if own {
		for _, policy := range all {
			policy.lostTo = ref.String()
			r.report(policy.object.problem(CodeOverridden, "spec.targetRefs", fmt.Sprintf("%s says itself how it is secured, under spec.tls", ref)))
		}
		state.losers = all
		return
	}
	state.policy, state.losers = all[0], all[1:]
	state.backend.TLS = all[0].tls
	if all[0].failure != nil {
		state.broken = fmt.Sprintf("the %s that secures it is not whole: %v", all[0].object.Ref, all[0].failure)
	}
}

// tlsPolicyStatuses writes the status of every BackendTLSPolicy: per Gateway
// that reaches what it secures.
func (r *resolver) tlsPolicyStatuses() {
	for _, policy := range r.allTLSPolicies {
		if len(policy.gateways) == 0 {
			r.report(policy.object.notice(CodeNotAttached, "spec.targetRefs", "secures nothing that a route leads to"))
		}
		accepted := Condition{Type: string(gatewayv1.PolicyConditionAccepted), Status: metav1.ConditionTrue, Reason: string(gatewayv1.PolicyReasonAccepted)}
		resolved := Condition{
			Type: string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), Status: metav1.ConditionTrue,
			Reason: string(gatewayv1.BackendTLSPolicyReasonResolvedRefs),
		}
		if policy.failure != nil {
			resolved.Status, resolved.Reason, resolved.Message = metav1.ConditionFalse, string(policy.reason), policy.failure.Error()
		}
		switch {
		case policy.lostTo != "" && policy.inEffect:
			accepted.Message = "one of the targets is already secured by " + policy.lostTo
		case policy.lostTo != "":
			accepted.Status, accepted.Reason = metav1.ConditionFalse, string(gatewayv1.PolicyReasonConflicted)
			accepted.Message = "the target is already secured by " + policy.lostTo
		case policy.noneValid:
			accepted.Status, accepted.Reason = metav1.ConditionFalse, string(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate)
			accepted.Message = resolved.Message
		}
		status := r.status(policy.object)
		for _, gateway := range slices.SortedFunc(maps.Keys(policy.gateways), compareRefs) {
			group, kind, namespace := gatewayv1.Group(gatewayv1.GroupName), gatewayv1.Kind(kindGateway), gatewayv1.Namespace(gateway.Namespace)
			ancestor := status.parent(gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gatewayv1.ObjectName(gateway.Name)})
			SetCondition(&ancestor.Conditions, accepted)
			SetCondition(&ancestor.Conditions, resolved)
		}
	}
}

func (c *checker) backendTLSPolicy(spec *gatewayv1.BackendTLSPolicySpec) {
	c.count("spec.targetRefs", len(spec.TargetRefs), 1, 16)
	for i, target := range spec.TargetRefs {
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		service := target.Group == corev1.GroupName && target.Kind == "Service"
		if !service && (target.Group != v1alpha1.Group || target.Kind != v1alpha1.KindBackend) {
			c.fail(CodeInvalid, field+".kind", "targets are Services, and Backends of group %s", v1alpha1.Group)
		}
		if target.Name == "" {
			c.required(field + ".name")
		}
		if target.SectionName != nil && !service {
			c.fail(CodeInvalid, field+".sectionName", "a Backend has no named ports")
		}
		if slices.ContainsFunc(spec.TargetRefs[:i], func(other gatewayv1.LocalPolicyTargetReferenceWithSectionName) bool {
			return other.Kind == target.Kind && other.Name == target.Name && same(other.SectionName, target.SectionName)
		}) {
			c.fail(CodeDuplicateName, field, "is there twice")
		}
	}
	validation := &spec.Validation
	if validation.Hostname == "" {
		c.required("spec.validation.hostname")
	} else {
		c.hostname("spec.validation.hostname", string(validation.Hostname), false)
	}
	wellKnown := validation.WellKnownCACertificates
	if (len(validation.CACertificateRefs) > 0) == (wellKnown != nil && *wellKnown != "") {
		c.fail(CodeInvalid, "spec.validation", "set exactly one of caCertificateRefs and wellKnownCACertificates")
	}
	if wellKnown != nil && *wellKnown != "" {
		oneOf(c, "spec.validation.wellKnownCACertificates", *wellKnown, false, gatewayv1.WellKnownCACertificatesSystem)
	}
	c.count("spec.validation.caCertificateRefs", len(validation.CACertificateRefs), 0, 8)
	for i, ref := range validation.CACertificateRefs {
		if ref.Name == "" {
			c.required(fmt.Sprintf("spec.validation.caCertificateRefs[%d].name", i))
		}
	}
	c.subjectAltNames("spec.validation.subjectAltNames", validation.SubjectAltNames)
	if len(spec.Options) > 0 {
		c.fail(CodeUnsupported, "spec.options", "none is known to Weir, and the standard names none: remove them")
	}
}

func (c *checker) subjectAltNames(field string, names []gatewayv1.SubjectAltName) {
	c.count(field, len(names), 0, 5)
	for i, name := range names {
		part := fmt.Sprintf("%s[%d]", field, i)
		oneOf(c, part+".type", name.Type, false, gatewayv1.HostnameSubjectAltNameType, gatewayv1.URISubjectAltNameType)
		switch name.Type {
		case gatewayv1.HostnameSubjectAltNameType:
			c.hostname(part+".hostname", string(name.Hostname), true)
		case gatewayv1.URISubjectAltNameType:
			c.text(part+".uri", string(name.URI), true, 253)
			if !strings.Contains(string(name.URI), ":") {
				c.fail(CodeInvalid, part+".uri", "%q is not an absolute URI", string(name.URI))
			}
		}
	}
}
