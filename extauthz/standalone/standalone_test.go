package standalone_test

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/rules"
	"weir.dev/extauthz/standalone"
)

const hosts = `
virtualHosts:
  - {name: exact, domains: [api.example.com, "api.example.com:8443"], routes: [{name: r, match: {prefix: /}}]}
  - {name: suffix, domains: ["*.example.com"], routes: [{name: r, match: {prefix: /}}]}
  - {name: longer, domains: ["*.eu.example.com"], routes: [{name: r, match: {prefix: /}}]}
  - {name: dash, domains: ["*-eu.example.com"], routes: [{name: r, match: {prefix: /}}]}
  - {name: prefix, domains: ["api.*"], routes: [{name: r, match: {prefix: /}}]}
  - {name: other, domains: ["*"], routes: [{name: r, match: {prefix: /}}]}
`

func table(t *testing.T, file string) (*standalone.Table, error) {
	t.Helper()
	parsed, err := standalone.Parse([]byte(file))
	require.NoError(t, err)
	return standalone.NewTable(parsed, func(host, route string) string { return host + "/" + route })
}

func TestHosts(t *testing.T) {
	for authority, want := range map[string]string{
		"api.example.com": "exact", "API.Example.COM": "exact", "api.example.com:8443": "exact", "api.example.com:99": "prefix",
		"www.example.com": "suffix", "a.b.example.com": "suffix", "www.eu.example.com": "longer", "a-eu.example.com": "dash",
		".example.com": "other", "example.com": "other", "api.net": "prefix", "api.": "other", "www.net": "other",
		"api.example.com.": "prefix", "[::1]:80": "other", "www.example.com:1": "other",
	} {
		chosen, err := table(t, hosts)
		require.NoError(t, err)
		id, reason := chosen.Choose(authority, "GET", "/")
		require.Equal(t, want+"/r", id, "%s %s", authority, reason)
	}
	ignoring, err := table(t, hosts+"ignorePortInHostMatching: true\n")
	require.NoError(t, err)
	for authority, want := range map[string]string{
		"api.example.com:99": "exact", "www.example.com:1": "suffix", "[::1]:80": "other", "[::1]": "other",
	} {
		id, _ := ignoring.Choose(authority, "GET", "/")
		require.Equal(t, want+"/r", id, authority)
	}
	for _, authority := range []string{"", "a b", "a,b", "user@api.example.com", "a/b", "api.example.com:x", "[::1"} {
		id, reason := ignoring.Choose(authority, "GET", "/")
		require.Empty(t, id, authority)
		require.Equal(t, extauthz.ReasonRequestInvalid, reason, authority)
	}
}

const paths = `
virtualHosts:
  - name: h
    domains: ["*"]
    routes:
      - {name: exact, match: {path: /exact}}
      - {name: folded, match: {path: /Folded, ignoreCase: true}}
      - {name: write, match: {prefix: /items, methods: [POST, PUT]}}
      - {name: items, match: {prefix: /items}}
      - {name: admin, match: {pathSeparatedPrefix: /admin}}
      - {name: regex, match: {safeRegex: "/v[0-9]+/x"}}
      - {name: public, match: {pathSeparatedPrefix: /public}}
`

func TestPaths(t *testing.T) {
	chosen, err := table(t, paths)
	require.NoError(t, err)
	const refused, unlisted = "!", ""
	for request, want := range map[string]string{
		"GET /exact": "exact", "GET /exact?a=b": "exact", "GET /exact/": unlisted, "GET /EXACT": unlisted, "GET /folDED": "folded",
		"GET /items": "items", "POST /items": "write", "POST /items/1": "write", "post /items": "items", "GET /itemsandmore": "items",
		"GET /admin": "admin", "GET /admin/": "admin", "GET /admin/x": "admin", "GET /administrator": unlisted, "GET /admin?/../public": "admin",
		"GET /v1/x": "regex", "GET /v12/x?y": "regex", "GET /v1/xy": unlisted, "GET /a/v1/x": unlisted,
		"GET /public": "public", "GET /public/a;v=1": "public", "GET /public;x": refused, "GET /public;x/../admin": refused,
		"GET /;/public": refused, "GET /pub;x/public": unlisted, "GET /admin;x": refused, "GET /admin/;x": refused,
		"GET //admin": refused, "GET /public//admin": refused, "GET /public/../admin": refused, "GET /public/./x": refused, "GET /public/..": refused,
		"GET /public/%2e%2e/admin": refused, "GET /public%2fadmin": refused, "GET /%61dmin": refused, "GET /public/%zz": refused, "GET /public\\..\\admin": refused,
		"GET /public/%5c..": refused, "GET /public#/admin": refused, "GET /public/%C3%A9": "public", "GET ": refused, "GET public": refused, "GET /public/\x00": refused,
		"GET http://h/public": refused, "GET /public/é": refused,
	} {
		method, target, _ := strings.Cut(request, " ")
		id, reason := chosen.Choose("h", method, target)
		switch want {
		case refused:
			require.Empty(t, id, request)
			require.Equal(t, extauthz.ReasonPathNotCanonical, reason, request)
		case unlisted:
			require.Empty(t, id, request)
			require.Equal(t, extauthz.ReasonRouteNotListed, reason, request)
		default:
			require.Equal(t, "h/"+want, id, "%s: %s", request, reason)
		}
	}
	id, reason := chosen.Choose("h", "", "/public")
	require.Empty(t, id)
	require.Equal(t, extauthz.ReasonRequestInvalid, reason)
}

func TestMistakesAreNamed(t *testing.T) {
	for file, want := range map[string]string{
		"virtualHosts: [{name: a, domains: []}]":                                                                         "virtual_hosts[0].domains",
		"virtualHosts: [{domains: [a]}]":                                                                                 "virtual_hosts[0].name: is required",
		"virtualHosts: [{name: a~b, domains: [a]}]":                                                                      "virtual_hosts[0].name",
		"virtualHosts: [{name: a, domains: [x]}, {name: b, domains: [X]}]":                                               "domain of two virtual hosts",
		"virtualHosts: [{name: a, domains: ['*.x']}, {name: b, domains: ['*.x']}]":                                       "domain of two virtual hosts",
		"virtualHosts: [{name: a, domains: ['*']}, {name: b, domains: ['*']}]":                                           "domain of two virtual hosts",
		"virtualHosts: [{name: a, domains: ['a.*.b']}]":                                                                  "in the middle",
		"virtualHosts: [{name: a, domains: ['*a*']}]":                                                                    "is not a host",
		"virtualHosts: [{name: a, domains: ['']}]":                                                                       "is not a host",
		"virtualHosts: [{name: a, domains: [a], routes: [{name: r}]}]":                                                   "routes[0].match: give one of",
		"virtualHosts: [{name: a, domains: [a], routes: [{name: r, match: {prefix: x}}]}]":                               "match.prefix",
		"virtualHosts: [{name: a, domains: [a], routes: [{name: r, match: {path: x}}]}]":                                 "match.path",
		"virtualHosts: [{name: a, domains: [a], routes: [{name: r, match: {pathSeparatedPrefix: /x/}}]}]":                "match.path_separated_prefix",
		"virtualHosts: [{name: a, domains: [a], routes: [{name: r, match: {safeRegex: '('}}]}]":                          "match.safe_regex",
		"virtualHosts: [{name: a, domains: [a], routes: [{name: r, match: {prefix: /, methods: [get]}}]}]":               "match.methods[0]",
		"virtualHosts: [{name: a, domains: [a], routes: [{name: r, match: {prefix: /}},{name: r, match: {prefix: /}}]}]": `"r" is used twice`,
	} {
		_, err := table(t, file)
		require.ErrorContains(t, err, want, file)
	}
	for file, want := range map[string]string{
		"virtualHosts: {": "not YAML", "nonsense: 1": "nonsense", "a: 1\n---\nb: 2": "more than one document", "1: 2": "not a text",
		"virtualHosts: [{name: a, domains: [a], routes: [{name: r, auth: {authenticators: [{name: k, apikey: {}}]}}]}]": "apikey",
	} {
		_, err := standalone.Parse([]byte(file))
		require.ErrorContains(t, err, want, file)
	}
}

const file = `
virtualHosts:
  - name: h
    domains: ["*"]
    routes:
      - name: r
        match: {prefix: /}
        auth:
          authenticators: [{name: key, apiKey: {header: x-api-key}}]
          rules: [{name: n, effect: EFFECT_DENY, expression: %q}]
consumers:
  - {name: default/shop, apiKeys: [{name: k, sha256: %s}]}
`

func TestFileIsReloadedWholeOrNotAtAll(t *testing.T) {
	const digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b" // of "secret"
	path := filepath.Join(t.TempDir(), "rules.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	compiler, err := extauthz.NewCompiler()
	require.NoError(t, err)
	feed := rules.NewFeed(compiler, &authtest.Counter{}, nil)
	source := standalone.NewSource(path, compiler, feed, slog.New(slog.DiscardHandler))
	require.Error(t, source.Load())
	_, reason := source.Choose("h", "GET", "/")
	require.Equal(t, extauthz.ReasonRulesNotLoaded, reason)
	_, known := source.Digest()
	require.False(t, known, "nothing is in effect")

	ask := func(id string) extauthz.Reason {
		return extauthz.Decide(t.Context(), time.Now(), feed.Current(), &extauthz.Request{
			Route: id, Method: "GET", Target: "/", Authority: "h", Headers: []extauthz.Header{{Name: "x-api-key", Value: "secret"}},
		}).Reason
	}
	write(fmt.Sprintf(file, "false", digest))
	require.NoError(t, source.Load())
	first, reason := source.Choose("h", "GET", "/")
	require.Empty(t, reason)
	require.Equal(t, extauthz.ReasonAllowed, ask(first))
	good, known := source.Digest()
	require.True(t, known)
	require.Equal(t, sha256.Sum256(fmt.Appendf(nil, file, "false", digest)), good)

	for _, bad := range []string{"nonsense: 1", fmt.Sprintf(file, "false(", digest), fmt.Sprintf(file, "true", "00"), fmt.Sprintf(file, "true", digest) + "  - {name: ''}\n"} {
		write(bad)
		require.Error(t, source.Load())
		still, _ := source.Choose("h", "GET", "/")
		require.Equal(t, first, still)
		require.Equal(t, extauthz.ReasonAllowed, ask(first), "the last good one stays, whole")
		now, _ := source.Digest()
		require.Equal(t, good, now, "what is in effect, not what the file holds")
	}
	write(fmt.Sprintf(file, "true", digest))
	require.NoError(t, source.Load())
	second, _ := source.Choose("h", "GET", "/")
	require.NotEqual(t, first, second)
	require.Equal(t, extauthz.ReasonPermissionDenied, ask(second))
	require.Equal(t, extauthz.ReasonAllowed, ask(first), "whoever was given the old route finds its rules")
	write(fmt.Sprintf(file, "1 == 1", digest))
	require.NoError(t, source.Load())
	require.Equal(t, extauthz.ReasonRouteUnknown, ask(first), "for one change")
}

func FuzzChoose(f *testing.F) {
	for _, seed := range []string{"/public", "/public;x", "/admin/%2e", "//", "/v1/x?q#f"} {
		f.Add("h.example.com:1", seed)
	}
	parsed, err := standalone.Parse([]byte(paths))
	require.NoError(f, err)
	chosen, err := standalone.NewTable(parsed, func(_, route string) string { return route })
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, authority, target string) {
		id, reason := chosen.Choose(authority, "GET", target)
		require.Equal(t, id == "", reason != "")
		if id == "public" {
			path, _, _ := strings.Cut(target, "?")
			require.True(t, path == "/public" || strings.HasPrefix(path, "/public/"), path)
		}
	})
}
