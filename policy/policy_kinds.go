package policy

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weir.dev/policy/v1alpha1"
)

// Kinds of policies, as places in policyKinds.
const (
	kindAuth = iota
	kindLimits
	kindTraffic
	kindExtensions
	kindTLS
	kindHeaders
	kindEdge
	policyKindCount
)

// policyKind is all that attachment, merging and status need to know of a kind of
// policy. A new kind is a type in v1alpha1 whose spec has targetRefs, its settings
// inline, and blocks of them under defaults and overrides; an entry here and in
// kinds(); its validation; and somebody who asks for what is in effect
// (settingsOf, or the pieces where they are lists of named rules).
type policyKind struct {
	name string
	// strategy is that of settings whose policy names none.
	strategy v1alpha1.MergeStrategy
	read     func(*Object, policyKind) *statement
}

func policyKinds() [policyKindCount]policyKind {
	return [policyKindCount]policyKind{
		kindAuth: {v1alpha1.KindAuthPolicy, v1alpha1.StrategyAtomic, func(o *Object, k policyKind) *statement {
			return read(o, k, authPieces, func(p *v1alpha1.AuthPolicy) blocks[v1alpha1.AuthSettings] {
				return blocks[v1alpha1.AuthSettings]{p.Spec.TargetRefs, &p.Spec.AuthSettings, p.Spec.Defaults, p.Spec.Overrides}
			})
		}},
		kindLimits: {v1alpha1.KindRateLimitPolicy, v1alpha1.StrategyAtomic, func(o *Object, k policyKind) *statement {
			return read(o, k, limitPieces, func(p *v1alpha1.RateLimitPolicy) blocks[v1alpha1.RateLimitSettings] {
				return blocks[v1alpha1.RateLimitSettings]{p.Spec.TargetRefs, &p.Spec.RateLimitSettings, p.Spec.Defaults, p.Spec.Overrides}
			})
		}},
		kindTraffic: {v1alpha1.KindTrafficPolicy, v1alpha1.StrategyMerge, func(o *Object, k policyKind) *statement {
			return read(o, k, fieldPieces[v1alpha1.TrafficSettings], func(p *v1alpha1.TrafficPolicy) blocks[v1alpha1.TrafficSettings] {
				return blocks[v1alpha1.TrafficSettings]{p.Spec.TargetRefs, &p.Spec.TrafficSettings, p.Spec.Defaults, p.Spec.Overrides}
			})
		}},
		kindExtensions: {v1alpha1.KindExtensionPolicy, v1alpha1.StrategyAtomic, func(o *Object, k policyKind) *statement {
			return read(o, k, extensionPieces, func(p *v1alpha1.ExtensionPolicy) blocks[v1alpha1.ExtensionSettings] {
				return blocks[v1alpha1.ExtensionSettings]{p.Spec.TargetRefs, &p.Spec.ExtensionSettings, p.Spec.Defaults, p.Spec.Overrides}
			})
		}},
		kindTLS: {v1alpha1.KindTLSPolicy, v1alpha1.StrategyMerge, func(o *Object, k policyKind) *statement {
			return read(o, k, fieldPieces[v1alpha1.TLSSettings], func(p *v1alpha1.TLSPolicy) blocks[v1alpha1.TLSSettings] {
				return blocks[v1alpha1.TLSSettings]{p.Spec.TargetRefs, &p.Spec.TLSSettings, p.Spec.Defaults, p.Spec.Overrides}
			})
		}},
		kindHeaders: {v1alpha1.KindHeaderPolicy, v1alpha1.StrategyMerge, func(o *Object, k policyKind) *statement {
			return read(o, k, fieldPieces[v1alpha1.HeaderSettings], func(p *v1alpha1.HeaderPolicy) blocks[v1alpha1.HeaderSettings] {
				return blocks[v1alpha1.HeaderSettings]{p.Spec.TargetRefs, &p.Spec.HeaderSettings, p.Spec.Defaults, p.Spec.Overrides}
			})
		}},
		kindEdge: {v1alpha1.KindEdgePolicy, v1alpha1.StrategyMerge, func(o *Object, k policyKind) *statement {
			return read(o, k, fieldPieces[v1alpha1.EdgeSettings], func(p *v1alpha1.EdgePolicy) blocks[v1alpha1.EdgeSettings] {
				return blocks[v1alpha1.EdgeSettings]{p.Spec.TargetRefs, &p.Spec.EdgeSettings, p.Spec.Defaults, p.Spec.Overrides}
			})
		}},
	}
}

// reservedKinds are kinds of later versions, with what they will be about.
func reservedKinds() map[string]string {
	return map[string]string{
		"CachePolicy":     "answers kept at the edge",
		"TransformPolicy": "changing bodies and headers on the way",
		"WAFPolicy":       "inspecting requests for attacks",
	}
}

// blocks are the places where a policy can say its settings.
type blocks[S any] struct {
	targets             []v1alpha1.TargetRef
	settings            *S
	defaults, overrides block[S]
}

type block[S any] interface {
	Said() (v1alpha1.MergeStrategy, *S)
}

// said is where the policy's settings are: the field, the strategy written there
// and the settings. Validation leaves one place only.
func (b blocks[S]) said() (field string, overrides bool, strategy v1alpha1.MergeStrategy, settings *S) {
	if strategy, settings := b.overrides.Said(); settings != nil {
		return "spec.overrides", true, strategy, settings
	}
	if strategy, settings := b.defaults.Said(); settings != nil {
		return "spec.defaults", false, strategy, settings
	}
	return "spec", false, "", b.settings
}

// statement is what one policy says. It is immutable after index.
type statement struct {
	// object is nil for a closing.
	object    *Object
	targets   []v1alpha1.TargetRef
	overrides bool
	atomic    bool
	pieces    []piece
	origin    Origin
	// shadow says that the policy is compared and not in force.
	shadow bool
	// closing is set where a broken AuthPolicy stands.
	closing *Closing
	// reach is what became of it, by ancestor.
	reach map[ancestor]*reach
	// attachedTo are targets where it stands, missing those that are not there,
	// ties those where an older policy stands alone.
	attachedTo, missing []targetKey
	ties                []tie
	// brokenRefs are references that do not resolve.
	brokenRefs []string
}

// piece is one thing that a policy says, which another policy may say otherwise.
type piece struct {
	// key is the same for what replaces each other: a field of the settings or,
	// for lists of named rules, "list/name".
	key   string
	value any
	// origin of the piece within its policy.
	origin Origin
	// apart says that the piece is merged on its own, whatever the strategy.
	apart bool
}

func read[T metav1.Object, S any](object *Object, kind policyKind, pieces func(*Object, string, *S) []piece, spec func(T) blocks[S]) *statement {
	value, ok := object.Value.(T)
	if !ok {
		return nil
	}
	said := spec(value)
	field, overrides, strategy, settings := said.said()
	s := &statement{
		object: object, targets: said.targets, overrides: overrides,
		atomic: cmp.Or(strategy, kind.strategy) != v1alpha1.StrategyMerge,
		pieces: pieces(object, field, settings), reach: map[ancestor]*reach{},
	}
	if field == "spec" {
		field = ""
	}
	s.origin = object.Origin(field)
	return s
}

// fieldPieces has a piece for each field of the settings that is set; its key is
// the field's name in JSON.
func fieldPieces[S any](object *Object, field string, settings *S) []piece {
	var pieces []piece
	value := reflect.ValueOf(settings).Elem()
	for i := range value.NumField() {
		if value.Field(i).IsZero() {
			continue
		}
		name := jsonName(value.Type().Field(i))
		pieces = append(pieces, piece{key: name, value: value.Field(i).Interface(), origin: object.Origin(field + "." + name)})
	}
	return pieces
}

// settingsOf puts the pieces that fieldPieces made back together, with the origin
// of each field by its name. Callers do not change what it points to.
func settingsOf[S any](e *effective) (settings S, origins map[string]Origin) {
	value := reflect.ValueOf(&settings).Elem()
	for i := range value.NumField() {
		name := jsonName(value.Type().Field(i))
		for _, won := range e.pieces {
			if won.key != name {
				continue
			}
			value.Field(i).Set(reflect.ValueOf(won.value))
			if origins == nil {
				origins = map[string]Origin{}
			}
			origins[name] = won.origin
		}
	}
	return settings, origins
}

func jsonName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}

func authPieces(object *Object, field string, settings *v1alpha1.AuthSettings) []piece {
	var pieces []piece
	for i := range settings.Authentication {
		way := &settings.Authentication[i]
		pieces = append(pieces, piece{
			key: "authentication/" + way.Name, value: way, origin: object.Origin(fmt.Sprintf("%s.authentication[%d]", field, i)),
		})
	}
	if settings.Authorization != nil {
		for i := range settings.Authorization.Rules {
			rule := &settings.Authorization.Rules[i]
			pieces = append(pieces, piece{
				key: "authorization/" + rule.Name, value: rule, origin: object.Origin(fmt.Sprintf("%s.authorization.rules[%d]", field, i)),
			})
		}
		pieces = append(pieces, inputPieces(object, field+".authorization", &settings.Authorization.AuthorizationInputs)...)
	}
	if settings.Upstream != nil {
		pieces = append(pieces, piece{key: "upstream", value: settings.Upstream, origin: object.Origin(field + ".upstream")})
	}
	if settings.CORS != nil {
		pieces = append(pieces, piece{key: "cors", value: settings.CORS.Filter(), origin: object.Origin(field + ".cors"), apart: true})
	}
	if settings.Audit != "" {
		pieces = append(pieces, piece{key: "audit", value: settings.Audit, origin: object.Origin(field + ".audit"), apart: true})
	}
	return pieces
}

func limitPieces(object *Object, field string, settings *v1alpha1.RateLimitSettings) []piece {
	pieces := make([]piece, len(settings.Limits))
	for i := range settings.Limits {
		limit := &settings.Limits[i]
		pieces[i] = piece{key: "limits/" + limit.Name, value: limit, origin: object.Origin(fmt.Sprintf("%s.limits[%d]", field, i))}
	}
	return pieces
}
