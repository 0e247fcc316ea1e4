package policy

import (
	"fmt"
	"strings"

	"weir.dev/policy/v1alpha1"
)

// CanonicalPath makes a request's path what the edge compares, as DefaultEdge has
// it: escapes of unreserved characters are decoded, backslashes become slashes,
// dot segments are resolved and neighbouring slashes are one (RFC 3986 section
// 6.2.2). refusal says why the edge answers 400 instead; it is empty otherwise.
func CanonicalPath(path string) (canonical, query, refusal string) {
	edge := DefaultEdge()
	canonical, query, answer := canonicalPath(path, &edge)
	if answer != nil {
		refusal = answer.Reason
	}
	return canonical, query, refusal
}

// canonicalPath does as Envoy does with normalize_path, merge_slashes and
// path_with_escaped_slashes_action, and with parameters refused. answer is set when the edge answers instead.
func canonicalPath(path string, edge *Edge) (canonical, query string, answer *EdgeAnswer) {
	canonical, query, _ = strings.Cut(path, "?")
	bad := func(reason string) (string, string, *EdgeAnswer) {
		return canonical, query, &EdgeAnswer{Status: 400, Reason: reason}
	}
	switch {
	case !strings.HasPrefix(path, "/"):
		return bad("the path does not begin with a slash")
	case strings.Contains(path, "#"):
		return bad("the path has a fragment (#)")
	}
	if at := strings.IndexFunc(path, func(r rune) bool { return r <= ' ' && r != '\t' || r >= 0x7f }); at >= 0 {
		return bad(fmt.Sprintf("the path has a character at %q that must be escaped", shorten(path[at:])))
	}
	if decoded := unescapeSlashes(canonical); decoded != canonical {
		switch edge.EscapedSlashes {
		case v1alpha1.EscapedSlashesKeep:
		case v1alpha1.EscapedSlashesForward:
			canonical = decoded
		case v1alpha1.EscapedSlashesRedirect:
			return canonical, query, &EdgeAnswer{Status: 307, Reason: "escaped slashes (%2F or %5C) are redirected to the decoded path " + decoded}
		default:
			return bad("the path has an escaped slash (%2F or %5C), which could mean one thing here and another one behind")
		}
	}
	if edge.NormalizePath {
		unescaped, refusal := unescape(bareDots(canonical))
		if refusal != "" {
			return bad(refusal)
		}
		canonical = removeDots(unescaped)
	}
	if edge.MergeSlashes {
		canonical = mergeSlashes(canonical)
	}
	if edge.PathParameters != v1alpha1.PathParametersKeep && strings.Contains(canonical, ";") {
		return bad("the path has a parameter (;), which the rules take for a part of the segment and services may cut off")
	}
	return canonical, query, nil
}

func unescapeSlashes(path string) string {
	return strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`).Replace(path)
}

// bareDots takes the parameter (RFC 3986 section 3.3) off dot segments written
// without escapes, which servers behind may do as well.
func bareDots(path string) string {
	if !strings.Contains(path, ".;") {
		return path
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if bare, _, ok := strings.Cut(segment, ";"); ok && (bare == "." || bare == "..") {
			segments[i] = bare
		}
	}
	return strings.Join(segments, "/")
}

// unescape decodes what needs no escape.
func unescape(path string) (string, string) {
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '\\':
			out.WriteByte('/')
		case c == '\t':
			out.WriteString("%09")
		case c != '%':
			out.WriteByte(c)
		case i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]):
			out.WriteByte(c) // no escape: kept
		case path[i+1] == '0' && path[i+2] == '0':
			return "", "the path has an escaped zero byte (%00)"
		default:
			decoded := unhex(path[i+1])<<4 | unhex(path[i+2])
			if isUnreserved(decoded) {
				out.WriteByte(decoded)
			} else {
				out.WriteString(path[i : i+3])
			}
			i += 2
		}
	}
	return out.String(), ""
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	default:
		return c - 'A' + 10
	}
}

// isUnreserved is RFC 3986 section 2.3.
func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// removeDots resolves "." and ".." segments (RFC 3986 section 5.2.4). Slashes
// are not merged yet, so that ".." after an empty segment removes that one.
func removeDots(path string) string {
	segments := strings.Split(path[1:], "/")
	kept := make([]string, 0, len(segments))
	for i, segment := range segments {
		last := i == len(segments)-1
		switch segment {
		case ".":
			if last {
				kept = append(kept, "")
			}
		case "..":
			if len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
			if last {
				kept = append(kept, "")
			}
		default:
			kept = append(kept, segment)
		}
	}
	return "/" + strings.Join(kept, "/")
}

func mergeSlashes(path string) string {
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			out.WriteByte(path[i])
		}
	}
	return out.String()
}
