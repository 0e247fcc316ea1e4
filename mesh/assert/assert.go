package assert

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weir.dev/mesh/istio"
)

// maxDumpBytes bounds a configuration dump.
const maxDumpBytes = 256 << 20

// redacted is what Envoy's dumps show of fields that may hold secrets (udpa.annotations.sensitive):
// that they are there.
const redacted = "[redacted]"

// Finding is an assertion that does not hold.
type Finding struct {
	// Filter is the EnvoyFilter's namespace and name; Patch counts from 0.
	Filter string `json:"filter"`
	Patch  int    `json:"patch"`
	// Subject is the filter or route that the patch is about.
	Subject string `json:"subject"`
	// Matched are those found, Applied those of them that have what the patch puts in;
	// both should be Want.
	Matched int `json:"matched"`
	Applied int `json:"applied"`
	Want    int `json:"want"`
	// Missing is the first field of the patch that one of them lacks.
	Missing string `json:"missing,omitempty"`
}

func (f Finding) String() string {
	text := fmt.Sprintf("EnvoyFilter %s, configPatches[%d]: %s is there %d times and %d have the patch, want %d", f.Filter, f.Patch, f.Subject, f.Matched, f.Applied, f.Want)
	if f.Missing != "" {
		text += "; what is missing is " + f.Missing
	}
	return text
}

// Check looks for what the EnvoyFilters assert in a dump of a proxy's
// configuration: JSON of envoy.admin.v3.ConfigDump, as a proxy's /config_dump and
// istiod's /debug/config_dump answer. Objects of other kinds, and EnvoyFilters
// without an assertion, are passed over. The error is about the dump or about an
// assertion that can't be read.
func Check(filters []*unstructured.Unstructured, dump []byte) ([]Finding, error) {
	config, err := Read(dump)
	if err != nil {
		return nil, err
	}
	if len(config.listeners) == 0 {
		return nil, errors.New("the configuration dump has no listeners: it is of another proxy, or the gateway has none yet")
	}
	return config.Filters(filters)
}

// Filters is Check of a dump that was read; one without listeners has none of it.
func (p *Proxy) Filters(filters []*unstructured.Unstructured) ([]Finding, error) {
	var findings []Finding
	for _, object := range filters {
		found, err := p.filter(object)
		if err != nil {
			return nil, err
		}
		findings = append(findings, found...)
	}
	return findings, nil
}

// Routes says which routes a port has more or fewer of than are given by name; other
// routes are not looked at.
func (p *Proxy) Routes(port int32, counts map[string]int) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		have := len(p.candidates(istio.Assertion{ApplyTo: "HTTP_ROUTE", Port: port, Name: name}))
		if have != counts[name] {
			found = append(found, fmt.Sprintf("route %s is there %d times on port %d, want %d", name, have, port, counts[name]))
		}
	}
	return found
}

// Ports are those with connection managers, with whether each of these asks extauthz
// and refuses a request when it cannot.
func (p *Proxy) Ports() map[int32]Guard {
	found := map[int32]Guard{}
	for _, listener := range p.listeners {
		number, _ := at(listener, "address", "socket_address", "port_value").(float64)
		for _, chain := range list(at(listener, "filter_chains")) {
			for _, filter := range list(at(chain, "filters")) {
				filters := list(at(filter, "typed_config", "http_filters"))
				if len(filters) == 0 {
					continue
				}
				guard, seen := found[int32(number)]
				asks, open := asksExtAuthz(filters)
				found[int32(number)] = Guard{Asked: asks && (guard.Asked || !seen), Open: open || guard.Open}
			}
		}
	}
	return found
}

// Guard is what a port does about authorization.
type Guard struct {
	// Asked says that every connection manager of the port asks an ext_authz server.
	Asked bool
	// Open says that one of them lets requests in when the server does not answer.
	Open bool
}

func asksExtAuthz(filters []any) (asks, open bool) {
	for _, filter := range filters {
		name, _ := at(filter, "typed_config", "@type").(string)
		if strings.HasSuffix(name, "ext_authz.v3.ExtAuthz") {
			asks = true
			open = open || at(filter, "typed_config", "failure_mode_allow") == true
		}
	}
	return asks, open
}

// filter checks one object.
func (p *Proxy) filter(object *unstructured.Unstructured) ([]Finding, error) {
	text := object.GetAnnotations()[istio.AnnotationAssertion]
	if object.GetKind() != "EnvoyFilter" || text == "" {
		return nil, nil
	}
	name := object.GetNamespace() + "/" + object.GetName()
	var assertions []istio.Assertion
	if err := json.Unmarshal([]byte(text), &assertions); err != nil {
		return nil, fmt.Errorf("EnvoyFilter %s: annotation %s: %w", name, istio.AnnotationAssertion, err)
	}
	patches, _, err := unstructured.NestedSlice(object.Object, "spec", "configPatches")
	if err != nil {
		return nil, fmt.Errorf("EnvoyFilter %s: %w", name, err)
	}
	if len(patches) != len(assertions) {
		return nil, fmt.Errorf("EnvoyFilter %s has %d patches and %d assertions", name, len(patches), len(assertions))
	}
	var findings []Finding
	for i, assertion := range assertions {
		found := Finding{Filter: name, Patch: i, Subject: assertion.ApplyTo + " " + cmp.Or(assertion.Name, "without a server name"), Want: assertion.Count}
		value := snake(at(patches[i], "patch", "value")) // as the dump
		for _, candidate := range p.candidates(assertion) {
			found.Matched++
			if place := missing(candidate, value, "value"); place == "" {
				found.Applied++
			} else {
				found.Missing = place
			}
		}
		if found.Matched != found.Want || found.Applied != found.Want {
			findings = append(findings, found)
		}
	}
	return findings, nil
}

// Proxy is the part of a dump that patches are about.
type Proxy struct {
	listeners []any
	routes    []any
}

// Read reads a dump; see Check. Safe for concurrent use afterwards.
func Read(dump []byte) (*Proxy, error) {
	if len(dump) > maxDumpBytes {
		return nil, fmt.Errorf("the configuration dump has %d bytes; the most is %d", len(dump), maxDumpBytes)
	}
	var whole any
	if err := json.Unmarshal(dump, &whole); err != nil {
		return nil, fmt.Errorf("the configuration dump is not JSON: %w", err)
	}
	whole = snake(whole)
	made := &Proxy{}
	for _, part := range list(at(whole, "configs")) {
		for _, listener := range list(at(part, "dynamic_listeners")) {
			if found := at(listener, "active_state", "listener"); found != nil {
				made.listeners = append(made.listeners, found)
			}
		}
		for _, config := range list(at(part, "dynamic_route_configs")) {
			if found := at(config, "route_config"); found != nil {
				made.routes = append(made.routes, found)
			}
		}
	}
	return made, nil
}

// candidates are what an assertion is about.
func (p *Proxy) candidates(assertion istio.Assertion) []any {
	var found []any
	if assertion.ApplyTo == "HTTP_ROUTE" {
		for _, config := range p.routes {
			name, _ := at(config, "name").(string)
			if !ofPort(name, strconv.Itoa(int(assertion.Port))) {
				continue
			}
			for _, host := range list(at(config, "virtual_hosts")) {
				for _, route := range list(at(host, "routes")) {
					if at(route, "name") == assertion.Name {
						found = append(found, route)
					}
				}
			}
		}
		return found
	}
	for _, listener := range p.listeners {
		if at(listener, "address", "socket_address", "port_value") != float64(assertion.Port) {
			continue
		}
		for _, chain := range list(at(listener, "filter_chains")) {
			if assertion.ApplyTo == "FILTER_CHAIN" {
				names := list(at(chain, "filter_chain_match", "server_names"))
				if slices.Contains(names, any(assertion.Name)) || len(names) == 0 && assertion.Name == "" {
					found = append(found, chain)
				}
				continue
			}
			for _, filter := range list(at(chain, "filters")) {
				if assertion.ApplyTo == "NETWORK_FILTER" {
					if at(filter, "name") == assertion.Name {
						found = append(found, filter)
					}
					continue
				}
				for _, inner := range list(at(filter, "typed_config", "http_filters")) {
					if at(inner, "name") == assertion.Name {
						found = append(found, inner)
					}
				}
			}
		}
	}
	return found
}

// ofPort reports whether routes of a name are those of a gateway's port: "http.80",
// or "https.443." with the names of the server, the Gateway and its namespace.
func ofPort(name, port string) bool {
	return name == port || strings.HasSuffix(name, "."+port) || strings.HasPrefix(name, "https."+port+".")
}

// at goes down a path of names; nil where there is nothing.
func at(value any, path ...string) any {
	for _, name := range path {
		fields, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = fields[name]
	}
	return value
}

func list(value any) []any {
	items, _ := value.([]any)
	return items
}

// snake gives fields the names that they have in the protos: istiod writes those
// of JSON, Envoy these.
func snake(value any) any {
	switch typed := value.(type) {
	case map[string]any:
		made := make(map[string]any, len(typed))
		for name, inner := range typed {
			made[snakeName(name)] = snake(inner)
		}
		return made
	case []any:
		made := make([]any, len(typed))
		for i := range typed {
			made[i] = snake(typed[i])
		}
		return made
	}
	return value
}

// snakeName leaves names of filters and types, which have dots, alone.
func snakeName(name string) string {
	if strings.ContainsAny(name, "./@-") {
		return name
	}
	var made strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				made.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		made.WriteRune(r)
	}
	return made.String()
}

// missing is the first place at which a value lacks what another says; empty for
// none. Of lists the one has to have each item of the other, in its order.
func missing(have, want any, at string) string {
	switch wanted := want.(type) {
	case map[string]any:
		fields, ok := have.(map[string]any)
		if !ok && (len(wanted) > 0 || have != nil) {
			return at
		}
		for _, name := range slices.Sorted(maps.Keys(wanted)) {
			if place := missing(fields[name], wanted[name], at+"."+name); place != "" {
				return place
			}
		}
		return ""
	case []any:
		items := list(have)
		for n, inner := range wanted {
			place := fmt.Sprintf("%s[%d]", at, n)
			i := slices.IndexFunc(items, func(item any) bool { return missing(item, inner, place) == "" })
			if i < 0 {
				return place
			}
			items = items[i+1:]
		}
		return ""
	}
	if have != redacted && scalar(have) != scalar(want) {
		return at
	}
	return ""
}

// scalar is a value in one form: numbers and durations are written in several, and
// what is zero may be left out.
func scalar(value any) string {
	switch typed := value.(type) {
	case nil:
		return ""
	case bool:
		if !typed {
			return ""
		}
		return "true"
	case int64:
		return scalar(float64(typed))
	case float64:
		if typed == 0 {
			return ""
		}
		return strconv.FormatFloat(typed, 'g', -1, 64)
	case string:
		if number, err := strconv.ParseFloat(typed, 64); err == nil {
			return scalar(number)
		}
		if strings.HasSuffix(typed, "s") {
			if duration, err := time.ParseDuration(typed); err == nil {
				return duration.String()
			}
		}
		return typed
	}
	return fmt.Sprint(value)
}
