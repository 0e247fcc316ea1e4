// Package envoyrlqs serves Envoy's rate limit quota service
// (envoy.service.rate_limit_quota.v3.RateLimitQuotaService) over a limiter: each
// Envoy is assigned a part of a counter, spends it without asking, and reports.
// It counts in the same counters as package envoyrls.
//
// # Contract with Envoy's configuration
//
// The domain is that of envoyrls. A bucket's id has the key "weir.limit" with a
// rule's id; its other entries are what is counted separately, as a descriptor's
// are there, "tier" included. A bucket that names no known rule, or one whose
// algorithm cannot be paid in advance, gets no assignment: what the filter does
// without one (no_assignment_behavior) decides. The filter should refuse then:
// what it lets through without an assignment is charged when it is reported.
//
// # What is promised
//
// Everything is paid before it is assigned: an assignment is a token bucket of so
// many tokens that does not fill again. All that was assigned and all that
// envoyrls admitted is together never above the limit. Assignments of a fixed
// window end before the window does (see Options.Margin), so that nothing is
// spent in the next one; windows shorter than MinWindow are therefore not
// assigned. Those of GCRA live at most Options.TTL, and what was granted may be
// spent at once within that time: in any time T at most burst + rate × (T + TTL)
// passes.
//
// An assignment that is not used up is lost to the limit. How much is assigned
// follows each bucket's demand, about ten reports' worth, and one that comes close
// to its end before the next report is due is replaced by one at least four times
// what is left: at most a fifth of what was assigned is lost so, and of a fixed
// window what is left when the assignments end, up to 1 s + Margin before it. A
// bucket of unknown demand gets a twentieth of the limit until its next report.
//
// # Envoy 1.40
//
// It reports every 5 s, whatever reporting_interval says, counts the life of an
// assignment in whole seconds, and fills a token bucket only where there was none
// before: an assignment that replaces another comes after one that refuses, in
// the same answer.
//
// While the store gives no answer, buckets of rules that fail closed are told to
// refuse and others to admit, for two seconds at a time.
package envoyrlqs
