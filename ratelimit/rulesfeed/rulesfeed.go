// Package rulesfeed turns the control plane's RateLimitRule resources into the
// limiter's table: all or nothing, so that a bad resource keeps the old table.
package rulesfeed

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	_ "time/tzdata" // the zones of calendars, on hosts without them

	"google.golang.org/protobuf/types/known/anypb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"

	"weir.dev/kit/limitexpr"
	"weir.dev/ratelimit"
)

// TypeURL is the resource type to subscribe to.
const TypeURL = "type.googleapis.com/weir.rules.v1.RateLimitRule"

// Decode builds the table of a complete set of resources by name. The error
// names every bad resource and field.
func Decode(resources map[string]*anypb.Any) (*ratelimit.Table, error) {
	messages := make([]*rulesv1.RateLimitRule, 0, len(resources))
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		message := &rulesv1.RateLimitRule{}
		switch err := resources[name].UnmarshalTo(message); {
		case err != nil:
			errs = append(errs, fmt.Errorf("rate limit rule %q: is not a RateLimitRule: %w", name, err))
		case message.GetId() != name:
			errs = append(errs, fmt.Errorf("rate limit rule %q: id: %q differs from the resource's name", name, message.GetId()))
		default:
			messages = append(messages, message)
		}
	}
	table, err := Build(messages)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return table, nil
}

// Build makes the table of a complete set of rules. The error names every bad one
// and its field.
func Build(messages []*rulesv1.RateLimitRule) (*ratelimit.Table, error) {
	rules := make([]*ratelimit.Rule, 0, len(messages))
	var d decoder
	var errs []error
	for _, message := range messages {
		rule, err := d.rule(message)
		if err != nil {
			errs = append(errs, fmt.Errorf("rate limit rule %q: %w", message.GetId(), err))
			continue
		}
		rules = append(rules, rule)
	}
	table, err := ratelimit.NewTable(rules)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return table, nil
}

// decoder has what the rules of one table share.
type decoder struct {
	// expressions is nil until a rule has one.
	expressions *limitexpr.Environment
}

func (d *decoder) expression(rule *ratelimit.Rule, text string) error {
	if text == "" {
		return nil
	}
	if d.expressions == nil {
		environment, err := limitexpr.NewEnvironment()
		if err != nil {
			return err
		}
		d.expressions = environment
	}
	program, err := d.expressions.Compile(text)
	if err != nil {
		return fmt.Errorf("cost.expression: %w", err)
	}
	rule.Cost.Expression = program
	return nil
}

func (d *decoder) rule(message *rulesv1.RateLimitRule) (*ratelimit.Rule, error) {
	rule := &ratelimit.Rule{
		ID:     message.GetId(),
		Limit:  ratelimit.Limit{Requests: message.GetRequests(), Burst: message.GetBurst()},
		Shadow: message.GetShadow(), Digest: message.GetDigest(),
	}
	switch message.GetAlgorithm() {
	case rulesv1.RateLimitRule_ALGORITHM_FIXED_WINDOW:
		rule.Algorithm = ratelimit.FixedWindow
	case rulesv1.RateLimitRule_ALGORITHM_GCRA:
		rule.Algorithm = ratelimit.GCRA
	case rulesv1.RateLimitRule_ALGORITHM_SLIDING_WINDOW:
		rule.Algorithm = ratelimit.SlidingWindow
	case rulesv1.RateLimitRule_ALGORITHM_CONCURRENCY:
		rule.Algorithm = ratelimit.Concurrency
	default:
		return nil, fmt.Errorf("algorithm: %s is not supported", message.GetAlgorithm())
	}
	switch message.GetFailureMode() {
	case rulesv1.FailureMode_FAILURE_MODE_OPEN:
		rule.FailureMode = ratelimit.FailOpen
	case rulesv1.FailureMode_FAILURE_MODE_CLOSED, rulesv1.FailureMode_FAILURE_MODE_UNSPECIFIED:
		rule.FailureMode = ratelimit.FailClosed // open only when somebody wrote so
	default:
		return nil, fmt.Errorf("failure_mode: %s is not supported", message.GetFailureMode())
	}
	if err := decodeHeaders(rule, message.GetHeaders()); err != nil {
		return nil, err
	}
	if err := decodeWindow(rule, message); err != nil {
		return nil, err
	}
	if tiers := message.GetTiers(); len(tiers) > 0 {
		rule.Tiers = make(map[string]ratelimit.TierNumbers, len(tiers))
		for tier, numbers := range tiers {
			rule.Tiers[tier] = ratelimit.TierNumbers{Requests: numbers.GetRequests(), Burst: numbers.GetBurst(), Unlimited: numbers.GetUnlimited()}
		}
	}
	rule.CountRefused, rule.MaxOverride = message.GetCountRefused(), message.GetMaxOverride()
	rule.LocalShare, rule.Leased = message.GetLocalShare(), message.GetLeased()
	if cost := message.GetCost(); cost != nil {
		if cost.GetMax() == 0 {
			return nil, errors.New("cost.max: must be at least 1")
		}
		rule.Cost = ratelimit.Cost{Number: uint64(cost.GetNumber()), Max: uint64(cost.GetMax()), Settles: cost.GetSettles()}
		if err := d.expression(rule, cost.GetExpression()); err != nil {
			return nil, err
		}
	}
	for _, reserve := range message.GetReserves() {
		rule.Reserves = append(rule.Reserves, ratelimit.Reserve{Tier: reserve.GetTier(), Percent: reserve.GetPercent()})
	}
	return rule, nil
}

func decodeHeaders(rule *ratelimit.Rule, headers []rulesv1.RateLimitRule_Headers) error {
	ways := map[rulesv1.RateLimitRule_Headers]ratelimit.Headers{
		rulesv1.RateLimitRule_HEADERS_STANDARD: ratelimit.HeadersStandard, rulesv1.RateLimitRule_HEADERS_OLDER: ratelimit.HeadersOlder,
		rulesv1.RateLimitRule_HEADERS_X_RATE_LIMIT: ratelimit.HeadersXRateLimit, rulesv1.RateLimitRule_HEADERS_NONE: ratelimit.HeadersNone,
	}
	for _, name := range headers {
		way, known := ways[name]
		if !known || rule.Headers.Has(ratelimit.HeadersNone) {
			return fmt.Errorf("headers: %s is not supported here", name)
		}
		rule.Headers |= way
	}
	if rule.Headers.Has(ratelimit.HeadersNone) && rule.Headers != ratelimit.HeadersNone {
		return errors.New("headers: none stands alone")
	}
	return nil
}

// decodeWindow reads the length that is counted over, or the calendar.
func decodeWindow(rule *ratelimit.Rule, message *rulesv1.RateLimitRule) error {
	switch message.GetCalendar() {
	case rulesv1.RateLimitRule_CALENDAR_UNSPECIFIED:
		if message.GetTimeZone() != "" {
			return errors.New("time_zone: applies to a calendar only")
		}
		if err := message.GetWindow().CheckValid(); err != nil {
			return fmt.Errorf("window: %w", err)
		}
		rule.Window = message.GetWindow().AsDuration()
		return nil
	case rulesv1.RateLimitRule_CALENDAR_DAY:
		rule.Calendar = ratelimit.Day
	case rulesv1.RateLimitRule_CALENDAR_WEEK:
		rule.Calendar = ratelimit.Week
	case rulesv1.RateLimitRule_CALENDAR_MONTH:
		rule.Calendar = ratelimit.Month
	default:
		return fmt.Errorf("calendar: %s is not supported", message.GetCalendar())
	}
	if message.GetWindow() != nil {
		return errors.New("window: is the calendar's")
	}
	rule.Window = rule.Calendar.Length()
	// Local is a name that LoadLocation takes, for whatever this host has.
	zone, err := time.LoadLocation(message.GetTimeZone())
	if err != nil || zone == time.Local {
		return fmt.Errorf("time_zone: %q is not in the IANA database of time zones", message.GetTimeZone())
	}
	rule.Zone = zone
	return nil
}
