package erconfig

import (
	"fmt"
	"strings"
	"time"
)

// Bounds of a configuration.
const (
	// MaxFileBytes bounds one file.
	MaxFileBytes = 16 << 20
	// MaxDepth bounds how deep descriptors nest.
	MaxDepth = 16
	// MaxDescriptors bounds the descriptors of a configuration.
	MaxDescriptors = 100_000
	// maxProblems bounds how many mistakes are listed.
	maxProblems = 100
)

// Unit is the length of a limit's window.
type Unit uint8

// The units; a month has 30 days and a year 365.
const (
	Second Unit = iota + 1
	Minute
	Hour
	Day
	Week
	Month
	Year
)

// units are the names, in the order of the constants.
func units() [7]string {
	return [...]string{"second", "minute", "hour", "day", "week", "month", "year"}
}

// String is the name as configured.
func (u Unit) String() string {
	if u < Second || u > Year {
		return "unknown"
	}
	return units()[u-1]
}

// MarshalText implements encoding.TextMarshaler.
func (u Unit) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// Duration is the length of the unit, 0 for none.
func (u Unit) Duration() time.Duration {
	const day = 24 * time.Hour
	if u > Year {
		return 0
	}
	return [...]time.Duration{0, time.Second, time.Minute, time.Hour, day, 7 * day, 30 * day, 365 * day}[u]
}

func unitNamed(name string) (Unit, bool) {
	for i, known := range units() {
		if strings.EqualFold(name, known) {
			return Unit(i + 1), true
		}
	}
	return 0, false
}

// Limit is a rate_limit with the modes of the descriptor that it stands in. It
// is shared and never changed.
type Limit struct {
	// Name is for Replaces and for answers; may be empty.
	Name string `json:"name,omitempty"`
	// RequestsPerUnit is admitted per Unit. Both are zero when Unlimited.
	RequestsPerUnit uint32 `json:"requestsPerUnit"`
	Unit            Unit   `json:"unit"`
	Unlimited       bool   `json:"unlimited,omitempty"`
	// Shadow limits are counted and never refuse.
	Shadow bool `json:"shadow,omitempty"`
	// Quota limits refuse only when every quota limit of a request is exhausted.
	Quota bool `json:"quota,omitempty"`
	// Replaces are the names of limits that do not apply where this one does.
	Replaces []string `json:"replaces,omitempty"`
	// Metadata is returned for descriptors that pass; nil for none.
	Metadata map[string]any `json:"metadata,omitempty"`
	// DetailedMetric has the metrics named by the request's own values.
	DetailedMetric bool `json:"detailedMetric,omitempty"`
	// Path is the limit's place: domain and descriptors, joined by dots.
	Path string `json:"path"`
	// File and Line say where the descriptor is written.
	File string `json:"file"`
	Line int    `json:"line"`
}

// Config is a whole configuration. It is immutable.
type Config struct {
	domains map[string]*node
	limits  []*Limit
}

// Domains is how many there are.
func (c *Config) Domains() int { return len(c.domains) }

// Limits are all limits, in the order of their files and lines.
func (c *Config) Limits() []*Limit { return c.limits }

// node is one level of descriptors. Bare and valued children are apart, so that
// no key can be mistaken for another one with its value.
type node struct {
	limit          *Limit
	bare           map[string]*node
	valued         map[entry]*node
	wildcards      []wildcard
	valueToMetric  bool
	shareThreshold bool
	// pattern is the value as written, when it is a wildcard.
	pattern string
}

type entry struct{ key, value string }

// wildcard is a child whose key or value holds '*'.
type wildcard struct {
	node *node
	// key is empty when the key itself has a wildcard; parts are then of
	// "key_value", as in envoyproxy/ratelimit, otherwise of the value.
	key   string
	parts []string
}

// Problem is one mistake of a configuration.
type Problem struct {
	File string `json:"file"`
	// Line is 0 when the mistake has no line.
	Line int `json:"line,omitempty"`
	// Field is the path from the document's root, such as
	// "descriptors[0].rate_limit.unit".
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

// Error implements error.
func (p Problem) Error() string {
	place := p.File
	if p.Line > 0 {
		place = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Field == "" {
		return place + ": " + p.Message
	}
	return place + ": " + p.Field + ": " + p.Message
}

// Problems is the error of Load: every mistake, in the order of the files.
type Problems []Problem

// Error implements error.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}
