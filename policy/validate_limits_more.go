package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"weir.dev/policy/v1alpha1"
)

// minQuotaWindow is the shortest window of which parts can be assigned: Envoy
// counts their life in whole seconds.
const minQuotaWindow = 5 * time.Second

// settles reports whether the response says what a request cost.
func settles(limit *v1alpha1.Limit) bool {
	return limit.Cost != nil && (limit.Cost.ResponseHeader != "" || limit.Cost.ResponseField != "")
}

// limitMode checks that a limit which Envoys decide by themselves has nothing that
// they cannot do.
func (c *checker) limitMode(field string, limit *v1alpha1.Limit) {
	oneOf(c, field+".mode", limit.Mode, true, v1alpha1.LimitModePerRequest, v1alpha1.LimitModeQuota)
	if limit.Mode != v1alpha1.LimitModeQuota {
		return
	}
	if limit.Algorithm == v1alpha1.AlgorithmSlidingWindow || limit.Algorithm == v1alpha1.AlgorithmConcurrency {
		c.fail(CodeLimitQuota, field+".algorithm", "%s cannot be paid in advance: mode Quota needs FixedWindow or GCRA", limit.Algorithm)
	}
	window := limit.Window
	if length := durationOr(&window, 0); limit.Algorithm != v1alpha1.AlgorithmGCRA && limit.Window != "" && length >= minWindow && length < minQuotaWindow {
		c.fail(CodeLimitQuota, field+".window", "%s is shorter than %s, within which nothing can be assigned: take a longer one, or algorithm GCRA", limit.Window, minQuotaWindow)
	}
	for i, by := range limit.By {
		if strings.EqualFold(by.Header, "host") {
			c.fail(CodeLimitQuota, fmt.Sprintf("%s.by[%d].header", field, i), "Envoy counts quotas by the host with its port, which is the client's to write; leave mode out, and the limiter takes the port off")
		}
		if strings.ContainsAny(by.Header, "%()") {
			c.fail(CodeLimitQuota, fmt.Sprintf("%s.by[%d].header", field, i), "the name of a header that a quota counts by has no %%, ( or )")
		}
	}
	for _, said := range []struct {
		name string
		is   bool
		why  string
	}{
		{"cost", limit.Cost != nil, "Envoy counts every request as one"},
		{"reserves", len(limit.Reserves) > 0, "what is kept for others is known to the limiter only"},
		{"override", limit.Override != nil, "what one caller's number is, is known at each request only; say tiers"},
		{"windows", len(limit.Windows) > 0, "Envoy decides each quota by itself, not all or nothing; say several limits"},
		{"headers", len(limit.Headers) > 0, "Envoy tells clients nothing of quotas"},
		{"leased", limit.Leased, "a quota is a slice that Envoy holds"},
		{"localShare", limit.LocalShare, "without the limiter Envoy has what it was assigned, and then failureMode"},
		{"countRefused", limit.CountRefused, "what Envoy refuses is not charged"},
	} {
		if said.is {
			c.fail(CodeLimitQuota, field+"."+said.name, "is not for mode Quota: %s", said.why)
		}
	}
}

// limitWindows checks a limit of several windows.
func (c *checker) limitWindows(field string, limit *v1alpha1.Limit) {
	c.count(field+".windows", len(limit.Windows), 2, 4)
	for _, said := range []struct {
		name string
		is   bool
	}{
		{"requests", limit.Requests != nil},
		{"window", limit.Window != ""},
		{"calendar", limit.Calendar != ""},
		{"timeZone", limit.TimeZone != ""},
		{"algorithm", limit.Algorithm != ""},
		{"burst", limit.Burst != 0},
		{"tiers", len(limit.Tiers) > 0},
	} {
		if said.is {
			c.fail(CodeLimitFields, field+"."+said.name, "stands beside windows; each of them says its own")
		}
	}
	if limit.Override != nil {
		c.fail(CodeLimitFields, field+".override", "is one number, and there are several windows")
	}
	var names []string
	for i := range limit.Windows {
		at, one := fmt.Sprintf("%s.windows[%d]", field, i), windowLimit(limit, i)
		c.limitNumbers(at, &one)
		oneOf(c, at+".algorithm", one.Algorithm, true, v1alpha1.AlgorithmFixedWindow, v1alpha1.AlgorithmGCRA, v1alpha1.AlgorithmSlidingWindow)
		c.limitReplicas(at, &one)
		if name := windowName(&one); slices.Contains(names, name) {
			c.fail(CodeDuplicateName, at, "is as long as another one of the limit")
		} else {
			names = append(names, name)
		}
	}
}

// windowLimit is one window of a limit as a limit of its own.
func windowLimit(limit *v1alpha1.Limit, i int) v1alpha1.Limit {
	one, window := *limit, limit.Windows[i]
	one.Windows, one.Requests, one.Window, one.Calendar, one.TimeZone = nil, &window.Requests, window.Window, window.Calendar, window.TimeZone
	one.Algorithm, one.Burst, one.Tiers = window.Algorithm, window.Burst, window.Tiers
	one.Name = limit.Name + "." + windowName(&one)
	return one
}

// windowName tells the windows of a limit apart.
func windowName(limit *v1alpha1.Limit) string {
	if limit.Calendar != "" {
		return strings.ToLower(string(limit.Calendar))
	}
	window := limit.Window
	return shortDuration(durationOr(&window, 0))
}

// windowsOf are the limits of one window that a limit consists of.
func windowsOf(limit *v1alpha1.Limit) []v1alpha1.Limit {
	if len(limit.Windows) == 0 {
		return []v1alpha1.Limit{*limit}
	}
	all := make([]v1alpha1.Limit, len(limit.Windows))
	for i := range all {
		all[i] = windowLimit(limit, i)
	}
	return all
}

var (
	claimPath     = regexp.MustCompile(`^[!-~]{1,128}$`)
	responseField = regexp.MustCompile(`^[A-Za-z0-9_$-]+(\.[A-Za-z0-9_$-]+){0,7}$`)
)

func (c *checker) limitSource(field string, source *v1alpha1.LimitSource) {
	switch {
	case source.Attribute != "" && source.Claim != "":
		c.fail(CodeLimitFields, field+".claim", "stands beside attribute; say one of them")
	case source.Claim != "" && !claimPath.MatchString(source.Claim):
		c.fail(CodeInvalid, field+".claim", "is a claim's name or path, of 1 to 128 printable ASCII characters without spaces")
	case source.Claim == "":
		c.attributeName(field+".attribute", source.Attribute)
	}
}

// costSources checks what says a cost beside its number, and reports whether
// anything does.
func (c *checker) costSources(field string, cost *v1alpha1.LimitCost) bool {
	for _, named := range [...]struct{ at, name string }{
		{field + ".requestHeader", cost.RequestHeader}, {field + ".responseHeader", cost.ResponseHeader},
	} {
		if named.name != "" {
			c.header(named.at, named.name)
		}
	}
	if cost.Expression != "" {
		if _, err := c.parser.limits.Compile(cost.Expression); err != nil {
			c.fail(CodeLimitExpression, field+".expression", "%v", err)
		}
		if cost.RequestHeader != "" {
			c.fail(CodeLimitFields, field+".requestHeader", "stands beside expression, which can read headers")
		}
	}
	if cost.ResponseField != "" {
		if len(cost.ResponseField) > 256 || !responseField.MatchString(cost.ResponseField) {
			c.fail(CodeInvalid, field+".responseField", "is up to 8 names of JSON members divided by dots, such as usage.total_tokens")
		}
		if cost.ResponseHeader != "" {
			c.fail(CodeLimitFields, field+".responseField", "stands beside responseHeader; say one of them")
		}
	}
	return cost.RequestHeader+cost.Expression+cost.ResponseHeader+cost.ResponseField != ""
}
