package envoy

import (
	"cmp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	headertometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/limitexpr"
	"weir.dev/policy"
)

// Entries that say something of a request to ratelimitd, and are not counted by;
// see weir.dev/ratelimit.
const (
	entryClass    = "weir.class"
	entryRequests = "weir.requests"
	entryCost     = "weir.cost"
	entryTicket   = "weir.ticket"
	entryInput    = "weir.in."
)

// metadataRateLimit is where Envoy keeps what ratelimitd answers, whatever the
// filter's name; metadataCosts is where responses' costs are kept.
const (
	metadataRateLimit = "envoy.filters.http.ratelimit"
	metadataCosts     = "weir.costs"
)

func rateLimits(route *policy.Route) []*routev3.RateLimit {
	var compiled []*routev3.RateLimit
	for i := range route.Limits {
		limit := &route.Limits[i]
		if limit.Quota {
			continue
		}
		actions := append(countedBy(limit), hints(limit)...)
		if limit.CostHeader != "" {
			actions = append(actions, headerEntry(entryCost, limit.CostHeader, true))
		}
		for _, input := range limit.CostInputs {
			actions = append(actions, inputEntry(input))
		}
		compiled = append(compiled, &routev3.RateLimit{Stage: wrapperspb.UInt32(stageOf(limit)), Actions: actions})
		if !limit.Ends && !limit.Settles() {
			continue
		}
		// Nothing is told of requests that have no ticket, such as refused ones.
		actions = append(countedBy(limit), hints(limit)...)
		actions = append(actions, metadataEntry(entryTicket, &metadatav3.MetadataKey{
			Key: metadataRateLimit, Path: append(metadataPath("tickets"), metadataPath(limit.Rule)...),
		}, false))
		if limit.Settles() {
			actions = append(actions, metadataEntry(entryCost, metadataKey(metadataCosts, cmp.Or(limit.SettleHeader, bodyCost(limit.SettleField))), false))
		}
		compiled = append(compiled, &routev3.RateLimit{Stage: wrapperspb.UInt32(stageOf(limit)), Actions: actions, ApplyOnStreamDone: true})
	}
	return compiled
}

func stageOf(limit *policy.Limit) uint32 {
	if limit.FailureMode == "Closed" {
		return stageClosed
	}
	return stageOpen
}

// countedBy names the rule and what is counted separately.
func countedBy(limit *policy.Limit) []*routev3.RateLimit_Action {
	actions := []*routev3.RateLimit_Action{genericKey("weir.limit", limit.Rule)}
	if limit.ByTier {
		actions = append(actions, identityKey("tier", tierOf(limit), "none"))
	}
	for _, by := range limit.By {
		switch by.Type {
		case "Consumer":
			actions = append(actions, identityKey("consumer", "principal", "anonymous"))
		case "Tenant":
			actions = append(actions, identityKey("tenant", "tenant", "none"))
		case "Route":
			actions = append(actions, genericKey("route", limit.Group))
		case "ClientIP":
			actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RemoteAddress_{
				RemoteAddress: &routev3.RateLimit_Action_RemoteAddress{},
			}})
		case "Header":
			actions = append(actions, countedHeader(by.Header))
		}
	}
	return actions
}

// tierOf is the field of what extauthz found out that a limit takes for the tier.
func tierOf(limit *policy.Limit) string { return cmp.Or(limit.TierFrom, "tier") }

// inputEntry sends along what a cost's expression reads, where the request has it.
func inputEntry(input limitexpr.Input) *routev3.RateLimit_Action {
	key := entryInput + input.String()
	switch input.Kind {
	case limitexpr.Header:
		return headerEntry(key, input.Name, true)
	case limitexpr.Param:
		return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_QueryParameters_{
			QueryParameters: &routev3.RateLimit_Action_QueryParameters{QueryParameterName: input.Name, DescriptorKey: key, SkipIfAbsent: true},
		}}
	case limitexpr.Size:
		return headerEntry(key, "content-length", true)
	case limitexpr.Method:
		return headerEntry(key, ":method", true)
	case limitexpr.Host:
		return headerEntry(key, headerAuthority, true)
	case limitexpr.Path:
		return headerEntry(key, ":path", true)
	default: // what extauthz found out
		return metadataEntry(key, metadataKey(filterExtAuthz, input.String()), true)
	}
}

// hints are what else picks the numbers.
func hints(limit *policy.Limit) []*routev3.RateLimit_Action {
	var actions []*routev3.RateLimit_Action
	if limit.ByClass {
		actions = append(actions, identityKey(entryClass, tierOf(limit), "none"))
	}
	if limit.Override != "" {
		actions = append(actions, metadataEntry(entryRequests, metadataKey(filterExtAuthz, limit.Override), true))
	}
	return actions
}

// countedHeader makes an entry of a header that is counted by; of the host
// ratelimitd takes the port off.
func countedHeader(name string) *routev3.RateLimit_Action {
	return headerEntry("header."+strings.ToLower(name), name, false)
}

// headerEntry makes an entry of a request header. Without the header there is no
// descriptor, or, if optional, no entry.
func headerEntry(key, header string, optional bool) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
		RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: header, DescriptorKey: key, SkipIfAbsent: optional},
	}}
}

// metadataEntry makes an entry of a text in the request's metadata, with the same
// meaning of optional.
func metadataEntry(key string, from *metadatav3.MetadataKey, optional bool) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Metadata{
		Metadata: &routev3.RateLimit_Action_MetaData{
			DescriptorKey: key, Source: routev3.RateLimit_Action_MetaData_DYNAMIC, MetadataKey: from, SkipIfAbsent: optional,
		},
	}}
}

func metadataPath(name string) []*metadatav3.MetadataKey_PathSegment {
	return []*metadatav3.MetadataKey_PathSegment{{Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: name}}}
}

// costHeaders copies the response headers that say costs to where settling limits
// read them; nil for routes without such limits.
func costHeaders(route *policy.Route) *headertometadatav3.Config {
	var rules []*headertometadatav3.Config_Rule
	seen := map[string]bool{}
	for i := range route.Limits {
		header := route.Limits[i].SettleHeader
		if header == "" || seen[header] {
			continue
		}
		seen[header] = true
		rules = append(rules, &headertometadatav3.Config_Rule{
			Header:          header,
			OnHeaderPresent: &headertometadatav3.Config_KeyValuePair{MetadataNamespace: metadataCosts, Key: header, Type: headertometadatav3.Config_STRING},
		})
	}
	if rules == nil {
		return nil
	}
	return &headertometadatav3.Config{ResponseRules: rules}
}

func genericKey(key, value string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
		GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: key, DescriptorValue: value},
	}}
}

// identityKey counts by a field of what extauthz found out.
func identityKey(key, field, otherwise string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Metadata{
		Metadata: &routev3.RateLimit_Action_MetaData{
			DescriptorKey: key, DefaultValue: otherwise, Source: routev3.RateLimit_Action_MetaData_DYNAMIC,
			MetadataKey: metadataKey(filterExtAuthz, field),
		},
	}}
}
