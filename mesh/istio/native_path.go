package istio

import (
	"regexp"
	"strings"

	"weir.dev/policy"
)

// The canonical paths of extauthz as an expression: no empty segment but the last, no
// dot segments, no parameters, and escapes of such bytes only that have no other
// spelling. An escaped percent sign is not among them: extauthz judges it by what
// follows.
const (
	plainByte  = `[!"$&-\-0-:<->@-\[\]-~]`
	asciiCode  = `%2[0-46-9A-Ca-c]|%3[A-Fa-f]|%40|%5[BEbe]|%60|%7[B-Db-d]`
	beyondCode = `%[89ABab][0-9A-Fa-f]|%[Cc][2-9A-Fa-f]|%[Dd][0-9A-Fa-f]|%[EFef][1-9A-Fa-f]|%[Ee]0%[ABab][0-9A-Fa-f]|%[Ff]0%[9ABab][0-9A-Fa-f]`
	plain      = `(?:` + plainByte + `|` + asciiCode + `|` + beyondCode + `)`
	// A segment that is not of dots alone, or of three and more.
	segment = `(?:\.*(?:` + plain + `\.*)+|\.{3,})`
	// maxExpression is the longest that istiod takes (validateStringRegexp).
	maxExpression = 1024
)

var canonicalPath = regexp.MustCompile(`^(?:/|(?:/` + segment + `)+/?)$`)

// canonical reports whether a path is read in one way only.
func canonical(path string) bool { return canonicalPath.MatchString(path) }

// within is an expression of the canonical paths of a prefix. Istio's expressions
// are of the whole path.
func within(match policy.PathMatch) string {
	prefix := regexp.QuoteMeta(strings.TrimSuffix(match.Value, "/"))
	if prefix == "" {
		return `/|(?:/` + segment + `)+/?`
	}
	return prefix + `(?:/` + segment + `)*/?`
}

// operationPaths are those of a match as AuthorizationPolicy says them.
func operationPaths(match policy.PathMatch) []string {
	trimmed := strings.TrimSuffix(match.Value, "/")
	switch {
	case match.Kind == policy.PathExact:
		return []string{match.Value}
	case trimmed == "":
		return []string{"/*"}
	}
	return []string{trimmed, trimmed + "/*"}
}
