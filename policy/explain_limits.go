package policy

import (
	"cmp"
	"fmt"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

func limitText(requests, burst uint32, rule *limitRule) string {
	window := shortDuration(rule.GetWindow().AsDuration())
	switch rule.GetCalendar() {
	case rulesv1.RateLimitRule_CALENDAR_DAY:
		return fmt.Sprintf("%d requests a day in %s", requests, cmp.Or(rule.GetTimeZone(), "UTC"))
	case rulesv1.RateLimitRule_CALENDAR_WEEK:
		return fmt.Sprintf("%d requests a week in %s", requests, cmp.Or(rule.GetTimeZone(), "UTC"))
	case rulesv1.RateLimitRule_CALENDAR_MONTH:
		return fmt.Sprintf("%d requests a month in %s", requests, cmp.Or(rule.GetTimeZone(), "UTC"))
	}
	switch rule.GetAlgorithm() {
	case rulesv1.RateLimitRule_ALGORITHM_GCRA:
		return fmt.Sprintf("%d requests in %s, evenly, %d at once after a rest", requests, window, cmp.Or(burst, requests))
	case rulesv1.RateLimitRule_ALGORITHM_SLIDING_WINDOW:
		return fmt.Sprintf("%d requests in any %s", requests, window)
	case rulesv1.RateLimitRule_ALGORITHM_CONCURRENCY:
		return fmt.Sprintf("%d requests at once, each for %s at most", requests, window)
	}
	return fmt.Sprintf("%d requests in %s", requests, window)
}

func tierText(tier *rulesv1.TierLimit, rule *limitRule) string {
	if tier.GetUnlimited() {
		return "unlimited"
	}
	return limitText(tier.GetRequests(), tier.GetBurst(), rule)
}

// factText is a fact of the caller in words: "claim plan".
func factText(fact string) string {
	kind, name, _ := strings.Cut(fact, ".")
	return kind + " " + name
}

// limitDetails are the settings that few limits have.
func limitDetails(limit *Limit, rule *limitRule) string {
	var text strings.Builder
	if cost := rule.GetCost(); cost != nil {
		fmt.Fprintf(&text, "; a request costs %d", cost.GetNumber())
		if limit.CostHeader != "" {
			fmt.Fprintf(&text, ", or more by its header %s", limit.CostHeader)
		}
		if cost.GetExpression() != "" {
			fmt.Fprintf(&text, ", or more by %s", cost.GetExpression())
		}
		if limit.SettleField != "" {
			fmt.Fprintf(&text, ", and in the end what the response's body says at %s", limit.SettleField)
		}
		if limit.SettleHeader != "" {
			fmt.Fprintf(&text, ", and in the end what the response's header %s says", limit.SettleHeader)
		}
		if limit.CostHeader != "" || limit.Settles() || cost.GetExpression() != "" {
			fmt.Fprintf(&text, ", at most %d", cost.GetMax())
		}
	}
	for _, reserve := range rule.GetReserves() {
		fmt.Fprintf(&text, "; %d%% kept for tier %s", reserve.GetPercent(), reserve.GetTier())
	}
	if limit.Override != "" {
		fmt.Fprintf(&text, "; or as the caller's %s says, at most %d", factText(limit.Override), rule.GetMaxOverride())
	}
	if limit.TierFrom != "" {
		fmt.Fprintf(&text, "; the tier is what the caller's %s says", factText(limit.TierFrom))
	}
	if limit.Quota {
		text.WriteString("; decided by the proxy from quotas, and without one ")
		if limit.FailureMode == v1alpha1.FailureModeClosed {
			text.WriteString("refused")
		} else {
			text.WriteString("passed, and charged afterwards")
		}
	}
	if rule.GetLocalShare() {
		text.WriteString("; without the counters each replica admits its share")
	}
	if rule.GetLeased() {
		text.WriteString("; decided from slices")
	}
	if rule.GetCountRefused() {
		text.WriteString("; refused requests count")
	}
	return text.String()
}
