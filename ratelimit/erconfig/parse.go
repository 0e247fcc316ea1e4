package erconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// loader reads documents into a configuration and collects what is wrong.
type loader struct {
	config   *Config
	options  Options
	problems Problems
	// first is the file that configured a domain first.
	first       map[string]string
	name        string // of the file at hand
	descriptors int
	// stopped says that a bound was met, after which nothing more is read.
	stopped bool
}

func (l *loader) problem(at *yaml.Node, field, format string, args ...any) {
	if len(l.problems) == maxProblems {
		return
	}
	line := 0
	if at != nil {
		line = at.Line
	}
	l.problems = append(l.problems, Problem{File: l.name, Line: line, Field: field, Message: fmt.Sprintf(format, args...)})
}

func (l *loader) file(file File) {
	l.name = file.Name
	if len(file.Content) > MaxFileBytes {
		l.problem(nil, "", "is %d bytes long; the most is %d", len(file.Content), MaxFileBytes)
		return
	}
	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(file.Content))
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF), err == nil && len(document.Content) == 0:
		l.problem(nil, "domain", "is required; the file is empty")
		return
	case err != nil:
		line, message := notYAML(file.Content, err)
		l.problem(&yaml.Node{Line: line}, "", "not YAML: %s", message)
		return
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		l.problem(&second, "", "there is more than one document; give each its file")
		return
	}
	root := document.Content[0]
	fields := l.fields(root, "", "domain", "descriptors")
	if fields == nil {
		return
	}
	domain := l.text(fields["domain"], "domain")
	if domain == "" {
		l.problem(root, "domain", "is required")
		return
	}
	if other, taken := l.first[domain]; taken && !l.options.MergeDomains {
		l.problem(fields["domain"], "domain", "%q is configured in %s already; give it another name, or set MERGE_DOMAIN_CONFIG to join both", domain, other)
		return
	}
	if l.config.domains[domain] == nil {
		l.config.domains[domain] = newNode()
		l.first[domain] = file.Name
	}
	l.list(l.config.domains[domain], fields["descriptors"], "descriptors", domain, 1)
}

func newNode() *node { return &node{bare: map[string]*node{}, valued: map[entry]*node{}} }

// list reads a list of descriptors into their parent.
func (l *loader) list(parent *node, list *yaml.Node, field, path string, depth int) {
	list = resolved(list)
	if list == nil || isNull(list) {
		return
	}
	if list.Kind != yaml.SequenceNode {
		l.problem(list, field, "must be a list of descriptors")
		return
	}
	if depth > MaxDepth {
		l.problem(list, "", "nests deeper than %d levels", MaxDepth)
		l.stopped = true
		return
	}
	for i, item := range list.Content {
		if l.stopped {
			return
		}
		if l.descriptors++; l.descriptors > MaxDescriptors {
			l.problem(item, "", "there are more than %d descriptors, aliases counted each time", MaxDescriptors)
			l.stopped = true
			return
		}
		l.descriptor(parent, resolved(item), fmt.Sprintf("%s[%d]", field, i), path, depth)
	}
}

func (l *loader) descriptor(parent *node, item *yaml.Node, field, path string, depth int) {
	fields := l.fields(item, field, "key", "value", "rate_limit", "shadow_mode", "quota_mode", "detailed_metric", "value_to_metric",
		"share_threshold", "metadata", "descriptors")
	if fields == nil {
		return
	}
	key, value := l.text(fields["key"], field+".key"), l.text(fields["value"], field+".value")
	if key == "" {
		l.problem(item, field+".key", "is required")
		return
	}
	made := newNode()
	path += "." + key
	if value != "" {
		path += "_" + value
	}
	if !parent.adopt(made, key, value) {
		l.problem(item, field, "%s is there already; a key and value stand once in a list", path)
		return
	}
	made.valueToMetric = l.flag(fields["value_to_metric"], field+".value_to_metric")
	made.shareThreshold = l.flag(fields["share_threshold"], field+".share_threshold")
	if made.shareThreshold && !strings.Contains(key+value, "*") {
		l.problem(fields["share_threshold"], field+".share_threshold", "needs a value with a wildcard '*', whose matches are then counted together")
	}
	limit := &Limit{
		Shadow: l.flag(fields["shadow_mode"], field+".shadow_mode"), Quota: l.flag(fields["quota_mode"], field+".quota_mode"),
		DetailedMetric: l.flag(fields["detailed_metric"], field+".detailed_metric"), Metadata: l.metadata(fields["metadata"], field+".metadata"),
		Path: path, File: l.name, Line: item.Line,
	}
	if node := resolved(fields["rate_limit"]); node != nil && !isNull(node) && l.limit(limit, node, field+".rate_limit") {
		made.limit = limit
		l.config.limits = append(l.config.limits, limit)
	}
	l.list(made, fields["descriptors"], field+".descriptors", path, depth+1)
}

// adopt makes made a child, unless there is one of the same key and value.
func (n *node) adopt(made *node, key, value string) bool {
	switch {
	case value == "" && n.bare[key] != nil, value != "" && n.valued[entry{key, value}] != nil:
		return false
	case value == "":
		n.bare[key] = made
	default:
		n.valued[entry{key, value}] = made
	}
	switch {
	case strings.Contains(key, "*"):
		whole := key
		if value != "" {
			whole += "_" + value
		}
		made.pattern = value
		n.wildcards = append(n.wildcards, wildcard{node: made, parts: strings.Split(whole, "*")})
	case strings.Contains(value, "*"):
		made.pattern = value
		n.wildcards = append(n.wildcards, wildcard{node: made, key: key, parts: strings.Split(value, "*")})
	}
	return true
}

func (l *loader) limit(limit *Limit, node *yaml.Node, field string) bool {
	fields := l.fields(node, field, "unit", "requests_per_unit", "unlimited", "name", "replaces")
	if fields == nil {
		return false
	}
	before := len(l.problems)
	limit.Name = l.text(fields["name"], field+".name")
	limit.Unlimited = l.flag(fields["unlimited"], field+".unlimited")
	limit.RequestsPerUnit = l.number(fields["requests_per_unit"], field+".requests_per_unit")
	name := l.text(fields["unit"], field+".unit")
	unit, known := unitNamed(name)
	switch {
	case limit.Unlimited && known:
		l.problem(fields["unit"], field+".unit", "does not go with unlimited")
	case limit.Unlimited:
		limit.RequestsPerUnit = 0
	case !known && name == "":
		l.problem(node, field+".unit", "is required: one of %s", strings.Join(unitNames(), ", "))
	case !known:
		l.problem(fields["unit"], field+".unit", "%q is none of %s", name, strings.Join(unitNames(), ", "))
	}
	limit.Unit = unit
	l.replaces(limit, fields["replaces"], field+".replaces")
	return len(l.problems) == before
}

func unitNames() []string { names := units(); return names[:] }

func (l *loader) replaces(limit *Limit, list *yaml.Node, field string) {
	list = resolved(list)
	if list == nil || isNull(list) {
		return
	}
	if list.Kind != yaml.SequenceNode {
		l.problem(list, field, "must be a list of names: [{name: NAME}]")
		return
	}
	for i, item := range list.Content {
		at := fmt.Sprintf("%s[%d]", field, i)
		fields := l.fields(resolved(item), at, "name")
		if fields == nil {
			continue
		}
		switch name := l.text(fields["name"], at+".name"); name {
		case "":
			l.problem(item, at+".name", "is required")
		case limit.Name:
			l.problem(item, at+".name", "%q is the limit itself", name)
		default:
			limit.Replaces = append(limit.Replaces, name)
		}
	}
}

// fields are the values of a mapping by key, merge keys applied. It is nil when
// node is no mapping; what is not allowed is reported.
func (l *loader) fields(node *yaml.Node, field string, allowed ...string) map[string]*yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		l.problem(node, field, "must be a mapping with %s", strings.Join(allowed, ", "))
		return nil
	}
	found := map[string]*yaml.Node{}
	l.gather(found, node, 0)
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if !slices.Contains(allowed, key) {
			l.problem(found[key], join(field, key), "is not known here; there are %s", strings.Join(allowed, ", "))
		}
	}
	return found
}

// maxMerges bounds how many merge keys lead to one another.
const maxMerges = 16

func (l *loader) gather(found map[string]*yaml.Node, node *yaml.Node, depth int) {
	var merged []*yaml.Node
	own := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolved(node.Content[i]), node.Content[i+1]
		switch {
		case key.Tag == "!!merge":
			merged = append(merged, value)
		case own[key.Value]:
			l.problem(key, key.Value, "is written twice")
		default:
			own[key.Value] = true
			if _, set := found[key.Value]; !set {
				found[key.Value] = value
			}
		}
	}
	for _, source := range merged {
		source = resolved(source)
		sources := []*yaml.Node{source}
		if source.Kind == yaml.SequenceNode {
			sources = source.Content
		}
		for _, source := range sources {
			if source = resolved(source); source.Kind != yaml.MappingNode || depth == maxMerges {
				l.problem(source, "<<", "must be a mapping, at most %d deep", maxMerges)
				continue
			}
			l.gather(found, source, depth+1)
		}
	}
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

func resolved(node *yaml.Node) *yaml.Node {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }

func (l *loader) text(node *yaml.Node, field string) string {
	node = resolved(node)
	switch {
	case node == nil || isNull(node):
		return ""
	case node.Kind != yaml.ScalarNode:
		l.problem(node, field, "must be a text")
		return ""
	}
	return node.Value
}

func (l *loader) flag(node *yaml.Node, field string) (value bool) {
	if node = resolved(node); node != nil && !isNull(node) && node.Decode(&value) != nil {
		l.problem(node, field, "must be true or false")
	}
	return value
}

func (l *loader) number(node *yaml.Node, field string) (value uint32) {
	if node = resolved(node); node != nil && !isNull(node) && node.Decode(&value) != nil {
		l.problem(node, field, "must be a whole number from 0 to 4294967295")
	}
	return value
}

func (l *loader) metadata(node *yaml.Node, field string) (value map[string]any) {
	if node = resolved(node); node == nil || isNull(node) {
		return nil
	}
	if node.Kind != yaml.MappingNode || node.Decode(&value) != nil || !plain(value) {
		l.problem(node, field, "must be a mapping of texts, numbers, flags, lists and mappings with texts as keys")
		return nil
	}
	return value
}

// plain reports whether a value is what JSON has.
func plain(value any) bool {
	switch value := value.(type) {
	case nil, string, bool, int, int64, uint64, float64:
		return true
	case []any:
		return !slices.ContainsFunc(value, func(item any) bool { return !plain(item) })
	case map[string]any:
		return !slices.ContainsFunc(slices.Collect(maps.Values(value)), func(item any) bool { return !plain(item) })
	}
	return false
}
