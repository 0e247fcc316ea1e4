package envoy

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jsonparserv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/content_parsers/json/v3"
	jsontometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/json_to_metadata/v3"
	ssetometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/sse_to_metadata/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/policy"
)

// maxEventBytes bounds one event of a stream that says a cost; a larger one is
// passed on unread.
const maxEventBytes = 256 << 10

// bodyCost names the cost at a place in a body, within metadataCosts.
func bodyCost(field string) string {
	if field == "" {
		return ""
	}
	return "body." + field
}

// costFields are the places in response bodies that say costs; nil for routes
// without such limits.
func costFields(route *policy.Route) (fields []string) {
	seen := map[string]bool{}
	for i := range route.Limits {
		if field := route.Limits[i].SettleField; field != "" && !seen[field] {
			seen[field] = true
			fields = append(fields, field)
		}
	}
	return fields
}

// fieldRules copy what JSON says at the fields to where settling limits read it.
func fieldRules(fields []string) []*jsontometadatav3.JsonToMetadata_Rule {
	var rules []*jsontometadatav3.JsonToMetadata_Rule
	for _, field := range fields {
		rule := &jsontometadatav3.JsonToMetadata_Rule{OnPresent: &jsontometadatav3.JsonToMetadata_KeyValuePair{
			MetadataNamespace: metadataCosts, Key: bodyCost(field), Type: jsontometadatav3.JsonToMetadata_STRING,
		}}
		for name := range strings.SplitSeq(field, ".") {
			rule.Selectors = append(rule.Selectors, &jsontometadatav3.JsonToMetadata_Selector{
				Selector: &jsontometadatav3.JsonToMetadata_Selector_Key{Key: name},
			})
		}
		rules = append(rules, rule)
	}
	return rules
}

// jsonCosts reads whole bodies.
func jsonCosts(fields []string) *jsontometadatav3.JsonToMetadata {
	return &jsontometadatav3.JsonToMetadata{ResponseRules: &jsontometadatav3.JsonToMetadata_MatchRules{
		Rules: fieldRules(fields),
		// With parameters and of derived types (RFC 6839), too.
		AllowContentTypesRegex: &matcherv3.RegexMatcher{Regex: `(?i)application/([!-~]+\+)?json[ \t]*(;.*)?`},
	}}
}

// eventCosts reads streams of events. The last event that says a cost counts.
func eventCosts(fields []string) *ssetometadatav3.SseToMetadata {
	parser := &jsonparserv3.JsonContentParser{}
	for _, rule := range fieldRules(fields) {
		parser.Rules = append(parser.Rules, &jsonparserv3.JsonContentParser_RuleConfig{Rule: rule})
	}
	return &ssetometadatav3.SseToMetadata{ResponseRules: &ssetometadatav3.SseToMetadata_ProcessingRules{
		ContentParser: &corev3.TypedExtensionConfig{Name: "envoy.content_parsers.json", TypedConfig: packed(parser)},
		MaxEventSize:  wrapperspb.UInt32(maxEventBytes),
	}}
}
