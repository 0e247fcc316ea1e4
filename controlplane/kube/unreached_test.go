package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy"
)

func TestUnreached(t *testing.T) {
	for _, c := range []struct {
		name        string
		has, wanted []string
		unready     bool
		reason      gatewayv1.GatewayConditionReason
	}{
		{"reached", []string{"192.0.2.1"}, nil, false, gatewayv1.GatewayReasonProgrammed},
		{"no address yet", nil, nil, false, gatewayv1.GatewayReasonAddressNotAssigned},
		{"what it wants", []string{"192.0.2.1"}, []string{"192.0.2.1"}, false, gatewayv1.GatewayReasonProgrammed},
		{"another one", []string{"192.0.2.1"}, []string{"192.0.2.2"}, false, gatewayv1.GatewayReasonAddressNotUsable},
		{"none of what it wants", nil, []string{"192.0.2.2"}, false, gatewayv1.GatewayReasonAddressNotUsable},
		{"nobody there", []string{"192.0.2.1"}, nil, true, gatewayv1.GatewayReasonNoResources},
		{"nobody where it wants", nil, []string{"192.0.2.1"}, true, gatewayv1.GatewayReasonAddressNotUsable},
	} {
		t.Run(c.name, func(t *testing.T) {
			conditions := []policy.Condition{{Type: conditionProgrammed, Status: metav1.ConditionTrue, Reason: reasonProgrammed}}
			var has []gatewayv1.GatewayStatusAddress
			for _, value := range c.has {
				has = append(has, gatewayv1.GatewayStatusAddress{Value: value})
			}
			(&composer{addresses: has, placed: true, unready: c.unready}).unreached(conditions, c.wanted)
			require.Equal(t, string(c.reason), conditions[0].Reason)
			require.Equal(t, c.reason == gatewayv1.GatewayReasonProgrammed, conditions[0].Status == metav1.ConditionTrue)
		})
	}
}
