package mtls

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// Labels and annotations of the objects of this package.
const (
	// LabelOwner with OwnerValue and LabelMTLS mark objects that may be changed here.
	LabelOwner = "app.kubernetes.io/managed-by"
	OwnerValue = "weir"
	LabelMTLS  = "weir.dev/mtls"
	// AnnotationHistory is the JSON of []Former, the last one last.
	AnnotationHistory = "weir.dev/mtls-history"
	// AnnotationRun is the observation that an observer is of, AnnotationBefore how our
	// policy of its scope was as that began.
	AnnotationRun    = "weir.dev/mtls-run"
	AnnotationBefore = "weir.dev/mtls-before"
)

// maxHistory bounds the modes that a rollback can go back by.
const maxHistory = 10

// Former is a mode that a scope had.
type Former struct {
	// Mode is Unset where there was no PeerAuthentication of ours.
	Mode Mode `json:"mode"`
	// Until is when it was left, RFC 3339.
	Until string `json:"until"`
}

// Scope is what a PeerAuthentication is about.
type Scope struct {
	Namespace string `json:"namespace"`
	// Selector is of pods' labels; none means the whole namespace.
	Selector map[string]string `json:"selector,omitempty"`
}

func (s Scope) String() string {
	if len(s.Selector) == 0 {
		return "namespace " + s.Namespace
	}
	return "workload " + labels.Set(s.Selector).String() + " of namespace " + s.Namespace
}

// flags name the scope to weir mesh mtls.
func (s Scope) flags() string {
	if len(s.Selector) == 0 {
		return "-n " + s.Namespace
	}
	return "-n " + s.Namespace + " --workload " + labels.Set(s.Selector).String()
}

// Policy is a PeerAuthentication.
type Policy struct {
	Scope
	Name    string
	Created time.Time
	Mode    Mode
	// Ports are modes of the workload's ports; Unset ones inherit.
	Ports map[uint32]Mode
	// Ours says that it carries our labels.
	Ours    bool
	History []Former
}

// Ref is how it is called in messages.
func (p *Policy) Ref() string { return "PeerAuthentication " + p.Namespace + "/" + p.Name }

// mark tells a policy of ours from what it becomes by a change; nil is none.
func (p *Policy) mark() string {
	if p == nil {
		return "none"
	}
	mark := string(p.Mode)
	if last := len(p.History) - 1; last >= 0 {
		mark += " since " + p.History[last].Until
	}
	return mark
}

// ReadPolicy reads a PeerAuthentication of security.istio.io/v1.
func ReadPolicy(object *unstructured.Unstructured) (Policy, error) {
	p := Policy{
		Scope: Scope{Namespace: object.GetNamespace()}, Name: object.GetName(), Created: object.GetCreationTimestamp().Time,
		Ours: object.GetLabels()[LabelOwner] == OwnerValue && object.GetLabels()[LabelMTLS] != "",
	}
	var err error
	fail := func(err error) (Policy, error) { return Policy{}, fmt.Errorf("%s: %w", p.Ref(), err) }
	if p.Selector, _, err = unstructured.NestedStringMap(object.Object, "spec", "selector", "matchLabels"); err != nil {
		return fail(err)
	}
	if p.Mode, err = readMode(object.Object, "spec", "mtls", "mode"); err != nil {
		return fail(err)
	}
	ports, _, err := unstructured.NestedMap(object.Object, "spec", "portLevelMtls")
	if err != nil {
		return fail(err)
	}
	for text := range ports {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return fail(fmt.Errorf("spec.portLevelMtls: %w", err))
		}
		mode, err := readMode(object.Object, "spec", "portLevelMtls", text, "mode")
		if err != nil {
			return fail(err)
		}
		if p.Ports == nil {
			p.Ports = map[uint32]Mode{}
		}
		p.Ports[uint32(port)] = mode
	}
	if text := object.GetAnnotations()[AnnotationHistory]; p.Ours && text != "" {
		if err := json.Unmarshal([]byte(text), &p.History); err != nil {
			return fail(fmt.Errorf("annotation %s: %w", AnnotationHistory, err))
		}
	}
	return p, nil
}

func readMode(object map[string]any, path ...string) (Mode, error) {
	text, _, err := unstructured.NestedString(object, path...)
	if err != nil || text == "" || text == "UNSET" {
		return Unset, err
	}
	return ParseMode(text)
}

// Setting is what is in force for a pod, and by whom.
type Setting struct {
	Mode Mode `json:"mode"`
	// By is the PeerAuthentication that says so, or "Istio's default".
	By string `json:"by"`
	// Ports are those whose mode is another policy's word, or another.
	Ports map[uint32]Mode `json:"ports,omitempty"`
}

// At is the mode of a port of the pod.
func (s Setting) At(port uint32) Mode {
	if mode, ok := s.Ports[port]; ok {
		return mode
	}
	return s.Mode
}

// Policies are all PeerAuthentications that can matter to a namespace.
type Policies struct {
	// Root is the mesh's root namespace, whose policy without a selector is the mesh's.
	Root string
	All  []Policy
}

// oldest is the first of those without a selector in a namespace: Istio ignores
// others.
func (p *Policies) oldest(applies func(*Policy) bool) *Policy {
	var found *Policy
	for i := range p.All {
		one := &p.All[i]
		if applies(one) && (found == nil || older(one, found)) {
			found = one
		}
	}
	return found
}

// older is Istio's order: by creation, then name and namespace.
func older(a, b *Policy) bool {
	return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name+"."+a.Namespace, b.Name+"."+b.Namespace)) < 0
}

// Effective is what is in force for a pod with labels, as Istio composes it
// (pilot/pkg/security/authn, ComposePeerAuthentication): the oldest policy of each
// of mesh, namespace and workload, the narrower before the wider, and what is unset
// inherits. Nothing at all is PERMISSIVE. Policies with a selector in the root
// namespace are no workload's.
func (p *Policies) Effective(namespace string, pod map[string]string) Setting {
	setting := Setting{Mode: Permissive, By: "Istio's default"}
	inherit := func(one *Policy) {
		if one != nil && one.Mode != Unset {
			setting.Mode, setting.By = one.Mode, one.Ref()
		}
	}
	inherit(p.wide(p.Root))
	if namespace == p.Root {
		return setting
	}
	inherit(p.wide(namespace))
	workload := p.oldest(func(one *Policy) bool {
		return one.Namespace == namespace && len(one.Selector) > 0 && labels.SelectorFromSet(one.Selector).Matches(labels.Set(pod))
	})
	inherit(workload)
	if workload == nil {
		return setting
	}
	for port, mode := range workload.Ports {
		if setting.Ports == nil {
			setting.Ports = map[uint32]Mode{}
		}
		setting.Ports[port] = cmp.Or(mode, setting.Mode)
	}
	return setting
}

// wide is the policy of a whole namespace.
func (p *Policies) wide(namespace string) *Policy {
	return p.oldest(func(one *Policy) bool { return one.Namespace == namespace && len(one.Selector) == 0 })
}

// same are the policies of exactly a scope, ours first.
func (p *Policies) same(scope Scope) (ours *Policy, others []*Policy) {
	for i := range p.All {
		one := &p.All[i]
		if one.Namespace != scope.Namespace || !maps.Equal(one.Selector, scope.Selector) {
			continue
		}
		if one.Ours && one.Name == policyName(scope) {
			ours = one
		} else {
			others = append(others, one)
		}
	}
	return ours, others
}

// with is the policies as they would be with another mode of ours; Unset without it.
func (p *Policies) with(scope Scope, mode Mode, now time.Time) Policies {
	changed := Policies{Root: p.Root, All: slices.Clone(p.All)}
	for i := range changed.All {
		one := &changed.All[i]
		if one.Ours && one.Name == policyName(scope) && one.Namespace == scope.Namespace {
			if mode == Unset {
				changed.All = slices.Delete(changed.All, i, i+1)
			} else {
				one.Mode = mode
			}
			return changed
		}
	}
	if mode != Unset {
		changed.All = append(changed.All, Policy{Scope: scope, Name: policyName(scope), Created: now, Mode: mode, Ours: true})
	}
	return changed
}

// latest is a time after which a policy would be created now.
func latest(policies Policies) time.Time {
	var last time.Time
	for i := range policies.All {
		if created := policies.All[i].Created; created.After(last) {
			last = created
		}
	}
	return last.Add(time.Second)
}

// matches reports whether a pod is of a scope.
func matches(scope Scope, pod Pod) bool {
	return pod.Namespace == scope.Namespace && labels.SelectorFromSet(scope.Selector).Matches(labels.Set(pod.Labels))
}
