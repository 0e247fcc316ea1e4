package envoyauth

import (
	"slices"
	"strings"

	"weir.dev/extauthz"
)

// upstream sets headers of the service's request. Envoy removes after it sets,
// so what is set must not be on the list of what goes.
func (a *Answer) upstream(headers []extauthz.Header) {
	for _, header := range headers {
		a.set = append(a.set, header)
		a.remove = slices.DeleteFunc(a.remove, func(name string) bool { return name == header.Name })
	}
}

// told are the identity headers that the service gets.
func told(decision *extauthz.Decision) [][2]string {
	set := decision.Identity.Headers()
	if decision.IdentityHeaders == nil {
		return set
	}
	return slices.DeleteFunc(set, func(header [2]string) bool { return !contains(decision.IdentityHeaders, header[0]) })
}

// owned also finds the spelling with underscores.
func owned(names []string, name string) bool {
	return len(names) > 0 && (contains(names, name) || contains(names, strings.ReplaceAll(name, "_", "-")))
}

// withoutCookies takes cookies out of what the service gets. Several Cookie
// headers become one (RFC 9113 section 8.2.3), in order.
func (a *Answer) withoutCookies(request *extauthz.Request, held func(name string) bool) {
	var kept []string
	dropped := false
	for i := range request.Headers {
		if request.Headers[i].Name != headerCookie {
			continue
		}
		for pair := range strings.SplitSeq(request.Headers[i].Value, ";") {
			pair = strings.Trim(pair, " \t")
			name, _, _ := strings.Cut(pair, "=")
			switch {
			case held(strings.Trim(name, " \t")):
				dropped = true
			case pair != "":
				kept = append(kept, pair)
			}
		}
	}
	switch {
	case !dropped:
	case len(kept) == 0:
		a.remove = append(a.remove, headerCookie)
	default:
		a.set = append(a.set, extauthz.Header{Name: headerCookie, Value: strings.Join(kept, "; ")})
	}
}

const headerCookie = "cookie"
