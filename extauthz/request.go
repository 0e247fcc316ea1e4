package extauthz

import (
	"strconv"
	"strings"

	"weir.dev/kit/httphost"
)

// Header is one request header as it was received.
type Header struct {
	// Name is lower-case.
	Name  string
	Value string
}

// Request is what is decided about. It is not changed by deciding.
type Request struct {
	// Route is the id of the matched route, as Envoy was configured to send it.
	Route string
	// Method is the HTTP method as sent; methods are case-sensitive.
	Method string
	// Target is the path with query, as Envoy's route matching saw it.
	Target string
	// Authority is the host with an optional port, as sent.
	Authority string
	// Port is the one that the client connected to; 0 when it is not known.
	Port uint32
	// Protocol is "HTTP/1.1", "HTTP/2", ...
	Protocol string
	// Scheme is "https" or "http", as the proxy in front sees it.
	Scheme string
	// Source is the client's IP address without port.
	Source string
	// Certificate is the client certificate of the connection in PEM, URL-encoded
	// as Envoy sends it; empty when there was none. Envoy may have been told to
	// take certificates that it could not verify.
	Certificate string
	// SourcePort is the client's port, 0 when it is not known.
	SourcePort uint32
	// SourcePrincipal is the identity of the client's certificate, empty without
	// one.
	SourcePrincipal string
	// Size is the length of the body that the headers declare, in bytes, -1 when
	// they declare none; Received is what has arrived of it.
	Size, Received int64
	// Headers are in the order received, each value on its own.
	Headers []Header
	// Body is the request's, whole, where the route asks for it, and empty
	// elsewhere. It is not valid text, nor of any type, unless checked.
	Body []byte
	// SendsBody says that the proxy states to send the bodies of the route.
	SendsBody bool
	// ID is the request id for logs and answers; empty when it is absent or
	// not fit to be repeated.
	ID string
	// GRPC says that the client speaks gRPC, so answers take that form.
	GRPC bool
}

// Credential returns the first value of a header that may be there once, and
// whether it is Absent, Present or, given several times, Ambiguous. name is
// lower-case.
func (r *Request) Credential(name string) (value string, presence Presence) {
	for i := range r.Headers {
		if r.Headers[i].Name != name {
			continue
		}
		if presence != Absent {
			return value, Ambiguous
		}
		value, presence = r.Headers[i].Value, Present
	}
	return value, presence
}

// splitTarget cuts the query off a request target.
func splitTarget(target string) (path, query string) {
	path, query, _ = strings.Cut(target, "?")
	return path, query
}

// canonicalPath reports whether a path (without query) has exactly one reading:
// what remains after Envoy's normalize_path, merge_slashes and the rejection of
// escaped slashes. Anything else means that Envoy matched the route on other
// text than a rule or the service would see, so it is refused, not repaired.
func canonicalPath(path string) bool {
	if path == "*" {
		return true // OPTIONS * (RFC 9110 section 7.1)
	}
	if path == "" || path[0] != '/' {
		return false
	}
	segment := 1
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			if !plainSegment(path[segment:i], i == len(path)) {
				return false
			}
			segment = i + 1
			continue
		}
		switch c := path[i]; {
		case c <= ' ' || c >= 0x7f || c == '\\' || c == '#':
			return false
		case c == '%':
			if !plainEscapeAt(path[i:]) {
				return false
			}
		}
	}
	return true
}

// plainSegment refuses empty and dot segments, also those that only look like
// others because parameters follow ("..;x"): servers that know parameters resolve
// them as dot segments. Only the last segment may be empty.
func plainSegment(segment string, last bool) bool {
	switch name, _, parameters := strings.Cut(segment, ";"); name {
	case ".", "..":
		return false
	case "":
		return last && !parameters
	}
	return true
}

// plainEscapeAt judges the percent escape that text begins with. One that stands
// for an escape ("%252e") is judged by that, since servers that decode twice see
// it; overlong UTF-8 ("%c0%af") is refused, since lenient decoders see a slash.
func plainEscapeAt(text string) bool {
	if len(text) < 3 || !plainEscape(text[1], text[2]) {
		return false
	}
	switch text[1:3] {
	case "25":
		inner := text[3:]
		if len(inner) < 2 {
			return true
		}
		_, high := unhex(inner[0])
		_, low := unhex(inner[1])
		if !high || !low {
			return true
		}
		if inner[0] == '2' && inner[1] == '5' { // "%2525" and on
			return plainEscapeAt("%" + inner)
		}
		return plainEscape(inner[0], inner[1])
	case "c0", "c1", "C0", "C1":
		return false
	case "e0", "E0":
		return !continues(text[3:], 0x80, 0x9f)
	case "f0", "F0":
		return !continues(text[3:], 0x80, 0x8f)
	}
	return true
}

// continues reports whether text begins with an escape of a byte between first
// and last.
func continues(text string, first, last byte) bool {
	if len(text) < 3 || text[0] != '%' {
		return false
	}
	high, ok1 := unhex(text[1])
	low, ok2 := unhex(text[2])
	c := high<<4 | low
	return ok1 && ok2 && first <= c && c <= last
}

// plainEscape reports whether a percent escape is well-formed and stands for a
// byte that could not have been written any other way: escaped slashes, control
// characters and unreserved characters (RFC 3986 section 2.3) have a second
// spelling that a rule would miss.
func plainEscape(high, low byte) bool {
	h, ok1 := unhex(high)
	l, ok2 := unhex(low)
	if !ok1 || !ok2 {
		return false
	}
	c := h<<4 | l
	switch {
	case c < ' ', c == 0x7f, c == '/', c == '\\':
		return false
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return false
	}
	return c != '-' && c != '.' && c != '_' && c != '~'
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// SameHost reports whether two authorities name one host, whatever their ports,
// letters' case and final dot.
func SameHost(a, b string) bool {
	x, ok := httphost.Canonical(a)
	y, also := httphost.Canonical(b)
	return ok && also && x == y
}

// Readable says why a request can't be decided about by its host and path:
// because they can be read in more than one way, or in none. It is empty when
// they have exactly one reading.
func Readable(authority, method, target string) Reason {
	path, query := splitTarget(target)
	if !canonicalPath(path) || strings.IndexByte(query, '#') >= 0 {
		return ReasonPathNotCanonical
	}
	if _, ok := httphost.Canonical(authority); !ok || method == "" {
		return ReasonRequestInvalid
	}
	return ""
}

// Headers in which Envoy keeps the method and path that a client sent when it
// translates a request (gRPC-JSON transcoding).
const (
	headerOriginalMethod = "x-envoy-original-method"
	headerOriginalPath   = "x-envoy-original-path"
)

// Sent is the method and target as the client sent them, for proofs that a
// client makes of them. They decide nothing else: routes and rules are about
// Method and Target. Envoy removes x-envoy-original-path from what clients send,
// but not x-envoy-original-method, which therefore counts only beside it.
func (r *Request) Sent() (method, target string) {
	path, presence := r.Credential(headerOriginalPath)
	if presence != Present || !r.GRPC {
		return r.Method, r.Target
	}
	if method, presence = r.Credential(headerOriginalMethod); presence != Present {
		method = r.Method
	}
	return method, path
}

// Authorities are those that the client may have sent: the one that is known,
// and, since proxies may take the port off, the same with the port that the client
// connected to. The second is empty where there is only one.
func (r *Request) Authorities() (known, ported string) {
	if r.Port == 0 || strings.LastIndexByte(r.Authority, ':') > strings.LastIndexByte(r.Authority, ']') {
		return r.Authority, ""
	}
	return r.Authority, r.Authority + ":" + strconv.FormatUint(uint64(r.Port), 10)
}
