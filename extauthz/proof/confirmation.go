package proof

import (
	"encoding/base64"
	"errors"

	"google.golang.org/protobuf/types/known/structpb"
)

// confirmation is what a token is bound to (RFC 7800 section 3.1). Both may be
// set; then both have to be proven.
type confirmation struct {
	// thumbprint is that of a client certificate (RFC 8705), nil if none.
	thumbprint []byte
	// jkt is the thumbprint of a DPoP key (RFC 9449 section 6.1).
	jkt string
}

// parseConfirmation reads a token's "cnf". A member that is not known binds the
// token in a way that cannot be checked here, so it is an error; so is one that
// binds to nothing.
func parseConfirmation(value *structpb.Value) (c confirmation, err error) {
	object := value.GetStructValue()
	if object == nil || len(object.GetFields()) == 0 {
		return c, errors.New("its cnf is not an object with members")
	}
	for name, member := range object.GetFields() {
		text := member.GetStringValue()
		switch name {
		case "x5t#S256":
			if c.thumbprint, err = base64.RawURLEncoding.Strict().DecodeString(text); err != nil || len(c.thumbprint) != 32 {
				return c, errors.New("its cnf has an x5t#S256 that is not a SHA-256 in base64url")
			}
		case "jkt":
			if raw, err := base64.RawURLEncoding.Strict().DecodeString(text); err != nil || len(raw) != 32 {
				return c, errors.New("its cnf has a jkt that is not a SHA-256 in base64url")
			}
			c.jkt = text
		default:
			return c, errors.New("its cnf has a member that is none of x5t#S256 and jkt")
		}
	}
	return c, nil
}
