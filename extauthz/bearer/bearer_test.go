package bearer_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/bearer"
	"weir.dev/extauthz/internal/authtest"
)

func TestLook(t *testing.T) {
	ring := authtest.NewRing(t)
	chooser := bearer.NewChooser()
	signed := ring.EC.Token(t, nil, authtest.Claims(nil))
	for name, test := range map[string]struct {
		token string
		want  bearer.Look
	}{
		"signed":         {signed, bearer.Look{JWT: true, Issuer: authtest.Issuer}},
		"no issuer":      {ring.EC.Token(t, nil, authtest.Claims(map[string]any{"iss": nil})), bearer.Look{JWT: true}},
		"issuer a list":  {ring.EC.Token(t, nil, authtest.Claims(map[string]any{"iss": []any{"a"}})), bearer.Look{JWT: true}},
		"of a pod":       {ring.EC.Token(t, nil, authtest.Claims(map[string]any{"kubernetes.io": map[string]any{}})), bearer.Look{JWT: true, Issuer: authtest.Issuer, Kubernetes: true}},
		"nearly a pod's": {ring.EC.Token(t, nil, authtest.Claims(map[string]any{"kubernetes.io": "x"})), bearer.Look{JWT: true, Issuer: authtest.Issuer}},
		"issuer twice":   {ring.EC.Sign(t, `{"alg":"ES256"}`, `{"iss":"a","iss":"b"}`), bearer.Look{}},
		"no alg":         {ring.EC.Sign(t, `{}`, `{"iss":"a"}`), bearer.Look{}},
		"opaque":         {"abc", bearer.Look{}},
		"with dots":      {"ory_at_abc.def.ghi", bearer.Look{}},
		"JWE":            {"a.b.c.d.e", bearer.Look{}},
		"empty":          {"", bearer.Look{}},
		"huge":           {strings.Repeat(signed, 100), bearer.Look{}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				require.Equal(t, test.want, chooser.Look(test.token))
			}
		})
	}
}

// Looks share slots, and one never stands for another's token.
func TestLooksOfManyTokensAtOnce(t *testing.T) {
	ring := authtest.NewRing(t)
	chooser := bearer.NewChooser()
	tokens := make([]string, 100)
	for i := range tokens {
		tokens[i] = ring.Ed.Token(t, nil, authtest.Claims(map[string]any{"iss": fmt.Sprint(i)}))
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for round := range 200 {
				for i, token := range tokens {
					if look := chooser.Look(token); look.Issuer != fmt.Sprint(i) {
						t.Error(i, look)
					}
				}
				for i := range 50 { // others take the slots
					chooser.Look(fmt.Sprint(round, "-", i))
				}
			}
		})
	}
	group.Wait()
}

func TestTokenOfAHeader(t *testing.T) {
	for value, want := range map[string]string{
		"Bearer abc": "abc", "bearer abc": "abc", "BEARER  abc": "abc", "DPoP abc": "abc",
		"Bearer": "", "Bearer ": "", "Basic abc": "", "abc": "", "": "", "Bearerabc": "", "Bearer\tabc": "",
	} {
		token, err := bearer.Token(value)
		require.Equal(t, want, token, value)
		require.Equal(t, want == "", err != nil, value)
	}
}

func TestPresenceIsSeenWithoutWork(t *testing.T) {
	chooser := bearer.NewChooser()
	request := func(values ...string) *extauthz.Request {
		r := &extauthz.Request{}
		for _, value := range values {
			r.Headers = append(r.Headers, extauthz.Header{Name: bearer.Header, Value: value})
		}
		return r
	}
	opaque := func(look bearer.Look) bool { return !look.JWT }
	require.Equal(t, extauthz.Absent, chooser.Presence(request(), opaque))
	require.Equal(t, extauthz.Ambiguous, chooser.Presence(request("Bearer a", "Bearer a"), opaque))
	require.Equal(t, extauthz.Foreign, chooser.Presence(request("Basic a"), opaque))
	require.Equal(t, extauthz.Present, chooser.Presence(request("Basic a"), nil), "nobody else takes tokens: it is judged, and refused")
	require.Equal(t, extauthz.Present, chooser.Presence(request("Bearer a"), opaque))
	once := request("Bearer abc")
	require.Zero(t, testing.AllocsPerRun(100, func() { chooser.Presence(once, opaque) }))
}

func TestShared(t *testing.T) {
	require.False(t, bearer.Shared(nil))
	require.False(t, bearer.Shared([]*rulesv1.Authenticator{authtest.JWT("a", authtest.Provider("")), authtest.APIKey(), authtest.Anonymous()}))
	require.True(t, bearer.Shared([]*rulesv1.Authenticator{authtest.JWT("a", authtest.Provider("")), authtest.JWT("b", authtest.Provider(""))}))
}

// FuzzLook holds that no text breaks the look, and that it is the same the second
// time.
func FuzzLook(f *testing.F) {
	for _, seed := range []string{"", "..", "e30.e30.AA", "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJhIn0.AA", "eyJhbGciOiJFUzI1NiJ9.eyJrdWJlcm5ldGVzLmlvIjp7fX0.AA"} {
		f.Add(seed)
	}
	chooser := bearer.NewChooser()
	f.Fuzz(func(t *testing.T, token string) {
		first := chooser.Look(token)
		if second := chooser.Look(token); first != second || first.Issuer != "" && !first.JWT {
			t.Fatalf("%+v, then %+v", first, second)
		}
	})
}
