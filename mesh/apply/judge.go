package apply

import (
	"context"
	"reflect"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// judge waits until the gateways judge tokens, refuse and ask extauthz as was written.
// Where routes go from Istio to extauthz, that is so on every connection: one that is
// served by what its gateway had before has Istio judge its tokens still, and what Istio
// needs for it must not go.
func (r *run) judge(ctx context.Context) error {
	if r.Mesh == nil || !r.judges() {
		return nil
	}
	var objects []*unstructured.Unstructured
	for _, it := range r.written {
		if it.after != nil && slices.Contains([]string{"RequestAuthentication", "AuthorizationPolicy"}, it.id.Kind) {
			objects = append(objects, it.after)
		}
	}
	if len(objects) == 0 {
		return nil
	}
	var ports []int32
	for _, gateway := range r.gatewaysBefore() {
		if port := portOf(gateway); !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	err := r.await(ctx, "the gateways to judge tokens", func(ctx context.Context) ([]string, error) {
		return r.Mesh.Judges(ctx, ports, objects)
	})
	if err != nil || !r.handsBack() {
		return err
	}
	since := time.Now()
	return r.await(ctx, "connections to be served by what gateways have now", func(ctx context.Context) ([]string, error) {
		return r.Mesh.Draining(ctx, since)
	})
}

// handsBack reports whether some requests that Istio decides about are to be extauthz's:
// those of a rule that refuses, of which none will say the same.
func (r *run) handsBack() bool {
	places := func(object func(*item) *unstructured.Unstructured) (all []any) {
		for _, it := range slices.Concat(r.items, r.deletions) {
			value := object(it)
			if it.id.Kind != "AuthorizationPolicy" || value == nil {
				continue
			}
			if action, _, _ := unstructured.NestedString(value.Object, "spec", "action"); action != "DENY" {
				continue
			}
			for _, rule := range entries(value, "rules") {
				all = append(all, field(rule, "to"))
			}
		}
		return all
	}
	will := places(func(it *item) *unstructured.Unstructured { return it.want })
	return slices.ContainsFunc(places(func(it *item) *unstructured.Unstructured { return it.before }), func(place any) bool {
		return !slices.ContainsFunc(will, func(other any) bool { return reflect.DeepEqual(place, other) })
	})
}
