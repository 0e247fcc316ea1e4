package login

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
)

func testLogin() *Login {
	return &Login{
		trusted: map[string]bool{"app.example": true, "localhost:3000": true},
		paths:   paths{"/oauth2/callback", "/oauth2/login", "/oauth2/logout", "/oauth2/bc", "/"},
	}
}

func TestReturnTo(t *testing.T) {
	l, request := testLogin(), &extauthz.Request{Authority: "Shop.example", Scheme: "https"}
	for _, good := range []string{
		"/", "/a/b?c=d&e=%2F", "/a#part", "https://app.example/x", "https://APP.example/", "https://shop.example/y", "http://localhost:3000/dev",
		"/https://evil.example", "/@evil.example", "/.evil.example", "/%09/evil.example", "/%2f%2fevil.example",
	} {
		location, ok := l.returnTo(request, good)
		require.True(t, ok, good)
		require.Equal(t, good, location)
	}
	for _, bad := range []string{
		"", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "\\/evil.example", "/\t/evil.example", "/\n/evil.example", " //evil.example",
		"https://evil.example", "https://app.example.evil.example/", "https://app.example@evil.example/", "https://evil.example#@app.example/", "https://evil.example\\@app.example/",
		"http://app.example/", "https://app.example:8443/", "https:app.example", "https:/app.example", "https:///app.example", "javascript:alert(1)", "data:text/html,x",
		"JavaScript://app.example/%0aalert(1)", "ftp://app.example/", "app.example", "evil.example/x", "?x", "#x", "https://user:pw@app.example/", "http://shop.example/",
		"/oauth2/logout", "/oauth2/logout?x=1", "/oauth2%2flogout", "/oauth2/callback?code=x", "https://shop.example/oauth2/logout", "/a\x00", "/a\u202e", "/\"><script>",
		"/" + strings.Repeat("a", maxReturnBytes),
	} {
		location, ok := l.returnTo(request, bad)
		require.False(t, ok, "%q leads to %q", bad, location)
	}
}

// FuzzReturnTo: whatever is taken leads to the own host or a trusted one, as a
// browser would read it.
func FuzzReturnTo(f *testing.F) {
	for _, seed := range []string{"/", "//evil", "/\\evil", "https://app.example/", "https://app.example@evil/", "/%5cevil", "/a//b", "https://shop.example:443/", "https://[::1]/"} {
		f.Add(seed)
	}
	l, request := testLogin(), &extauthz.Request{Authority: "shop.example", Scheme: "https"}
	base, err := url.Parse("https://shop.example/here")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, wanted string) {
		location, ok := l.returnTo(request, wanted)
		if !ok {
			return
		}
		// Browsers drop control characters and read a backslash as a slash.
		browser := strings.Map(func(r rune) rune {
			if r == '\t' || r == '\n' || r == '\r' {
				return -1
			}
			if r == '\\' {
				return '/'
			}
			return r
		}, strings.TrimSpace(location))
		target, err := base.Parse(browser)
		require.NoError(t, err)
		require.Contains(t, []string{"shop.example", "app.example", "localhost:3000"}, strings.ToLower(target.Host), "%q", wanted)
		require.False(t, strings.EqualFold(target.Host, "shop.example") && l.paths.own(target.Path), "%q", wanted)
	})
}

func FuzzCookies(f *testing.F) {
	f.Add("__Host-weir=1.AAAA", "1")
	f.Add("__Host-weir=2.AAAA; __Host-weir.1=BBBB", "x=y")
	f.Add("__Host-weir", "=;=;;")
	jar := jar{base: "__Host-weir", sameSite: "Lax"}
	f.Fuzz(func(t *testing.T, first, second string) {
		request := &extauthz.Request{Headers: []extauthz.Header{{Name: "cookie", Value: first}, {Name: "cookie", Value: second}}}
		if raw, err := jar.read(request); err == nil {
			set, err := jar.write(&extauthz.Request{}, raw, 60)
			require.NoError(t, err)
			again := &extauthz.Request{}
			for _, header := range set {
				pair, _, _ := strings.Cut(header.Value, ";")
				again.Headers = append(again.Headers, extauthz.Header{Name: "cookie", Value: pair})
			}
			back, err := jar.read(again)
			require.NoError(t, err)
			require.Equal(t, raw, back)
		}
	})
}

func TestLoopback(t *testing.T) {
	for _, yes := range []string{"localhost", "localhost:8080", "a.localhost", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "LOCALHOST"} {
		require.True(t, loopback(yes), yes)
	}
	for _, no := range []string{"", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "example.com:80", "notlocalhost"} {
		require.False(t, loopback(no), no)
	}
}

func TestOriginIsHTTPS(t *testing.T) {
	for _, c := range []struct {
		want    string
		port    uint32
		request extauthz.Request
	}{
		{"https://shop.example", 0, extauthz.Request{Authority: "Shop.Example", Scheme: "http", Port: 8080}},
		{"https://shop.example", 443, extauthz.Request{Authority: "shop.example", Scheme: "https", Port: 10443}},
		{"https://shop.example:8443", 8443, extauthz.Request{Authority: "shop.example", Scheme: "https", Port: 10443}},
		{"https://shop.example:9443", 8443, extauthz.Request{Authority: "shop.example:9443", Scheme: "https"}},
		{"http://localhost:8081", 8443, extauthz.Request{Authority: "localhost", Scheme: "http", Port: 8081}},
		{"http://localhost", 0, extauthz.Request{Authority: "localhost", Scheme: "http", Port: 80}},
		{"http://localhost:8080", 0, extauthz.Request{Authority: "localhost:8080", Scheme: "http", Port: 1}},
		{"https://localhost:8443", 0, extauthz.Request{Authority: "localhost", Scheme: "https", Port: 8443}},
		{"http://[::1]:8081", 0, extauthz.Request{Authority: "[::1]", Scheme: "http", Port: 8081}},
	} {
		l := &Login{port: c.port}
		require.Equal(t, c.want, l.origin(&c.request))
	}
}
