//go:build slow

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit/internal/redistest"
)

// shown is what a client sees of an answer over HTTP.
type shown struct {
	status            int
	contentType, body string
}

func askHTTP(t *testing.T, method, url, body string) shown {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request) // follows no redirect
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return shown{response.StatusCode, response.Header.Get("Content-Type"), string(raw)}
}

// What is compared of a body where it isn't the whole of it.
var (
	// sameLines is for lists whose order changes there from call to call.
	sameLines = func(body string) string {
		lines := strings.Split(body, "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	// sameNames is for lines of a name and a value.
	sameNames = func(body string) string { return regexp.MustCompile(`(?m):.*$`).ReplaceAllString(body, "") }
	// sameJSON is for objects; how long until a window ends differs by a second.
	sameJSON = func(body string) string {
		var value any
		if json.Unmarshal([]byte(body), &value) != nil {
			return body
		}
		raw, _ := json.Marshal(value) // in the order of names
		return regexp.MustCompile(`"durationUntilReset":"\d+s"`).ReplaceAllString(string(raw), "")
	}
	// samePage is for pages whose numbers differ.
	samePage = func(body string) string { return regexp.MustCompile(`\d+`).ReplaceAllString(body, "#") }
	// sameKind is for bodies that nobody could compare.
	sameKind = func(string) string { return "" }
)

// onHTTP is one request to both, on the port for all or the one for operators.
type onHTTP struct {
	debug        bool
	method, path string
	body         string
	// part is what is compared of the body; nil for all of it.
	part func(string) string
	// ours says that Weir answers otherwise, as the compatibility page has it.
	ours *shown
}

func (c onHTTP) compare(t *testing.T, theirs peer, own addresses) {
	t.Helper()
	from, to := theirs.http, own.http
	if c.debug {
		from, to = theirs.debug, own.debug
	}
	want, have := askHTTP(t, c.method, "http://"+from+c.path, c.body), askHTTP(t, c.method, "http://"+to+c.path, c.body)
	what := c.method + " " + c.path + " " + c.body
	if c.ours != nil {
		require.NotEqual(t, want, have, "the compatibility page says that it differs: %s", what)
		want = *c.ours
	}
	if c.part != nil {
		want.body, have.body = c.part(want.body), c.part(have.body)
	}
	require.Equal(t, want, have, what)
}

// TestSlowAnswersAsEnvoyRatelimitOverHTTP compares every path of both ports, by
// status, content type and body.
func TestSlowAnswersAsEnvoyRatelimitOverHTTP(t *testing.T) {
	const (
		text = "text/plain; charset=utf-8"
		shop = `{"domain": "http", "descriptors": [{"entries": [{"key": "user", "value": "ann"}]}]}`
	)
	c := comparison{generator: seeded(t)}
	files := c.configurations("h", 50)
	files["http.yaml"] = "domain: http\ndescriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: 1}}]"
	dir, set := configure(t, files)
	redises := [2]*redistest.Server{redistest.Start(t), redistest.Start(t)}
	set["BACKEND_TYPE"], set["REDIS_URL"], set["LOG_LEVEL"] = "redis", socketOf(redises[0]), "warn"
	theirs := startPeer(t, map[string]string{
		"RUNTIME_ROOT": filepath.Dir(filepath.Dir(dir)), "REDIS_SOCKET_TYPE": "unix", "REDIS_URL": socketOf(redises[1]),
	})
	own := start(t, set)
	answers := func(url, with string) bool {
		response, err := http.Get(url)
		if err != nil {
			return false
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return err == nil && response.StatusCode == http.StatusOK && strings.Contains(string(body), with)
	}
	require.Eventually(t, func() bool {
		return answers("http://"+theirs.http+"/healthcheck", "OK") && answers("http://"+theirs.debug+"/rlconfig", "http.user")
	}, patience, 20*time.Millisecond)

	malformed := func(reason string) *shown { return &shown{400, text, reason + "\n"} }
	for _, one := range []onHTTP{
		{method: "GET", path: "/healthcheck"},
		{method: "POST", path: "/healthcheck", body: "x"},
		{method: "HEAD", path: "/healthcheck"},
		{method: "GET", path: "/healthcheck/"},
		{method: "GET", path: "/"},
		{method: "GET", path: "/nothing"},
		{method: "POST", path: "/json", body: shop, part: sameJSON},
		{method: "POST", path: "/json", body: shop, part: sameJSON},
		{method: "PUT", path: "/json?x=y", body: shop, part: sameJSON},
		{method: "POST", path: "/json", body: strings.ReplaceAll(shop, "http", "unknown"), part: sameJSON},
		{method: "POST", path: "/json", body: strings.ReplaceAll(shop, "user", "other"), part: sameJSON},
		{method: "POST", path: "/json", body: "{}", ours: malformed("RATE_LIMIT_REQUEST_MALFORMED: the rate limit request is malformed; domain: must not be empty")},
		{method: "POST", path: "/json", body: `{"domain": "http"}`, ours: malformed("RATE_LIMIT_REQUEST_MALFORMED: the rate limit request is malformed; descriptors: must be 1 to 64, not 0")},
		{method: "GET", path: "/json", part: sameKind, ours: malformed("")},
		{method: "POST", path: "/json", body: "{", part: sameKind, ours: malformed("")},
		{method: "POST", path: "/json", body: `{"x": 1}`, part: sameKind, ours: malformed("")},
		{method: "POST", path: "/json/", body: shop},

		{debug: true, method: "GET", path: "/rlconfig", part: sameLines},
		{debug: true, method: "POST", path: "/rlconfig", part: sameLines},
		{debug: true, method: "GET", path: "/stats", part: sameNames},
		{debug: true, method: "POST", path: "/stats", part: sameNames},
		{debug: true, method: "GET", path: "//stats"},
		{debug: true, method: "GET", path: "/debug/pprof"},
		{debug: true, method: "GET", path: "/debug/pprof/", part: samePage},
		{debug: true, method: "GET", path: "/debug/pprof/heap", part: sameKind},
		{debug: true, method: "GET", path: "/debug/pprof/goroutine?debug=1", part: sameKind},
		{debug: true, method: "GET", path: "/debug/pprof/profile?seconds=1", part: sameKind},
		{debug: true, method: "GET", path: "/debug/pprof/trace?seconds=0.1", part: sameKind},
		{debug: true, method: "GET", path: "/debug/pprof/nothing"},
		{debug: true, method: "GET", path: "/debug/pprof/cmdline", part: sameKind, ours: &shown{200, text, ""}},
		{debug: true, method: "GET", path: "/debug/pprof/symbol", part: sameKind, ours: &shown{200, text, ""}},
		{debug: true, method: "GET", path: "/metrics", part: sameKind, ours: &shown{200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", ""}},
	} {
		one.compare(t, theirs, own.at)
	}
	// Every path that is listed there is listed here, too, at any path.
	for _, path := range []string{"/", "/nothing", "/debug/vars"} {
		want, have := askHTTP(t, "GET", "http://"+theirs.debug+path, ""), askHTTP(t, "GET", "http://"+own.at.debug+path, "")
		require.Equal(t, []any{want.status, want.contentType}, []any{have.status, have.contentType}, path)
		require.Subset(t, strings.Fields(sameNames(have.body)), strings.Fields(sameNames(want.body)))
	}

	for _, redis := range redises {
		redis.Kill(t)
	}
	away := onHTTP{method: "POST", path: "/json", body: shop, ours: &shown{503, text, "limits cannot be checked at the moment\n"}}
	away.compare(t, theirs, own.at)
	require.Eventually(t, func() bool { return askHTTP(t, "GET", "http://"+own.at.http+"/healthcheck", "").status == 500 }, patience, 20*time.Millisecond)
	away = onHTTP{method: "GET", path: "/healthcheck", ours: &shown{500, text, "Redis does not answer\n"}}
	away.compare(t, theirs, own.at)
}
