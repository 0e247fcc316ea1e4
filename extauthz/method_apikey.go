package extauthz

import (
	"context"
	"errors"
	"fmt"
	"strings"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// apiKeyMethod accepts the key of any consumer in one header.
type apiKeyMethod struct{ header string }

func newAPIKeyMethod(source *rulesv1.ApiKeyAuthenticator) (*apiKeyMethod, error) {
	header := source.GetHeader()
	if !headerName(header) {
		return nil, fmt.Errorf("api_key.header: %q is not a lower-case header name", header)
	}
	if header == headerAuthorization || strings.HasPrefix(header, "x-weir-") {
		return nil, fmt.Errorf("api_key.header: %q is reserved; choose another, such as x-api-key", header)
	}
	return &apiKeyMethod{header: header}, nil
}

// Presence implements Method.
func (m *apiKeyMethod) Presence(request *Request) Presence {
	_, presence := request.Credential(m.header)
	return presence
}

// Prove implements Method.
func (m *apiKeyMethod) Prove(_ context.Context, call *Call) (*Proof, error) {
	value, _ := call.Request.Credential(m.header)
	key := call.Consumers.keys.Find(value)
	switch {
	case key == nil:
		return nil, m.refuse(call, ReasonAPIKeyInvalid, nil)
	case key.Expired(call.Now):
		return nil, m.refuse(call, ReasonAPIKeyExpired, errors.New("key "+key.Owner.Subject+" of consumer "+key.Owner.Consumer.Name))
	}
	return &key.Owner, nil
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
