package mtls

import (
	"context"
	"fmt"

	"weir.dev/policy"
)

// Rollback takes a scope back to the mode that it had before ours was last set, or
// takes our policy away where there was none. It never goes to a stricter mode: for
// that somebody has to look who would be cut off.
func Rollback(ctx context.Context, cluster Cluster, request Request) (*Result, error) {
	request.Progress("looking at " + request.Scope.String())
	state, err := cluster.State(ctx, request.Scope.Namespace)
	if err != nil {
		return nil, err
	}
	standing, reasons := Stand(state, request.Scope)
	c := &change{Cluster: cluster, request: request, standing: standing, result: &Result{
		Scope: request.Scope, From: standing.Mode, To: standing.Mode, Sidecars: len(standing.Governed),
	}}
	ours := standing.ours
	if ours == nil {
		if len(reasons) == 0 {
			reasons = []Reason{{policy.CodeMTLSForeign, fmt.Sprintf(
				"%s has no PeerAuthentication that Weir set; it is %s by %s, which is changed where it comes from", request.Scope, standing.Mode, standing.By)}}
		}
		return c.refuse(reasons), nil
	}
	var former *Policy
	if last := len(ours.History) - 1; last >= 0 && ours.History[last].Mode != Unset {
		before := *ours
		before.Mode, before.History = ours.History[last].Mode, ours.History[:last]
		former = &before
	}
	mode := Unset
	if former != nil {
		mode = former.Mode
	}
	after := state.Policies.with(request.Scope, mode, latest(state.Policies))
	c.result.To = after.Effective(request.Scope.Namespace, request.Scope.Selector).Mode
	if c.result.To.stricter(standing.Mode) {
		return c.refuse([]Reason{{policy.CodeMTLSStep, fmt.Sprintf(
			"%s would become STRICT again, and who calls it is not known: use weir mesh mtls set STRICT, which looks", request.Scope)}}), nil
	}
	if request.DryRun {
		c.result.Action = WouldBe
		return c.result, nil
	}
	if err := putBack(ctx, cluster, request.Scope, former); err != nil {
		return nil, err
	}
	c.result.Action = Changed
	// What an interrupted observation may have left.
	if err := cluster.Delete(ctx, ObserverObject(request.Scope, "")); err != nil {
		c.result.Notes = append(c.result.Notes, err.Error())
	}
	if late := c.settle(ctx, request.Wait); late != "" {
		c.result.Notes = append(c.result.Notes, late)
	}
	return c.result, nil
}
