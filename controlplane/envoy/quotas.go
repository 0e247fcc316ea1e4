package envoy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	setfilterstatecommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	quotav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rate_limit_quota/v3"
	setfilterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	networkinputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"weir.dev/policy"
)

// A quota's bucket is what a route's quotaValues put into the stream's filter
// state before filterQuota reads it: a route brings its own values, and routes
// whose quotas are counted by the same things share the filters.
const (
	filterQuota       = "envoy.filters.http.rate_limit_quota"
	filterQuotaValues = "envoy.filters.http.set_filter_state/quota"
	// quotaReports is how often Envoy reports; 1.40 does so every 5 s in any case.
	quotaReports = 5 * time.Second
	// quotaRetryAfter is until there may be another assignment; when the limit has
	// room again is not known at the proxy.
	quotaRetryAfter = "5"
)

// quotaEntry is one entry of a bucket: its name and the texts of which the first
// that is there is its value. Without any the request is not limited.
type quotaEntry struct {
	name   string
	values []string
}

// quotaEntries are those of a limit, as countedBy makes them for plain limits, so
// that both share counters.
func quotaEntries(limit *policy.Limit) []quotaEntry {
	identity := func(name, field, otherwise string) quotaEntry {
		return quotaEntry{name, []string{"%DYNAMIC_METADATA(" + filterExtAuthz + ":" + field + ")%", otherwise}}
	}
	entries := []quotaEntry{{"weir.limit", []string{literal(limit.Rule)}}}
	if limit.ByTier {
		entries = append(entries, identity("tier", tierOf(limit), "none"))
	}
	for _, by := range limit.By {
		switch by.Type {
		case "Consumer":
			entries = append(entries, identity("consumer", "principal", "anonymous"))
		case "Tenant":
			entries = append(entries, identity("tenant", "tenant", "none"))
		case "Route":
			entries = append(entries, quotaEntry{"route", []string{literal(limit.Group)}})
		case "ClientIP":
			entries = append(entries, quotaEntry{"remote_address", []string{"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}})
		case "Header":
			entries = append(entries, quotaEntry{"header." + strings.ToLower(by.Header), []string{"%REQ(" + by.Header + ")%"}})
		}
	}
	return entries
}

// literal is a text that Envoy's formatter leaves as it is.
func literal(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// quotaFilter is the name of the filter that decides a route's nth quota, and its
// configuration. Those with equal entries and modes share it.
func quotaFilter(n int, limit *policy.Limit) (string, *quotav3.RateLimitQuotaFilterConfig) {
	entries := quotaEntries(limit)
	builder := map[string]*quotav3.RateLimitQuotaBucketSettings_BucketIdBuilder_ValueBuilder{}
	shape := []string{string(limit.FailureMode)}
	for _, entry := range entries {
		shape = append(shape, entry.name)
		builder[entry.name] = &quotav3.RateLimitQuotaBucketSettings_BucketIdBuilder_ValueBuilder{
			ValueSpecifier: &quotav3.RateLimitQuotaBucketSettings_BucketIdBuilder_ValueBuilder_CustomValue{CustomValue: &corev3.TypedExtensionConfig{
				Name: entry.name, TypedConfig: packed(&networkinputsv3.FilterStateInput{Key: quotaKey(n, entry.name)}),
			}},
		}
	}
	until := typev3.RateLimitStrategy_ALLOW_ALL
	if stageOf(limit) == stageClosed {
		until = typev3.RateLimitStrategy_DENY_ALL
	}
	settings := &quotav3.RateLimitQuotaBucketSettings{
		BucketIdBuilder:   &quotav3.RateLimitQuotaBucketSettings_BucketIdBuilder{BucketIdBuilder: builder},
		ReportingInterval: durationpb.New(quotaReports),
		DenyResponseSettings: &quotav3.RateLimitQuotaBucketSettings_DenyResponseSettings{
			GrpcStatus: &statuspb.Status{Code: int32(codes.ResourceExhausted)},
		},
		NoAssignmentBehavior: &quotav3.RateLimitQuotaBucketSettings_NoAssignmentBehavior{
			NoAssignmentBehavior: &quotav3.RateLimitQuotaBucketSettings_NoAssignmentBehavior_FallbackRateLimit{
				FallbackRateLimit: &typev3.RateLimitStrategy{Strategy: &typev3.RateLimitStrategy_BlanketRule_{BlanketRule: until}},
			},
		},
	}
	return fmt.Sprintf("%s/%d/%s", filterQuota, n, instance(filterQuota, shape)[len(filterQuota)+1:]), &quotav3.RateLimitQuotaFilterConfig{
		Domain:     rateLimitDomain,
		RlqsServer: grpcService(clusterRateLimit, 0),
		BucketMatchers: &xdsmatcherv3.Matcher{OnNoMatch: &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: &xdscorev3.TypedExtensionConfig{Name: "bucket", TypedConfig: packed(settings)},
		}}},
	}
}

// quotaKey is where the value of the nth quota's entry is in the filter state.
func quotaKey(n int, entry string) string { return fmt.Sprintf("weir.quota.%d.%s", n, entry) }

// quotas are a route's limits that Envoy decides from what it is assigned.
func quotas(route *policy.Route) (limits []*policy.Limit) {
	for i := range route.Limits {
		if route.Limits[i].Quota {
			limits = append(limits, &route.Limits[i])
		}
	}
	return limits
}

// quotaValues put the entries' values where the filters find them.
func quotaValues(limits []*policy.Limit) *setfilterstatev3.Config {
	config := &setfilterstatev3.Config{}
	for n, limit := range limits {
		for _, entry := range quotaEntries(limit) {
			// What comes later replaces what came before.
			for _, format := range slices.Backward(entry.values) {
				config.OnRequestHeaders = append(config.OnRequestHeaders, &setfilterstatecommonv3.FilterStateValue{
					Key:         &setfilterstatecommonv3.FilterStateValue_ObjectKey{ObjectKey: quotaKey(n, entry.name)},
					FactoryKey:  "envoy.string",
					SkipIfEmpty: true,
					Value: &setfilterstatecommonv3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
						Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
							Specifier: &corev3.DataSource_InlineString{InlineString: format},
						}},
						OmitEmptyValues: true,
					}},
				})
			}
		}
	}
	return config
}
