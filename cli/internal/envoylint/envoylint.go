// Package envoylint reads an Envoy's configuration (a bootstrap file, or the dump
// of a running one) and says what in it undoes what extauthz does. It knows field
// names, not protos: whatever holds an HTTP connection manager will do.
package envoylint

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"weir.dev/policy"
)

// MaxBytes bounds a configuration.
const MaxBytes = 256 << 20

// Finding is one thing that is wrong.
type Finding struct {
	Code policy.Code
	// Error says that it lets requests past the rules; otherwise it weakens them,
	// or may.
	Error bool
	// Where names the listener and filter or routes.
	Where, Message string
}

// Lint reads a configuration as YAML or JSON.
func Lint(content []byte) ([]Finding, error) {
	if len(content) > MaxBytes {
		return nil, fmt.Errorf("the configuration is %d bytes long; the most is %d", len(content), MaxBytes)
	}
	var root any
	if json.Unmarshal(content, &root) != nil {
		if err := yaml.Unmarshal(content, &root); err != nil {
			return nil, fmt.Errorf("the configuration is neither JSON nor YAML: %w", err)
		}
	}
	l := &linter{}
	l.walk(snake(root), "")
	if l.managers == 0 {
		return nil, errors.New("no HTTP connection manager is in the configuration; give a bootstrap file, or the /config_dump of an Envoy that serves")
	}
	l.routesOff()
	return l.findings, nil
}

type tree = map[string]any

type linter struct {
	findings []Finding
	managers int
	asks     bool
	// off are the routes that turn the check off and do something.
	off []string
}

func (l *linter) add(code policy.Code, grave bool, where, format string, args ...any) {
	l.findings = append(l.findings, Finding{Code: code, Error: grave, Where: where, Message: fmt.Sprintf(format, args...)})
}

// snake gives fields the one of their two spellings that is looked for.
func snake(node any) any {
	switch value := node.(type) {
	case tree:
		renamed := make(tree, len(value))
		for name, inner := range value {
			renamed[snakeName(name)] = snake(inner)
		}
		return renamed
	case []any:
		for i := range value {
			value[i] = snake(value[i])
		}
	}
	return node
}

func snakeName(name string) string {
	if strings.ContainsAny(name, "@._-/ ") {
		return name
	}
	var b strings.Builder
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

func isType(node tree, name string) bool {
	kind, _ := node["@type"].(string)
	return strings.HasSuffix(kind, "."+name)
}

// walk finds the connection managers and routes; where is the nearest name.
func (l *linter) walk(node any, where string) {
	switch value := node.(type) {
	case tree:
		if name, ok := value["name"].(string); ok && (value["filter_chains"] != nil || value["virtual_hosts"] != nil) {
			where = name
		}
		if isType(value, "HttpConnectionManager") {
			l.manager(value, where)
		}
		if value["match"] != nil && (value["route"] != nil || value["direct_response"] != nil || value["redirect"] != nil) {
			l.route(value)
		}
		names := make([]string, 0, len(value))
		for name := range value {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			l.walk(value[name], where)
		}
	case []any:
		for _, inner := range value {
			l.walk(inner, where)
		}
	}
}

func (l *linter) route(route tree) {
	if route["route"] == nil { // answered by Envoy itself
		return
	}
	for _, config := range children(route["typed_per_filter_config"]) {
		if per, ok := config.(tree); ok && (isType(per, "ExtAuthzPerRoute") || isType(per, "FilterConfig")) && per["disabled"] == true {
			if name, ok := route["name"].(string); ok && isType(per, "ExtAuthzPerRoute") {
				l.off = append(l.off, name)
			}
		}
	}
}

func children(node any) (all []any) {
	if value, ok := node.(tree); ok {
		for _, inner := range value {
			all = append(all, inner)
		}
	}
	return all
}

func (l *linter) routesOff() {
	slices.Sort(l.off)
	l.off = slices.Compact(l.off)
	if len(l.off) == 0 || !l.asks {
		return
	}
	shown := strings.Join(l.off[:min(5, len(l.off))], ", ")
	if len(l.off) > 5 {
		shown += ", ..."
	}
	l.add(policy.CodeEnvoyRouteOff, false, "routes "+shown, "%d routes are served without a check", len(l.off))
}

func (l *linter) manager(hcm tree, where string) {
	l.managers++
	where = "listener " + where
	l.connection(hcm, where)
	filters, _ := hcm["http_filters"].([]any)
	checked := false
	for _, each := range filters {
		filter, _ := each.(tree)
		config, _ := filter["typed_config"].(tree)
		name, _ := filter["name"].(string)
		switch {
		case isType(config, "ExtAuthz"):
			checked, l.asks = true, true
			l.check(config, where+", filter "+name)
		case isType(config, "CacheConfig") || isType(config, "CacheV2Config"):
			if !checked {
				l.add(policy.CodeEnvoyOrder, true, where+", filter "+name, "answers from the cache before anybody is asked")
			}
		}
	}
	if !checked {
		l.add(policy.CodeEnvoyUnchecked, false, where, "has no ext_authz filter")
	}
}

// connection is what every listener should have, whoever is asked.
func (l *linter) connection(hcm tree, where string) {
	switch mode, _ := hcm["forward_client_cert_details"].(string); mode {
	case "FORWARD_ONLY", "ALWAYS_FORWARD_ONLY":
		l.add(policy.CodeEnvoyXFCC, true, where, "forward_client_cert_details is %s: a client's own header reaches extauthz and the service", mode)
	case "APPEND_FORWARD":
		l.add(policy.CodeEnvoyXFCC, false, where, "forward_client_cert_details is APPEND_FORWARD: the first element may be the client's own")
	}
	var paths []string
	if hcm["normalize_path"] != true {
		paths = append(paths, "normalize_path is not true")
	}
	if hcm["merge_slashes"] != true {
		paths = append(paths, "merge_slashes is not true")
	}
	if action, _ := hcm["path_with_escaped_slashes_action"].(string); action != "REJECT_REQUEST" && action != "UNESCAPE_AND_REDIRECT" {
		paths = append(paths, "path_with_escaped_slashes_action neither rejects nor redirects")
	}
	if len(paths) > 0 {
		l.add(policy.CodeEnvoyPaths, false, where, "%s", strings.Join(paths, ", "))
	}
	if hcm["use_remote_address"] != true {
		l.add(policy.CodeEnvoyAddress, false, where, "use_remote_address is not true")
	}
	common, _ := hcm["common_http_protocol_options"].(tree)
	if action, _ := common["headers_with_underscores_action"].(string); action != "REJECT_REQUEST" && action != "DROP_HEADER" {
		l.add(policy.CodeEnvoyUnderscores, false, where, "headers_with_underscores_action is not REJECT_REQUEST")
	}
	if limit, set := seconds(hcm["request_headers_timeout"]); !set || limit == 0 {
		l.add(policy.CodeEnvoySlowClients, false, where, "request_headers_timeout is not set")
	}
	if limit, set := seconds(hcm["stream_idle_timeout"]); set && limit == 0 {
		l.add(policy.CodeEnvoySlowClients, false, where, "stream_idle_timeout is 0")
	}
}

// Bounds beyond which something is said.
const (
	longTimeout = 10 * time.Second
	largeBody   = 1 << 20
)

// check looks at one ext_authz filter.
func (l *linter) check(config tree, where string) {
	if config["failure_mode_allow"] == true {
		l.add(policy.CodeEnvoyFailOpen, true, where, "failure_mode_allow is true")
	}
	service, overGRPC := config["grpc_service"].(tree)
	if overGRPC && config["encode_raw_headers"] != true {
		l.add(policy.CodeEnvoyRawHeaders, true, where, "encode_raw_headers is not true")
	}
	if !overGRPC {
		inner, _ := config["http_service"].(tree)
		service, _ = inner["server_uri"].(tree)
	}
	if limit, set := seconds(service["timeout"]); set && (limit == 0 || limit > longTimeout) {
		l.add(policy.CodeEnvoyTimeout, false, where, "the timeout is %s", limit)
	}
	if body, ok := config["with_request_body"].(tree); ok {
		if body["allow_partial_message"] == true {
			l.add(policy.CodeEnvoyBody, false, where, "with_request_body.allow_partial_message is true")
		}
		if size := number(body["max_request_bytes"]); size > largeBody {
			l.add(policy.CodeEnvoyBody, false, where, "with_request_body.max_request_bytes is %.0f", size)
		}
	}
	if config["validate_mutations"] != true {
		l.add(policy.CodeEnvoyMutations, false, where, "validate_mutations is not true")
	}
	if config["clear_route_cache"] == true {
		l.add(policy.CodeEnvoyOrder, false, where, "clear_route_cache is true: the route may change after it was checked")
	}
	if status, ok := config["status_on_error"].(tree); ok && succeeds(status["code"]) {
		l.add(policy.CodeEnvoyStatus, true, where, "status_on_error is %v", status["code"])
	}
	if config["filter_enabled"] != nil && !everything(config["filter_enabled"]) && config["deny_at_disable"] == nil {
		l.add(policy.CodeEnvoyFraction, true, where, "filter_enabled is less than all requests")
	}
}

func succeeds(code any) bool {
	if name, ok := code.(string); ok {
		return slices.Contains([]string{"Continue", "OK", "Created", "Accepted", "NonAuthoritativeInformation", "NoContent", "ResetContent", "PartialContent"}, name)
	}
	value := number(code)
	return value > 0 && value < 400
}

// everything reports whether a runtime fraction is the whole.
func everything(node any) bool {
	outer, _ := node.(tree)
	fraction, _ := outer["default_value"].(tree)
	whole := map[string]float64{"": 100, "HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
	unit, _ := fraction["denominator"].(string)
	return number(fraction["numerator"]) >= whole[unit]
}

func number(node any) float64 {
	switch value := node.(type) {
	case float64:
		return value
	case int:
		return float64(value)
	}
	return 0
}

// seconds reads a duration of the JSON of protobuf.
func seconds(node any) (length time.Duration, set bool) {
	text, ok := node.(string)
	if !ok {
		return 0, false
	}
	length, err := time.ParseDuration(text)
	return length, err == nil
}
