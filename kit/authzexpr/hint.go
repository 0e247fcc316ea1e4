package authzexpr

import (
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// hint says what to write instead, in parentheses after a space; empty when
// there is nothing to say.
func (e *Environment) hint(message string) string {
	switch {
	case strings.Contains(message, "undefined field '"):
		name := between(message, "undefined field '", "'")
		if near := e.nearest(name, true); near != "" {
			return " (did you mean " + near + "?)"
		}
	case strings.Contains(message, "undeclared reference to '"):
		name := between(message, "undeclared reference to '", "'")
		if near := e.nearest(name, false); near != "" {
			return " (did you mean " + near + "?)"
		}
		return " (there are request, identity, consumer, route, source, time and metadata)"
	case strings.Contains(message, "(list(string), string)"):
		return ` (the left side is a list: write "x" in list, or request.header("name") and request.param("name") for the only value)`
	case strings.Contains(message, "(map(string, list(string)), string)"):
		return ` (request.param("name") is one parameter, request.header("name") one header, request.raw_query the query as sent)`
	case strings.Contains(message, "(net.IP, string)") || strings.Contains(message, "(string, net.IP)"):
		return ` (an address is compared with ip("192.0.2.1"), a network is cidr("192.0.2.0/24").containsIP(source.address))`
	case strings.Contains(message, "no matching overload for '_==_'"), strings.Contains(message, "no matching overload for '_in_'"):
		return " (both sides must be of one type)"
	}
	return ""
}

func between(text, before, after string) string {
	_, rest, _ := strings.Cut(text, before)
	found, _, _ := strings.Cut(rest, after)
	return found
}

// nearest is the field, or variable, whose name is one or two letters off.
func (e *Environment) nearest(name string, field bool) string {
	best, found := 3, ""
	consider := func(candidate, shown string) {
		if d := distance(name, candidate); d < best && d*3 <= len(candidate)+1 {
			best, found = d, shown
		}
	}
	for i := range e.variables {
		if !field {
			consider(e.variables[i].name, e.variables[i].name)
			continue
		}
		for _, f := range e.variables[i].fields {
			consider(f.name, e.variables[i].name+"."+f.name)
		}
	}
	return found
}

// distance is Levenshtein's, of short names.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func resultHint(checked *cel.Ast, want *types.Type) string {
	switch {
	case checked.OutputType().Kind() == types.DynKind && want.Kind() == types.BoolKind:
		return `: compare it, as in identity.claims.admin == true`
	case want.Kind() == types.BoolKind:
		return ": compare it with something"
	}
	return ""
}
