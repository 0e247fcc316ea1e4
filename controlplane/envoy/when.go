package envoy

import (
	"regexp"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	skipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"weir.dev/policy"
)

// when is the filter of an extension, which Envoy skips for requests that none of
// its matches holds for (ExtensionWithMatcher).
func when(extension *policy.Extension, processor *extprocv3.ExternalProcessor) proto.Message {
	if len(extension.When) == 0 {
		return processor
	}
	matches := make([]*xdsmatcherv3.Matcher_MatcherList_Predicate, 0, len(extension.When))
	for i := range extension.When {
		match := matchPredicate(&extension.When[i])
		if match == nil { // It holds for all.
			return processor
		}
		matches = append(matches, match)
	}
	seen := anyOf(matches)
	return &matchingv3.ExtensionWithMatcher{
		ExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.filters.http.ext_proc", TypedConfig: packed(processor)},
		XdsMatcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
			Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{
				Predicate: &xdsmatcherv3.Matcher_MatcherList_Predicate{
					MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: seen},
				},
				OnMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
					Action: &xdscorev3.TypedExtensionConfig{Name: "skip", TypedConfig: packed(&skipv3.SkipFilter{})},
				}},
			}},
		}}},
	}
}

func anyOf(predicates []*xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	if len(predicates) == 1 {
		return predicates[0]
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: predicates},
	}}
}

// matchPredicate is a match of the policy, nil for one that holds for all.
func matchPredicate(match *policy.Match) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	var all []*xdsmatcherv3.Matcher_MatcherList_Predicate
	if pattern := pathPattern(match.Path); pattern != "" {
		all = append(all, headerPredicate(policy.ValueMatch{Name: ":path", Value: pattern, Regex: true}))
	}
	if match.Method != "" {
		all = append(all, headerPredicate(policy.ValueMatch{Name: ":method", Value: match.Method}))
	}
	for _, header := range match.Headers {
		all = append(all, headerPredicate(header))
	}
	for _, parameter := range match.Query {
		all = append(all, valuePredicate("query_params", &matcherv3.HttpRequestQueryParamMatchInput{QueryParam: parameter.Name}, parameter))
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: all},
	}}
}

// pathPattern is an expression for the path with its query, which is all that
// Envoy's matchers see; empty for one that holds for all.
func pathPattern(path policy.PathMatch) string {
	const query = `(\?.*)?`
	switch path.Kind {
	case policy.PathRegex:
		return "(?:" + path.Value + ")" + query
	case policy.PathExact:
		return regexp.QuoteMeta(path.Value) + query
	default:
		if prefix := strings.TrimRight(path.Value, "/"); prefix != "" {
			return regexp.QuoteMeta(prefix) + `([/?].*)?`
		}
		return ""
	}
}

func headerPredicate(match policy.ValueMatch) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	name := match.Name
	if match.OfHost() {
		name = headerAuthority
	}
	return valuePredicate("request_headers", &matcherv3.HttpRequestHeaderMatchInput{HeaderName: name}, match.AnyPort())
}

func valuePredicate(input string, config proto.Message, match policy.ValueMatch) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	value := &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: match.Value}}
	if match.Regex {
		value.MatchPattern = &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
			Regex: match.Value, EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
		}}
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   &xdscorev3.TypedExtensionConfig{Name: "envoy.matching.inputs." + input, TypedConfig: packed(config)},
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: value},
		},
	}}
}
