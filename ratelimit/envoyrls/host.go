package envoyrls

import (
	"strings"

	"weir.dev/kit/httphost"
	"weir.dev/kit/limitexpr"
	"weir.dev/ratelimit"
)

// unreadableHost is what all hosts are counted as that cannot be one, so that
// each way of writing them wrong does not get a counter of its own.
const unreadableHost = "invalid"

const hostHeader = "header.host"

// entryOf reads an entry. A host is taken without its port, letters' case and
// final dot, which are the client's to choose and would be counters of their own.
// ok is false for an input of a cost that is no host: without it the cost is the
// most.
func entryOf(name, value string) (entry ratelimit.Entry, ok bool) {
	input, cost := strings.CutPrefix(name, ratelimit.EntryInput)
	if name == hostHeader || cost && (input == hostHeader || input == string(limitexpr.Host)) {
		host, readable := hostOf(value)
		switch {
		case readable:
			value = host
		case cost:
			return ratelimit.Entry{}, false
		default:
			value = unreadableHost
		}
	}
	return ratelimit.Entry{Name: name, Value: value}, true
}

// hostOf is the host that Envoy chooses routes by: it takes whatever follows the
// last colon for a port.
func hostOf(authority string) (host string, ok bool) {
	if host, ok = httphost.Canonical(authority); ok {
		return host, true
	}
	if colon := strings.LastIndexByte(authority, ':'); colon > strings.LastIndexByte(authority, ']') {
		return httphost.Canonical(authority[:colon])
	}
	return "", false
}
