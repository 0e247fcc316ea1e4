package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
	_ "time/tzdata" // the same zones on every host

	"weir.dev/policy/v1alpha1"
)

// maxReserved is the percentage of a limit that reserves keep at most.
const maxReserved = 99

func (c *checker) limit(field string, limit *v1alpha1.Limit) {
	oneOf(c, field+".algorithm", limit.Algorithm, true, v1alpha1.AlgorithmFixedWindow, v1alpha1.AlgorithmGCRA,
		v1alpha1.AlgorithmSlidingWindow, v1alpha1.AlgorithmConcurrency)
	oneOf(c, field+".failureMode", limit.FailureMode, true, v1alpha1.FailureModeOpen, v1alpha1.FailureModeClosed)
	if len(limit.Windows) > 0 {
		c.limitWindows(field, limit)
	} else {
		c.limitNumbers(field, limit)
	}
	c.limitMode(field, limit)
	if limit.CountRefused && limit.Algorithm == v1alpha1.AlgorithmConcurrency {
		c.fail(CodeLimitFields, field+".countRefused", "a refused request takes no place, so this is not for algorithm Concurrency")
	}
	c.limitReplicas(field, limit)
	c.limitBy(field, limit.By)
	c.limitHeaders(field+".headers", limit.Headers)
	c.limitCost(field+".cost", limit)
	c.limitReserves(field, limit)
	if override := limit.Override; override != nil {
		c.limitSource(field+".override", &override.LimitSource)
		if override.Max == 0 {
			c.required(field + ".override.max")
		}
	}
	if limit.TierFrom != nil {
		c.limitSource(field+".tierFrom", limit.TierFrom)
		if len(limit.Tiers)+len(limit.Reserves)+len(limit.Windows) == 0 {
			c.fail(CodeLimitFields, field+".tierFrom", "needs tiers or reserves")
		}
	}
}

// limitNumbers checks what a limit of one window says, as do the windows of others.
func (c *checker) limitNumbers(field string, limit *v1alpha1.Limit) {
	switch {
	case limit.Requests == nil:
		c.required(field + ".requests")
	case *limit.Requests == 0 && limit.Override == nil && !limit.Shadow:
		c.note(CodeLimitNone, field+".requests", "is 0: every request is refused%s, however long its sender waits", butTiers(limit))
	}
	c.limitWindow(field, limit)
	if limit.Burst != 0 && limit.Algorithm != v1alpha1.AlgorithmGCRA {
		c.fail(CodeInvalid, field+".burst", "needs algorithm GCRA")
	}
	c.limitTiers(field, limit)
}

// limitReplicas checks what replicas of the limiter may decide by themselves.
func (c *checker) limitReplicas(field string, limit *v1alpha1.Limit) {
	settles := settles(limit)
	if limit.LocalShare && (limit.Algorithm == v1alpha1.AlgorithmConcurrency || settles) {
		c.fail(CodeLimitReplicas, field+".localShare", "is not for algorithm Concurrency nor for costs that the response says: what one replica counts by itself can't be given back to the others")
	}
	if !limit.Leased {
		return
	}
	switch {
	case limit.Algorithm == v1alpha1.AlgorithmConcurrency, limit.Algorithm == v1alpha1.AlgorithmSlidingWindow, limit.Calendar != "":
		c.fail(CodeLimitReplicas, field+".leased", "needs algorithm FixedWindow or GCRA, and no calendar")
	case settles, limit.CountRefused, len(limit.Reserves) > 0:
		c.fail(CodeLimitReplicas, field+".leased", "is not for costs that the response says, nor with countRefused or reserves: those need the shared counter for each request")
	}
}

func (c *checker) limitWindow(field string, limit *v1alpha1.Limit) {
	oneOf(c, field+".calendar", limit.Calendar, true, v1alpha1.CalendarDay, v1alpha1.CalendarWeek, v1alpha1.CalendarMonth)
	if limit.Calendar == "" {
		if limit.TimeZone != "" {
			c.fail(CodeLimitFields, field+".timeZone", "needs calendar: a window of a fixed length is the same everywhere")
		}
		if limit.Window == "" {
			c.required(field + ".window")
			return
		}
		window := limit.Window
		c.duration(field+".window", &window, minWindow, maxWindow)
		return
	}
	if limit.Window != "" {
		c.fail(CodeLimitFields, field+".window", "stands beside calendar; say one of them")
	}
	if limit.Algorithm != "" && limit.Algorithm != v1alpha1.AlgorithmFixedWindow {
		c.fail(CodeLimitFields, field+".calendar", "needs algorithm FixedWindow")
	}
	if zone, err := time.LoadLocation(limit.TimeZone); err != nil || zone == time.Local {
		c.fail(CodeTimeZone, field+".timeZone", "%q is not a name of the IANA time zone database, such as Europe/Berlin", limit.TimeZone)
	}
}

func (c *checker) limitBy(field string, parts []v1alpha1.CountBy) {
	c.count(field+".by", len(parts), 0, 4)
	for i, by := range parts {
		part := fmt.Sprintf("%s.by[%d]", field, i)
		oneOf(c, part+".type", by.Type, false, v1alpha1.CountByConsumer, v1alpha1.CountByTenant, v1alpha1.CountByRoute,
			v1alpha1.CountByClientIP, v1alpha1.CountByHeader)
		switch {
		case by.Type == v1alpha1.CountByHeader:
			c.header(part+".header", by.Header)
		case by.Header != "":
			c.fail(CodeInvalid, part+".header", "needs type Header")
		}
	}
}

// butTiers says who is not refused by a limit of no requests.
func butTiers(limit *v1alpha1.Limit) string {
	for _, tier := range limit.Tiers {
		if tier.Unlimited || deref(tier.Requests, 0) > 0 {
			return ", but for those of a tier that says otherwise"
		}
	}
	return ""
}

func (c *checker) limitTiers(field string, limit *v1alpha1.Limit) {
	c.count(field+".tiers", len(limit.Tiers), 0, 32)
	for _, name := range slices.Sorted(maps.Keys(limit.Tiers)) {
		at, tier := fmt.Sprintf(`%s.tiers["%s"]`, field, name), limit.Tiers[name]
		c.text(at, name, true, 64)
		if tier.Burst != 0 && limit.Algorithm != v1alpha1.AlgorithmGCRA {
			c.fail(CodeInvalid, at+".burst", "needs algorithm GCRA")
		}
		switch {
		case tier.Unlimited && (tier.Requests != nil || tier.Burst != 0):
			c.fail(CodeLimitFields, at+".unlimited", "stands beside numbers; say one of them")
		case !tier.Unlimited && tier.Requests == nil:
			c.required(at + ".requests")
		}
	}
}

// maxCost is what Envoy takes for a cost, too.
const maxCost = 1_000_000_000

func (c *checker) limitCost(field string, limit *v1alpha1.Limit) {
	cost := limit.Cost
	if cost == nil {
		return
	}
	said := c.costSources(field, cost)
	c.within(field+".number", cost.Number, 0, maxCost)
	switch {
	case said && cost.Max == 0:
		c.required(field + ".max")
	case cost.Max > maxCost:
		c.fail(CodeInvalid, field+".max", "%d is more than %d", cost.Max, maxCost)
	case !said && cost.Max != 0:
		c.fail(CodeLimitFields, field+".max", "bounds what a header, an expression or a body says, and there is none")
	case said && cost.Number != nil && *cost.Number > cost.Max:
		c.fail(CodeInvalid, field+".number", "%d is more than max, %d", *cost.Number, cost.Max)
	}
	if !said && cost.Number != nil && *cost.Number == 0 {
		c.fail(CodeLimitFields, field+".number", "0 limits nothing without something that says more")
	}
	if settles(limit) && limit.Algorithm == v1alpha1.AlgorithmConcurrency {
		at := field + ".responseHeader"
		if cost.ResponseField != "" {
			at = field + ".responseField"
		}
		c.fail(CodeLimitFields, at, "places are given back whole, so this is not for algorithm Concurrency")
	}
}

func (c *checker) limitReserves(field string, limit *v1alpha1.Limit) {
	c.count(field+".reserves", len(limit.Reserves), 0, 8)
	if len(limit.Reserves) == 0 {
		return
	}
	if len(limit.Tiers) > 0 {
		c.fail(CodeLimitFields, field+".reserves", "stands beside tiers: tiers count apart, and reserves are parts of what is counted together")
	}
	total := uint32(0)
	names := make([]string, len(limit.Reserves))
	for i, reserve := range limit.Reserves {
		at := fmt.Sprintf("%s.reserves[%d]", field, i)
		c.text(at+".tier", reserve.Tier, true, 64)
		if reserve.Percent == 0 || reserve.Percent > maxReserved {
			c.fail(CodeInvalid, at+".percent", "%d is outside of 1 to %d", reserve.Percent, maxReserved)
			return
		}
		total += reserve.Percent
		names[i] = reserve.Tier
	}
	if total > maxReserved {
		c.fail(CodeInvalid, field+".reserves", "keep %d percent together, which is more than %d", total, maxReserved)
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			c.fail(CodeDuplicateName, fmt.Sprintf("%s.reserves[%d].tier", field, i), "%q is used before in this list", name)
		}
	}
}

var consumerAttribute = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

func (c *checker) attributeName(field, name string) {
	if len(name) > 64 || !consumerAttribute.MatchString(name) {
		c.fail(CodeInvalid, field, "names of attributes are 1 to 64 letters, digits, dots, dashes and underscores")
	}
}

func (c *checker) limitHeaders(field string, headers []v1alpha1.LimitHeaders) {
	c.count(field, len(headers), 0, 3)
	for i, name := range headers {
		oneOf(c, fmt.Sprintf("%s[%d]", field, i), name, false,
			v1alpha1.LimitHeadersStandard, v1alpha1.LimitHeadersOlder, v1alpha1.LimitHeadersXRateLimit, v1alpha1.LimitHeadersNone)
		if name == v1alpha1.LimitHeadersNone && len(headers) > 1 {
			c.fail(CodeInvalid, field, "None stands alone")
		}
		if slices.Contains(headers[:i], name) {
			c.fail(CodeDuplicateName, fmt.Sprintf("%s[%d]", field, i), "%q is listed twice", name)
		}
	}
}
