package envoyauth_test

import (
	"context"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/stretchr/testify/require"

	"weir.dev/extauthz"
	"weir.dev/extauthz/envoyauth"
	"weir.dev/extauthz/internal/authtest"
)

// slow is a server whose checks end when a test says so.
type slow struct {
	envoyauth.Checker
	begun chan context.Context
	end   chan struct{}
}

func (s *slow) Answer(ctx context.Context, request *extauthz.Request) *envoyauth.Answer {
	s.begun <- ctx
	<-s.end
	return s.Checker.Answer(ctx, request)
}

func TestOverloadIsRefused(t *testing.T) {
	inner := server(fixed{rulesOf(t, authtest.Route("r", authtest.Anonymous()))}, nil)
	s := &slow{Checker: inner, begun: make(chan context.Context, 16), end: make(chan struct{})}
	limited := envoyauth.Limit(s, envoyauth.Limits{InFlight: 2, Queue: 1, Wait: 10 * time.Second})
	answers := make(chan *authv3.CheckResponse, 16)
	var group sync.WaitGroup
	ask := func(ctx context.Context) {
		group.Go(func() {
			answers <- askWithin(ctx, t, limited, authtest.Check("r"))
		})
	}
	ask(t.Context())
	ask(t.Context())
	<-s.begun
	deadline, set := (<-s.begun).Deadline()
	require.True(t, set, "a check without a deadline gets one")
	require.WithinDuration(t, time.Now().Add(time.Second), deadline, 5*time.Second)
	require.Equal(t, 2, limited.InFlight())
	ask(t.Context()) // waits
	require.Eventually(t, func() bool { return limited.Waiting() == 1 }, time.Minute, time.Millisecond)
	ask(t.Context()) // is one too many
	refused := <-answers
	require.EqualValues(t, 503, refused.GetDeniedResponse().GetStatus().GetCode())
	require.Contains(t, refused.GetDeniedResponse().GetBody(), "OVERLOADED")
	require.Equal(t, "OVERLOADED", metadataOf(refused)["reason"])
	close(s.end)
	group.Wait()
	for range 3 {
		require.NotNil(t, (<-answers).GetOkResponse(), "what was begun or waited is answered")
	}
	require.Zero(t, limited.InFlight())
	require.Zero(t, limited.Waiting())

	// Nobody waits any more for the answer: none is worked out.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	answer := askWithin(gone, t, limited, authtest.Check("r"))
	require.Contains(t, answer.GetDeniedResponse().GetBody(), "OVERLOADED")
}

func TestWaitingIsBounded(t *testing.T) {
	inner := server(fixed{rulesOf(t, authtest.Route("r", authtest.Anonymous()))}, nil)
	s := &slow{Checker: inner, begun: make(chan context.Context, 16), end: make(chan struct{})}
	limited := envoyauth.Limit(s, envoyauth.Limits{InFlight: 1, Queue: 5, Wait: time.Millisecond})
	done := make(chan struct{})
	go func() { defer close(done); askWithin(context.Background(), t, limited, authtest.Check("r")) }()
	<-s.begun
	answer := ask(t, limited, authtest.Check("r"))
	require.Contains(t, answer.GetDeniedResponse().GetBody(), "OVERLOADED", "it waited long enough")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	answer = askWithin(ctx, t, limited, authtest.Check("r"))
	require.Contains(t, answer.GetDeniedResponse().GetBody(), "OVERLOADED", "its caller's time is up")
	close(s.end)
	<-done
}

type chooser map[string]extauthz.Reason

func (c chooser) Choose(authority, _, _ string) (string, extauthz.Reason) {
	if reason, refused := c[authority]; refused {
		return "", reason
	}
	return "r", ""
}

func TestChoosing(t *testing.T) {
	inner := server(fixed{rulesOf(t, authtest.Route("r", authtest.Anonymous()), authtest.Route("named", authtest.APIKey()))}, nil)
	s := envoyauth.Choosing(inner, chooser{"api.example": extauthz.ReasonRouteNotListed})
	check := authtest.Check("")
	answer := ask(t, s, check)
	require.EqualValues(t, 403, answer.GetDeniedResponse().GetStatus().GetCode())
	require.Contains(t, answer.GetDeniedResponse().GetBody(), "PERMISSION_DENIED")
	require.Equal(t, "ROUTE_NOT_LISTED", metadataOf(answer)["reason"])

	check = authtest.Check("")
	check.Attributes.ContextExtensions = nil
	check.Attributes.Request.Http.Host = "other.example"
	answer = ask(t, s, check)
	require.NotNil(t, answer.GetOkResponse(), "the route that was chosen lets everybody through")

	answer = ask(t, s, authtest.Check("named"))
	require.EqualValues(t, 401, answer.GetDeniedResponse().GetStatus().GetCode(), "Envoy's word goes first")
}

// FuzzCheckFields asks about anything at all: no panic, no error, and no yes but for
// the one route that lets everybody through, by its canonical path.
func FuzzCheckFields(f *testing.F) {
	inner := server(fixed{rulesOf(f, authtest.Route("open", authtest.Anonymous()), authtest.Route("closed", authtest.APIKey()))}, nil)
	f.Add("open", "GET", "/a", "h", "x-api-key", "k")
	f.Add("closed", "GET", "/%2e", "h:1", ":path", "")
	f.Add("", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, route, method, path, host, name, value string) {
		check := authtest.Check(route, name, value)
		check.Attributes.Request.Http.Method, check.Attributes.Request.Http.Path, check.Attributes.Request.Http.Host = method, path, host
		answer := ask(t, inner, check)
		if answer.GetOkResponse() != nil {
			require.Equal(t, "open", route)
			require.Empty(t, extauthz.Readable(host, method, path))
			return
		}
		require.GreaterOrEqual(t, int(answer.GetDeniedResponse().GetStatus().GetCode()), 300)
	})
}
