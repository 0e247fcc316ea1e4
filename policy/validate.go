package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weir.dev/policy/v1alpha1"
)

// checker collects what is wrong with one object.
type checker struct {
	object   *Object
	parser   *Parser
	problems Problems
}

func (p *Parser) validate(object *Object) Problems {
	c := &checker{object: object, parser: p}
	switch value := object.Value.(type) {
	case *v1alpha1.Backend:
		c.backend(&value.Spec)
	case *v1alpha1.Consumer:
		c.consumer(&value.Spec)
	case *v1alpha1.AuthPolicy:
		c.authPolicy(&value.Spec)
	case *v1alpha1.ExtensionPolicy:
		c.extensionPolicy(&value.Spec)
	case *v1alpha1.TrafficPolicy:
		c.trafficPolicy(&value.Spec)
	case *v1alpha1.RateLimitPolicy:
		c.rateLimitPolicy(&value.Spec)
	case *gatewayv1.Gateway:
		c.gateway(&value.Spec)
	case *gatewayv1.ListenerSet:
		c.listenerSet(&value.Spec)
	case *gatewayv1.HTTPRoute:
		c.httpRoute(&value.Spec)
	case *corev1.Secret:
		c.secret(value)
	case *v1alpha1.TLSPolicy:
		c.tlsPolicy(&value.Spec)
	case *v1alpha1.HeaderPolicy:
		c.headerPolicy(&value.Spec)
	case *v1alpha1.EdgePolicy:
		c.edgePolicy(&value.Spec)
	case *gatewayv1.TLSRoute:
		c.tlsRoute(&value.Spec)
	case *gatewayv1.GRPCRoute:
		c.grpcRoute(&value.Spec)
	case *gatewayv1.BackendTLSPolicy:
		c.backendTLSPolicy(&value.Spec)
	case *corev1.Service:
		c.service(&value.Spec)
	case *discoveryv1.EndpointSlice:
		c.endpointSlice(value)
	case *gatewayv1.ReferenceGrant:
		c.referenceGrant(&value.Spec)
	}
	return c.problems
}

func (c *checker) fail(code Code, field, format string, args ...any) {
	c.problems = append(c.problems, c.object.problem(code, field, fmt.Sprintf(format, args...)))
}

// note tells of something that leaves nothing out.
func (c *checker) note(code Code, field, format string, args ...any) {
	c.problems = append(c.problems, c.object.notice(code, field, fmt.Sprintf(format, args...)))
}

func (c *checker) required(field string) { c.fail(CodeRequired, field, "is required") }

func (c *checker) text(field, value string, required bool, most int) {
	switch {
	case value == "" && required:
		c.required(field)
	case len(value) > most:
		c.fail(CodeTooMany, field, "has %d bytes; the most is %d", len(value), most)
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		c.fail(CodeInvalid, field, "holds a control character")
	}
}

func (c *checker) count(field string, have, least, most int) {
	if have < least {
		c.fail(CodeRequired, field, "needs at least %d entries, has %d", least, have)
	}
	if have > most {
		c.fail(CodeTooMany, field, "has %d entries; the most is %d", have, most)
	}
}

// defaults refuses the fields by which routes and Gateways find each other without
// naming each other; None, which is what they are without it, goes.
func (c *checker) defaults(scope, field string) {
	if scope != "" && scope != string(gatewayv1.GatewayDefaultScopeNone) {
		c.fail(CodeUnsupported, field, "routes are not attached to Gateways that they don't name (this is of the Gateway API's experimental channel): name the Gateway in the routes' parentRefs")
	}
}

func oneOf[T ~string](c *checker, field string, value T, allowEmpty bool, allowed ...T) {
	if (value == "" && allowEmpty) || slices.Contains(allowed, value) {
		return
	}
	names := make([]string, len(allowed))
	for i, name := range allowed {
		names[i] = string(name)
	}
	if value == "" {
		c.fail(CodeRequired, field, "is required: one of %s", strings.Join(names, ", "))
		return
	}
	c.fail(CodeInvalid, field, "%q is not one of %s", string(value), strings.Join(names, ", "))
}

// unique reports names that occur twice and names that are no DNS label, since
// they become parts of ids and headers.
func (c *checker) unique(list string, names []string) {
	seen := map[string]bool{}
	for i, name := range names {
		field := fmt.Sprintf("%s[%d].name", list, i)
		if name == "" {
			c.required(field)
			continue
		}
		if errs := validation.IsDNS1123Label(name); len(errs) > 0 {
			c.fail(CodeInvalid, field, "%q: %s", name, errs[0])
		}
		if seen[name] {
			c.fail(CodeDuplicateName, field, "%q is there twice", name)
		}
		seen[name] = true
	}
}

// durationPattern is GEP-2257's, the Gateway API's duration format.
var durationPattern = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

func parseDuration(value gatewayv1.Duration) (time.Duration, bool) {
	if !durationPattern.MatchString(string(value)) {
		return 0, false
	}
	parsed, err := time.ParseDuration(string(value))
	return parsed, err == nil
}

func (c *checker) duration(field string, value *gatewayv1.Duration, least, most time.Duration) {
	if value == nil {
		return
	}
	parsed, ok := parseDuration(*value)
	if !ok {
		c.fail(CodeInvalid, field, "%q is not a duration such as 500ms, 30s or 1h30m", string(*value))
		return
	}
	if parsed < least || parsed > most {
		c.fail(CodeInvalid, field, "%s is outside of %s to %s", parsed, least, most)
	}
}

// durationOr is a validated duration, or other when there is none.
func durationOr(value *gatewayv1.Duration, other time.Duration) time.Duration {
	if value == nil {
		return other
	}
	if parsed, ok := parseDuration(*value); ok {
		return parsed
	}
	return other
}

// headerPattern is RFC 9110's token.
var headerPattern = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

func (c *checker) header(field, name string) {
	switch {
	case name == "":
		c.required(field)
	case len(name) > 256 || !headerPattern.MatchString(name):
		c.fail(CodeInvalid, field, "%q is not a header name", name)
	case strings.HasPrefix(strings.ToLower(name), "x-weir-"):
		c.fail(CodeInvalid, field, "%q: names that start with x-weir- are the edge's own", name)
	}
}

func (c *checker) regex(field, value string) {
	if len(value) > 1024 {
		c.fail(CodeTooMany, field, "has %d bytes; the most is 1024", len(value))
		return
	}
	parsed, err := syntax.Parse(value, syntax.Perl)
	if err != nil {
		c.fail(CodeInvalid, field, "is not a regular expression in RE2 syntax: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxRegexProgram {
		c.fail(CodeTooMany, field, "is too complex: it compiles to more than %d instructions; counted repetitions such as {63} weigh most", maxRegexProgram)
	}
}

// maxRegexProgram bounds a compiled regular expression. Envoy's own bound, set in
// its bootstrap, is above it by more than the two compilers differ.
const maxRegexProgram = 1000

func (c *checker) port(field string, port int32) {
	if port < 1 || port > 65535 {
		c.fail(CodeInvalid, field, "%d is not a port, 1 to 65535", port)
	}
}

func (c *checker) hostname(field, name string, wildcard bool) {
	bare := name
	if wildcard {
		bare = strings.TrimPrefix(name, "*.")
	}
	if errs := validation.IsDNS1123Subdomain(bare); len(errs) > 0 {
		c.fail(CodeInvalid, field, "%q is not a lower-case DNS name", name)
	} else if _, err := netip.ParseAddr(bare); err == nil {
		c.fail(CodeInvalid, field, "%q is an IP address; write a DNS name", name)
	}
}

func (c *checker) targetRefs(targets []v1alpha1.TargetRef) {
	c.count("spec.targetRefs", len(targets), 1, 16)
	for i, target := range targets {
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		if target.Group != gatewayv1.GroupName {
			c.fail(CodeInvalid, field+".group", "%q: write %s", string(target.Group), gatewayv1.GroupName)
		}
		oneOf(c, field+".kind", target.Kind, false, kindGateway, kindListenerSet, "HTTPRoute", "GRPCRoute")
		if target.Name == "" {
			c.required(field + ".name")
		}
	}
}

func (c *checker) configMapRef(field string, ref v1alpha1.ConfigMapKeyRef) {
	if ref.Name == "" {
		c.required(field + ".name")
	}
	if ref.Key == "" {
		c.required(field + ".key")
	}
}
