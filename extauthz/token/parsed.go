package token

import (
	"fmt"

	"weir.dev/extauthz"
	"weir.dev/extauthz/jose"
)

// parsed is a token taken apart; nothing in it is verified.
type parsed struct {
	jose.Compact
	header, claims map[string]any
}

func parse(token string) (*parsed, error) {
	p := &parsed{}
	var err error
	if p.Compact, err = jose.Split(token); err != nil {
		return nil, err
	}
	if p.header, err = p.Header(); err != nil {
		return nil, err
	}
	if p.claims, err = jose.ParseObject(p.Payload); err != nil {
		return nil, fmt.Errorf("token claims: %w", err)
	}
	return p, nil
}

// invalid is the refusal of a token that is wrong in itself.
func invalid(format string, args ...any) error {
	return extauthz.Refuse(extauthz.ReasonTokenInvalid, fmt.Errorf(format, args...))
}
