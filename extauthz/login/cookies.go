package login

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"weir.dev/extauthz"
)

// Browsers keep cookies of up to 4,096 bytes, name and attributes included
// (RFC 6265 section 6.1); a session is cut into pieces below that.
const (
	chunkBytes = 3800
	maxChunks  = 4
)

// cookies reads a request's cookies by name.
func cookies(request *extauthz.Request, each func(name, value string)) {
	for i := range request.Headers {
		if request.Headers[i].Name != "cookie" {
			continue
		}
		for pair := range strings.SplitSeq(request.Headers[i].Value, ";") {
			name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
			if ok {
				each(name, value)
			}
		}
	}
}

func cookie(request *extauthz.Request, wanted string) (value string, count int) {
	cookies(request, func(name, found string) {
		if name == wanted {
			value = found
			count++
		}
	})
	return value, count
}

// jar names the cookies of one login and writes them.
type jar struct {
	// base is the session's cookie, which begins with "__Host-": browsers take it
	// from this host only, over TLS, for all paths.
	base     string
	sameSite string
}

func (j *jar) holds(name string) bool {
	rest, ours := strings.CutPrefix(name, j.base)
	return ours && (rest == "" || rest[0] == '.')
}

// Cookie names are "BASE", "BASE.1" to "BASE.3" for its other pieces, and
// "BASE.login.STATE" for logins under way.
func (j *jar) chunk(i int) string {
	if i == 0 {
		return j.base
	}
	return j.base + "." + strconv.Itoa(i)
}

const pendingInfix = ".login."

// stateNameBytes of a state tell logins of one browser apart.
const stateNameBytes = 12

func (j *jar) pending(state string) string {
	return j.base + pendingInfix + state[:min(len(state), stateNameBytes)]
}

func (j *jar) set(name, value string, maxAge int) extauthz.Header {
	return extauthz.Header{Name: "set-cookie", Value: name + "=" + value + "; Path=/; Max-Age=" + strconv.Itoa(maxAge) +
		"; Secure; HttpOnly; SameSite=" + j.sameSite}
}

func (j *jar) remove(name string) extauthz.Header { return j.set(name, "", 0) }

var errTooLarge = errors.New("the session does not fit into cookies: keep sessions in Redis, or ask the provider for less")

// write sets the session's cookies and removes the pieces of an earlier, longer
// one. The first piece says how many there are.
func (j *jar) write(request *extauthz.Request, value []byte, maxAge int) ([]extauthz.Header, error) {
	text := base64.RawURLEncoding.EncodeToString(value)
	count := max(1, (len(text)+chunkBytes-1)/chunkBytes)
	if count > maxChunks {
		return nil, errTooLarge
	}
	var headers []extauthz.Header
	for i := range count {
		piece := text[i*chunkBytes : min(len(text), (i+1)*chunkBytes)]
		if i == 0 {
			piece = strconv.Itoa(count) + "." + piece
		}
		headers = append(headers, j.set(j.chunk(i), piece, maxAge))
	}
	for i := count; i < maxChunks; i++ {
		if _, there := cookie(request, j.chunk(i)); there > 0 {
			headers = append(headers, j.remove(j.chunk(i)))
		}
	}
	return headers, nil
}

// clear removes the session's cookies that the request has.
func (j *jar) clear(request *extauthz.Request) []extauthz.Header {
	var headers []extauthz.Header
	for i := range maxChunks {
		if _, there := cookie(request, j.chunk(i)); there > 0 {
			headers = append(headers, j.remove(j.chunk(i)))
		}
	}
	return headers
}

var errCookie = errors.New("the session's cookies are not whole")

// read joins the pieces.
func (j *jar) read(request *extauthz.Request) ([]byte, error) {
	var pieces [maxChunks]string
	var counts [maxChunks]int
	cookies(request, func(name, value string) {
		rest, ours := strings.CutPrefix(name, j.base)
		switch {
		case !ours:
		case rest == "":
			pieces[0] = value
			counts[0]++
		case len(rest) == 2 && rest[0] == '.' && '1' <= rest[1] && rest[1] < '0'+maxChunks:
			pieces[rest[1]-'0'] = value
			counts[rest[1]-'0']++
		}
	})
	head, first, ok := strings.Cut(pieces[0], ".")
	if !ok || len(head) != 1 || head[0] < '1' || head[0] > '0'+maxChunks {
		return nil, errCookie
	}
	pieces[0] = first
	count := int(head[0] - '0')
	for i := range count {
		if counts[i] != 1 || len(pieces[i]) > chunkBytes {
			return nil, errCookie
		}
	}
	value, err := base64.RawURLEncoding.DecodeString(strings.Join(pieces[:count], ""))
	if err != nil {
		return nil, errCookie
	}
	return value, nil
}
