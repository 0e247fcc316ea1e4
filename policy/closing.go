package policy

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// Closing says what a broken AuthPolicy protects, a broken TLSPolicy that asks
// for client certificates, or a broken BackendTLSPolicy.
type Closing struct {
	Origin Origin
	// Policy is the kind of the broken policy: TLSPolicy, which closes listeners,
	// BackendTLSPolicy, which closes backends, or else AuthPolicy.
	Policy string
	// Targets is nil when they could not be read, or are not there: everything
	// that no other AuthPolicy protects is then refused.
	Targets []v1alpha1.TargetRef
	// Overrides and Merge are how the policy says that it merges. Without targets,
	// Overrides refuses what other AuthPolicies protect, too.
	Overrides, Merge bool
	// Created is the policy's age, zero when it could not be read.
	Created metav1.Time
	// Namespace narrows that to a namespace; empty means all.
	Namespace string
}

// covers reports whether a Closing without targets refuses a route.
func (c *Closing) covers(route ObjectRef) bool {
	return c.Targets == nil && (c.Namespace == "" || c.Namespace == route.Namespace)
}

// closingOf reads what can be read of a broken AuthPolicy. Whatever cannot is
// taken for the stricter.
func closingOf(object *Object, raw []byte) *Closing {
	closing := &Closing{Origin: object.Origin("")}
	var loose struct {
		Metadata struct {
			CreationTimestamp metav1.Time `json:"creationTimestamp"`
		} `json:"metadata"`
	}
	if json.Unmarshal(raw, &loose) == nil {
		closing.Created = loose.Metadata.CreationTimestamp
	}
	var parts struct {
		Spec map[string]json.RawMessage `json:"spec"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return closing
	}
	var targets []v1alpha1.TargetRef
	if json.Unmarshal(parts.Spec["targetRefs"], &targets) == nil && targetsReadable(targets) {
		closing.Targets = targets
	}
	_, closing.Overrides = parts.Spec["overrides"]
	for _, name := range []string{"defaults", "overrides"} {
		block, ok := parts.Spec[name]
		var says struct {
			Strategy v1alpha1.MergeStrategy `json:"strategy"`
		}
		if ok && (json.Unmarshal(block, &says) != nil || says.Strategy != "" && says.Strategy != v1alpha1.StrategyAtomic) {
			closing.Merge = true
		}
	}
	return closing
}

// closingFor is what closes while a policy is broken or left out; nil when nothing
// does.
func closingFor(object *Object, raw []byte) *Closing {
	switch object.Ref.Kind {
	case v1alpha1.KindAuthPolicy:
		if closesNothing(raw) {
			return nil
		}
		return closingOf(object, raw)
	case kindBackendTLSPolicy:
		return backendClosingOf(object, raw)
	case v1alpha1.KindTLSPolicy:
		if !bytes.Contains(raw, []byte(clientCertificates)) {
			return nil
		}
		closing := closingOf(object, raw)
		closing.Policy, closing.Namespace = v1alpha1.KindTLSPolicy, object.Ref.Namespace
		return closing
	}
	return nil
}

func targetsReadable(targets []v1alpha1.TargetRef) bool {
	for _, target := range targets {
		if target.Name == "" || !slices.Contains([]gatewayv1.Kind{kindGateway, kindListenerSet, "HTTPRoute", "GRPCRoute"}, target.Kind) {
			return false
		}
	}
	return len(targets) > 0
}

// closesNothing reports whether a broken AuthPolicy says that it is in the shadow,
// however it spells that: it was to refuse nobody.
func closesNothing(raw []byte) bool {
	var loose struct {
		Spec struct {
			Mode string `json:"mode"`
		} `json:"spec"`
	}
	// What is wrong elsewhere doesn't matter here.
	_ = json.Unmarshal(raw, &loose)
	return strings.EqualFold(loose.Spec.Mode, string(v1alpha1.ModeShadow))
}
