package envoyrls

import (
	"weir.dev/kit/httphost"
	"weir.dev/kit/limitexpr"
	"weir.dev/ratelimit"
)

// unreadableHost is what all hosts are counted as that cannot be one, so that
// each way of writing them wrong does not get a counter of its own.
const unreadableHost = "invalid"

// isHostEntry reports whether the value of the entry is the request's host.
func isHostEntry(name string) bool {
	const header = "header.host"
	return name == header || name == ratelimit.EntryInput+header || name == ratelimit.EntryInput+string(limitexpr.Host)
}

// entryOf reads an entry. A host is taken without its port, letters' case and
// final dot, which are the client's to choose and would be counters of their own.
func entryOf(name, value string) ratelimit.Entry {
	if isHostEntry(name) {
		host, ok := httphost.Canonical(value)
		if !ok {
			host = unreadableHost
		}
		value = host
	}
	return ratelimit.Entry{Name: name, Value: value}
}
