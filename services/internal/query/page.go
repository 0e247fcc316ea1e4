package query

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

// Page sizes.
const (
	DefaultPageSize = 50
	MaxPageSize     = 1000
	// maxTokenBytes bounds a page token; texts to order by are cut well below.
	maxTokenBytes = 16 << 10
	macBytes      = 16
)

// List is a checked list request.
type List struct {
	// Filter is nil when everything matches.
	Filter Expr
	// Order lists the keys; ties go by name, ascending.
	Order []Key
	// Limit is how many rows to return at most.
	Limit int
	// After is where the page before ended, nil on the first page.
	After *Cursor
}

// Cursor is a position in an order: the values of the order's columns in the
// last row of a page.
type Cursor struct {
	// Values hold int64, float64 and string.
	Values []any
}

// Request is a list request as it comes from a client.
type Request struct {
	PageSize  int32
	PageToken string
	Filter    string
	OrderBy   string
}

// Pager makes and checks page tokens: opaque, tamper-evident, and bound to the
// list that they came from. Safe for concurrent use.
type Pager struct {
	// Secret keys the tokens' HMAC; every replica of a service has the same.
	Secret []byte
}

// InvalidPageToken is the error of every token that isn't ours, or is for
// another list.
func InvalidPageToken() *fault.Error {
	return fault.New(codes.InvalidArgument, "INVALID_PAGE_TOKEN",
		"the page token is not one that this list gave; start again without one, and keep filter and order_by the same from page to page").
		WithField("page_token", "is not a token of this list")
}

// Parse checks a request. scope names what is listed, tenant included: a token
// of one scope is refused in another.
func (p Pager) Parse(request Request, schema Schema, scope ...string) (List, error) {
	if request.PageSize < 0 {
		return List{}, fault.New(codes.InvalidArgument, "INVALID_ARGUMENT", "the page size is negative").
			WithField("page_size", "must not be negative")
	}
	list := List{Limit: int(request.PageSize)}
	if list.Limit == 0 {
		list.Limit = DefaultPageSize
	}
	list.Limit = min(list.Limit, MaxPageSize)
	var err error
	if list.Filter, err = ParseFilter(request.Filter, schema); err != nil {
		return List{}, err
	}
	if list.Order, err = ParseOrder(request.OrderBy, schema); err != nil {
		return List{}, err
	}
	if request.PageToken != "" {
		if list.After, err = p.decode(request, scope); err != nil {
			return List{}, err
		}
	}
	return list, nil
}

// Token is the token of the page after cursor, empty when cursor is nil.
func (p Pager) Token(cursor *Cursor, request Request, scope ...string) string {
	if cursor == nil {
		return ""
	}
	tagged := make([]string, len(cursor.Values))
	for i, value := range cursor.Values {
		switch v := value.(type) {
		case int64:
			tagged[i] = "i" + strconv.FormatInt(v, 10)
		case float64:
			tagged[i] = "f" + strconv.FormatFloat(v, 'g', -1, 64)
		case string:
			tagged[i] = "s" + v
		}
	}
	payload, err := json.Marshal(tagged)
	if err != nil { // strings always marshal
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(p.mac(payload, request, scope), payload...))
}

func (p Pager) decode(request Request, scope []string) (*Cursor, error) {
	if len(request.PageToken) > maxTokenBytes {
		return nil, InvalidPageToken()
	}
	raw, err := base64.RawURLEncoding.DecodeString(request.PageToken)
	if err != nil || len(raw) < macBytes {
		return nil, InvalidPageToken()
	}
	payload := raw[macBytes:]
	if !hmac.Equal(raw[:macBytes], p.mac(payload, request, scope)) {
		return nil, InvalidPageToken()
	}
	var tagged []string
	if err := json.NewDecoder(bytes.NewReader(payload)).Decode(&tagged); err != nil {
		return nil, InvalidPageToken()
	}
	cursor := &Cursor{Values: make([]any, len(tagged))}
	for i, text := range tagged {
		value, ok := untag(text)
		if !ok {
			return nil, InvalidPageToken()
		}
		cursor.Values[i] = value
	}
	return cursor, nil
}

func untag(text string) (any, bool) {
	if text == "" {
		return nil, false
	}
	switch body := text[1:]; text[0] {
	case 'i':
		v, err := strconv.ParseInt(body, 10, 64)
		return v, err == nil
	case 'f':
		v, err := strconv.ParseFloat(body, 64)
		return v, err == nil
	case 's':
		return body, true
	}
	return nil, false
}

// mac covers the payload and everything that decides what the list returns,
// each part with its length, so that no two lists look the same.
func (p Pager) mac(payload []byte, request Request, scope []string) []byte {
	h := hmac.New(sha256.New, p.Secret)
	parts := append([]string{string(payload), strings.TrimSpace(request.Filter), strings.TrimSpace(request.OrderBy)}, scope...)
	for _, part := range parts {
		h.Write([]byte(strconv.Itoa(len(part)) + ":"))
		h.Write([]byte(part))
	}
	return h.Sum(nil)[:macBytes]
}
