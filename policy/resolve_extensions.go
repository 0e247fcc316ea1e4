package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"weir.dev/policy/v1alpha1"
)

// Bounds of extensions.
const (
	maxExtensions           = 16
	defaultExtensionTimeout = 200 * time.Millisecond
)

// Extension is a server that processes exchanges (ext_proc). Routes with the same
// policies share it.
type Extension struct {
	// ID is "namespace/policy/name", and Slot its place among all extensions of a
	// port: texts in the order in which requests meet the extensions, whatever the
	// route. The same extension has several where it is attached on several levels.
	ID, Slot string
	// Backend is the server's; empty when it did not resolve.
	Backend string
	// When are the requests that it sees; none stands for all.
	When []Match `json:",omitempty"`
	// Request and Response are what is sent of each direction.
	Request, Response ExtensionPhase
	// Timeout of each answer.
	Timeout time.Duration
	// FailOpen goes on without an answer; otherwise the request is answered with 503.
	FailOpen bool
	// ModeOverride lets the server change what is sent to it.
	ModeOverride bool
	// AllowHeaders, lower case, are what is sent and nothing else, unless empty;
	// DenyHeaders are not sent.
	AllowHeaders, DenyHeaders             []string
	RequestAttributes, ResponseAttributes []string
	Origin                                Origin
}

// ExtensionPhase is what is sent of one direction.
type ExtensionPhase struct {
	Headers, Trailers bool
	Body              v1alpha1.ExtensionBody
}

func extensionPieces(object *Object, field string, settings *v1alpha1.ExtensionSettings) []piece {
	pieces := make([]piece, len(settings.Extensions))
	for i := range settings.Extensions {
		extension := &settings.Extensions[i]
		pieces[i] = piece{key: "extensions/" + extension.Name, value: extension, origin: object.Origin(fmt.Sprintf("%s.extensions[%d]", field, i))}
	}
	return pieces
}

// extensionsOf are the extensions in effect, in order.
func (r *resolver) extensionsOf(set *policySet) []Extension {
	if set.extended {
		return set.extensions
	}
	set.extended = true
	pieces := set.kinds[kindExtensions].pieces
	for _, won := range pieces {
		spec, ok := won.value.(*v1alpha1.Extension)
		if !ok {
			continue
		}
		extension := r.extension(won, spec)
		if len(pieces) > maxExtensions {
			r.reportOnce(won.from.object.problem(CodeTooManyMerged, "spec", fmt.Sprintf(
				"merged with the others that reach the route, there are %d extensions; the most are %d: every request is refused", len(pieces), maxExtensions)))
			extension.Backend, extension.FailOpen = "", false
			set.extensions = []Extension{extension}
			break
		}
		set.extensions = append(set.extensions, extension)
	}
	return set.extensions
}

func (r *resolver) extension(won wonPiece, spec *v1alpha1.Extension) Extension {
	ref := won.from.object.Ref
	extension := Extension{
		ID: ref.Namespace + "/" + ref.Name + "/" + spec.Name, Slot: slotOf(won),
		Backend: r.extensionBackend(won, spec),
		When:    extensionMatches(spec.When), Request: phaseOf(spec.Process.Request), Response: phaseOf(spec.Process.Response),
		Timeout: durationOr(spec.MessageTimeout, defaultExtensionTimeout), FailOpen: spec.FailureMode == v1alpha1.FailureModeOpen,
		ModeOverride:      spec.AllowModeOverride,
		RequestAttributes: spec.RequestAttributes, ResponseAttributes: spec.ResponseAttributes, Origin: won.origin,
	}
	if forward := spec.ForwardHeaders; forward != nil {
		for _, name := range forward.Allow {
			extension.AllowHeaders = append(extension.AllowHeaders, strings.ToLower(name))
		}
		for _, name := range forward.Deny {
			extension.DenyHeaders = append(extension.DenyHeaders, strings.ToLower(name))
		}
	}
	if len(extension.AllowHeaders) == 0 {
		extension.DenyHeaders = append(extension.DenyHeaders, "authorization", "proxy-authorization", "cookie", "set-cookie")
	}
	return extension
}

// slotOf orders as effective.pieces does, without knowing what else there is.
func slotOf(won wonPiece) string {
	from := won.from
	index := slices.IndexFunc(from.pieces, func(p piece) bool { return p.key == won.key })
	rank := "1." + [levelCount]string{"0", "1", "2", "2s", "3"}[from.level]
	if from.overrides {
		rank = "0." + [levelCount]string{"3", "2", "1", "0s", "0"}[from.level]
	}
	return fmt.Sprintf("%s/%s/%s/%s/%03d", rank, from.created().UTC().Format(time.RFC3339), from.namespace(), from.object.Ref.Name, index)
}

func phaseOf(spec v1alpha1.ExtensionPhase) ExtensionPhase {
	phase := ExtensionPhase{Headers: spec.Headers != v1alpha1.ExtensionSkips, Trailers: spec.Trailers == v1alpha1.ExtensionSends}
	if spec.Body != v1alpha1.ExtensionBodyNone {
		phase.Body = spec.Body
	}
	return phase
}

// extensionBackend is the id of the extension's Backend, or "".
func (r *resolver) extensionBackend(won wonPiece, spec *v1alpha1.Extension) string {
	policy := won.from.object
	to := ObjectRef{Kind: v1alpha1.KindBackend, Namespace: policy.Ref.Namespace, Name: spec.BackendRef.Name}
	if spec.BackendRef.Namespace != "" {
		to.Namespace = spec.BackendRef.Namespace
	}
	otherwise := "; requests are refused until it is mended"
	if spec.FailureMode == v1alpha1.FailureModeOpen {
		otherwise = "; requests go on without the extension"
	}
	field := won.origin.Field + ".backendRef"
	if !r.granted(policy.Ref, to) {
		problem := notGranted(policy, field+".namespace", to)
		won.from.broken(problem.Message)
		problem.Message += otherwise
		r.reportOnce(problem)
		return ""
	}
	state := r.resolveBackend(to.Namespace, to.Name)
	var message string
	switch {
	case state == nil:
		message = fmt.Sprintf("there is no %s", to)
	case state.broken != "":
		message = fmt.Sprintf("%s cannot be used: %s", to, state.broken)
	case state.backend.Protocol != v1alpha1.ProtocolGRPC:
		message = fmt.Sprintf("%s is not of protocol %s", to, v1alpha1.ProtocolGRPC)
	default:
		state.used = true
		return state.backend.ID
	}
	won.from.broken(message)
	r.reportOnce(policy.problem(CodeRefNotFound, field+".name", message+otherwise))
	return ""
}

func (c *checker) extensionPolicy(spec *v1alpha1.ExtensionPolicySpec) {
	settingsBlocks(c, v1alpha1.StrategyAtomic, true,
		blocks[v1alpha1.ExtensionSettings]{spec.TargetRefs, &spec.ExtensionSettings, spec.Defaults, spec.Overrides}, c.extensionSettings)
}

func (c *checker) extensionSettings(at string, settings *v1alpha1.ExtensionSettings, _ bool) {
	c.count(at+".extensions", len(settings.Extensions), 1, 8)
	names := make([]string, len(settings.Extensions))
	for i := range settings.Extensions {
		extension := &settings.Extensions[i]
		names[i] = extension.Name
		field := fmt.Sprintf("%s.extensions[%d]", at, i)
		c.text(field+".backendRef.name", extension.BackendRef.Name, true, 253)
		if extension.BackendRef.Namespace != "" {
			c.namespace(field+".backendRef.namespace", extension.BackendRef.Namespace)
		}
		c.extensionMatches(field+".when", extension.When)
		c.extensionPhase(field+".process.request", extension.Process.Request)
		c.extensionPhase(field+".process.response", extension.Process.Response)
		if request, response := phaseOf(extension.Process.Request), phaseOf(extension.Process.Response); request == (ExtensionPhase{}) && response == (ExtensionPhase{}) {
			c.fail(CodeInvalid, field+".process", "sends nothing; remove the extension, or let it see something")
		}
		c.duration(field+".messageTimeout", extension.MessageTimeout, 10*time.Millisecond, 30*time.Second)
		oneOf(c, field+".failureMode", extension.FailureMode, true, v1alpha1.FailureModeOpen, v1alpha1.FailureModeClosed)
		c.forwardHeaders(field+".forwardHeaders", extension.ForwardHeaders)
		c.attributes(field+".requestAttributes", extension.RequestAttributes)
		c.attributes(field+".responseAttributes", extension.ResponseAttributes)
	}
	c.unique(at+".extensions", names)
}

func (c *checker) extensionPhase(field string, phase v1alpha1.ExtensionPhase) {
	oneOf(c, field+".headers", phase.Headers, true, v1alpha1.ExtensionSends, v1alpha1.ExtensionSkips)
	oneOf(c, field+".trailers", phase.Trailers, true, v1alpha1.ExtensionSends, v1alpha1.ExtensionSkips)
	oneOf(c, field+".body", phase.Body, true, v1alpha1.ExtensionBodyNone, v1alpha1.ExtensionBodyBuffered,
		v1alpha1.ExtensionBodyBufferedPartial, v1alpha1.ExtensionBodyStreamed)
}

func (c *checker) forwardHeaders(field string, forward *v1alpha1.ForwardHeaders) {
	if forward == nil {
		return
	}
	if len(forward.Allow)+len(forward.Deny) == 0 {
		c.fail(CodeRequired, field, "needs allow or deny")
	}
	lists := map[string][]string{"allow": forward.Allow, "deny": forward.Deny}
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		list := lists[name]
		c.count(field+"."+name, len(list), 0, 64)
		for i, header := range list {
			if len(header) > 256 || !headerPattern.MatchString(header) {
				c.fail(CodeInvalid, fmt.Sprintf("%s.%s[%d]", field, name, i), "%q is not a header name", header)
			}
		}
	}
}

func (c *checker) attributes(field string, names []string) {
	c.count(field, len(names), 0, 16)
	distinct(c, field, names)
	for i, name := range names {
		if len(name) > 64 || !attributePattern.MatchString(name) {
			c.fail(CodeInvalid, fmt.Sprintf("%s[%d]", field, i), "%q is not the name of one of Envoy's attributes, such as request.id", name)
		}
	}
}

var attributePattern = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$`)
