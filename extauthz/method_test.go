package extauthz_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

// scripted builds every jwt authenticator as a method that does what its
// issuer says.
type scripted map[string]*scriptedMethod

func (s scripted) Build(source *rulesv1.Authenticator, _ extauthz.Place) (extauthz.Method, error) {
	if method := s[source.GetJwt().GetIssuer()]; method != nil {
		return method, nil
	}
	return nil, nil //nolint:nilnil // as the interface asks
}

type scriptedMethod struct {
	presence extauthz.Presence
	prove    func(ctx context.Context) (*extauthz.Proof, error)
	asked    int
}

func (m *scriptedMethod) Presence(*extauthz.Request) extauthz.Presence { return m.presence }
func (m *scriptedMethod) Challenge(string) string                      { return "Scripted" }
func (m *scriptedMethod) CredentialHeaders() []string                  { return []string{"x-scripted"} }

func (m *scriptedMethod) Prove(ctx context.Context, _ *extauthz.Call) (*extauthz.Proof, error) {
	m.asked++
	return m.prove(ctx)
}

func proves(subject string) func(context.Context) (*extauthz.Proof, error) {
	return func(context.Context) (*extauthz.Proof, error) { return &extauthz.Proof{Subject: subject}, nil }
}

func fails(err error) func(context.Context) (*extauthz.Proof, error) {
	return func(context.Context) (*extauthz.Proof, error) { return nil, err }
}

func TestSeveralMethods(t *testing.T) {
	down := fails(extauthz.Refuse(extauthz.ReasonProviderUnavailable, errors.New("down")))
	wrong := fails(extauthz.Refuse(extauthz.ReasonTokenInvalid, nil))
	hangs := func(ctx context.Context) (*extauthz.Proof, error) {
		<-ctx.Done()
		return nil, extauthz.Refuse(extauthz.ReasonProviderUnavailable, ctx.Err())
	}
	next := rulesv1.Authenticator_FAILURE_MODE_NEXT
	for name, test := range map[string]struct {
		first, second scriptedMethod
		mode          rulesv1.Authenticator_FailureMode
		timeout       time.Duration
		reason        extauthz.Reason
		by            string
		asked         [2]int
	}{
		"the first present decides":          {scriptedMethod{extauthz.Present, proves("a"), 0}, scriptedMethod{extauthz.Present, proves("b"), 0}, 0, 0, extauthz.ReasonAllowed, "a", [2]int{1, 0}},
		"absent leaves it to the next":       {scriptedMethod{extauthz.Absent, proves("a"), 0}, scriptedMethod{extauthz.Present, proves("b"), 0}, 0, 0, extauthz.ReasonAllowed, "b", [2]int{0, 1}},
		"foreign leaves it to the next":      {scriptedMethod{extauthz.Foreign, proves("a"), 0}, scriptedMethod{extauthz.Present, proves("b"), 0}, 0, 0, extauthz.ReasonAllowed, "b", [2]int{0, 1}},
		"foreign to all: the first judges":   {scriptedMethod{extauthz.Foreign, wrong, 0}, scriptedMethod{extauthz.Foreign, proves("b"), 0}, next, 0, extauthz.ReasonTokenInvalid, "a", [2]int{1, 0}},
		"ambiguous refuses, present or not":  {scriptedMethod{extauthz.Present, proves("a"), 0}, scriptedMethod{extauthz.Ambiguous, proves("b"), 0}, 0, 0, extauthz.ReasonCredentialAmbiguous, "b", [2]int{0, 0}},
		"unavailable denies":                 {scriptedMethod{extauthz.Present, down, 0}, scriptedMethod{extauthz.Present, proves("b"), 0}, 0, 0, extauthz.ReasonProviderUnavailable, "a", [2]int{1, 0}},
		"unavailable, next decides":          {scriptedMethod{extauthz.Present, down, 0}, scriptedMethod{extauthz.Present, proves("b"), 0}, next, 0, extauthz.ReasonAllowed, "b", [2]int{1, 1}},
		"unavailable, next refuses":          {scriptedMethod{extauthz.Present, down, 0}, scriptedMethod{extauthz.Present, wrong, 0}, next, 0, extauthz.ReasonTokenInvalid, "b", [2]int{1, 1}},
		"unavailable, next absent":           {scriptedMethod{extauthz.Present, down, 0}, scriptedMethod{extauthz.Absent, proves("b"), 0}, next, 0, extauthz.ReasonProviderUnavailable, "a", [2]int{1, 0}},
		"unavailable, next foreign":          {scriptedMethod{extauthz.Present, down, 0}, scriptedMethod{extauthz.Foreign, proves("b"), 0}, next, 0, extauthz.ReasonProviderUnavailable, "a", [2]int{1, 0}},
		"wrong is not unavailable":           {scriptedMethod{extauthz.Present, wrong, 0}, scriptedMethod{extauthz.Present, proves("b"), 0}, next, 0, extauthz.ReasonTokenInvalid, "a", [2]int{1, 0}},
		"too slow, next decides":             {scriptedMethod{extauthz.Present, hangs, 0}, scriptedMethod{extauthz.Present, proves("b"), 0}, next, time.Millisecond, extauthz.ReasonAllowed, "b", [2]int{1, 1}},
		"an error of no kind is internal":    {scriptedMethod{extauthz.Present, fails(errors.New("odd")), 0}, scriptedMethod{extauthz.Present, proves("b"), 0}, next, 0, extauthz.ReasonInternal, "a", [2]int{1, 0}},
		"nothing to see: anonymous is asked": {scriptedMethod{extauthz.Absent, wrong, 0}, scriptedMethod{extauthz.Absent, wrong, 0}, next, 0, extauthz.ReasonAllowed, "anyone", [2]int{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			methods := scripted{"a": &test.first, "b": &test.second}
			c, err := extauthz.NewCompiler(methods)
			require.NoError(t, err)
			first := authtest.JWT("a", &rulesv1.JwtAuthenticator{Issuer: "a"})
			first.FailureMode = test.mode
			if test.timeout > 0 {
				first.Timeout = durationpb.New(test.timeout)
			}
			route := authtest.Route("r", authtest.Anonymous(), first, authtest.JWT("b", &rulesv1.JwtAuthenticator{Issuer: "b"}))
			set, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": route})
			require.NoError(t, err)
			consumers, err := c.Consumers(authtest.Consumers())
			require.NoError(t, err)
			d := decide(t, extauthz.NewRules(set, consumers), request())
			require.Equal(t, test.reason, d.Reason, "%v", d.Cause)
			require.Equal(t, test.by, d.Authenticator)
			require.Equal(t, test.reason == extauthz.ReasonAllowed, d.Allowed)
			require.Equal(t, test.asked, [2]int{test.first.asked, test.second.asked})
			require.Contains(t, d.CredentialHeaders, "x-scripted")
			if !d.Allowed {
				require.Empty(t, d.Identity)
			}
		})
	}
}

// What a method wants the client to get reaches the decision.
func TestMethodsAnswer(t *testing.T) {
	cookie := []extauthz.Header{{Name: "set-cookie", Value: "a=b"}}
	answer := &extauthz.Answer{Status: 302, Headers: []extauthz.Header{{Name: "location", Value: "/login"}}}
	for name, test := range map[string]struct {
		prove  func(context.Context) (*extauthz.Proof, error)
		answer *extauthz.Answer
	}{
		"with a proof": {func(context.Context) (*extauthz.Proof, error) {
			return &extauthz.Proof{Subject: "a", ResponseHeaders: cookie}, nil
		}, nil},
		"with a refusal": {fails(&extauthz.Refusal{
			Reason: extauthz.ReasonCredentialsMissing, ResponseHeaders: cookie, Answer: answer, Challenge: "Scripted",
		}), answer},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := extauthz.NewCompiler(scripted{"a": {presence: extauthz.Present, prove: test.prove}})
			require.NoError(t, err)
			set, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", authtest.JWT("a", &rulesv1.JwtAuthenticator{Issuer: "a"}))})
			require.NoError(t, err)
			consumers, err := c.Consumers(nil)
			require.NoError(t, err)
			d := decide(t, extauthz.NewRules(set, consumers), request())
			require.Equal(t, cookie, d.ResponseHeaders)
			require.Equal(t, test.answer, d.Answer)
			require.Equal(t, test.answer == nil, d.Allowed)
		})
	}
}

func TestMethodBounds(t *testing.T) {
	c := compiler(t)
	for name, test := range map[string]struct {
		change func(*rulesv1.Authenticator)
		says   string
	}{
		"timeout of nothing": {func(a *rulesv1.Authenticator) { a.Timeout = durationpb.New(0) }, "authenticators[0].timeout"},
		"timeout too long":   {func(a *rulesv1.Authenticator) { a.Timeout = durationpb.New(time.Minute) }, "authenticators[0].timeout"},
		"unknown mode":       {func(a *rulesv1.Authenticator) { a.FailureMode = 9 }, "authenticators[0].failure_mode"},
		"unknown method":     {func(a *rulesv1.Authenticator) { a.Method = nil }, "authenticators[0]: names no method"},
	} {
		t.Run(name, func(t *testing.T) {
			source := authtest.APIKey()
			test.change(source)
			_, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", source)})
			require.ErrorContains(t, err, test.says)
		})
	}
}
