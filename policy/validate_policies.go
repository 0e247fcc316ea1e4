package policy

import (
	"fmt"
	"reflect"
	"strings"

	"weir.dev/policy/v1alpha1"
)

// settingsBlocks checks that a policy says its settings in one place, and each
// place by itself. check is given the field, and whether the settings may be
// added to others'. required says that there must be any.
func settingsBlocks[S any](c *checker, kind v1alpha1.MergeStrategy, required bool, b blocks[S], check func(field string, settings *S, merge bool)) {
	c.targetRefs(b.targets)
	var places []string
	for _, place := range []struct {
		field string
		block block[S]
	}{{"spec", nil}, {"spec.defaults", b.defaults}, {"spec.overrides", b.overrides}} {
		strategy, settings := v1alpha1.MergeStrategy(""), b.settings
		if place.block != nil {
			strategy, settings = place.block.Said()
		}
		if settings == nil || place.block == nil && reflect.ValueOf(settings).Elem().IsZero() {
			continue
		}
		places = append(places, place.field)
		oneOf(c, place.field+".strategy", strategy, true, v1alpha1.StrategyAtomic, v1alpha1.StrategyMerge)
		check(place.field, settings, strategy == v1alpha1.StrategyMerge || strategy == "" && kind == v1alpha1.StrategyMerge)
	}
	switch {
	case len(places) > 1:
		c.fail(CodeManyBlocks, places[len(places)-1], "the settings are in %s; write them in one place", strings.Join(places, " and "))
	case len(places) == 0 && required:
		check("spec", b.settings, false)
	}
}

func (c *checker) authPolicy(spec *v1alpha1.AuthPolicySpec) {
	oneOf(c, "spec.mode", spec.Mode, true, v1alpha1.ModeEnforce, v1alpha1.ModeShadow)
	settingsBlocks(c, v1alpha1.StrategyAtomic, true,
		blocks[v1alpha1.AuthSettings]{spec.TargetRefs, &spec.AuthSettings, spec.Defaults, spec.Overrides}, c.authSettings)
}

func (c *checker) authSettings(at string, settings *v1alpha1.AuthSettings, merge bool) {
	least := 1
	if merge && (settings.Authorization != nil || settings.CORS != nil || settings.Upstream != nil || settings.Audit != "") {
		least = 0
	}
	c.count(at+".authentication", len(settings.Authentication), least, 16)
	names := make([]string, len(settings.Authentication))
	for i, way := range settings.Authentication {
		names[i] = way.Name
		field := fmt.Sprintf("%s.authentication[%d]", at, i)
		set := 0
		for _, is := range []bool{
			way.APIKey != nil, way.JWT != nil, way.Login != nil, way.Introspection != nil, way.Kubernetes != nil, way.ClientCertificate != nil, way.HTTPSignature != nil,
			way.Anonymous != nil,
		} {
			if is {
				set++
			}
		}
		if set != 1 {
			c.fail(CodeInvalid, field, "set exactly one of apiKey, jwt, login, introspection, kubernetes, clientCertificate, httpSignature and anonymous")
		}
		if way.APIKey != nil && way.APIKey.Header != "" {
			c.header(field+".apiKey.header", way.APIKey.Header)
			if strings.EqualFold(way.APIKey.Header, "authorization") || strings.Contains(way.APIKey.Header, "_") {
				c.fail(CodeInvalid, field+".apiKey.header", "%q: Authorization is for tokens, and headers with _ are refused at the edge", way.APIKey.Header)
			}
		}
		if way.JWT != nil {
			c.jwt(field+".jwt", way.JWT)
		}
		if way.Login != nil {
			c.login(field+".login", way.Login)
		}
		c.proofs(field, &settings.Authentication[i])
		c.tokenWay(field, &settings.Authentication[i])
	}
	c.unique(at+".authentication", names)
	c.authorization(at+".authorization", settings.Authorization, merge)
	c.upstream(at+".upstream", settings.Upstream)
	c.sameTokens(at+".authentication", settings.Authentication)
	if settings.CORS != nil {
		c.corsCredentials(at+".cors", settings.CORS)
		c.cors(at+".cors", settings.CORS.Filter())
	}
	oneOf(c, at+".audit", settings.Audit, true, v1alpha1.AuditRequired, v1alpha1.AuditBestEffort, v1alpha1.AuditNone)
}

func (c *checker) rateLimitPolicy(spec *v1alpha1.RateLimitPolicySpec) {
	settingsBlocks(c, v1alpha1.StrategyAtomic, true,
		blocks[v1alpha1.RateLimitSettings]{spec.TargetRefs, &spec.RateLimitSettings, spec.Defaults, spec.Overrides}, c.rateLimitSettings)
}

func (c *checker) rateLimitSettings(at string, settings *v1alpha1.RateLimitSettings, _ bool) {
	c.count(at+".limits", len(settings.Limits), 1, 8)
	names := make([]string, len(settings.Limits))
	for i := range settings.Limits {
		names[i] = settings.Limits[i].Name
		c.limit(fmt.Sprintf("%s.limits[%d]", at, i), &settings.Limits[i])
	}
	c.unique(at+".limits", names)
}

func (c *checker) trafficPolicy(spec *v1alpha1.TrafficPolicySpec) {
	settingsBlocks(c, v1alpha1.StrategyMerge, false,
		blocks[v1alpha1.TrafficSettings]{spec.TargetRefs, &spec.TrafficSettings, spec.Defaults, spec.Overrides},
		func(field string, settings *v1alpha1.TrafficSettings, _ bool) { c.trafficSettings(field, settings) })
}
