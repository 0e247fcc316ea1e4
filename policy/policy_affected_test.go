package policy

import (
	"testing"

	"github.com/stretchr/testify/require"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Each kind has a condition of its own while the standard's list has room for all,
// with Programmed, and else they share one.
func TestAffectedConditions(t *testing.T) {
	policies := affected{"AuthPolicy": {"default/b", "default/a", "default/b"}, "TLSPolicy": {"default/t"}}
	before := func(count int) []Condition {
		var conditions []Condition
		for i := range count {
			conditions = append(conditions, condition(string(rune('A'+i)), true, "Is", ""))
		}
		return conditions
	}
	own := []Condition{
		condition("weir.dev/AuthPolicyAffected", true, ReasonAffected, "AuthPolicy default/a, default/b"),
		condition("weir.dev/TLSPolicyAffected", true, ReasonAffected, "TLSPolicy default/t"),
	}
	shared := []Condition{condition("weir.dev/PolicyAffected", true, ReasonAffected, "AuthPolicy default/a, default/b; TLSPolicy default/t")}
	require.Equal(t, own, policies.conditions(nil))
	require.Equal(t, append(before(5), own...), policies.conditions(before(5)))
	require.Equal(t, append(before(6), shared...), policies.conditions(before(6)))
	programmed := append(before(5), condition(gatewayv1.GatewayConditionProgrammed, false, gatewayv1.GatewayReasonInvalid, ""))
	require.Equal(t, append(programmed, own...), policies.conditions(programmed), "Programmed is there already")
}
