package bearer

import (
	"errors"
	"hash/maphash"
	"strings"
	"sync/atomic"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/jose"
)

// Header carries the tokens.
const Header = "authorization"

// errScheme is the cause of a refusal.
var errScheme = errors.New("the authorization header is not of the form Bearer TOKEN or DPoP TOKEN")

// Token is the token of an Authorization value: the scheme is compared without
// case. What the scheme DPoP promises (RFC 9449) is demanded by package proof.
func Token(value string) (string, error) {
	scheme, token, _ := strings.Cut(value, " ")
	token = strings.TrimLeft(token, " ")
	if !strings.EqualFold(scheme, "bearer") && !strings.EqualFold(scheme, "dpop") || token == "" {
		return "", errScheme
	}
	return token, nil
}

// Shared reports whether several of the authenticators of a route take tokens, so
// that each has to look whether one is its own.
func Shared(siblings []*rulesv1.Authenticator) bool {
	count := 0
	for _, sibling := range siblings {
		if sibling.GetJwt() != nil || sibling.GetIntrospection() != nil || sibling.GetKubernetes() != nil {
			count++
		}
	}
	return count > 1
}

// Look is what a token seems to be.
type Look struct {
	// JWT says that it has the form of a signed JWT.
	JWT bool
	// Issuer is its "iss", empty without one.
	Issuer string
	// Kubernetes says that it has the claim of a ServiceAccount's token.
	Kubernetes bool
}

// slots bounds what a Chooser remembers.
const slots = 8192

// Chooser looks at tokens and remembers the looks, so that choosing between
// methods does not mean to parse a token for each of them, each time. Looks are
// remembered by a keyed hash of 64 bits: a collision, which nobody can bring about
// without the key, would have a token judged by the wrong method, which refuses
// it. Safe for concurrent use.
type Chooser struct {
	seed  maphash.Seed
	slots [slots]atomic.Pointer[remembered]
}

type remembered struct {
	hash uint64
	look Look
}

// NewChooser makes a Chooser.
func NewChooser() *Chooser { return &Chooser{seed: maphash.MakeSeed()} }

// Look looks at a token.
func (c *Chooser) Look(token string) Look {
	hash := maphash.String(c.seed, token)
	slot := &c.slots[hash%slots]
	if known := slot.Load(); known != nil && known.hash == hash {
		return known.look
	}
	made := &remembered{hash: hash, look: look(token)}
	slot.Store(made)
	return made.look
}

func look(token string) Look {
	if len(token) > jose.MaxTokenBytes || strings.Count(token, ".") != 2 {
		return Look{}
	}
	compact, err := jose.Split(token)
	if err != nil {
		return Look{}
	}
	header, err := compact.Header()
	if err != nil || header["alg"] == nil {
		return Look{}
	}
	claims, err := jose.ParseObject(compact.Payload)
	if err != nil {
		return Look{}
	}
	issuer, _ := claims["iss"].(string)
	_, kubernetes := claims["kubernetes.io"].(map[string]any)
	// The issuer is part of the whole payload's text, which is not to be kept.
	return Look{JWT: true, Issuer: strings.Clone(issuer), Kubernetes: kubernetes}
}

// Presence is what a method that takes tokens finds in a request: Present where
// it is mine, Foreign where the header holds anything else. With mine nil, any
// Authorization header is the method's own.
func (c *Chooser) Presence(request *extauthz.Request, mine func(Look) bool) extauthz.Presence {
	value, presence := request.Credential(Header)
	if presence != extauthz.Present || mine == nil {
		return presence
	}
	token, err := Token(value)
	if err != nil || !mine(c.Look(token)) {
		return extauthz.Foreign
	}
	return extauthz.Present
}

// Refusal is the answer to an error of a method that takes tokens: it keeps the
// reason, and adds the challenge of RFC 6750 section 3.1 where the token is at
// fault.
func Refusal(realm string, err error) *extauthz.Refusal {
	refusal := &extauthz.Refusal{Reason: extauthz.ReasonTokenInvalid, Cause: err}
	var known *extauthz.Refusal
	if errors.As(err, &known) {
		copied := *known
		refusal = &copied
	}
	if refusal.Challenge == "" && refusal.Reason != extauthz.ReasonProviderUnavailable {
		refusal.Challenge = extauthz.BearerChallenge(realm, "invalid_token", refusal.Reason.Fault().Message)
	}
	return refusal
}

// Challenge offers the Bearer scheme.
func Challenge(realm string) string { return `Bearer realm="` + realm + `"` }
