package policy

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

const kindBackendTLSPolicy = "BackendTLSPolicy"

// backendClosingOf reads what can be read of a broken BackendTLSPolicy: what it
// secures must not be spoken to in plain text meanwhile. Targets are of its own
// namespace.
func backendClosingOf(object *Object, raw []byte) *Closing {
	closing := &Closing{Origin: object.Origin(""), Policy: kindBackendTLSPolicy, Namespace: object.Ref.Namespace}
	var loose struct {
		Metadata struct {
			CreationTimestamp metav1.Time `json:"creationTimestamp"`
		} `json:"metadata"`
		Spec struct {
			TargetRefs json.RawMessage `json:"targetRefs"`
		} `json:"spec"`
	}
	// What cannot be read here stays empty, and then nothing narrows the closing.
	_ = json.Unmarshal(raw, &loose)
	closing.Created = loose.Metadata.CreationTimestamp
	var targets []v1alpha1.TargetRef
	if json.Unmarshal(loose.Spec.TargetRefs, &targets) != nil || len(targets) == 0 {
		return closing
	}
	for _, target := range targets {
		if target.Name == "" || target.Kind != "Service" && target.Kind != v1alpha1.KindBackend {
			return closing
		}
	}
	closing.Targets = targets
	return closing
}

// secures reports whether a broken BackendTLSPolicy is, or may be, about a port
// of a Service or a Backend; named is set when it says so.
func (c *Closing) secures(ref ObjectRef, port string) (may, named bool) {
	if c.Namespace != "" && c.Namespace != ref.Namespace {
		return false, false
	}
	if c.Targets == nil {
		return true, false
	}
	for _, target := range c.Targets {
		if string(target.Kind) != ref.Kind || string(target.Name) != ref.Name {
			continue
		}
		// The name of a port that there is not is taken for the whole: it may be what is
		// mistaken.
		if target.SectionName == nil || *target.SectionName == "" || *target.SectionName == gatewayv1.SectionName(port) || ref.Kind != "Service" {
			return true, true
		}
	}
	return false, false
}

// closedBackend says why a backend must not be spoken to because of a broken
// BackendTLSPolicy, "" when it may be: another policy secures it, and this one is
// not known to come first.
func (r *resolver) closedBackend(ref ObjectRef, port string, winner *tlsPolicyState) string {
	for i := range r.backendClosings {
		closing := &r.backendClosings[i]
		may, named := closing.secures(ref, port)
		if !may || winner != nil && (!named || winner.object.olderThan(closing)) {
			continue
		}
		return fmt.Sprintf("%s, which secures it or may, is broken, and it is not spoken to in plain text until that is mended", closing.Origin)
	}
	return ""
}

// olderThan reports whether an object comes before a broken policy: it is older,
// or as old and first by namespace and name.
func (o *Object) olderThan(closing *Closing) bool {
	mine := o.Value.GetCreationTimestamp()
	if order := mine.Compare(closing.Created.Time); order != 0 {
		return order < 0
	}
	return compareRefs(o.Ref, closing.Origin.Object) < 0
}
