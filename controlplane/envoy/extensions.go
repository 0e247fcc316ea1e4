package envoy

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/identity"
	"weir.dev/policy"
	"weir.dev/policy/v1alpha1"
)

// filterExtension starts the names of the filters of extensions.
const filterExtension = "weir.extension/"

// answeredByExtension is the condition, in CEL, that an extension answered by
// itself: the body is its own. Everything that Envoy answers has details; an
// extension's answer has those that it gives, if any.
const answeredByExtension = `response.code_details == "" || response.code_details.startsWith("extension")`

// extensionFilters are one filter for each extension of a chain, in the order in
// which requests meet them. They are off until a route turns them on.
func (c *compiler) extensionFilters(chain *policy.Chain) []*hcmv3.HttpFilter {
	found := map[string]*policy.Extension{}
	for i := range chain.Hosts {
		for j := range chain.Hosts[i].Routes {
			extensions := chain.Hosts[i].Routes[j].Extensions
			for k := range extensions {
				if extensions[k].Backend != "" {
					found[extensionFilter(&extensions[k])] = &extensions[k]
				}
			}
		}
	}
	var filters []*hcmv3.HttpFilter
	for _, name := range slices.SortedFunc(maps.Keys(found), func(a, b string) int {
		return cmp.Or(cmp.Compare(found[a].Slot, found[b].Slot), cmp.Compare(a, b))
	}) {
		filter := httpFilter(name, when(found[name], externalProcessor(found[name])))
		filter.Disabled = true
		filters = append(filters, filter)
	}
	return filters
}

// extensionFilter is the name of an extension's filter. The start of the slot, its
// level, tells apart the same extension where it is attached on several.
func extensionFilter(extension *policy.Extension) string {
	level, _, _ := strings.Cut(extension.Slot, "/")
	return filterExtension + level + "/" + extension.ID
}

func externalProcessor(extension *policy.Extension) *extprocv3.ExternalProcessor {
	processor := &extprocv3.ExternalProcessor{
		GrpcService:      grpcService(clusterName(extension.Backend), 0),
		FailureModeAllow: extension.FailOpen,
		StatusOnError:    &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		MessageTimeout:   durationpb.New(extension.Timeout),
		// A server may not lengthen its own timeout.
		MaxMessageTimeout:  durationpb.New(0),
		ProcessingMode:     processingMode(extension),
		AllowModeOverride:  extension.ModeOverride,
		RequestAttributes:  extension.RequestAttributes,
		ResponseAttributes: extension.ResponseAttributes,
		MutationRules: &mutationv3.HeaderMutationRules{
			// The route, its rules and limits are settled by then.
			AllowAllRouting:    wrapperspb.Bool(false),
			AllowEnvoy:         wrapperspb.Bool(false),
			DisallowSystem:     wrapperspb.Bool(true),
			DisallowExpression: regex("(?i)" + identity.HeaderPrefix + ".*"),
		},
		RouteCacheAction: extprocv3.ExternalProcessor_RETAIN,
		ForwardRules:     forwardRules(extension),
		StatPrefix:       "weir",
	}
	return processor
}

func forwardRules(extension *policy.Extension) *extprocv3.HeaderForwardingRules {
	rules := &extprocv3.HeaderForwardingRules{}
	if len(extension.AllowHeaders) > 0 {
		rules.AllowedHeaders = headerNames(extension.AllowHeaders)
	}
	if len(extension.DenyHeaders) > 0 {
		rules.DisallowedHeaders = headerNames(extension.DenyHeaders)
	}
	return rules
}

func headerNames(names []string) *matcherv3.ListStringMatcher {
	list := &matcherv3.ListStringMatcher{}
	for _, name := range names {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}, IgnoreCase: true,
		})
	}
	return list
}

func processingMode(extension *policy.Extension) *extprocv3.ProcessingMode {
	send := func(sent bool) extprocv3.ProcessingMode_HeaderSendMode {
		if sent {
			return extprocv3.ProcessingMode_SEND
		}
		return extprocv3.ProcessingMode_SKIP
	}
	body := map[v1alpha1.ExtensionBody]extprocv3.ProcessingMode_BodySendMode{
		v1alpha1.ExtensionBodyBuffered:        extprocv3.ProcessingMode_BUFFERED,
		v1alpha1.ExtensionBodyBufferedPartial: extprocv3.ProcessingMode_BUFFERED_PARTIAL,
		v1alpha1.ExtensionBodyStreamed:        extprocv3.ProcessingMode_STREAMED,
	}
	request, response := extension.Request, extension.Response
	return &extprocv3.ProcessingMode{
		RequestHeaderMode: send(request.Headers), ResponseHeaderMode: send(response.Headers),
		RequestBodyMode: body[request.Body], ResponseBodyMode: body[response.Body],
		RequestTrailerMode: send(request.Trailers), ResponseTrailerMode: send(response.Trailers),
	}
}

// extensionsOn turns the filters of a route's extensions on.
func extensionsOn(route *policy.Route, configs map[string]*anypb.Any) {
	for i := range route.Extensions {
		if route.Extensions[i].Backend != "" {
			configs[extensionFilter(&route.Extensions[i])] = packed(&routev3.FilterConfig{Config: &anypb.Any{}})
		}
	}
}

// lacksExtension reports whether an extension that has to see the requests cannot.
func lacksExtension(route *policy.Route) bool {
	return slices.ContainsFunc(route.Extensions, func(e policy.Extension) bool { return e.Backend == "" && !e.FailOpen })
}
