package rulesfile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/kit/config"
)

var names = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// rules are those of a policy; errors name the fields.
func (p *policyObject) rules() (rules []*rulesv1.RateLimitRule, err error) {
	text := func(key, otherwise string) string {
		value, _ := p.Metadata[key].(string)
		return cmp.Or(value, otherwise)
	}
	name := text("name", "")
	if !names.MatchString(name) {
		return nil, fmt.Errorf("metadata.name: %q is not a name", name)
	}
	prefix := text("namespace", "default") + "/" + name + "/"
	blocks := []struct {
		field  string
		limits []limit
	}{{"spec", p.Spec.Limits}}
	for field, block := range map[string]*block{"spec.defaults": p.Spec.Defaults, "spec.overrides": p.Spec.Overrides} {
		if block != nil {
			blocks = append(blocks, struct {
				field  string
				limits []limit
			}{field, block.Limits})
		}
	}
	var errs []error
	for _, block := range blocks {
		for i := range block.limits {
			made, err := block.limits[i].rules(prefix)
			errs = append(errs, config.Prefix(fmt.Sprintf("%s.limits[%d].", block.field, i), err))
			rules = append(rules, made...)
		}
	}
	if len(rules) == 0 && errors.Join(errs...) == nil {
		errs = append(errs, errors.New("spec.limits: is required"))
	}
	return rules, errors.Join(errs...)
}

// rules are those of a limit: one, or one of each window.
func (l *limit) rules(prefix string) (rules []*rulesv1.RateLimitRule, err error) {
	if !names.MatchString(l.Name) || strings.Contains(l.Name, ".") {
		return nil, fmt.Errorf("name: %q is not a name", l.Name)
	}
	if len(l.Windows) == 0 {
		rule, err := l.rule(prefix+l.Name, &l.window)
		return []*rulesv1.RateLimitRule{rule}, err
	}
	if l.Requests != nil || l.Window != 0 || l.Calendar != "" || l.TimeZone != "" || l.Algorithm != "" || l.Burst != 0 || l.Tiers != nil || l.Override != nil {
		return nil, errors.New("windows: each of them says its own requests, window or calendar, timeZone, algorithm, burst and tiers, and there is no override")
	}
	var errs []error
	for i := range l.Windows {
		window := &l.Windows[i]
		rule, err := l.rule(prefix+l.Name+"."+window.name(), window)
		errs = append(errs, config.Prefix(fmt.Sprintf("windows[%d].", i), err))
		rules = append(rules, rule)
	}
	return rules, errors.Join(errs...)
}

// name tells the windows of a limit apart, as the control plane does: 90s is
// 1m30s, and 1m0s is 1m.
func (w *window) name() string {
	if w.Calendar != "" {
		return strings.ToLower(w.Calendar)
	}
	text := w.Window.Std().String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (l *limit) rule(id string, window *window) (*rulesv1.RateLimitRule, error) {
	rule := &rulesv1.RateLimitRule{
		Id: id, Burst: window.Burst, Shadow: l.Shadow, CountRefused: l.CountRefused, LocalShare: l.LocalShare, Leased: l.Leased, TimeZone: window.TimeZone,
	}
	errs := []error{
		named(&rule.Algorithm, "algorithm", cmp.Or(window.Algorithm, "FixedWindow"), algorithms()),
		named(&rule.FailureMode, "failureMode", cmp.Or(l.FailureMode, "Open"), failureModes()),
		window.fill(rule), l.cost(rule), l.ofEnvoy(),
	}
	for _, text := range l.Headers {
		var headers rulesv1.RateLimitRule_Headers
		errs = append(errs, named(&headers, "headers", text, headersOf()))
		rule.Headers = append(rule.Headers, headers)
	}
	for _, reserve := range l.Reserves {
		rule.Reserves = append(rule.Reserves, &rulesv1.LimitReserve{Tier: reserve.Tier, Percent: reserve.Percent})
	}
	if l.Override != nil {
		if l.Override.Max == 0 || (l.Override.Attribute == "") == (l.Override.Claim == "") {
			errs = append(errs, errors.New("override: takes an attribute or a claim, and max"))
		}
		rule.MaxOverride = l.Override.Max
	}
	rule.Digest = digest(rule)
	return rule, errors.Join(errs...)
}

// fill adds the numbers and what they are over.
func (w *window) fill(rule *rulesv1.RateLimitRule) error {
	var errs []error
	if w.Requests == nil {
		errs = append(errs, errors.New("requests: is required"))
	} else {
		rule.Requests = *w.Requests
	}
	for name, numbers := range w.Tiers {
		if (numbers.Requests == nil) != numbers.Unlimited || name == "" {
			errs = append(errs, fmt.Errorf("tiers[%q]: takes either requests or unlimited: true", name))
			continue
		}
		if rule.Tiers == nil {
			rule.Tiers = map[string]*rulesv1.TierLimit{}
		}
		rule.Tiers[name] = &rulesv1.TierLimit{Burst: numbers.Burst, Unlimited: numbers.Unlimited}
		if numbers.Requests != nil {
			rule.Tiers[name].Requests = *numbers.Requests
		}
	}
	if w.Calendar != "" {
		if w.Window != 0 {
			errs = append(errs, errors.New("window: stands beside calendar; say one of them"))
		}
		return errors.Join(append(errs, named(&rule.Calendar, "calendar", w.Calendar, calendars()))...)
	}
	if length := w.Window.Std(); length < minWindow || length > maxWindow || length%time.Millisecond != 0 {
		errs = append(errs, fmt.Errorf("window: is %s to %s", minWindow, maxWindow))
	}
	rule.Window = durationpb.New(w.Window.Std())
	return errors.Join(errs...)
}

func (l *limit) cost(rule *rulesv1.RateLimitRule) error {
	if l.Cost == nil {
		return nil
	}
	said := l.Cost.RequestHeader+l.Cost.Expression+l.Cost.ResponseHeader+l.Cost.ResponseField != ""
	if said != (l.Cost.Max > 0) {
		return errors.New("cost.max: is for a requestHeader, an expression, a responseHeader or a responseField, which need it")
	}
	rule.Cost = &rulesv1.LimitCost{Number: 1, Settles: l.Cost.ResponseHeader+l.Cost.ResponseField != "", Expression: l.Cost.Expression}
	if l.Cost.Number != nil {
		rule.Cost.Number = *l.Cost.Number
	}
	rule.Cost.Max = max(cmp.Or(l.Cost.Max, rule.Cost.GetNumber()), 1)
	return nil
}

// ofEnvoy checks the words that say what Envoy does.
func (l *limit) ofEnvoy() error {
	var errs []error
	for i, by := range l.By {
		var known bool
		errs = append(errs, named(&known, fmt.Sprintf("by[%d].type", i), by.Type, map[string]bool{
			"Consumer": true, "Tenant": true, "Route": true, "ClientIP": true, "Header": true,
		}))
	}
	var known bool
	return errors.Join(append(errs, named(&known, "mode", cmp.Or(l.Mode, "PerRequest"), map[string]bool{"PerRequest": true, "Quota": true}))...)
}

func algorithms() map[string]rulesv1.RateLimitRule_Algorithm {
	return map[string]rulesv1.RateLimitRule_Algorithm{
		"FixedWindow": rulesv1.RateLimitRule_ALGORITHM_FIXED_WINDOW, "GCRA": rulesv1.RateLimitRule_ALGORITHM_GCRA,
		"SlidingWindow": rulesv1.RateLimitRule_ALGORITHM_SLIDING_WINDOW, "Concurrency": rulesv1.RateLimitRule_ALGORITHM_CONCURRENCY,
	}
}

func calendars() map[string]rulesv1.RateLimitRule_Calendar {
	return map[string]rulesv1.RateLimitRule_Calendar{
		"Day": rulesv1.RateLimitRule_CALENDAR_DAY, "Week": rulesv1.RateLimitRule_CALENDAR_WEEK, "Month": rulesv1.RateLimitRule_CALENDAR_MONTH,
	}
}

func failureModes() map[string]rulesv1.FailureMode {
	return map[string]rulesv1.FailureMode{"Open": rulesv1.FailureMode_FAILURE_MODE_OPEN, "Closed": rulesv1.FailureMode_FAILURE_MODE_CLOSED}
}

func headersOf() map[string]rulesv1.RateLimitRule_Headers {
	return map[string]rulesv1.RateLimitRule_Headers{
		"Standard": rulesv1.RateLimitRule_HEADERS_STANDARD, "Older": rulesv1.RateLimitRule_HEADERS_OLDER,
		"XRateLimit": rulesv1.RateLimitRule_HEADERS_X_RATE_LIMIT, "None": rulesv1.RateLimitRule_HEADERS_NONE,
	}
}

// named finds the value of a word.
func named[T any](into *T, field, word string, values map[string]T) error {
	value, known := values[word]
	if !known {
		return fmt.Errorf("%s: %q is not known", field, word)
	}
	*into = value
	return nil
}

// digest identifies the rule's content, as the control plane's does.
func digest(rule *rulesv1.RateLimitRule) string {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(rule)
	if err != nil { // a message of our own always marshals
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}
