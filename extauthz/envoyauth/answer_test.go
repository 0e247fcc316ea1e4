package envoyauth_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/authtest"
)

// answering is a method that says what it is told to.
type answering struct {
	proof *extauthz.Proof
	err   error
}

func (a answering) Build(*rulesv1.Authenticator, extauthz.Place) (extauthz.Method, error) {
	return a, nil
}
func (answering) Presence(*extauthz.Request) extauthz.Presence { return extauthz.Present }
func (answering) Challenge(string) string                      { return "" }
func (answering) CredentialHeaders() []string                  { return nil }
func (a answering) Prove(context.Context, *extauthz.Call) (*extauthz.Proof, error) {
	return a.proof, a.err
}

func answeringRules(t *testing.T, method answering) *extauthz.Rules {
	c, err := extauthz.NewCompiler(method)
	require.NoError(t, err)
	set, err := c.Routes(nil, map[string]*rulesv1.AuthRoute{"r": authtest.Route("r", authtest.JWT("a", nil))})
	require.NoError(t, err)
	consumers, err := c.Consumers(nil)
	require.NoError(t, err)
	return extauthz.NewRules(set, consumers)
}

// appended are the headers that are added beside others of the name.
func appended(options []*corev3.HeaderValueOption) (list []string) {
	for _, option := range options {
		if option.GetAppendAction() == corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
			list = append(list, option.GetHeader().GetKey()+": "+option.GetHeader().GetValue())
		}
	}
	return list
}

func TestHeadersForTheClient(t *testing.T) {
	cookies := []extauthz.Header{{Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"}}
	both := []string{"set-cookie: a=1", "set-cookie: b=2"}

	good := server(fixed{answeringRules(t, answering{proof: &extauthz.Proof{Subject: "a", ResponseHeaders: cookies}})}, nil)
	require.Equal(t, both, appended(ask(t, good, authtest.Check("r")).GetOkResponse().GetResponseHeadersToAdd()))

	refused := server(fixed{answeringRules(t, answering{err: &extauthz.Refusal{
		Reason: extauthz.ReasonTokenInvalid, Challenge: "DPoP", ResponseHeaders: cookies,
	}})}, nil)
	denied := ask(t, refused, authtest.Check("r")).GetDeniedResponse()
	require.Equal(t, both, appended(denied.GetHeaders()))
	require.Equal(t, "DPoP", headersOf(denied.GetHeaders())["www-authenticate"])
	require.Contains(t, denied.GetBody(), "TOKEN_INVALID")

	redirects := server(fixed{answeringRules(t, answering{err: &extauthz.Refusal{
		Reason: extauthz.ReasonCredentialsMissing, ResponseHeaders: cookies,
		Answer: &extauthz.Answer{Status: 302, Headers: []extauthz.Header{{Name: "location", Value: "https://login.example/"}}},
	}})}, nil)
	response := ask(t, redirects, authtest.Check("r"))
	require.EqualValues(t, codes.Unauthenticated, response.GetStatus().GetCode())
	denied = response.GetDeniedResponse()
	require.EqualValues(t, 302, denied.GetStatus().GetCode())
	require.Equal(t, append([]string{"location: https://login.example/"}, both...), appended(denied.GetHeaders()))
	require.Empty(t, denied.GetBody())
}
