package policy

import (
	"fmt"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// maxRetryAttempts bounds a route's retries, which the standard does not.
const maxRetryAttempts = 100

// routeTimeouts checks a rule's timeouts: a try cannot last longer than the
// exchange (HTTPRouteTimeouts, backendRequest).
func (c *checker) routeTimeouts(field string, timeouts *gatewayv1.HTTPRouteTimeouts) {
	if timeouts == nil {
		return
	}
	c.duration(field+".request", timeouts.Request, 0, maxRouteTimeout)
	c.duration(field+".backendRequest", timeouts.BackendRequest, 0, maxRouteTimeout)
	if whole, try := durationOr(timeouts.Request, 0), durationOr(timeouts.BackendRequest, 0); whole > 0 && try > whole {
		c.fail(CodeInvalid, field+".backendRequest", "%s is longer than the request timeout, %s", try, whole)
	}
}

func (c *checker) retry(field string, retry *gatewayv1.HTTPRouteRetry) {
	if retry == nil {
		return
	}
	c.count(field+".codes", len(retry.Codes), 0, 64)
	for i, code := range retry.Codes {
		if code < 400 || code > 599 {
			c.fail(CodeInvalid, fmt.Sprintf("%s.codes[%d]", field, i), "%d is outside of 400 to 599", code)
		}
	}
	if retry.Attempts != nil && (*retry.Attempts < 1 || *retry.Attempts > maxRetryAttempts) {
		c.fail(CodeInvalid, field+".attempts", "%d is outside of 1 to %d", *retry.Attempts, maxRetryAttempts)
	}
	c.duration(field+".backoff", retry.Backoff, time.Millisecond, maxRouteTimeout)
}

func (c *checker) sessionPersistence(field string, session *gatewayv1.SessionPersistence, backends int) {
	if session == nil {
		return
	}
	header, permanent := false, false
	if session.Type != nil {
		oneOf(c, field+".type", *session.Type, true, gatewayv1.CookieBasedSessionPersistence, gatewayv1.HeaderBasedSessionPersistence)
		header = *session.Type == gatewayv1.HeaderBasedSessionPersistence
	}
	if name := session.SessionName; name != nil && *name != "" {
		c.header(field+".sessionName", *name)
		c.text(field+".sessionName", *name, true, 128)
	}
	if cookie := session.CookieConfig; cookie != nil {
		if header {
			c.fail(CodeInvalid, field+".cookieConfig", "needs type Cookie")
		}
		if cookie.LifetimeType != nil {
			oneOf(c, field+".cookieConfig.lifetimeType", *cookie.LifetimeType, true, gatewayv1.PermanentCookieLifetimeType, gatewayv1.SessionCookieLifetimeType)
			permanent = *cookie.LifetimeType == gatewayv1.PermanentCookieLifetimeType
		}
	}
	c.duration(field+".absoluteTimeout", session.AbsoluteTimeout, time.Second, 365*24*time.Hour)
	switch {
	case permanent && session.AbsoluteTimeout == nil:
		c.fail(CodeRequired, field+".absoluteTimeout", "is required with lifetimeType Permanent")
	case !permanent && session.AbsoluteTimeout != nil:
		c.fail(CodeUnsupported, field+".absoluteTimeout", "this version of Weir bounds cookies with lifetimeType Permanent only; remove it")
	}
	if backends > 1 {
		c.fail(CodeUnsupported, field, "this version of Weir keeps sessions within one backendRef; the rule has %d", backends)
	}
}

func (c *checker) mirror(field string, mirror *gatewayv1.HTTPRequestMirrorFilter) {
	c.backendRef(field+".backendRef", &gatewayv1.BackendRef{BackendObjectReference: mirror.BackendRef})
	c.between(field+".percent", mirror.Percent, 0, 100)
	fraction := mirror.Fraction
	if fraction == nil {
		return
	}
	if mirror.Percent != nil {
		c.fail(CodeInvalid, field+".fraction", "set percent or fraction, not both")
	}
	denominator := int32(100)
	if fraction.Denominator != nil {
		denominator = *fraction.Denominator
	}
	if denominator < 1 {
		c.fail(CodeInvalid, field+".fraction.denominator", "%d is not positive", denominator)
	} else if fraction.Numerator < 0 || fraction.Numerator > denominator {
		c.fail(CodeInvalid, field+".fraction.numerator", "%d is outside of 0 to the denominator, %d", fraction.Numerator, denominator)
	}
}

// httpBackendFilters checks the filters of a backendRef. path says that the rule
// rewrites the path.
func (c *checker) httpBackendFilters(field string, filters []gatewayv1.HTTPRouteFilter, path bool) {
	c.count(field, len(filters), 0, 16)
	seen := map[gatewayv1.HTTPRouteFilterType]bool{}
	for i := range filters {
		filter := &filters[i]
		part := fmt.Sprintf("%s[%d]", field, i)
		if seen[filter.Type] && filter.Type != gatewayv1.HTTPRouteFilterRequestMirror {
			c.fail(CodeDuplicateName, part+".type", "%s is there twice", filter.Type)
		}
		seen[filter.Type] = true
		switch filter.Type {
		case gatewayv1.HTTPRouteFilterCORS:
			c.fail(CodeUnsupported, part+".type", "a browser asks what it may do before a backend is picked for its request, so the answer cannot depend on the backend; put it on the rule")
			continue
		case gatewayv1.HTTPRouteFilterURLRewrite:
			if path && filter.URLRewrite != nil && filter.URLRewrite.Path != nil {
				c.fail(CodeInvalid, part+".urlRewrite.path", "the rule rewrites the path, too, and it is rewritten once; keep one of the two")
			}
		}
		c.httpFilter(part, filter)
	}
	if seen[gatewayv1.HTTPRouteFilterRequestRedirect] && seen[gatewayv1.HTTPRouteFilterURLRewrite] {
		c.fail(CodeInvalid, field, "a RequestRedirect goes with no URLRewrite")
	}
}

// otherFilter says what to do in the place of a filter that is not served.
func (c *checker) otherFilter(field, kind string) {
	switch kind {
	case string(gatewayv1.HTTPRouteFilterExtensionRef):
		c.fail(CodeUnsupported, field+".type", "no kind of object is a filter here: Weir's policies name what they are attached to themselves; write this route into the policy's targetRefs, with the rule's name as sectionName for one rule")
	case string(gatewayv1.HTTPRouteFilterExternalAuth):
		c.fail(CodeUnsupported, field+".type", "who may call is said by an %s, attached to this route by its targetRefs; this filter of the Gateway API's experimental channel is not served beside it", v1alpha1.KindAuthPolicy)
	default:
		c.fail(CodeInvalid, field+".type", "%q is no filter that goes here", kind)
	}
}

// backendRef checks a reference by itself. Whether its kind can be routed to is
// seen when it is followed, so that the rest of the route serves.
func (c *checker) backendRef(field string, ref *gatewayv1.BackendRef) {
	if ref.Name == "" {
		c.required(field + ".name")
	}
	service := (ref.Group == nil || *ref.Group == "") && (ref.Kind == nil || *ref.Kind == "Service")
	switch {
	case service && ref.Port == nil:
		c.fail(CodeRequired, field+".port", "is required for a Service; to refer to a Backend write group: %s, kind: %s", v1alpha1.Group, v1alpha1.KindBackend)
	case ref.Port != nil && ref.Kind != nil && *ref.Kind == v1alpha1.KindBackend:
		c.fail(CodeInvalid, field+".port", "a Backend says itself which ports it has; remove it")
	case ref.Port != nil:
		c.port(field+".port", *ref.Port)
	}
	if ref.Namespace != nil && strings.TrimSpace(string(*ref.Namespace)) == "" {
		c.required(field + ".namespace")
	}
	if ref.Weight != nil && (*ref.Weight < 0 || *ref.Weight > 1_000_000) {
		c.fail(CodeInvalid, field+".weight", "%d is outside of 0 to 1000000", *ref.Weight)
	}
}
