package steer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	limitsv1 "weir.dev/api/gen/weir/limits/v1"
	"weir.dev/ratelimit"
	"weir.dev/ratelimit/envoyrls"
	"weir.dev/ratelimit/offenders"
	"weir.dev/ratelimit/steer"
	"weir.dev/ratelimit/store/memory"
	"weir.dev/ratelimit/storetest"
)

type fixture struct {
	*steer.Service
	limiter *ratelimit.Limiter
	server  *envoyrls.Server
	log     bytes.Buffer
}

// broken is a store that is away.
type broken struct{}

func (broken) Take(context.Context, []ratelimit.Charge) (ratelimit.Outcome, error) {
	return ratelimit.Outcome{}, errors.New("connection refused")
}

func newFixture(t *testing.T, store ratelimit.Store) *fixture {
	if store == nil {
		var err error
		store, err = memory.New(memory.Options{MaxKeys: memory.MinKeys, Clock: storetest.NewClock().Now})
		require.NoError(t, err)
	}
	fixed := ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Requests: 2, Window: time.Minute}
	rules := []*ratelimit.Rule{
		{ID: "a/p/fixed", Limit: fixed, Tiers: map[string]ratelimit.TierNumbers{"gold": {Requests: 5}}, Digest: "d1"},
		{ID: "a/p/shadow", Limit: ratelimit.Limit{Algorithm: ratelimit.FixedWindow, Window: time.Minute}, Shadow: true},
		{ID: "b/p/open", Limit: fixed, FailureMode: ratelimit.FailOpen},
	}
	table, err := ratelimit.NewTable(rules)
	require.NoError(t, err)
	f := &fixture{limiter: ratelimit.NewLimiter(store, nil)}
	f.limiter.SetTable(table)
	logger := slog.New(slog.NewTextHandler(&f.log, nil))
	watch := offenders.New(logger, nil, nil)
	f.server = envoyrls.New(f.limiter, "weir", watch)
	f.Service = steer.New(steer.Options{Limiter: f.limiter, Watch: watch, Logger: logger, Server: "one"})
	return f
}

// ask sends requests as Envoy does, each of one descriptor "key=value,...".
func (f *fixture) ask(t *testing.T, rule, entries string, times int) {
	t.Helper()
	for range times {
		code, answer := f.post(t, f.server, rule, entries, true)
		require.Equal(t, http.StatusOK, code, answer)
	}
}

// post sends one to /explain, or, charging, to the service itself.
func (f *fixture) post(t *testing.T, server *envoyrls.Server, rule, entries string, charge bool) (int, string) {
	t.Helper()
	list := fmt.Sprintf(`{"key": "weir.limit", "value": %q}`, rule)
	for pair := range strings.SplitSeq(entries, ",") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			list += fmt.Sprintf(`, {"key": %q, "value": %q}`, key, value)
		}
	}
	body := `{"domain": "weir", "descriptors": [{"entries": [` + list + `]}]}`
	if charge {
		_, err := server.ShouldRateLimit(t.Context(), parse(t, body))
		require.NoError(t, err)
		return http.StatusOK, ""
	}
	recorder := httptest.NewRecorder()
	f.Handler(server).ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/explain", strings.NewReader(body)))
	return recorder.Code, recorder.Body.String()
}

func by(pairs ...string) (entries []*limitsv1.Entry) {
	for i := 0; i < len(pairs); i += 2 {
		entries = append(entries, &limitsv1.Entry{Name: pairs[i], Value: pairs[i+1]})
	}
	return entries
}

func TestReadAndResetOneCounter(t *testing.T) {
	f := newFixture(t, nil)
	f.ask(t, "a/p/fixed", "consumer=x,route=r", 3)
	f.ask(t, "a/p/fixed", "consumer=y,route=r", 3)

	get := func(entries []*limitsv1.Entry) *limitsv1.Counter {
		answer, err := f.GetCounter(t.Context(), &limitsv1.GetCounterRequest{Rule: "a/p/fixed", Entries: entries})
		require.NoError(t, err)
		return answer.GetCounter()
	}
	x := get(by("route", "r", "consumer", "x"))
	require.Zero(t, x.GetRemaining(), "entries in any order name the same counter")
	require.Positive(t, x.GetRetryAfter().AsDuration())
	require.Equal(t, "one", x.GetServer())
	require.Equal(t, x.GetKeyDigest(), get(by("consumer", "x", "route", "r")).GetKeyDigest(), "looking charges nothing")

	id, err := url.Parse("spiffe://weir.local/controlplane")
	require.NoError(t, err)
	from := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{
		PeerCertificates: []*x509.Certificate{{URIs: []*url.URL{id}}},
	}}})
	answer, err := f.ResetCounter(from, &limitsv1.ResetCounterRequest{Rule: "a/p/fixed", Entries: by("consumer", "x", "route", "r"), Actor: "spiffe://weir.local/cli"})
	require.NoError(t, err)
	require.Zero(t, answer.GetBefore().GetRemaining())
	require.EqualValues(t, 2, get(by("consumer", "x", "route", "r")).GetRemaining())
	require.Zero(t, get(by("consumer", "y", "route", "r")).GetRemaining(), "others are as they were")
	log := f.log.String()
	require.Contains(t, log, "audit=rate_limit_counter_reset")
	require.Contains(t, log, "actor=spiffe://weir.local/cli")
	require.Contains(t, log, "peer=spiffe://weir.local/controlplane", "who asked on behalf of the actor")
	require.Contains(t, log, x.GetKeyDigest())
	require.NotContains(t, log, "consumer")

	gold := get(by("consumer", "x", "tier", "gold"))
	require.EqualValues(t, 5, gold.GetRequests())
}

func TestListLimits(t *testing.T) {
	f := newFixture(t, nil)
	f.ask(t, "a/p/fixed", "consumer=x", 5)
	f.ask(t, "a/p/fixed", "consumer=y", 3)
	list := func(request *limitsv1.ListLimitsRequest) *limitsv1.ListLimitsResponse {
		answer, err := f.ListLimits(t.Context(), request)
		require.NoError(t, err)
		return answer
	}
	all := list(&limitsv1.ListLimitsRequest{})
	require.Len(t, all.GetLimits(), 3)
	require.Empty(t, all.GetNextPageToken())
	first := all.GetLimits()[0]
	require.Equal(t, "a/p/fixed", first.GetRule())
	require.Equal(t, "fixedWindow", first.GetAlgorithm())
	require.Len(t, first.GetOffenders(), 2)
	require.Equal(t, "x", first.GetOffenders()[0].GetEntries()[0].GetValue())
	require.EqualValues(t, 3, first.GetOffenders()[0].GetRefused())
	require.Len(t, list(&limitsv1.ListLimitsRequest{Prefix: "b/"}).GetLimits(), 1)
	require.Len(t, list(&limitsv1.ListLimitsRequest{Refusing: true}).GetLimits(), 1)
	page := list(&limitsv1.ListLimitsRequest{PageSize: 2})
	require.Equal(t, "a/p/shadow", page.GetNextPageToken())
	require.Len(t, list(&limitsv1.ListLimitsRequest{PageSize: 2, PageToken: page.GetNextPageToken()}).GetLimits(), 1)
}

func TestMistakes(t *testing.T) {
	f := newFixture(t, nil)
	many := make([]*limitsv1.Entry, envoyrls.MaxEntries) // the rule is one of them on the wire
	for i := range many {
		many[i] = &limitsv1.Entry{Name: "n" + strconv.Itoa(i), Value: "v"}
	}
	for name, test := range map[string]struct {
		request *limitsv1.ResetCounterRequest
		want    codes.Code
	}{
		"no rule":       {&limitsv1.ResetCounterRequest{}, codes.InvalidArgument},
		"unknown rule":  {&limitsv1.ResetCounterRequest{Rule: "a/p/none"}, codes.NotFound},
		"too many":      {&limitsv1.ResetCounterRequest{Rule: "a/p/fixed", Entries: many}, codes.InvalidArgument},
		"just enough":   {&limitsv1.ResetCounterRequest{Rule: "a/p/fixed", Entries: many[1:]}, codes.OK},
		"nameless":      {&limitsv1.ResetCounterRequest{Rule: "a/p/fixed", Entries: by("", "x")}, codes.InvalidArgument},
		"a long value":  {&limitsv1.ResetCounterRequest{Rule: "a/p/fixed", Entries: by("x", strings.Repeat("x", 9000))}, codes.InvalidArgument},
		"a long actor":  {&limitsv1.ResetCounterRequest{Rule: "a/p/fixed", Actor: strings.Repeat("x", 300)}, codes.InvalidArgument},
		"not UTF-8":     {&limitsv1.ResetCounterRequest{Rule: "a/p/fixed", Entries: by("x", "\xff")}, codes.OK},
		"nothing there": {&limitsv1.ResetCounterRequest{Rule: "a/p/fixed", Entries: by("consumer", "never")}, codes.OK},
	} {
		_, err := f.ResetCounter(t.Context(), test.request)
		require.Equal(t, test.want, status.Code(err), "%s: %v", name, err)
	}
	_, err := f.ListLimits(t.Context(), &limitsv1.ListLimitsRequest{PageSize: 5000})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	f = newFixture(t, broken{})
	_, err = f.GetCounter(t.Context(), &limitsv1.GetCounterRequest{Rule: "a/p/fixed"})
	require.Equal(t, codes.Unavailable, status.Code(err))
	_, err = f.ResetCounter(t.Context(), &limitsv1.ResetCounterRequest{Rule: "a/p/fixed"})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	require.Contains(t, f.log.String(), "could not be reset", "attempts are logged too")
}

func TestExplain(t *testing.T) {
	f := newFixture(t, nil)
	away := newFixture(t, broken{})
	f.ask(t, "a/p/fixed", "consumer=x", 2)
	for name, test := range map[string]struct {
		of            *fixture
		rule, entries string
		want, tier    string
		found         bool
	}{
		"used up":                {f, "a/p/fixed", "consumer=x", "refuse", "", true},
		"left":                   {f, "a/p/fixed", "consumer=y", "pass", "", true},
		"of a tier":              {f, "a/p/fixed", "consumer=x,tier=gold", "pass", "gold", true},
		"of a tier without ones": {f, "a/p/fixed", "consumer=z,tier=silver", "pass", "", true},
		"in the shadow":          {f, "a/p/shadow", "", "pass, in the shadow of a refusal", "", true},
		"unknown":                {f, "a/p/none", "", "unknown", "", false},
		"away, closed":           {away, "a/p/fixed", "", "refuse", "", true},
		"away, open":             {away, "b/p/open", "", "pass", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := test.of.post(t, test.of.server, test.rule, test.entries, false)
			require.Equal(t, http.StatusOK, code, body)
			var answer struct{ Descriptors []steer.Explained }
			require.NoError(t, json.Unmarshal([]byte(body), &answer))
			require.Len(t, answer.Descriptors, 1)
			require.Equal(t, test.want, answer.Descriptors[0].Answer)
			require.NotEmpty(t, answer.Descriptors[0].Why)
			require.Equal(t, test.tier, answer.Descriptors[0].Tier)
			require.Equal(t, test.rule == "a/p/fixed" && test.want == "refuse" && test.of == f, answer.Descriptors[0].RetryAfter != "", "when to come back")
			require.Equal(t, test.found, answer.Descriptors[0].Found)
		})
	}
	code, body := f.post(t, envoyrls.New(f.limiter, "other", nil), "a/p/fixed", "", false)
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, body, "malformed")
}
