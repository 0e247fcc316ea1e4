package login

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/coreos/go-oidc/v3/oidc"

	"weir.dev/extauthz"
)

// pending is a login under way, sealed in a cookie of its own: tabs do not
// disturb each other, and a callback counts only in the browser that began.
type pending struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Return   string `json:"r"`
	Begun    int64  `json:"b"`
}

func (p *pending) over(now time.Time) bool {
	age := now.Sub(time.Unix(p.Begun, 0))
	return age >= pendingFor || age < -time.Minute
}

// random is 128 bits of text.
func random() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// start answers the login path.
func (l *Login) start(ctx context.Context, call *extauthz.Call) error {
	if refusal := methods(call, "GET"); refusal != nil {
		return refusal
	}
	location := "/"
	_, query, _ := strings.Cut(call.Request.Target, "?")
	if query != "" {
		values, err := url.ParseQuery(query)
		wanted := values["return_to"]
		if err != nil || len(wanted) > 1 {
			return l.failed(call, extauthz.ReasonLoginRequest, errors.New("the query is not one return_to"))
		}
		if len(wanted) == 1 {
			var ok bool
			if location, ok = l.returnTo(call.Request, wanted[0]); !ok {
				return l.failed(call, extauthz.ReasonLoginRequest, errors.New("return_to leads elsewhere than to a path of this host or a trusted host"))
			}
		}
	}
	return l.begin(ctx, call, location)
}

// begin sends the browser to the provider.
func (l *Login) begin(ctx context.Context, call *extauthz.Call, location string) *extauthz.Refusal {
	described, err := l.provider.describe(ctx)
	if err != nil {
		return extauthz.Refuse(extauthz.ReasonProviderUnavailable, err)
	}
	login := pending{State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Return: location, Begun: call.Now.Unix()}
	raw, err := json.Marshal(login)
	if err != nil {
		return extauthz.Refuse(extauthz.ReasonInternal, err)
	}
	name := l.jar.pending(login.State)
	value := base64.RawURLEncoding.EncodeToString(l.ring.seal(raw, l.namespace+"pending:"+name))
	set := append(l.tooMany(call), l.jar.set(name, value, int(pendingFor.Seconds())))
	options := append([]oauth2.AuthCodeOption{oidc.Nonce(login.Nonce), oauth2.S256ChallengeOption(login.Verifier)}, l.parameters...)
	target := l.provider.at(described, l.callbackURL(call.Request)).AuthCodeURL(login.State, options...)
	return redirect(extauthz.ReasonLoginRequired, target, set)
}

func (l *Login) callbackURL(request *extauthz.Request) string {
	return l.origin(request) + l.paths.callback
}

// tooMany removes the oldest logins under way, so that one more finds room, and
// those that are over.
func (l *Login) tooMany(call *extauthz.Call) []extauthz.Header {
	type known struct {
		name  string
		begun int64
	}
	var live []known
	var removed []extauthz.Header
	cookies(call.Request, func(name, value string) {
		if !strings.HasPrefix(name, l.jar.base+pendingInfix) {
			return
		}
		if one, err := l.openPending(name, value); err == nil && !one.over(call.Now) {
			live = append(live, known{name, one.Begun})
			return
		}
		removed = append(removed, l.jar.remove(name))
	})
	slices.SortFunc(live, func(a, b known) int { return cmp.Compare(a.begun, b.begun) })
	for len(live) >= maxPending {
		removed = append(removed, l.jar.remove(live[0].name))
		live = live[1:]
	}
	return removed
}

func (l *Login) openPending(name, value string) (*pending, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return nil, errSeal
	}
	raw, err := l.ring.open(sealed, l.namespace+"pending:"+name)
	if err != nil {
		return nil, err
	}
	one := &pending{}
	if err := json.Unmarshal(raw, one); err != nil {
		return nil, errSeal
	}
	return one, nil
}

// underWay finds the login that a state belongs to.
func (l *Login) underWay(call *extauthz.Call, state string) (*pending, error) {
	if len(state) != len(random()) || strings.Trim(state, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, errors.New("the callback has no state of ours")
	}
	name := l.jar.pending(state)
	value, count := cookie(call.Request, name)
	if count != 1 {
		return nil, errors.New("the browser has no login under way with the callback's state")
	}
	one, err := l.openPending(name, value)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(one.State), []byte(state)) != 1 {
		return nil, errors.New("the callback's state is another login's")
	}
	if one.over(call.Now) {
		return nil, errors.New("the login was begun too long ago")
	}
	return one, nil
}
