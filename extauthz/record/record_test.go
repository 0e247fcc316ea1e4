package record_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
	"weir.dev/extauthz/record"
	"weir.dev/extauthz/token"
)

// auditor keeps what it is given, unless it is broken.
type auditor struct {
	mu      sync.Mutex
	records [][]byte
	broken  error
}

func (a *auditor) Append(_ context.Context, record []byte) error {
	if a.broken != nil {
		return a.broken
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.records = append(a.records, bytes.Clone(record))
	return nil
}

func (a *auditor) Offer(record []byte) bool { return a.Append(context.Background(), record) == nil }

// events counts by name.
type events struct{ authtest.Counter }

func (e *events) AuditLost(required bool) {
	if required {
		e.Add("lost required")
		return
	}
	e.Add("lost")
}

func (e *events) Candidate(policy, outcome, rule string) { e.Add(policy + " " + outcome + " " + rule) }

// world is a keeper and rules.
type world struct {
	*record.Keeper
	audit  *auditor
	events *events
	log    *bytes.Buffer
	rules  *extauthz.Rules
	ring   authtest.Ring
}

func start(t testing.TB, change func(*record.Options), routes ...*rulesv1.AuthRoute) *world {
	t.Helper()
	w := &world{audit: &auditor{}, events: &events{}, log: &bytes.Buffer{}, ring: authtest.NewRing(t)}
	options := record.Options{
		Server: "test", Audit: w.audit, Recent: 8, Events: w.events, Clock: authtest.Now,
		Logger: slog.New(slog.NewJSONHandler(w.log, nil)),
	}
	if change != nil {
		change(&options)
	}
	keeper, err := record.NewKeeper(options)
	require.NoError(t, err)
	w.Keeper = keeper
	w.use(t, routes...)
	return w
}

func (w *world) use(t testing.TB, routes ...*rulesv1.AuthRoute) {
	t.Helper()
	verifiers, err := token.NewVerifiers(token.Options{})
	require.NoError(t, err)
	compiler, err := extauthz.NewCompiler(verifiers)
	require.NoError(t, err)
	sources := map[string]*rulesv1.AuthRoute{}
	for _, route := range routes {
		sources[route.GetRouteId()] = route
	}
	set, err := compiler.Routes(nil, sources)
	require.NoError(t, err)
	consumers, err := compiler.Consumers(authtest.Consumers())
	require.NoError(t, err)
	w.rules = extauthz.NewRules(set, consumers)
}

func ask(route, target string, headers ...string) *extauthz.Request {
	request := &extauthz.Request{Route: route, Method: "GET", Target: target, Authority: "API.example:443", Protocol: "HTTP/2", Source: "10.1.2.3", ID: "req-1"}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Headers = append(request.Headers, extauthz.Header{Name: headers[i], Value: headers[i+1]})
	}
	return request
}

// decide goes through what a server does.
func (w *world) decide(t testing.TB, request *extauthz.Request) *extauthz.Decision {
	t.Helper()
	decision := extauthz.Decide(t.Context(), authtest.Now(), w.rules, request)
	made := record.Made{At: authtest.Now(), Took: 12 * time.Microsecond, Rules: w.rules, Request: request, Decision: &decision}
	w.Record(t.Context(), &made)
	w.Answered(made)
	return &decision
}

func (w *world) find(t testing.TB, id string) []*decisionv1.Decision {
	t.Helper()
	return record.Find(w.Keeper, id)
}

func audited(route *rulesv1.AuthRoute, how rulesv1.Audit) *rulesv1.AuthRoute {
	route.Audit = how
	return route
}

func TestRecordSaysWhy(t *testing.T) {
	route := authtest.WithRules(authtest.Route("r~1", authtest.APIKey(), authtest.Anonymous()),
		authtest.Deny("writes", `request.method != "GET"`), authtest.Allow("acme", `identity.tenant == "acme"`), authtest.Deny("rest", `true`))
	w := start(t, nil, audited(route, rulesv1.Audit_AUDIT_REQUIRED))
	decision := w.decide(t, ask("r~1", "/v1/users?page=2", "x-api-key", authtest.GoodKey))
	require.True(t, decision.Allowed)
	require.Regexp(t, `^d-[0-9a-f]{12}-1$`, decision.ID)
	require.Len(t, w.audit.records, 1)
	found, err := record.Parse(w.audit.records[0])
	require.NoError(t, err)
	want := &decisionv1.Decision{}
	require.NoError(t, protojson.Unmarshal([]byte(`{
		"time": "2026-03-01T12:00:00Z", "requestId": "req-1", "server": "test", "allowed": true, "reason": "ALLOWED", "route": "r",
		"policy": "default/policy", "digest": "d1", "authenticator": "key", "rule": "acme",
		"request": {"method": "GET", "host": "api.example", "path": "/v1/users", "query": "page=(removed)", "protocol": "HTTP/2", "source": "10.1.2.3"},
		"caller": {"consumer": "default/shop", "subject": "main", "tenant": "acme", "tier": "gold", "scopes": ["read"]},
		"methods": [{"name": "key", "outcome": "proved", "kind": "apiKey"}, {"name": "anyone", "outcome": "not reached", "kind": "anonymous"}],
		"rules": [{"name": "writes", "outcome": "false", "effect": "deny"}, {"name": "acme", "outcome": "true", "effect": "allow"},
			{"name": "rest", "outcome": "not reached", "effect": "deny"}],
		"took": "0.000012s", "missing": ["request.query"]}`), want))
	want.Id = decision.ID
	require.True(t, proto.Equal(want, found), "want %v\ngot  %v", want, found)
	for _, id := range []string{decision.ID, "req-1"} {
		recent := w.find(t, id)
		require.Len(t, recent, 1)
		require.True(t, proto.Equal(found, recent[0]))
	}
	require.Empty(t, w.find(t, "other"))
}

func TestOutcomesOfMethodsAndRules(t *testing.T) {
	ring := authtest.NewRing(t)
	route := authtest.WithRules(authtest.Route("r", authtest.APIKey(), authtest.JWT("jwt", authtest.Provider(authtest.KeySet(t, ring.EC)))),
		authtest.Deny("broken", `identity.claims.missing == "x"`))
	w := start(t, nil, route)
	cases := []struct {
		name     string
		headers  []string
		target   string
		methods  string
		rules    string
		rejected extauthz.Reason
	}{
		{"nothing", nil, "/", "absent absent", "not reached", extauthz.ReasonCredentialsMissing},
		{"wrong key", []string{"x-api-key", "no"}, "/", "refused absent", "not reached", extauthz.ReasonAPIKeyInvalid},
		{"key twice", []string{"x-api-key", "a", "x-api-key", "b"}, "/", "ambiguous absent", "not reached", extauthz.ReasonCredentialAmbiguous},
		{"bad token", []string{"authorization", "Bearer x"}, "/", "absent refused", "not reached", extauthz.ReasonTokenInvalid},
		{"a rule that fails", []string{"x-api-key", authtest.GoodKey}, "/", "proved absent", "error", extauthz.ReasonRuleError},
		{"bad path", nil, "//x", "", "not reached", extauthz.ReasonPathNotCanonical},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			decision := w.decide(t, ask("r", c.target, c.headers...))
			require.Equal(t, c.rejected, decision.Reason)
			found := w.find(t, decision.ID)[0]
			outcomes := func(steps []*decisionv1.Step) string {
				var all []string
				for _, s := range steps {
					all = append(all, s.GetOutcome())
				}
				return strings.Join(all, " ")
			}
			require.Equal(t, c.methods, outcomes(found.GetMethods()))
			require.Equal(t, c.rules, outcomes(found.GetRules()))
			require.Equal(t, string(c.rejected), found.GetReason())
		})
	}
}

// Whatever a client sends, no credential is in a record.
func TestNoSecretIsRecorded(t *testing.T) {
	const canary = "c4n4ry"
	ring := authtest.NewRing(t)
	provider := authtest.Provider(authtest.KeySet(t, ring.EC))
	route := authtest.WithRules(authtest.Route("r", authtest.APIKey(), authtest.JWT("jwt", provider), authtest.Anonymous()),
		authtest.Deny("all", `request.header("x-a") == "b" || request.raw_query == "x" || has(identity.claims.x)`))
	w := start(t, func(o *record.Options) { o.Sample = 1 }, audited(route, rulesv1.Audit_AUDIT_REQUIRED))
	signed := ring.EC.Token(t, nil, authtest.Claims(map[string]any{
		"access_token": canary, "nested": map[string]any{"client_secret": canary, "list": []any{map[string]any{"password": canary}}},
		"deep": map[string]any{"a": map[string]any{"a": map[string]any{"a": map[string]any{"a": map[string]any{"a": map[string]any{"a": map[string]any{"a": canary}}}}}}},
		"note": "eyJ" + canary + ".b.c",
	}))
	headers := []string{
		"authorization", "Bearer " + signed, "cookie", "a=" + canary, "proxy-authorization", "Basic " + canary,
		"x-auth-token", canary, "x-csrf-token", canary, "x-amz-security-token", canary, "x-session", canary, "x-hub-signature", canary,
		"x-note", "Bearer " + canary, "x-other", "eyJ" + canary + ".x.y", "dpop", "eyJ" + canary + ".x.y", ":authority", "api", "x-a", "c",
	}
	target := "/v1?access_token=" + canary + "&code=" + canary + "&page=2&sig=" + canary + "&q=eyJ" + canary + ".a.b&weir_" + canary
	decision := w.decide(t, ask("r", target, headers...))
	w.decide(t, ask("r", target, append(headers[2:], "x-api-key", canary+"key")...))
	for _, found := range w.find(t, "req-1") {
		w.audit.records = append(w.audit.records, record.AppendJSON(nil, found))
	}
	require.Len(t, w.audit.records, 4)
	for _, raw := range append(w.audit.records, w.log.Bytes()) {
		require.NotContains(t, string(raw), canary)
		require.NotContains(t, string(raw), signed)
	}
	require.Contains(t, string(w.audit.records[0]), `page=2`, "negative control: what rules read is there")
	require.Contains(t, string(w.audit.records[0]), `"x-a":"c"`)
	require.True(t, decision.Allowed, decision.Cause)
	require.Equal(t, 2, strings.Count(w.log.String(), `"log":"decision"`))
}

// What no rule reads is not recorded, and the record says so.
func TestOnlyWhatRulesReadIsRecorded(t *testing.T) {
	ring := authtest.NewRing(t)
	provider := authtest.Provider(authtest.KeySet(t, ring.EC))
	w := start(t, nil, authtest.WithRules(authtest.Route("r", authtest.JWT("jwt", provider)), authtest.Allow("a", `identity.subject == "alice"`)))
	decision := w.decide(t, ask("r", "/v1?q=private", "authorization", "Bearer "+ring.EC.Token(t, nil, authtest.Claims(map[string]any{"email": "private"})), "x-note", "private"))
	found := w.find(t, decision.ID)[0]
	require.NotContains(t, found.String(), "private")
	require.Equal(t, []string{"request.query", "request.headers", "identity.claims"}, found.GetMissing())
}

func TestAuditRequiredMeansNoRecordNoAccess(t *testing.T) {
	required := audited(authtest.Route("required", authtest.APIKey()), rulesv1.Audit_AUDIT_REQUIRED)
	best := audited(authtest.Route("best", authtest.APIKey()), rulesv1.Audit_AUDIT_BEST_EFFORT)
	none := authtest.Route("none", authtest.APIKey())
	for name, change := range map[string]func(*record.Options){
		"broken": func(o *record.Options) { o.Audit.(*auditor).broken = errors.New("disk is full") }, //nolint:forcetypeassert // a test
		"absent": func(o *record.Options) { o.Audit = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, change, required, best, none)
			for route, allowed := range map[string]bool{"required": false, "best": true, "none": true} {
				decision := w.decide(t, ask(route, "/", "x-api-key", authtest.GoodKey))
				require.Equal(t, allowed, decision.Allowed, route)
				if !allowed {
					require.Equal(t, extauthz.ReasonAuditUnavailable, decision.Reason)
				}
			}
			denied := w.decide(t, ask("required", "/"))
			require.Equal(t, extauthz.ReasonAuditUnavailable, denied.Reason, "a denial that is not recorded tells nothing")
			require.Empty(t, denied.Challenge)
			require.Equal(t, 2, w.events.Of("lost required"))
			require.Equal(t, 1, w.events.Of("lost"))
		})
	}
	w := start(t, nil, required, best, none)
	for _, route := range []string{"required", "best", "none"} {
		require.True(t, w.decide(t, ask(route, "/", "x-api-key", authtest.GoodKey)).Allowed, "negative control")
	}
	require.Len(t, w.audit.records, 2)
}

func TestRingForgetsTheOldest(t *testing.T) {
	w := start(t, nil, authtest.Route("r", authtest.APIKey()))
	first := w.decide(t, ask("r", "/", "x-api-key", authtest.GoodKey))
	require.Len(t, w.find(t, first.ID), 1)
	for range 8 {
		w.decide(t, ask("r", "/"))
	}
	require.Empty(t, w.find(t, first.ID))
	require.Len(t, w.find(t, "req-1"), 8)
}

func candidate(policy string, authenticators []*rulesv1.Authenticator, rules ...*rulesv1.AuthorizationRule) *rulesv1.Candidate {
	return &rulesv1.Candidate{Policy: policy, Digest: "c-" + policy, Authenticators: authenticators, Rules: rules}
}

// wait runs the comparisons until n are made.
func (w *world) wait(t *testing.T, n int64) []*decisionv1.Candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var list []*decisionv1.Candidate
	require.Eventually(t, func() bool {
		total := int64(0)
		list = record.Candidates(w.Keeper)
		for _, c := range list {
			total += c.GetCompared() + c.GetUndecided()
		}
		return total >= n
	}, time.Minute, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	return list
}

// A candidate that was removed is not listed any more, though it was counted.
func TestRemovedCandidate(t *testing.T) {
	key := []*rulesv1.Authenticator{authtest.APIKey()}
	route := authtest.Route("r", key...)
	route.Candidates = []*rulesv1.Candidate{candidate("default/one", key), candidate("default/other", key)}
	var w *world
	w = start(t, func(o *record.Options) { o.Rules = func() *extauthz.Rules { return w.rules } }, route)
	w.decide(t, ask("r", "/ok", "x-api-key", authtest.GoodKey))
	require.Len(t, w.wait(t, 2), 2)
	left := authtest.Route("r", key...)
	left.Candidates = []*rulesv1.Candidate{candidate("default/other", key)}
	w.use(t, left)
	list := record.Candidates(w.Keeper)
	require.Len(t, list, 1)
	require.Equal(t, "default/other", list[0].GetPolicy())
	w.rules = nil
	require.Empty(t, record.Candidates(w.Keeper), "without rules nothing is compared")
}

func TestCandidates(t *testing.T) {
	key := []*rulesv1.Authenticator{authtest.APIKey()}
	route := authtest.WithRules(authtest.Route("r", key...), authtest.Deny("secret", `request.path == "/secret"`))
	route.Candidates = []*rulesv1.Candidate{
		candidate("default/strict", key, authtest.Deny("secret", `request.path == "/secret"`), authtest.Deny("writes", `request.path.startsWith("/w")`)),
		candidate("default/open", key),
		candidate("default/broken", key, authtest.Allow("x", `identity.claims.x == "1"`)),
	}
	w := start(t, nil, route)
	var flipped *extauthz.Decision
	for range 3 {
		require.True(t, w.decide(t, ask("r", "/ok", "x-api-key", authtest.GoodKey)).Allowed)
		flipped = w.decide(t, ask("r", "/w/x", "x-api-key", authtest.GoodKey))
		require.True(t, flipped.Allowed, "a candidate decides nothing")
		require.False(t, w.decide(t, ask("r", "/secret", "x-api-key", authtest.GoodKey)).Allowed)
		require.False(t, w.decide(t, ask("r", "/w/x")).Allowed)
	}
	list := w.wait(t, 36)
	require.Len(t, list, 3)
	broken, open, strict := list[0], list[1], list[2]
	require.EqualValues(t, 12, strict.GetCompared())
	require.EqualValues(t, 9, strict.GetSame())
	require.Len(t, strict.GetFlips(), 1)
	flip := strict.GetFlips()[0]
	require.Equal(t, "allow-to-deny", flip.GetKind())
	require.Equal(t, "writes", flip.GetRule())
	require.EqualValues(t, 3, flip.GetCount())
	require.Len(t, flip.GetExamples(), 3)
	require.Contains(t, flip.GetExamples(), flipped.ID)
	require.Equal(t, "deny-to-allow", open.GetFlips()[0].GetKind())
	require.EqualValues(t, 9, broken.GetFailed(), "those without a caller are alike")
	require.Equal(t, 3, w.events.Of("default/strict allow-to-deny writes"))
	outcomes := map[string]string{}
	for _, verdict := range w.find(t, flipped.ID)[0].GetCandidates() {
		outcomes[verdict.GetPolicy()] = verdict.GetOutcome()
	}
	require.Equal(t, map[string]string{"default/strict": "allow-to-deny", "default/open": "same", "default/broken": "error"}, outcomes)
}

// Candidates that identify callers in another way are tried where that has no
// effect on anybody.
func TestCandidatesOfMethods(t *testing.T) {
	ring := authtest.NewRing(t)
	provider := authtest.Provider(authtest.KeySet(t, ring.EC))
	other := proto.Clone(provider).(*rulesv1.JwtAuthenticator) //nolint:forcetypeassert // a clone
	other.Audiences = []string{"another"}
	renamed := authtest.JWT("renamed", provider)
	route := authtest.Route("r", authtest.JWT("jwt", provider))
	route.Candidates = []*rulesv1.Candidate{
		candidate("default/audience", []*rulesv1.Authenticator{authtest.JWT("jwt", other)}),
		candidate("default/anyone", []*rulesv1.Authenticator{authtest.JWT("jwt", provider), authtest.Anonymous()}),
		candidate("default/renamed", []*rulesv1.Authenticator{renamed}, authtest.Allow("who", `identity.authenticator == "renamed" && identity.claims.tenant == "acme"`)),
	}
	w := start(t, nil, route)
	token := "Bearer " + ring.EC.Token(t, nil, authtest.Claims(nil))
	good := w.decide(t, ask("r", "/", "authorization", token))
	require.True(t, good.Allowed)
	none := w.decide(t, ask("r", "/"))
	require.False(t, none.Allowed)
	bound := w.decide(t, ask("r", "/", "authorization", token, "dpop", "x"))
	w.wait(t, 9)
	verdicts := func(d *extauthz.Decision) map[string]string {
		found := map[string]string{}
		for _, v := range w.find(t, d.ID)[0].GetCandidates() {
			found[strings.TrimPrefix(v.GetPolicy(), "default/")] = v.GetOutcome()
		}
		return found
	}
	require.Equal(t, map[string]string{"audience": "allow-to-deny", "anyone": "same", "renamed": "same"}, verdicts(good))
	require.Equal(t, map[string]string{"audience": "same", "anyone": "deny-to-allow", "renamed": "same"}, verdicts(none))
	require.Equal(t, "undecided", verdicts(bound)["audience"], "a proof counts once")
}

// Nobody waits for a candidate: what there is no time for is dropped and counted.
func TestCandidatesAreDroppedUnderLoad(t *testing.T) {
	route := authtest.Route("r", authtest.APIKey())
	route.Candidates = []*rulesv1.Candidate{candidate("default/c", route.GetAuthenticators())}
	w := start(t, nil, route)
	for range 1100 { // nobody compares
		w.decide(t, ask("r", "/", "x-api-key", authtest.GoodKey))
	}
	require.EqualValues(t, 76, record.Candidates(w.Keeper)[0].GetDropped())
}

func FuzzJSON(f *testing.F) {
	f.Add("/v1", "a=b&c", "x-note", "value\x00\xff\"\\\n")
	f.Fuzz(func(t *testing.T, path, query, name, value string) {
		claims, err := structpb.NewStruct(map[string]any{"a": "b"})
		require.NoError(t, err)
		d := &decisionv1.Decision{
			Reason:  strings.ToValidUTF8(value, "\uFFFD"),
			Request: &decisionv1.Request{Path: strings.ToValidUTF8(path, "\uFFFD"), Query: strings.ToValidUTF8(query, "\uFFFD"), Headers: map[string]string{strings.ToValidUTF8(name, "\uFFFD"): strings.ToValidUTF8(value, "\uFFFD")}},
			Caller:  &decisionv1.Caller{Claims: claims},
		}
		raw := record.AppendJSON(nil, d)
		require.True(t, json.Valid(raw))
		require.NotContains(t, string(raw), "\n")
		parsed, err := record.Parse(raw)
		require.NoError(t, err)
		parsed.Time = nil
		require.True(t, proto.Equal(d, parsed), "%v\n%v", d, parsed)
	})
}

// BenchmarkKeep is what recording adds to a decision.
func BenchmarkKeep(b *testing.B) {
	rules := []*rulesv1.AuthorizationRule{
		authtest.Deny("a", `request.path.startsWith("/internal/")`), authtest.Deny("b", `identity.tier == "suspended"`),
		authtest.Allow("c", `identity.tenant == "acme"`),
	}
	none := authtest.WithRules(authtest.Route("none", authtest.APIKey()), rules...)
	audit := audited(authtest.WithRules(authtest.Route("audit", authtest.APIKey()), rules...), rulesv1.Audit_AUDIT_BEST_EFFORT)
	w := start(b, func(o *record.Options) { o.Audit, o.Recent = discard{}, 2000 }, none, audit)
	for _, route := range []string{"none", "audit"} {
		b.Run(route, func(b *testing.B) {
			request := ask(route, "/v1/users?page=2", "x-api-key", authtest.GoodKey, "user-agent", "bench", "accept", "*/*")
			decision := extauthz.Decide(b.Context(), authtest.Now(), w.rules, request)
			b.ReportAllocs()
			for b.Loop() {
				made := record.Made{Rules: w.rules, Request: request, Decision: &decision}
				w.Record(b.Context(), &made)
				w.Answered(made)
			}
		})
	}
}

type discard struct{}

func (discard) Append(context.Context, []byte) error { return nil }
func (discard) Offer([]byte) bool                    { return true }
