package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// RateLimitPolicy says how often. Of several that reach a rule of a route, the one
// attached most specifically (rule, route, listener, gateway) is in effect; with
// defaults and overrides it is as MergeStrategy says.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wrate,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.ancestors[*].conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RateLimitPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              RateLimitPolicySpec `json:"spec"`
	// Status is written by the control plane; in files it is not read.
	//
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// RateLimitPolicySpec describes a RateLimitPolicy.
//
// +kubebuilder:validation:XValidation:rule="[has(self.limits), has(self.defaults), has(self.overrides)].filter(set, set).size() == 1",message="say the limits in exactly one place: the spec itself, defaults or overrides"
type RateLimitPolicySpec struct {
	// TargetRefs are 1 to 16 attachments.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.group == 'gateway.networking.k8s.io' && t.kind in ['Gateway', 'ListenerSet', 'HTTPRoute', 'GRPCRoute'])",message="targets are Gateways, ListenerSets, HTTPRoutes and GRPCRoutes of group gateway.networking.k8s.io"
	TargetRefs []TargetRef `json:"targetRefs"`
	// What stands here beside targetRefs are defaults of strategy atomic.
	RateLimitSettings `json:",inline"`
	// Defaults hold where nothing more specific says otherwise.
	Defaults *RateLimitBlock `json:"defaults,omitempty"`
	// Overrides hold whatever more specific policies say.
	Overrides *RateLimitBlock `json:"overrides,omitempty"`
}

// RateLimitBlock is what a RateLimitPolicy says under defaults or overrides.
//
// +kubebuilder:validation:XValidation:rule="has(self.limits)",message="limits is required"
type RateLimitBlock struct {
	// Strategy is atomic (default) or merge, which joins limits by name.
	Strategy          MergeStrategy `json:"strategy,omitempty"`
	RateLimitSettings `json:",inline"`
}

// RateLimitSettings are what a RateLimitPolicy may say.
type RateLimitSettings struct {
	// Limits all apply; a request passes when every one admits it. 1 to 8.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=name
	Limits []Limit `json:"limits,omitempty"`
}

// Limit is one limit.
//
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || self.burst == 0 || (has(self.algorithm) && self.algorithm == 'GCRA')",message="burst needs algorithm GCRA"
// +kubebuilder:validation:XValidation:rule="!has(self.tiers) || (has(self.algorithm) && self.algorithm == 'GCRA') || self.tiers.all(t, !has(self.tiers[t].burst) || self.tiers[t].burst == 0)",message="the burst of a tier needs algorithm GCRA"
// +kubebuilder:validation:XValidation:rule="has(self.windows) || has(self.window) != has(self.calendar)",message="say either window or calendar"
// +kubebuilder:validation:XValidation:rule="has(self.windows) != has(self.requests)",message="say either requests or windows"
// +kubebuilder:validation:XValidation:rule="!has(self.windows) || !(has(self.window) || has(self.calendar) || has(self.timeZone) || has(self.algorithm) || has(self.burst) || has(self.tiers) || has(self.override))",message="each of the windows says its own requests, window or calendar, timeZone, algorithm, burst and tiers; an override needs a limit of one window"
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Quota' || !(has(self.cost) || has(self.reserves) || has(self.override) || has(self.windows) || has(self.headers) || (has(self.leased) && self.leased) || (has(self.localShare) && self.localShare) || (has(self.countRefused) && self.countRefused))",message="mode Quota is not for cost, reserves, override, windows, headers, leased, localShare and countRefused"
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Quota' || !has(self.algorithm) || self.algorithm in ['FixedWindow', 'GCRA']",message="mode Quota needs algorithm FixedWindow or GCRA"
// +kubebuilder:validation:XValidation:rule="!has(self.mode) || self.mode != 'Quota' || !has(self.by) || self.by.all(b, !has(b.header) || b.header.lowerAscii() != 'host')",message="mode Quota does not count by the host, whose port is the client's to write"
// +kubebuilder:validation:XValidation:rule="!has(self.tierFrom) || has(self.tiers) || has(self.reserves) || has(self.windows)",message="tierFrom needs tiers or reserves"
// +kubebuilder:validation:XValidation:rule="!has(self.calendar) || !has(self.algorithm) || self.algorithm == 'FixedWindow'",message="calendar needs algorithm FixedWindow"
// +kubebuilder:validation:XValidation:rule="!has(self.timeZone) || has(self.calendar)",message="timeZone needs a calendar"
// +kubebuilder:validation:XValidation:rule="!has(self.countRefused) || !self.countRefused || !has(self.algorithm) || self.algorithm != 'Concurrency'",message="a refused request takes no place, so countRefused is not for Concurrency"
// +kubebuilder:validation:XValidation:rule="!has(self.cost) || !(has(self.cost.responseHeader) || has(self.cost.responseField)) || !has(self.algorithm) || self.algorithm != 'Concurrency'",message="places are given back whole, so costs of responses are not for Concurrency"
type Limit struct {
	// Name is unique within the policy; clients see it in RateLimit headers.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Requests admitted per window, or at once (Concurrency). 0 refuses all.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Requests *uint32 `json:"requests,omitempty"`
	// Window is 1s to 744h. With Concurrency it is how long a request holds its
	// place if its end is never heard of; let it be longer than any request is.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('744h')",message="is 1s to 744h"
	Window gatewayv1.Duration `json:"window,omitempty"`
	// Calendar counts by days, weeks (from Monday) or months of the calendar,
	// instead of a window.
	Calendar Calendar `json:"calendar,omitempty"`
	// TimeZone of the calendar, a name of the IANA database such as Europe/Berlin.
	// Default UTC.
	//
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_+/-]+$`
	TimeZone string `json:"timeZone,omitempty"`
	// Algorithm is FixedWindow (default; up to twice the limit can pass around a
	// window's boundary), GCRA (evenly, with a burst), SlidingWindow (never more
	// than the limit in any interval of the window's length) or Concurrency (at
	// once).
	Algorithm Algorithm `json:"algorithm,omitempty"`
	// Burst, of GCRA: requests admitted at once after idleness. Default
	// requests.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Burst uint32 `json:"burst,omitempty"`
	// By lists what is counted separately; none counts all requests together.
	// At most 4.
	//
	// +kubebuilder:validation:MaxItems=4
	// +listType=atomic
	By []CountBy `json:"by,omitempty"`
	// Tiers replaces the numbers for consumers of a tier.
	//
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(t, size(t) > 0 && size(t) <= 64)",message="names of tiers have 1 to 64 bytes"
	Tiers map[string]TierLimit `json:"tiers,omitempty"`
	// TierFrom says what a caller's tier is for this limit; default the tier of the
	// Consumer.
	//
	// +optional
	TierFrom *LimitSource `json:"tierFrom,omitempty"`
	// Windows are several numbers of one limit, such as a burst and a quota, all
	// or nothing; each is told to clients as NAME.LENGTH. Instead of requests and
	// what goes with it. 2 to 4, of different lengths.
	//
	// +kubebuilder:validation:MinItems=2
	// +kubebuilder:validation:MaxItems=4
	// +listType=atomic
	Windows []LimitWindow `json:"windows,omitempty"`
	// Mode is PerRequest (default: the limiter is asked at each request) or Quota:
	// Envoy is assigned parts of the limit and decides by itself, about every five
	// seconds anew. Together never more than the limit is assigned; what is assigned
	// and not used is lost to it. A bucket that Envoy has no word of yet passes with
	// failureMode Open, and is charged afterwards, and is refused with Closed. A
	// quota is spent even if another limit refuses the request. For FixedWindow with
	// a window of 5s and more, and for GCRA.
	Mode LimitMode `json:"mode,omitempty"`
	// Cost of a request; default 1.
	//
	// +optional
	Cost *LimitCost `json:"cost,omitempty"`
	// CountRefused charges requests that are refused, by this limit or another,
	// so that who keeps trying stays refused. Otherwise they cost nothing.
	CountRefused bool `json:"countRefused,omitempty"`
	// Reserves keep parts of the limit for tiers, the most important first: a
	// tier may use what is not kept for those before it, and a tier that is not
	// named what is kept for none. All share the counters. At most 8.
	//
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=tier
	// +kubebuilder:validation:XValidation:rule="self.map(r, r.percent).sum() <= 99",message="the reserves keep more than 99 percent together"
	Reserves []LimitReserve `json:"reserves,omitempty"`
	// Override lets a fact of the caller say the number of requests.
	//
	// +optional
	Override *LimitOverride `json:"override,omitempty"`
	// FailureMode says what happens when the limiter cannot answer: Open
	// (default) lets requests through, Closed answers 503.
	FailureMode FailureMode `json:"failureMode,omitempty"`
	// LocalShare says what happens when the limiter answers and its counters can't
	// be reached: each replica admits its part of the limit, by counters of its
	// own. failureMode is then for when no replica answers. Not for Concurrency,
	// nor for costs that settle.
	LocalShare bool `json:"localShare,omitempty"`
	// Leased lets each replica of the limiter take slices of the limit beforehand
	// and decide from them by itself, which makes busy limits cheap. Never more is
	// admitted; less may be, by what replicas hold and don't use, at most a tenth
	// of the limit each. For FixedWindow and GCRA without calendar, reserves,
	// countRefused and costs that settle.
	Leased bool `json:"leased,omitempty"`
	// Shadow counts and reports, and refuses nothing.
	Shadow bool `json:"shadow,omitempty"`
	// Headers say in which headers clients are told of the limit. Default
	// Standard; None stands alone. Of the older ones, which have room for one
	// limit, a client sees the limit that is nearest to refusing.
	//
	// +kubebuilder:validation:MaxItems=3
	// +listType=set
	// +kubebuilder:validation:XValidation:rule="!('None' in self) || self.size() == 1",message="None stands alone"
	Headers []LimitHeaders `json:"headers,omitempty"`
}

// LimitHeaders are headers in which clients are told of limits: Standard is
// RateLimit-Policy and RateLimit (IETF draft), Older is RateLimit-Limit,
// RateLimit-Remaining and RateLimit-Reset of its early versions, XRateLimit the
// same three beginning with X-, None none. Retry-After comes in any case.
//
// +kubebuilder:validation:Enum=Standard;Older;XRateLimit;None
type LimitHeaders string

// Headers in which clients are told of limits.
const (
	LimitHeadersStandard   LimitHeaders = "Standard"
	LimitHeadersOlder      LimitHeaders = "Older"
	LimitHeadersXRateLimit LimitHeaders = "XRateLimit"
	LimitHeadersNone       LimitHeaders = "None"
)

// Algorithm is how requests are counted.
//
// +kubebuilder:validation:Enum=FixedWindow;GCRA;SlidingWindow;Concurrency
type Algorithm string

// Algorithms of a limit.
const (
	AlgorithmFixedWindow   Algorithm = "FixedWindow"
	AlgorithmGCRA          Algorithm = "GCRA"
	AlgorithmSlidingWindow Algorithm = "SlidingWindow"
	AlgorithmConcurrency   Algorithm = "Concurrency"
)

// Calendar is a period of the calendar.
//
// +kubebuilder:validation:Enum=Day;Week;Month
type Calendar string

// Periods of the calendar.
const (
	CalendarDay   Calendar = "Day"
	CalendarWeek  Calendar = "Week"
	CalendarMonth Calendar = "Month"
)

// LimitCost is what a request costs.
//
// +kubebuilder:validation:XValidation:rule="!has(self.max) || !has(self.number) || self.number <= self.max",message="number is more than max"
// +kubebuilder:validation:XValidation:rule="has(self.max) == (has(self.requestHeader) || has(self.expression) || has(self.responseHeader) || has(self.responseField))",message="max is for a requestHeader, an expression, a responseHeader or a responseField, which need it"
// +kubebuilder:validation:XValidation:rule="!has(self.requestHeader) || !has(self.expression)",message="say either requestHeader or expression, which can read headers"
// +kubebuilder:validation:XValidation:rule="!has(self.responseHeader) || !has(self.responseField)",message="say either responseHeader or responseField"
type LimitCost struct {
	// Number is charged when the request comes; default 1. With responseHeader it
	// is an estimate, and 0 only asks whether anything is left.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000000
	Number *uint32 `json:"number,omitempty"`
	// RequestHeader holds a cost that is charged if it is above number. Clients
	// can write what they like into a header: use one that you set yourself, or
	// for which a low figure is checked later. What is no number costs max.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_\x60|~-]+$`
	RequestHeader string `json:"requestHeader,omitempty"`
	// Expression is the cost, charged if it is above number: CEL over request.method,
	// .path, .host, .size (declared bytes of the body; -1 when that is not known),
	// .header("name") and .param("name"), identity.tier, .tenant and .claim("path"),
	// and consumer.attribute("name"). Parts count whole. Where it has no value, as
	// when a text is no number, the request costs max.
	//
	// +kubebuilder:validation:MaxLength=1024
	Expression string `json:"expression,omitempty"`
	// ResponseField is where a JSON body, or the last event of a stream
	// (text/event-stream) that has it, says what the request cost in the end, as
	// ResponseHeader does: names divided by dots, such as usage.total_tokens. The
	// service is asked not to compress. Bodies are held until they are complete, up
	// to 1 MiB; streams are not.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_$-]+(\.[A-Za-z0-9_$-]+){0,7}$`
	ResponseField string `json:"responseField,omitempty"`
	// ResponseHeader holds what the request cost in the end, such as the tokens
	// that a model used: the difference to what was charged is charged, even
	// beyond the limit, or given back. Without the header, what was charged stays.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_\x60|~-]+$`
	ResponseHeader string `json:"responseHeader,omitempty"`
	// Max bounds what can be said otherwise than by number.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	Max uint32 `json:"max,omitempty"`
}

// LimitReserve keeps a part of a limit.
type LimitReserve struct {
	// Tier of consumers that it is kept for, and for those before it.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Tier string `json:"tier"`
	// Percent of the limit, 1 to 99.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=99
	Percent uint32 `json:"percent"`
}

// LimitSource is a fact of the caller.
//
// +kubebuilder:validation:XValidation:rule="has(self.attribute) != has(self.claim)",message="say either attribute or claim"
type LimitSource struct {
	// Attribute of the Consumer (spec.attributes).
	//
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`
	Attribute string `json:"attribute,omitempty"`
	// Claim of the caller's token: a name, or a path with dots, such as plan.name.
	//
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[!-~]+$`
	Claim string `json:"claim,omitempty"`
}

// LimitWindow is one of several windows of a limit; its fields are those of the
// limit.
//
// +kubebuilder:validation:XValidation:rule="has(self.window) != has(self.calendar)",message="say either window or calendar"
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || self.burst == 0 || (has(self.algorithm) && self.algorithm == 'GCRA')",message="burst needs algorithm GCRA"
// +kubebuilder:validation:XValidation:rule="!has(self.algorithm) || self.algorithm != 'Concurrency'",message="requests at once are a limit of their own"
// +kubebuilder:validation:XValidation:rule="!has(self.calendar) || !has(self.algorithm) || self.algorithm == 'FixedWindow'",message="calendar needs algorithm FixedWindow"
// +kubebuilder:validation:XValidation:rule="!has(self.timeZone) || has(self.calendar)",message="timeZone needs a calendar"
type LimitWindow struct {
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Requests uint32 `json:"requests"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('744h')",message="is 1s to 744h"
	Window   gatewayv1.Duration `json:"window,omitempty"`
	Calendar Calendar           `json:"calendar,omitempty"`
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_+/-]+$`
	TimeZone  string    `json:"timeZone,omitempty"`
	Algorithm Algorithm `json:"algorithm,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Burst uint32 `json:"burst,omitempty"`
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(t, size(t) > 0 && size(t) <= 64)",message="names of tiers have 1 to 64 bytes"
	Tiers map[string]TierLimit `json:"tiers,omitempty"`
}

// LimitMode is who decides.
//
// +kubebuilder:validation:Enum=PerRequest;Quota
type LimitMode string

// Modes of a limit.
const (
	LimitModePerRequest LimitMode = "PerRequest"
	LimitModeQuota      LimitMode = "Quota"
)

// LimitOverride lets the caller's own record replace the number of requests:
// callers without such a fact, or with one that is no number, get the limit's own.
type LimitOverride struct {
	LimitSource `json:",inline"`
	// Max bounds the number.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Max uint32 `json:"max"`
}

// CountBy is one part of what is counted separately.
//
// +kubebuilder:validation:XValidation:rule="(self.type == 'Header') == has(self.header)",message="header is for type Header, which needs it"
type CountBy struct {
	// Type is Consumer (the verified caller; all anonymous ones are one), Tenant
	// (the caller's; those of none are one), Route, ClientIP or Header.
	Type CountByType `json:"type"`
	// Header is the request header, with type Header; requests without it are
	// not limited by this limit. Host is taken without its port.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+.^_\x60|~-]+$`
	// +kubebuilder:validation:XValidation:rule="!self.lowerAscii().startsWith('x-weir-')",message="names that start with x-weir- are the edge's own"
	Header string `json:"header,omitempty"`
}

// CountByType is what kind of value is counted by.
//
// +kubebuilder:validation:Enum=Consumer;Tenant;Route;ClientIP;Header
type CountByType string

// Kinds of values to count by.
const (
	CountByConsumer CountByType = "Consumer"
	CountByTenant   CountByType = "Tenant"
	CountByRoute    CountByType = "Route"
	CountByClientIP CountByType = "ClientIP"
	CountByHeader   CountByType = "Header"
)

// TierLimit replaces a limit's numbers.
//
// +kubebuilder:validation:XValidation:rule="has(self.requests) != (has(self.unlimited) && self.unlimited)",message="say either requests or unlimited: true"
type TierLimit struct {
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Requests *uint32 `json:"requests,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	Burst uint32 `json:"burst,omitempty"`
	// Unlimited neither limits nor counts the tier's requests.
	Unlimited bool `json:"unlimited,omitempty"`
}

// FailureMode is who wins when the limiter cannot answer.
//
// +kubebuilder:validation:Enum=Open;Closed
type FailureMode string

// Failure modes of a limit.
const (
	FailureModeOpen   FailureMode = "Open"
	FailureModeClosed FailureMode = "Closed"
)
