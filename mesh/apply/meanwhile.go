package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// jwtFilter is Istio's own for RequestAuthentication.
const jwtFilter = "envoy.filters.http.jwt_authn"

// judges reports whether Istio judges tokens, before or afterwards.
func (r *run) judges() bool {
	return slices.ContainsFunc(slices.Concat(r.items, r.deletions), func(it *item) bool { return it.id.Kind == "RequestAuthentication" })
}

// parts are the objects in the order in which they come. Where Istio judges tokens, it
// is told first which routes not to look at, then of the issuers, and then who is
// refused: nobody is for a token that was not looked at.
func (r *run) parts() [][]*item {
	if !r.judges() {
		return [][]*item{r.items}
	}
	parts := make([][]*item, 3)
	for _, it := range r.items {
		part := slices.Index([]string{"RequestAuthentication", "AuthorizationPolicy"}, it.id.Kind) + 1
		parts[part] = append(parts[part], it)
	}
	return parts
}

// meanwhile is what an object is while routes change. It refuses whatever the one
// before refused and the one to be does: a route that changes from extauthz to Istio,
// or back, has both guards until the change is everywhere.
func (r *run) meanwhile(it *item) *unstructured.Unstructured {
	switch {
	case it.id.Kind != "EnvoyFilter":
		return with(it.before, it.want)
	case r.willJudge():
		return judging(it.want, r.judged())
	case r.judges():
		return sparing(it.before, answering(it.before, it.want))
	default:
		return sparing(it.before, it.want)
	}
}

// asserted is what the gateways have to have of an EnvoyFilter meanwhile: what it
// only keeps of before is not asked for.
func (r *run) asserted(it *item) *unstructured.Unstructured {
	if !r.judges() {
		return it.want
	}
	if !r.willJudge() {
		return answering(it.before, it.want)
	}
	return r.meanwhile(it)
}

// answering is an EnvoyFilter that keeps the answers of before: Istio refuses until the
// change is over, and says so in extauthz's words.
func answering(before, want *unstructured.Unstructured) *unstructured.Unstructured {
	if before == nil {
		return want
	}
	answers := []string{"patch", "value", "typed_config", "local_reply_config"}
	patches, changed := entries(want, "configPatches"), false
	for _, old := range entries(before, "configPatches") {
		was, _ := old.(map[string]any)
		kept, there, _ := unstructured.NestedFieldCopy(was, answers...)
		i := slices.IndexFunc(patches, func(patch any) bool { return alike(field(patch, "match"), was["match"]) })
		if !there || i < 0 {
			continue
		}
		fields, _ := patches[i].(map[string]any)
		now, has, _ := unstructured.NestedFieldNoCopy(fields, answers...)
		if has && !alike(kept, now) && unstructured.SetNestedField(fields, kept, answers...) == nil {
			changed = true
		}
	}
	if !changed {
		return want
	}
	made := want.DeepCopy()
	_ = unstructured.SetNestedSlice(made.Object, patches, "spec", "configPatches") // spec is an object
	return made
}

// willJudge reports whether Istio is to judge tokens.
func (r *run) willJudge() bool {
	return slices.ContainsFunc(r.items, func(it *item) bool { return it.id.Kind == "RequestAuthentication" })
}

// unspared has an EnvoyFilter that goes spare no route any more, before anybody is
// refused for a token that was not judged.
func (r *run) unspared(ctx context.Context) ([]*item, error) {
	if !r.willJudge() {
		return nil, nil
	}
	var told []*item
	for _, it := range r.deletions {
		if it.id.Kind != "EnvoyFilter" {
			continue
		}
		part, err := appliedPart(it.before)
		if err != nil || part == nil {
			continue // not Weir's to change
		}
		patches, all := entries(part, "configPatches"), map[string]bool{}
		for _, patch := range patches {
			if name, configs := ofRoute(patch); configs[jwtFilter] != nil {
				all[name] = true
			}
		}
		if len(all) == 0 {
			continue
		}
		if err := r.write(ctx, it, judging(part, all)); err != nil {
			return nil, err
		}
		told = append(told, it)
	}
	return told, nil
}

// judged are the routes whose tokens Istio judged before, by name.
func (r *run) judged() map[string]bool {
	names, off, any := map[string]bool{}, map[string]bool{}, false
	for _, it := range slices.Concat(r.items, r.deletions) {
		switch {
		case it.before == nil:
		case it.id.Kind == "RequestAuthentication":
			any = true
		case it.id.Kind == "VirtualService":
			for _, entry := range entries(it.before, "http") {
				names[nameOf(entry)] = true
			}
		case it.id.Kind == "EnvoyFilter":
			for _, patch := range entries(it.before, "configPatches") {
				if name, configs := ofRoute(patch); configs[jwtFilter] != nil {
					off[name] = true
				}
			}
		}
	}
	if !any {
		return nil
	}
	for name := range off {
		delete(names, name)
	}
	return names
}

// judging is an EnvoyFilter that does not yet end the judging of tokens on routes:
// their guard of before refuses who has no token that was judged.
func judging(want *unstructured.Unstructured, routes map[string]bool) *unstructured.Unstructured {
	ends := func(patch any) bool {
		name, configs := ofRoute(patch)
		return routes[name] && configs[jwtFilter] != nil
	}
	if !slices.ContainsFunc(entries(want, "configPatches"), ends) {
		return want
	}
	kept := want.DeepCopy()
	patches := entries(kept, "configPatches")
	for _, patch := range patches {
		if ends(patch) {
			_, configs := ofRoute(patch)
			delete(configs, jwtFilter)
		}
	}
	_ = unstructured.SetNestedSlice(kept.Object, patches, "spec", "configPatches") // spec is an object
	return kept
}

// alike reports whether two values are the same JSON: a number of the API server is
// another type than one of ours.
func alike(a, b any) bool {
	one, err := json.Marshal(a)
	if err != nil {
		return false
	}
	other, err := json.Marshal(b)
	return err == nil && bytes.Equal(one, other)
}

// sparing is an EnvoyFilter that keeps what it spared routes before: tokens are judged
// until the change is over.
func sparing(before, want *unstructured.Unstructured) *unstructured.Unstructured {
	if before == nil {
		return want
	}
	patches, changed := entries(want, "configPatches"), false
	for _, patch := range entries(before, "configPatches") {
		name, configs := ofRoute(patch)
		off := configs[jwtFilter]
		if off == nil {
			continue
		}
		i := slices.IndexFunc(patches, func(other any) bool { n, c := ofRoute(other); return n == name && c != nil })
		if i < 0 {
			fields, _ := patch.(map[string]any)
			_ = unstructured.SetNestedMap(fields, map[string]any{jwtFilter: off}, "patch", "value", "typed_per_filter_config") // it is there
			patches, changed = append(patches, patch), true
		} else if _, own := ofRoute(patches[i]); own[jwtFilter] == nil {
			own[jwtFilter], changed = off, true
		}
	}
	if !changed {
		return want
	}
	kept := want.DeepCopy()
	_ = unstructured.SetNestedSlice(kept.Object, patches, "spec", "configPatches") // spec is an object
	return kept
}

// ofRoute is the route that a patch is about, and what filters do there.
func ofRoute(patch any) (name string, configs map[string]any) {
	fields, _ := patch.(map[string]any)
	name, _, _ = unstructured.NestedString(fields, "match", "routeConfiguration", "vhost", "route", "name")
	inner, _, _ := unstructured.NestedFieldNoCopy(fields, "patch", "value", "typed_per_filter_config")
	configs, _ = inner.(map[string]any)
	return name, configs
}

// joined are the entries of a list of the spec, and those of before that are not
// among them. Of two with the same key the one to be is taken, with what both have of
// the field named.
func joined(before, want *unstructured.Unstructured, list, key, both string) *unstructured.Unstructured {
	all := entries(want, list)
	changed := false
	for _, old := range entries(before, list) {
		i := slices.IndexFunc(all, func(entry any) bool {
			if key == "" {
				return reflect.DeepEqual(entry, old)
			}
			return field(entry, key) == field(old, key)
		})
		if i < 0 {
			all, changed = append(all, old), true
			continue
		}
		if key == "" {
			continue
		}
		entry, _ := all[i].(map[string]any)
		values, _ := entry[both].([]any)
		olds, _ := field(old, both).([]any)
		for _, value := range olds {
			if !slices.Contains(values, value) {
				values, changed = append(values, value), true
			}
		}
		if len(values) > 0 {
			entry[both] = values
		}
	}
	if !changed {
		return want
	}
	made := want.DeepCopy()
	_ = unstructured.SetNestedSlice(made.Object, all, "spec", list) // spec is an object
	return made
}

func field(entry any, name string) any {
	fields, _ := entry.(map[string]any)
	return fields[name]
}
