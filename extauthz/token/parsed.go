package token

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"weir.dev/extauthz"
	"weir.dev/extauthz/jose"
)

// parsed is a token taken apart; nothing in it is verified.
type parsed struct {
	jose.Compact
	header
	claims *structpb.Struct
}

// header is what a token's header says, where it says nothing that the verifier
// refuses.
type header struct {
	text, algorithm, id string
}

// maxKnownHeader bounds a header that is remembered.
const maxKnownHeader = 1 << 10

func (v *Verifier) parse(token string) (*parsed, error) {
	p := &parsed{}
	var err error
	if p.Compact, err = jose.Split(token); err != nil {
		return nil, err
	}
	if p.header, err = v.readHeader(&p.Compact); err != nil {
		return nil, err
	}
	if p.claims, err = jose.ParseStruct(p.Payload); err != nil {
		return nil, fmt.Errorf("token claims: %w", err)
	}
	return p, nil
}

// readHeader reads and checks a header, unless it is, byte by byte, the one of the
// last good token: an issuer's tokens have the same header until its key changes.
func (v *Verifier) readHeader(token *jose.Compact) (header, error) {
	if known := v.known.Load(); known != nil && known.text == token.HeaderText {
		return *known, nil
	}
	said, err := token.Header()
	if err == nil {
		err = v.checkHeader(said)
	}
	if err != nil {
		return header{}, err
	}
	read := header{text: token.HeaderText}
	read.algorithm, _ = said["alg"].(string)
	read.id, _ = said["kid"].(string)
	return read, nil
}

// remember keeps the header of a token whose signature is right, so that nobody
// but the issuer has one remembered.
func (v *Verifier) remember(good header) {
	if known := v.known.Load(); len(good.text) > maxKnownHeader || known != nil && known.text == good.text {
		return
	}
	// It is not to hold on to the whole token.
	v.known.Store(&header{text: strings.Clone(good.text), algorithm: strings.Clone(good.algorithm), id: strings.Clone(good.id)})
}

// invalid is the refusal of a token that is wrong in itself.
func invalid(format string, args ...any) error {
	return extauthz.Refuse(extauthz.ReasonTokenInvalid, fmt.Errorf(format, args...))
}
