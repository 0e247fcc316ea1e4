package introspect

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"weir.dev/extauthz"
	"weir.dev/extauthz/internal/claims"
	"weir.dev/extauthz/internal/httpask"
)

// FuzzAnswer holds that no answer breaks reading it, and that none is accepted
// which does not say that the token is active, for this issuer, audience and time.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"active":true,"sub":"a","aud":"weir"}`, `{"active":true,"sub":"a","aud":["weir"],"exp":2000000000,"iss":"i"}`, `{"active":false}`,
		`{"active":"true"}`, `{"active":true,"active":false}`, `{"active":true,"sub":"a","aud":"weir","iss":"x"}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	p := &provider{issuer: "i", audiences: []string{"weir"}, claims: claims.NewMapping(nil)}
	now := time.Unix(1_772_366_400, 0)
	f.Fuzz(func(t *testing.T, body []byte) {
		said, err := p.read(t.Context(), now, httpask.Answer{Status: http.StatusOK, Type: "application/json", Body: body})
		if err != nil {
			return
		}
		expires, err := p.check(said, now)
		var refusal *extauthz.Refusal
		if err != nil {
			if !errors.As(err, &refusal) {
				t.Fatalf("%v is no refusal", err)
			}
			return
		}
		issuer, named := said["iss"]
		if said["active"] != true || named && issuer != "i" || !anyOf(said["aud"], p.audiences) || !expires.IsZero() && !now.Before(expires) {
			t.Fatalf("accepted %s", body)
		}
		_, _ = p.claims.Proof(p.issuer, said)
	})
}
