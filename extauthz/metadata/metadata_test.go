package metadata_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/metadata"
	"weir.dev/kit/authzexpr"
)

// server answers by handle and counts.
type server struct {
	*httptest.Server
	calls atomic.Int32
	last  atomic.Pointer[http.Request]
}

func serve(t *testing.T, handle http.HandlerFunc) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		s.last.Store(r)
		handle(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func says(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write([]byte(body))
	}
}

func fetcher(t *testing.T, source *rulesv1.MetadataSource) (extauthz.Fetcher, error) {
	t.Helper()
	environment, err := authzexpr.NewEnvironment()
	require.NoError(t, err)
	sources, err := metadata.New(nil, 1<<20, nil)
	require.NoError(t, err)
	return sources.Fetcher(environment, source)
}

func must(t *testing.T, source *rulesv1.MetadataSource) extauthz.Fetcher {
	t.Helper()
	f, err := fetcher(t, source)
	require.NoError(t, err)
	return f
}

func input(tenant string) *authzexpr.Input {
	return &authzexpr.Input{Identity: authzexpr.Identity{Tenant: tenant, Subject: "alice"}, Request: authzexpr.Request{Host: "a b&c"}}
}

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func TestFetch(t *testing.T) {
	s := serve(t, says("application/json", `{"plan": "gold"}`))
	f := must(t, &rulesv1.MetadataSource{
		Name: "plan", Url: s.URL + "/base", Path: "/tenants/{identity.tenant}/plan",
		Query: map[string]string{"host": "{request.host}", "fixed": "1"}, Headers: map[string]string{"authorization": "Bearer t", "x-user": "{identity.subject}"},
	})
	require.ElementsMatch(t, []string{"identity.tenant", "request.host", "identity.subject"}, f.References())
	value, err := f.Fetch(t.Context(), now(), input("a/../b?x#"))
	require.NoError(t, err)
	require.Equal(t, "gold", value.GetStructValue().GetFields()["plan"].GetStringValue())
	r := s.last.Load()
	require.Equal(t, "/base/tenants/a%2F..%2Fb%3Fx%23/plan", r.URL.EscapedPath())
	require.Equal(t, "a b&c", r.URL.Query().Get("host"))
	require.Equal(t, "Bearer t", r.Header.Get("Authorization"))
	require.Equal(t, "alice", r.Header.Get("X-User"))
}

func TestAnswersThatAreNone(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"status":     func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "{}", http.StatusNotFound) },
		"type":       says("text/html", `{}`),
		"not JSON":   says("application/json", `{`),
		"two values": says("application/json", `1,"b":2`),
		"name twice": says("application/json", `{"a":1,"a":2}`),
		"long":       says("application/json", `"`+strings.Repeat("a", 100)+`"`),
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, handle)
			source := &rulesv1.MetadataSource{Name: "a", Url: s.URL, MaxBytes: 100, CacheDuration: durationpb.New(time.Minute)}
			f := must(t, source)
			for range 2 {
				_, err := f.Fetch(t.Context(), now(), input("t"))
				require.Error(t, err)
			}
			require.EqualValues(t, 2, s.calls.Load(), "an error is not kept")
			source.DefaultValue = structpb.NewStringValue("default")
			value, err := must(t, source).Fetch(t.Context(), now(), input("t"))
			require.NoError(t, err)
			require.Equal(t, "default", value.GetStringValue())
		})
	}
}

func TestAHangingSource(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	_, err := must(t, &rulesv1.MetadataSource{Name: "a", Url: s.URL, Timeout: durationpb.New(20 * time.Millisecond)}).Fetch(t.Context(), now(), input("t"))
	require.ErrorContains(t, err, "no answer in time")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = must(t, &rulesv1.MetadataSource{Name: "a", Url: s.URL, Timeout: durationpb.New(5 * time.Second)}).Fetch(ctx, now(), input("t"))
	require.ErrorIs(t, err, context.Canceled)
}

func TestQuestionsThatCannotBePut(t *testing.T) {
	s := serve(t, says("application/json", `1`))
	source := &rulesv1.MetadataSource{Name: "a", Url: s.URL, Path: "/{identity.tenant}", DefaultValue: structpb.NewBoolValue(true)}
	for _, tenant := range []string{"", ".", ".."} {
		_, err := must(t, source).Fetch(t.Context(), now(), input(tenant))
		require.Error(t, err, "a default stands for an answer, not for a question: %q", tenant)
	}
	source = &rulesv1.MetadataSource{Name: "a", Url: s.URL, Headers: map[string]string{"x-a": "{identity.tenant}"}}
	_, err := must(t, source).Fetch(t.Context(), now(), input("a\r\nx-admin: 1"))
	require.ErrorContains(t, err, "printable")
	require.Zero(t, s.calls.Load())
}

func TestCache(t *testing.T) {
	s := serve(t, says("application/json", `1`))
	f := must(t, &rulesv1.MetadataSource{Name: "a", Url: s.URL, Path: "/{identity.tenant}", CacheDuration: durationpb.New(time.Minute)})
	ask := func(at time.Time, tenant string) {
		_, err := f.Fetch(t.Context(), at, input(tenant))
		require.NoError(t, err)
	}
	ask(now(), "a")
	ask(now().Add(59*time.Second), "a")
	require.EqualValues(t, 1, s.calls.Load())
	ask(now(), "b")
	require.EqualValues(t, 2, s.calls.Load(), "another question")
	ask(now().Add(time.Minute), "a")
	require.EqualValues(t, 3, s.calls.Load(), "too old")
}

func TestOneQuestionForMany(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		says("application/json", `1`)(w, r)
	})
	f := must(t, &rulesv1.MetadataSource{Name: "a", Url: s.URL, CacheDuration: durationpb.New(time.Minute), Timeout: durationpb.New(10 * time.Second)})
	first, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := f.Fetch(first, now(), input("t")); gone <- err }()
	<-arrived
	cancel() // whoever asked first leaves; the others still get the answer
	require.True(t, errors.Is(<-gone, context.Canceled))
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			_, err := f.Fetch(t.Context(), now(), input("t"))
			require.NoError(t, err)
		})
	}
	close(release)
	group.Wait()
	require.EqualValues(t, 1, s.calls.Load())
}

func TestSourcesThatDoNotCompile(t *testing.T) {
	for says, source := range map[string]*rulesv1.MetadataSource{
		"url: is not https":                   {Url: "http://example.com"},
		"url: has a query":                    {Url: "https://example.com/?a"},
		"path: in {identity.nope}":            {Url: "https://example.com", Path: "/{identity.nope}"},
		`query["a"]: `:                        {Url: "https://example.com", Query: map[string]string{"a": "{"}},
		"timeout: 1m0s is outside":            {Url: "https://example.com", Timeout: durationpb.New(time.Minute)},
		"cache_duration: 2h0m0s is outside":   {Url: "https://example.com", CacheDuration: durationpb.New(2 * time.Hour)},
		"max_bytes: 2000000 is more than":     {Url: "https://example.com", MaxBytes: 2_000_000},
		"is not an absolute URL without user": {Url: "https://a@example.com"},
	} {
		_, err := fetcher(t, source)
		require.ErrorContains(t, err, says)
	}
}
