package assertion

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"google.golang.org/protobuf/types/known/structpb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// Type is the "typ" of assertions, so that nothing else passes for one.
const Type = "weir-assertion+jwt"

// Bounds of what an assertion says, and of the signer's cache.
const (
	maxAudiences  = 8
	maxClaims     = 16
	maxCached     = 65_536
	usualLifetime = time.Minute
	// maxAssertionBytes keeps the header within what proxies and services take.
	maxAssertionBytes = 8 << 10
)

// Signer signs assertions and keeps them for callers who come again. Safe for
// concurrent use.
type Signer struct {
	issuer string
	keys   *Keys
	cache  *otter.Cache[caller, signed]
}

// NewSigner makes a signer whose assertions have this issuer.
func NewSigner(issuer string, keys *Keys) (*Signer, error) {
	cache, err := otter.New(&otter.Options[caller, signed]{MaximumSize: maxCached})
	if err != nil {
		return nil, err
	}
	return &Signer{issuer: issuer, keys: keys, cache: cache}, nil
}

// caller is what an assertion is about. Claims are those of a verified token,
// which requests share, so the pointer stands for them.
type caller struct {
	form                                    *form
	claims                                  *structpb.Struct
	issuer, consumer, subject, tenant, tier string
	authenticator, scopes                   string
}

type signed struct {
	text    string
	expires time.Time
}

// form is one policy's kind of assertion; compiled.
type form struct {
	header    string
	audiences []string
	lifetime  time.Duration
	claims    []string
}

func newForm(source *rulesv1.Assertion) (*form, error) {
	f := &form{header: source.GetHeader(), audiences: source.GetAudiences(), lifetime: source.GetLifetime().AsDuration(), claims: source.GetClaims()}
	if f.lifetime == 0 {
		f.lifetime = usualLifetime
	}
	switch {
	case f.lifetime < 10*time.Second || f.lifetime > MaxLifetime:
		return nil, fmt.Errorf("lifetime: %s is outside 10s to %s", f.lifetime, MaxLifetime)
	case len(f.audiences) == 0 || len(f.audiences) > maxAudiences || slices.Contains(f.audiences, ""):
		return nil, fmt.Errorf("audiences: 1 to %d are required, none of them empty", maxAudiences)
	case len(f.claims) > maxClaims:
		return nil, fmt.Errorf("claims: %d are too many; the most is %d", len(f.claims), maxClaims)
	}
	return f, nil
}

// payload is what an assertion says (RFC 7519 section 4.1, and our own).
type payload struct {
	Issuer        string                     `json:"iss"`
	Subject       string                     `json:"sub"`
	Audience      []string                   `json:"aud"`
	IssuedAt      int64                      `json:"iat"`
	Expires       int64                      `json:"exp"`
	Consumer      string                     `json:"consumer,omitempty"`
	Caller        string                     `json:"caller,omitempty"`
	CallerIssuer  string                     `json:"caller_iss,omitempty"`
	Tenant        string                     `json:"tenant,omitempty"`
	Tier          string                     `json:"tier,omitempty"`
	Scope         string                     `json:"scope,omitempty"`
	Authenticator string                     `json:"authenticator,omitempty"`
	Claims        map[string]*structpb.Value `json:"claims,omitempty"`
}

// sign returns the assertion about a caller: one of before while at least half of
// its lifetime is left.
func (s *Signer) sign(now time.Time, form *form, identity *extauthz.Identity) (string, error) {
	about := caller{
		form: form, claims: identity.Claims, issuer: identity.Issuer, consumer: identity.Consumer, subject: identity.Subject,
		tenant: identity.Tenant, tier: identity.Tier, authenticator: identity.Authenticator, scopes: strings.Join(identity.Scopes, " "),
	}
	if kept, ok := s.cache.GetIfPresent(about); ok && kept.expires.Sub(now) >= form.lifetime/2 && kept.expires.Sub(now) <= form.lifetime {
		return kept.text, nil
	}
	expires := now.Add(form.lifetime)
	said := payload{
		Issuer: s.issuer, Subject: identity.Principal(), Audience: form.audiences, IssuedAt: now.Unix(), Expires: expires.Unix(),
		Consumer: about.consumer, Caller: about.subject, CallerIssuer: about.issuer, Tenant: about.tenant, Tier: about.tier,
		Scope: about.scopes, Authenticator: about.authenticator,
	}
	for _, name := range form.claims {
		if value, ok := identity.Claims.GetFields()[name]; ok {
			if said.Claims == nil {
				said.Claims = map[string]*structpb.Value{}
			}
			said.Claims[name] = value
		}
	}
	raw, err := json.Marshal(said)
	if err != nil {
		return "", errors.New("the assertion cannot be encoded")
	}
	key := s.keys.signing()
	input := key.header + "." + base64.RawURLEncoding.EncodeToString(raw)
	digest := sha256.Sum256([]byte(input))
	r, v, err := ecdsa.Sign(rand.Reader, key.private, digest[:])
	if err != nil {
		return "", errors.New("the assertion cannot be signed")
	}
	signature := make([]byte, 64) // RFC 7518 section 3.4
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	text := input + "." + base64.RawURLEncoding.EncodeToString(signature)
	if len(text) > maxAssertionBytes {
		return "", fmt.Errorf("the assertion has %d bytes; the most is %d: repeat fewer claims", len(text), maxAssertionBytes)
	}
	s.cache.Set(about, signed{text, expires})
	return text, nil
}
