package policy

import (
	"regexp"
	"strings"
)

// OfHost reports whether a header match is about the host, by either of the names
// that HTTP/1.1 and HTTP/2 have for it.
func (m ValueMatch) OfHost() bool {
	return strings.EqualFold(m.Name, "host") || m.Name == ":authority"
}

// AnyPort is, of a header match about the host, one that holds whatever stands
// behind it as its port, digits or not, and however it is spelt, with a final dot
// too: all that is the client's to choose, and Envoy takes the host from before the
// last colon whatever follows. Others are as they were.
func (m ValueMatch) AnyPort() ValueMatch {
	if !m.OfHost() {
		return m
	}
	if !m.Regex {
		m.Value = regexp.QuoteMeta(m.Value)
	}
	m.Value, m.Regex = "(?i:"+m.Value+")\\.?(?::.*)?", true
	return m
}
