package istio

import (
	"fmt"
	"slices"
	"strings"
)

// Form is what a route of a gateway does with which paths, as far as VirtualServices of
// Weir say it: routes of one name may differ in it alone. Comparable.
type Form struct {
	// Path is "exact ", "prefix " or "regex " and what is matched.
	Path string
	// To are the clusters in Envoy's names with their weights; empty for a route that
	// is answered by the gateway.
	To string
	// Host and Rewrite are what host and path are rewritten to; empty where they are not.
	Host, Rewrite string
}

func (f Form) String() string {
	text := f.Path + " to " + f.To
	if f.To == "" {
		text = f.Path + ", answered by the gateway"
	}
	if f.Host != "" {
		text += ", host rewritten to " + f.Host
	}
	if f.Rewrite != "" {
		text += ", path rewritten by " + f.Rewrite
	}
	return text
}

// FormPath is a path that is matched, by "exact", "prefix" or "regex".
func FormPath(kind, path string) string { return kind + " " + path }

// FormCluster is one of several clusters, or the only one without a weight.
func FormCluster(name string, weight int64, weighted bool) string {
	if weighted {
		return fmt.Sprintf("%s:%d", name, weight)
	}
	return name
}

// FormRewrite is a path's by a regular expression.
func FormRewrite(expression, substitution string) string { return expression + " -> " + substitution }

// Forms are those of the routes that istiod makes of an entry of a VirtualService of
// Weir's: one of each match (pilot/pkg/networking/core/route, TranslateRoutes).
func Forms(entry map[string]any) []Form {
	var form Form
	shares, _ := entry["route"].([]any)
	var to []string
	for _, share := range shares {
		destination, port := under(share, "destination"), under(share, "destination", "port")
		weight := number(under(share)["weight"])
		if len(shares) > 1 && weight == 0 { // as istiod
			continue
		}
		host, _ := destination["host"].(string)
		subset, _ := destination["subset"].(string)
		cluster := clusterName(host, uint32(number(port["number"])), subset) //nolint:gosec // a port
		to = append(to, FormCluster(cluster, weight, len(shares) > 1))
	}
	slices.Sort(to)
	form.To = strings.Join(to, ", ")
	if form.To != "" {
		form.Host, _ = under(entry, "rewrite")["authority"].(string)
		if by := under(entry, "rewrite", "uriRegexRewrite"); by != nil {
			expression, _ := by["match"].(string)
			substitution, _ := by["rewrite"].(string)
			form.Rewrite = FormRewrite(expression, substitution)
		}
	}
	matches, _ := entry["match"].([]any)
	if len(matches) == 0 {
		matches = []any{map[string]any{}}
	}
	made := make([]Form, len(matches))
	for i, match := range matches {
		made[i] = form
		made[i].Path = FormPath("prefix", "/")
		for _, kind := range []string{"exact", "prefix", "regex"} {
			if path, ok := under(match, "uri")[kind].(string); ok {
				made[i].Path = FormPath(kind, path)
			}
		}
	}
	return made
}

// under is the object at a path of names; nil where there is none.
func under(value any, path ...string) map[string]any {
	fields, _ := value.(map[string]any)
	for _, name := range path {
		fields, _ = fields[name].(map[string]any)
	}
	return fields
}

// number is one of a decoded object, which has them in two types.
func number(value any) int64 {
	switch typed := value.(type) {
	case int64:
		return typed
	case float64:
		return int64(typed)
	}
	return 0
}
