package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weir.dev/policy/v1alpha1"
)

// said makes a statement for a merge; pieces are "key=value".
func said(name string, overrides, atomic bool, pieces ...string) *statement {
	object := &Object{Ref: ObjectRef{Kind: "AuthPolicy", Namespace: "default", Name: name}, Value: &v1alpha1.AuthPolicy{}}
	s := &statement{object: object, overrides: overrides, atomic: atomic, origin: object.Origin(""), reach: map[ancestor]*reach{}}
	for _, text := range pieces {
		key, value, _ := strings.Cut(text, "=")
		s.pieces = append(s.pieces, piece{key: key, value: value, origin: s.origin})
	}
	return s
}

func render(e effective) string {
	var parts []string
	for _, won := range e.pieces {
		parts = append(parts, fmt.Sprintf("%s=%v", won.key, won.value))
	}
	return strings.Join(parts, " ")
}

func effects(e effective) map[string]PolicyEffect {
	found := map[string]PolicyEffect{}
	for _, layer := range e.layers {
		if use, ok := layer.use(); ok {
			found[layer.object.Ref.Name] = use.Effect
		}
	}
	return found
}

// The examples 2 and 3 of GEP-713, and what the text leaves open (ADR 0015).
func TestMerge(t *testing.T) {
	const defaults, overrides, atomic, merge = false, true, true, false
	for name, tc := range map[string]struct {
		rule, route, listener, gateway []*statement
		want                           string
		effects                        map[string]PolicyEffect
	}{
		"the more specific default wins": {
			route: []*statement{said("p2", defaults, atomic, "color=blue")}, gateway: []*statement{said("p1", defaults, atomic, "color=red")},
			want: "color=blue", effects: map[string]PolicyEffect{"p1": PolicyOverridden, "p2": PolicyApplied},
		},
		"a default alone": {
			gateway: []*statement{said("p1", defaults, atomic, "color=red")},
			want:    "color=red", effects: map[string]PolicyEffect{"p1": PolicyApplied},
		},
		"an override wins": {
			route: []*statement{said("p4", defaults, atomic, "color=green")}, gateway: []*statement{said("p3", overrides, atomic, "color=yellow")},
			want: "color=yellow", effects: map[string]PolicyEffect{"p4": PolicyOverridden, "p3": PolicyApplied},
		},
		"atomic defaults are not mixed": {
			route: []*statement{said("p2", defaults, atomic, "light=blue")}, gateway: []*statement{said("p1", defaults, atomic, "dark=brown", "light=red")},
			want: "light=blue", effects: map[string]PolicyEffect{"p1": PolicyOverridden, "p2": PolicyApplied},
		},
		"merged overrides leave the rest": {
			route: []*statement{said("p4", defaults, atomic, "dark=olive", "light=green")}, gateway: []*statement{said("p3", overrides, merge, "light=yellow")},
			want: "light=yellow dark=olive", effects: map[string]PolicyEffect{"p4": PolicyPartly, "p3": PolicyApplied},
		},
		"merged defaults add": {
			rule: []*statement{said("r", defaults, merge, "a=rule")}, route: []*statement{said("s", defaults, merge, "a=route", "b=route")},
			gateway: []*statement{said("g", defaults, merge, "b=gateway", "c=gateway")},
			want:    "a=rule b=route c=gateway", effects: map[string]PolicyEffect{"r": PolicyApplied, "s": PolicyPartly, "g": PolicyPartly},
		},
		"the least specific override wins": {
			rule: []*statement{said("r", overrides, atomic, "a=rule")}, listener: []*statement{said("l", overrides, atomic, "a=listener")},
			gateway: []*statement{said("g", overrides, merge, "b=gateway")},
			want:    "b=gateway a=listener", effects: map[string]PolicyEffect{"r": PolicyOverridden, "l": PolicyApplied, "g": PolicyApplied},
		},
		"an override beats defaults above it": {
			route: []*statement{said("r", overrides, merge, "a=route")}, gateway: []*statement{said("g", defaults, merge, "a=gateway", "b=gateway")},
			want: "a=route b=gateway", effects: map[string]PolicyEffect{"r": PolicyApplied, "g": PolicyPartly},
		},
		"on one target the older wins and the younger adds": {
			gateway: []*statement{said("a-old", defaults, merge, "a=old"), said("young", defaults, merge, "a=young", "b=young", "d=young")},
			route:   []*statement{said("r", defaults, atomic, "b=route", "c=route")},
			want:    "b=route c=route a=old d=young", effects: map[string]PolicyEffect{"a-old": PolicyApplied, "young": PolicyPartly, "r": PolicyApplied},
		},
		"on one target an override comes first, and leaves defaults the rest": {
			gateway: []*statement{said("z", overrides, merge, "a=z"), said("a", defaults, atomic, "a=a", "b=a")},
			want:    "a=z b=a", effects: map[string]PolicyEffect{"z": PolicyApplied, "a": PolicyPartly},
		},
		"an atomic override leaves nothing": {
			rule: []*statement{said("r", overrides, merge, "a=rule", "b=rule")}, route: []*statement{said("s", defaults, merge, "c=route")},
			gateway: []*statement{said("g", overrides, atomic, "a=gateway")},
			want:    "a=gateway", effects: map[string]PolicyEffect{"r": PolicyOverridden, "s": PolicyOverridden, "g": PolicyApplied},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := mergeLevels([levelCount][]*statement{levelRule: tc.rule, levelRoute: tc.route, levelListener: tc.listener, levelGateway: tc.gateway})
			require.Equal(t, tc.want, render(e))
			require.Equal(t, tc.effects, effects(e))
		})
	}
}

// A policy on a route and on its Gateway is in effect once, and loses nothing to
// itself.
func TestMergeOfOnePolicyOnTwoLevels(t *testing.T) {
	for _, atomic := range []bool{true, false} {
		for _, overrides := range []bool{true, false} {
			s := said("p", overrides, atomic, "a=1", "b=2")
			e := mergeLevels([levelCount][]*statement{levelRoute: {s}, levelGateway: {s}})
			require.Equal(t, "a=1 b=2", render(e))
			require.Equal(t, map[string]PolicyEffect{"p": PolicyApplied}, effects(e))
		}
	}
}

// Who lost is told who is in effect, not who lost in turn.
func TestMergeNamesTheWinner(t *testing.T) {
	e := mergeLevels([levelCount][]*statement{
		levelRule: {said("r", false, true, "a=rule")}, levelRoute: {said("s", true, true, "a=route")}, levelGateway: {said("g", true, true, "a=gateway")},
	})
	for _, layer := range e.layers {
		if use, _ := layer.use(); layer.object.Ref.Name != "g" {
			require.Equal(t, []string{"g"}, []string{use.By[0].Object.Name})
			require.Equal(t, "AuthPolicy default/g overrides it from the gateway", use.Reason)
		}
	}
}

func TestSettingsOf(t *testing.T) {
	object := func(name string, settings v1alpha1.TrafficSettings, age time.Duration) *statement {
		policy := &v1alpha1.TrafficPolicy{Spec: v1alpha1.TrafficPolicySpec{TrafficSettings: settings}}
		policy.CreationTimestamp = metav1.NewTime(time.Unix(1e9, 0).Add(-age))
		o := &Object{Ref: ObjectRef{Kind: v1alpha1.KindTrafficPolicy, Namespace: "default", Name: name}, Value: policy}
		kind := policyKinds()[kindTraffic]
		return kind.read(o, kind)
	}
	retry, budget := &v1alpha1.TrafficRetry{}, &v1alpha1.RetryBudget{}
	e := mergeLevels([levelCount][]*statement{
		levelRoute:   {object("route", v1alpha1.TrafficSettings{Retry: retry}, 0)},
		levelGateway: {object("gateway", v1alpha1.TrafficSettings{Retry: &v1alpha1.TrafficRetry{}, RetryBudget: budget}, 0)},
	})
	settings, origins := settingsOf[v1alpha1.TrafficSettings](&e)
	require.Same(t, retry, settings.Retry)
	require.Same(t, budget, settings.RetryBudget)
	require.Nil(t, settings.Fault)
	require.Equal(t, "TrafficPolicy default/route: spec.retry", origins["retry"].String())
	require.Equal(t, "TrafficPolicy default/gateway: spec.retryBudget", origins["retryBudget"].String())
}

// What is about connections is asked for at the listener.
func TestPoliciesAtAListener(t *testing.T) {
	s := said("p", false, false, "a=1")
	r := &resolver{policies: policyIndex{sets: map[stack]*policySet{}, targets: map[targetKey]*target{
		{"Gateway", "default", "g", "http"}: {id: 1, standing: [policyKindCount][]*statement{kindTraffic: {s}}},
	}}}
	gateway := &Object{Ref: ObjectRef{Kind: "Gateway", Namespace: "default", Name: "g"}}
	http, other := &listener{gateway: gateway, name: "http"}, &listener{gateway: gateway, name: "other"}
	require.Len(t, r.policiesAt(http).kinds[kindTraffic].pieces, 1)
	require.Same(t, r.policiesAt(http), r.policiesAt(http))
	require.Empty(t, r.policiesAt(other).kinds[kindTraffic].pieces)
	require.Empty(t, s.reach, "no route is reached")
}
