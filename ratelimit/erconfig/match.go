package erconfig

import "strings"

// Entry is one key and value of a request's descriptor.
type Entry struct{ Key, Value string }

// Match is the limit that a descriptor of a request found.
type Match struct {
	// Limit is nil when the descriptor has none.
	Limit *Limit
	// Shared has one element per entry when entries are counted together under
	// the wildcard that they match (share_threshold); an empty one is counted by
	// its own value. Nil when there are none.
	Shared []string
	// Metric names the limit in metrics: the path in the configuration, with
	// values where value_to_metric or detailed_metric ask for them.
	Metric string
}

// Known reports whether a domain is configured.
func (c *Config) Known(domain string) bool { return c.domains[domain] != nil }

// Match finds the limit of a descriptor: level by level the exact value, then
// the wildcards in the order of the files, then the bare key. The descriptor
// must end where the limit stands.
func (c *Config) Match(domain string, entries []Entry) Match {
	at := c.domains[domain]
	if at == nil || len(entries) == 0 {
		return Match{}
	}
	var match Match
	var shared []string
	metric := metricName{path: domain}
	for i, given := range entries {
		next, how := at.child(given)
		if next == nil {
			return Match{}
		}
		if how == byWildcard && next.shareThreshold {
			if shared == nil {
				shared = make([]string, len(entries))
			}
			shared[i] = next.pattern
		}
		metric.add(given, next, how)
		at = next
	}
	if at.limit == nil {
		return Match{}
	}
	match.Limit, match.Shared = at.limit, shared
	switch {
	case at.limit.DetailedMetric:
		match.Metric = detailed(domain, entries, shared)
	case metric.changed:
		match.Metric = metric.path
	default:
		match.Metric = at.limit.Path
	}
	return match
}

// how says what a level matched by.
type how uint8

const (
	byValue how = iota
	byWildcard
	byKey
)

func (n *node) child(given Entry) (*node, how) {
	if next := n.valued[entry{given.Key, given.Value}]; next != nil {
		return next, byValue
	}
	for i := range n.wildcards {
		if n.wildcards[i].matches(given) {
			return n.wildcards[i].node, byWildcard
		}
	}
	return n.bare[given.Key], byKey
}

func (w *wildcard) matches(given Entry) bool {
	if w.key == "" {
		return matches(w.parts, given.Key+"_"+given.Value)
	}
	return w.key == given.Key && matches(w.parts, given.Value)
}

// matches reports whether text is made of parts with anything in between.
func matches(parts []string, text string) bool {
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, rest, found := strings.Cut(text, part)
		if !found {
			return false
		}
		text = rest
	}
	return true
}

// metricName follows a descriptor down, for value_to_metric.
type metricName struct {
	path string
	// changed says that a value of the request is in path.
	changed bool
}

func (m *metricName) add(given Entry, next *node, how how) {
	value := ""
	switch {
	case how == byValue:
		value = given.Value
	case how == byWildcard && (next.shareThreshold || !next.valueToMetric):
		value = next.pattern
	case next.valueToMetric:
		value = given.Value
		m.changed = true
	}
	m.path += "." + given.Key
	if value != "" {
		m.path += "_" + value
	}
}

// detailed is a name of all the values of a request, wildcards standing for
// what they share.
func detailed(domain string, entries []Entry, shared []string) string {
	var name strings.Builder
	name.WriteString(domain)
	for i, given := range entries {
		value := given.Value
		if shared != nil && shared[i] != "" {
			value = shared[i]
		}
		name.WriteString("." + given.Key)
		if value != "" || shared == nil {
			name.WriteString("_" + value)
		}
	}
	return name.String()
}
