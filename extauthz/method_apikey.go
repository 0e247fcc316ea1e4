package extauthz

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz/apikey"
	"weir.dev/kit/keyformat"
)

// IssuedKeys are API keys that are issued and revoked while the rules stay.
// Safe for concurrent use.
type IssuedKeys interface {
	// Find returns the key with this digest, nil if none was issued. known is
	// false while what was issued is not known, or not recently enough to go by:
	// no key is returned then. It never waits.
	Find(digest apikey.Digest, now time.Time) (key *IssuedKey, known bool)
}

// apiKeyMethod accepts the key of any consumer in one header.
type apiKeyMethod struct {
	header string
	// issued may be nil.
	issued IssuedKeys
}

func newAPIKeyMethod(source *rulesv1.ApiKeyAuthenticator, issued IssuedKeys) (*apiKeyMethod, error) {
	header := source.GetHeader()
	if !headerName(header) {
		return nil, fmt.Errorf("api_key.header: %q is not a lower-case header name", header)
	}
	if header == headerAuthorization || strings.HasPrefix(header, "x-weir-") {
		return nil, fmt.Errorf("api_key.header: %q is reserved; choose another, such as x-api-key", header)
	}
	return &apiKeyMethod{header: header, issued: issued}, nil
}

// Presence implements Method.
func (m *apiKeyMethod) Presence(request *Request) Presence {
	_, presence := request.Credential(m.header)
	return presence
}

// Prove implements Method. What was issued goes before the rules: a revoked key
// is refused, whoever wrote it into a Consumer.
func (m *apiKeyMethod) Prove(_ context.Context, call *Call) (*Proof, error) {
	value, _ := call.Request.Credential(m.header)
	digest, ok := apikey.Sum(value)
	if !ok {
		return nil, m.refuse(call, ReasonAPIKeyInvalid, nil)
	}
	known := true
	if m.issued != nil && keyformat.Looks(value) {
		var issued *IssuedKey
		if issued, known = m.issued.Find(digest, call.Now); issued != nil {
			proof, reason := issued.prove(call)
			if reason != "" {
				return nil, m.refuse(call, reason, errors.New("apiKeys/"+issued.ID+" of consumer "+issued.Consumer))
			}
			return proof, nil
		}
	}
	key := call.Consumers.keys.FindDigest(digest)
	switch {
	case key == nil && !known && issuable(value):
		return nil, Refuse(ReasonKeysUnavailable, nil)
	case key == nil:
		return nil, m.refuse(call, ReasonAPIKeyInvalid, nil)
	case key.Expired(call.Now):
		return nil, m.refuse(call, ReasonAPIKeyExpired, errors.New("key "+key.Owner.Subject+" of consumer "+key.Owner.Consumer.Name))
	}
	return &key.Owner, nil
}

// issuable reports whether a key has the form and the sum of an issued one.
func issuable(value string) bool {
	_, ok := keyformat.Parse(value)
	return ok
}

func (m *apiKeyMethod) refuse(call *Call, reason Reason, cause error) *Refusal {
	return &Refusal{Reason: reason, Cause: cause, Challenge: m.Challenge(call.Realm)}
}

// Challenge implements Method.
func (m *apiKeyMethod) Challenge(realm string) string {
	return `ApiKey realm="` + realm + `", header="` + m.header + `"`
}

// CredentialHeaders implements Method.
func (m *apiKeyMethod) CredentialHeaders() []string { return []string{m.header} }
