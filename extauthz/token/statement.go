package token

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
)

// Statement verifies a JWT that is nobody's credential, such as a signed answer:
// its form, type, signature, issuer and audience, as Verify does for a token. What
// it says of times is for the caller to judge, and nothing is remembered of it but
// the keys. Safe for concurrent use.
func (v *Verifier) Statement(ctx context.Context, now time.Time, text string) (*structpb.Struct, error) {
	set, generation, err := v.keys.current(ctx, now)
	if err != nil {
		return nil, err
	}
	parsed, err := v.parse(text)
	if err != nil {
		return nil, err
	}
	if err := v.checkParties(parsed.claims); err != nil {
		return nil, err
	}
	if _, err := v.checkSignature(ctx, now, parsed, set, generation); err != nil {
		return nil, err
	}
	return parsed.claims, nil
}
