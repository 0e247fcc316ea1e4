package envoy_test

import (
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/envoy"
)

// The filters of a port are in the order in which any of its routes wants them,
// off unless a route turns them on, and closed unless a policy says otherwise.
func TestExtensionFilters(t *testing.T) {
	set := compile(t, goldens(t)["extensions"], options())
	var listener listenerv3.Listener
	require.NoError(t, set[envoy.TypeListener]["port-8080"].Body.UnmarshalTo(&listener))
	var manager hcmv3.HttpConnectionManager
	require.NoError(t, listener.GetFilterChains()[0].GetFilters()[0].GetTypedConfig().UnmarshalTo(&manager))
	var names []string
	for _, filter := range manager.GetHttpFilters() {
		name, ok := strings.CutPrefix(filter.GetName(), "weir.extension/")
		if !ok {
			continue
		}
		names = append(names, name)
		require.True(t, filter.GetDisabled())
		config := filter.GetTypedConfig()
		if strings.HasSuffix(name, "/scan") { // Which sees some requests only.
			var matched matchingv3.ExtensionWithMatcher
			require.NoError(t, config.UnmarshalTo(&matched))
			config = matched.GetExtensionConfig().GetTypedConfig()
		}
		var processor extprocv3.ExternalProcessor
		require.NoError(t, config.UnmarshalTo(&processor))
		require.Equal(t, strings.HasSuffix(name, "/audit"), processor.GetFailureModeAllow())
		require.Equal(t, "(?i)x-weir-.*", processor.GetMutationRules().GetDisallowExpression().GetRegex())
		require.Equal(t, strings.HasSuffix(name, "/second"), processor.GetAllowModeOverride())
	}
	require.Equal(t, []string{
		"0.0/default/everywhere/audit", "1.0/default/rule/second", "1.0/default/rule/first", "1.0/default/some/scan", "1.0/default/some/all",
	}, names, "what has no backend has no filter")
}
