package mtls

import (
	"fmt"
	"slices"
	"strings"

	"weir.dev/policy"
)

// Reason is why something is not done.
type Reason struct {
	Code policy.Code `json:"code"`
	// Message says what is wrong and where, and what to do.
	Message string `json:"message"`
}

func (r Reason) Error() string { return string(r.Code) + ": " + r.Message }

// State is what is known of a cluster before anything is done.
type State struct {
	Policies Policies
	// Pods are those of the scope's namespace.
	Pods []Pod
}

// Evidence is what an observation found.
type Evidence struct {
	// Callers are those that were seen; only their requests and connections in
	// plaintext count.
	Callers []Caller
	// Unknown says of sidecars why it is not known who calls them, a line each.
	Unknown []string
}

// Standing is a scope as it is.
type Standing struct {
	Scope Scope
	Mode  Mode
	By    string
	// ours is our policy of the scope, nil when there is none.
	ours *Policy
	// Governed are the pods with a sidecar whose mode the scope's policy says.
	Governed []Pod
	// Bare are pods without a sidecar, Apart those with a mode of their own.
	Bare, Apart []Pod
}

// Stand says how a scope stands, and what keeps its mode from being changed here at
// all.
func Stand(state State, scope Scope) (Standing, []Reason) {
	standing := Standing{Scope: scope}
	setting := state.Policies.Effective(scope.Namespace, scope.Selector)
	standing.Mode, standing.By = setting.Mode, setting.By
	var reasons []Reason
	refuse := func(code policy.Code, format string, values ...any) {
		reasons = append(reasons, Reason{code, fmt.Sprintf(format, values...)})
	}
	if scope.Namespace == state.Policies.Root {
		refuse(policy.CodeMTLSForeign, "%s is the mesh's root namespace, whose PeerAuthentication is everybody's: take the namespaces one after the other", scope.Namespace)
	}
	ours, others := state.Policies.same(scope)
	standing.ours = ours
	for _, other := range others {
		refuse(policy.CodeMTLSForeign, "%s is of the same scope and not Weir's, and Istio goes by the oldest: delete it, or change it where it comes from", other.Ref())
	}
	after := state.Policies.with(scope, standing.Mode, latest(state.Policies))
	name := (&Policy{Scope: scope, Name: policyName(scope)}).Ref()
	for _, pod := range state.Pods {
		if !matches(scope, pod) || !pod.Running || pod.Gateway {
			continue
		}
		says := after.Effective(pod.Namespace, pod.Labels)
		switch {
		case pod.Ambient:
			refuse(policy.CodeMTLSUnknown, "pod %s is in an ambient mesh, which cannot be observed: only sidecars can", &pod)
		case pod.Sidecar == "":
			standing.Bare = append(standing.Bare, pod)
		case says.By == name:
			standing.Governed = append(standing.Governed, pod)
		case len(scope.Selector) > 0:
			refuse(policy.CodeMTLSForeign, "pod %s goes by %s, which is older: delete it, or change it where it comes from", &pod, says.By)
		default:
			standing.Apart = append(standing.Apart, pod)
		}
	}
	return standing, reasons
}

// mayBegin says what speaks against a step before anybody is observed.
func mayBegin(standing Standing, to Mode) []Reason {
	switch {
	case !standing.Mode.oneStep(to):
		return []Reason{{policy.CodeMTLSStep, fmt.Sprintf(
			"%s is %s and cannot become %s at once, which would cut callers off: set PERMISSIVE first, which takes both", standing.Scope, standing.Mode, to)}}
	case to == Strict && len(standing.Governed) == 0:
		return []Reason{{policy.CodeMTLSUnknown, fmt.Sprintf(
			"no pod of %s has a sidecar that would go by it: STRICT would protect nothing, and who calls cannot be seen; start its pods with a sidecar first", standing.Scope)}}
	}
	return nil
}

// mayEnforce decides whether STRICT may be taken on the evidence. No reasons mean
// that it may.
func mayEnforce(evidence Evidence) []Reason {
	var reasons []Reason
	for _, line := range evidence.Unknown {
		reasons = append(reasons, Reason{policy.CodeMTLSUnknown, line})
	}
	callers := Plaintext(evidence.Callers)
	for i := range callers {
		reasons = append(reasons, Reason{policy.CodeMTLSPlaintext, fmt.Sprintf("%s: %s", &callers[i], remedy(&callers[i]))})
	}
	return reasons
}

// remedy is what to do about a caller.
func remedy(caller *Caller) string {
	switch {
	case caller.Meshed:
		return "look for a DestinationRule with tls DISABLE, or a port or address that is excluded from its sidecar"
	case strings.HasPrefix(caller.Name, "pod "):
		return "start it with a sidecar"
	case strings.HasPrefix(caller.Name, "node "):
		return "a kubelet's probe that Istio does not rewrite, a pod of the node's network, or one from outside; have probes rewritten, let others come through a gateway"
	}
	return "let it come through a gateway of the mesh"
}

// notes are worth knowing of a scope.
func (s *Standing) notes(to Mode) []string {
	var notes []string
	if len(s.Bare) > 0 {
		notes = append(notes, fmt.Sprintf("without a sidecar, where %s does nothing: %s", to, names(s.Bare)))
	}
	if len(s.Apart) > 0 {
		notes = append(notes, "with a mode of their own, which stays: "+names(s.Apart))
	}
	if to == Disable && s.Mode != Disable {
		notes = append(notes, "in DISABLE, callers whose DestinationRule has tls ISTIO_MUTUAL or MUTUAL fail until that is changed, or the mode is")
	}
	return notes
}

// maxNames bounds the pods that are listed in one line.
const maxNames = 10

func names(pods []Pod) string {
	var all []string
	for i := range pods {
		all = append(all, pods[i].String())
	}
	slices.Sort(all)
	if more := len(all) - maxNames; more > 0 {
		all = append(all[:maxNames], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, ", ")
}
