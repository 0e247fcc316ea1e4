package envoy

import (
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

const (
	filterParameters = "envoy.filters.http.rbac/path-parameters"
	// parametersRefused is what Envoy says of a request that the filter refused.
	parametersRefused = "rbac_access_denied_matched_policy[path-parameters]"
)

// refuseParameters refuses paths with parameters (RFC 3986 section 3.3), whatever
// the route: Envoy matches them as part of a segment, and servers that cut them
// off would then serve what another route protects.
func refuseParameters(chain *policy.Chain) []*hcmv3.HttpFilter {
	if edge := chain.Settings(); edge.PathParameters == v1alpha1.PathParametersKeep {
		return nil
	}
	return []*hcmv3.HttpFilter{httpFilter(filterParameters, &rbacfilterv3.RBAC{Rules: &rbacv3.RBAC{
		Action: rbacv3.RBAC_DENY,
		Policies: map[string]*rbacv3.Policy{"path-parameters": {
			Permissions: []*rbacv3.Permission{{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{
				Rule: &matcherv3.PathMatcher_Path{Path: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: ";"}}},
			}}}},
			Principals: []*rbacv3.Principal{{Identifier: &rbacv3.Principal_Any{Any: true}}},
		}},
	}})}
}
