package login

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"weir.dev/extauthz"
)

// maxReturnBytes bounds where a login leads.
const maxReturnBytes = 2048

// loopback reports whether a host, with or without port, is this machine, where
// browsers take plain HTTP for secure.
func loopback(authority string) bool {
	host := hostOf(authority)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

func hostOf(authority string) string {
	host := strings.ToLower(authority)
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host, _, _ = strings.Cut(inner, "]")
		return host
	}
	host, _, _ = strings.Cut(host, ":")
	return host
}

// origin is the request's own, as the browser sees it: https but on loopback
// addresses, whatever a header says, since cookies need it. Proxies may strip the
// port from the authority; it is then the rules' or, on loopback addresses, the
// one connected to.
func (l *Login) origin(request *extauthz.Request) string {
	scheme, port, usual := "https", l.port, uint32(443)
	if loopback(request.Authority) {
		port = request.Port
		if request.Scheme == "http" {
			scheme, usual = "http", 80
		}
	}
	text := scheme + "://" + strings.ToLower(request.Authority)
	if colon := strings.LastIndexByte(text, ':'); colon > strings.LastIndexByte(text, ']') && colon > len(scheme) {
		// A browser does not name the usual port (RFC 6454 section 6.1), a proxy may.
		return strings.TrimSuffix(text, ":"+strconv.FormatUint(uint64(usual), 10))
	}
	if port == 0 || port == usual {
		return text
	}
	return text + ":" + strconv.FormatUint(uint64(port), 10)
}

// pathOf is a target without its query.
func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}

// returnTo is where a browser may be sent: a path of the request's own host, or
// an https URL of a trusted one. ok is false for anything else: what browsers
// read in more than one way, and the login's own paths, which would begin or end
// sessions.
func (l *Login) returnTo(request *extauthz.Request, wanted string) (location string, ok bool) {
	if wanted == "" || len(wanted) > maxReturnBytes {
		return "", false
	}
	for i := range len(wanted) {
		// Browsers drop tabs and newlines and read a backslash as a slash.
		if c := wanted[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '"' || c == '<' || c == '>' || c == '`' {
			return "", false
		}
	}
	parsed, err := url.Parse(wanted)
	if err != nil || parsed.Opaque != "" || parsed.User != nil {
		return "", false
	}
	if wanted[0] == '/' {
		if strings.HasPrefix(wanted, "//") || parsed.Host != "" || parsed.Scheme != "" || l.paths.own(parsed.Path) {
			return "", false
		}
		return wanted, true
	}
	if parsed.Host == "" || !strings.HasPrefix(wanted, parsed.Scheme+"://") {
		return "", false
	}
	host := strings.ToLower(parsed.Host)
	switch own := l.origin(request); {
	case strings.ToLower(parsed.Scheme+"://"+host) == own:
		if l.paths.own(parsed.Path) {
			return "", false
		}
	case !l.trusted[host]:
		return "", false
	case parsed.Scheme != "https" && (parsed.Scheme != "http" || !loopback(host)):
		return "", false
	}
	return wanted, true
}

// trustedOrigin reports whether pages of an origin may use sessions here.
func (l *Login) trustedOrigin(request *extauthz.Request, text string) bool {
	if strings.ToLower(text) == l.origin(request) {
		return true
	}
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" {
		return false
	}
	host := strings.ToLower(parsed.Host)
	return l.trusted[host] && (parsed.Scheme == "https" || parsed.Scheme == "http" && loopback(host))
}

// sameOrigin says whether a request that may change something comes from a page
// that may make it: of the own origin or a trusted one. Browsers say so in
// Sec-Fetch-Site, older ones in Origin; programs send neither.
func (l *Login) sameOrigin(request *extauthz.Request) bool {
	upgrade := header(request, "upgrade") != ""
	if (request.Method == http.MethodGet || request.Method == http.MethodHead || request.Method == http.MethodOptions) && !upgrade {
		return true
	}
	return l.fromHere(request)
}

func (l *Login) fromHere(request *extauthz.Request) bool {
	from := header(request, "origin")
	switch header(request, "sec-fetch-site") {
	case "same-origin", "none":
		return true
	case "":
		return from == "" || l.trustedOrigin(request, from)
	default:
		return from != "" && l.trustedOrigin(request, from)
	}
}

// navigates reports whether a person's browser asks for a page: all else gets an
// answer that programs understand.
func navigates(request *extauthz.Request) bool {
	if request.Method != http.MethodGet || header(request, "upgrade") != "" || request.GRPC {
		return false
	}
	if mode := header(request, "sec-fetch-mode"); mode != "" && mode != "navigate" {
		return false
	}
	if dest := header(request, "sec-fetch-dest"); dest != "" && dest != "document" {
		return false
	}
	if strings.Contains(header(request, "sec-purpose"), "prefetch") {
		return false
	}
	return strings.Contains(header(request, "accept"), "text/html")
}

func header(request *extauthz.Request, name string) string {
	value, _ := request.Credential(name)
	return value
}
