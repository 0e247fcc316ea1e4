package token

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"weir.dev/extauthz"
)

// Bounds of what a token may be.
const (
	// MaxTokenBytes bounds a token in compact form.
	MaxTokenBytes = 16 << 10
	maxDepth      = 16
)

// parsed is a token taken apart; nothing in it is verified.
type parsed struct {
	header, claims map[string]any
	// signed is what the signature is over.
	signed    string
	signature []byte
}

// parse takes a JWS in compact form apart (RFC 7515 section 5.2), strictly:
// three parts, unpadded base64url without stray bits, JSON objects in which no
// name appears twice at any depth.
func parse(token string) (*parsed, error) {
	if len(token) > MaxTokenBytes {
		return nil, fmt.Errorf("the token is %d bytes long; the most is %d", len(token), MaxTokenBytes)
	}
	head, rest, ok := strings.Cut(token, ".")
	if !ok {
		return nil, errors.New("the token is not of the form header.claims.signature")
	}
	body, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.IndexByte(signature, '.') >= 0 {
		return nil, errors.New("the token is not of the form header.claims.signature")
	}
	header, err := decodeObject(head)
	if err != nil {
		return nil, fmt.Errorf("token header: %w", err)
	}
	claims, err := decodeObject(body)
	if err != nil {
		return nil, fmt.Errorf("token claims: %w", err)
	}
	raw, err := decodeBase64(signature)
	if err != nil || len(raw) == 0 {
		return nil, errors.New("token signature: is absent or not base64url")
	}
	return &parsed{header: header, claims: claims, signed: token[:len(head)+1+len(body)], signature: raw}, nil
}

// decodeBase64 is base64url without padding. Go's decoder skips line breaks,
// which would give one token many spellings, so they are refused first.
func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("is not base64url")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("is not base64url")
	}
	return raw, nil
}

func decodeObject(text string) (map[string]any, error) {
	raw, err := decodeBase64(text)
	if err != nil {
		return nil, err
	}
	return parseObject(raw)
}

// parseObject parses one JSON object, refusing repeated names, which parsers
// disagree about (RFC 8259 section 4), and text that is not UTF-8.
func parseObject(raw []byte) (map[string]any, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	value, err := parseValue(decoder, 0)
	if err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has text after its JSON object")
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("is not a JSON object")
	}
	return object, nil
}

// errNotJSON replaces the decoder's errors, which quote the input.
var errNotJSON = errors.New("is not JSON")

func parseValue(decoder *json.Decoder, depth int) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, errNotJSON
	}
	delimiter, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if depth >= maxDepth {
		return nil, fmt.Errorf("is nested more than %d deep", maxDepth)
	}
	if delimiter == '{' {
		return parseMembers(decoder, depth)
	}
	list := []any{}
	for decoder.More() {
		element, err := parseValue(decoder, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, element)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errNotJSON
	}
	return list, nil
}

func parseMembers(decoder *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, errNotJSON
		}
		name, ok := token.(string)
		if !ok {
			return nil, errNotJSON
		}
		if _, twice := object[name]; twice {
			return nil, errors.New("has a member name twice")
		}
		if object[name], err = parseValue(decoder, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errNotJSON
	}
	return object, nil
}

// invalid is the refusal of a token that is wrong in itself.
func invalid(format string, args ...any) error {
	return extauthz.Refuse(extauthz.ReasonTokenInvalid, fmt.Errorf(format, args...))
}
