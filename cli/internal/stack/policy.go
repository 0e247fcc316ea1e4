package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"weir.dev/cli/state"
	"weir.dev/controlplane"
)

// PolicyStatus asks the running control plane what it made of the policy.
func PolicyStatus(ctx context.Context, record state.Record) (controlplane.Status, error) {
	var status controlplane.Status
	for _, c := range record.Components {
		if c.Name != ControlPlane {
			continue
		}
		body, err := send(ctx, http.MethodGet, strings.TrimSuffix(c.Probe, "/readyz")+"/status")
		if err != nil {
			return status, fmt.Errorf("the control plane does not answer: %w", err)
		}
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			return status, fmt.Errorf("the control plane's status: %w", err)
		}
		return status, nil
	}
	return status, fmt.Errorf("there is no %s", ControlPlane)
}
