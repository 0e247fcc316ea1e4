package envoy

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/policy"
)

func rateLimits(route *policy.Route) []*routev3.RateLimit {
	var compiled []*routev3.RateLimit
	for i := range route.Limits {
		limit := &route.Limits[i]
		stage := uint32(stageOpen)
		if limit.FailureMode == "Closed" {
			stage = stageClosed
		}
		actions := []*routev3.RateLimit_Action{genericKey("weir.limit", limit.Rule)}
		if limit.ByTier {
			actions = append(actions, identityKey("tier", "tier", "none"))
		}
		for _, by := range limit.By {
			switch by.Type {
			case "Consumer":
				actions = append(actions, identityKey("consumer", "principal", "anonymous"))
			case "Route":
				actions = append(actions, genericKey("route", limit.Group))
			case "ClientIP":
				actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RemoteAddress_{
					RemoteAddress: &routev3.RateLimit_Action_RemoteAddress{},
				}})
			case "Header":
				actions = append(actions, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
					RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{
						HeaderName: by.Header, DescriptorKey: fmt.Sprintf("header.%s", strings.ToLower(by.Header)),
					},
				}})
			}
		}
		compiled = append(compiled, &routev3.RateLimit{Stage: wrapperspb.UInt32(stage), Actions: actions})
	}
	return compiled
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
