package httpsig

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of structured fields.
const (
	maxFieldBytes = 16 << 10
	maxMembers    = 16
	maxItems      = 64
	maxParameters = 16
)

// item is a bare item with parameters (RFC 8941 section 3.3). value is a string,
// symbol, int64, []byte or bool; decimals and dates occur in none of the fields
// that are read here, and are refused.
type item struct {
	value      any
	parameters []parameter
}

// symbol is a token.
type symbol string

type parameter struct {
	name  string
	value any
}

// member is one of a dictionary: an inner list, or one item.
type member struct {
	name string
	list bool
	// items are those of the list, or the item alone.
	items []item
	// parameters are those of the list.
	parameters []parameter
}

// reader reads a structured field from the front (RFC 8941 section 4.2).
type reader struct {
	text string
	at   int
}

var errField = errors.New("it is not a structured field (RFC 8941)")

func (r *reader) end() bool { return r.at >= len(r.text) }

func (r *reader) peek() byte {
	if r.end() {
		return 0
	}
	return r.text[r.at]
}

func (r *reader) take(c byte) bool {
	if r.peek() != c || r.end() {
		return false
	}
	r.at++
	return true
}

func (r *reader) skip(set string) {
	for !r.end() && strings.IndexByte(set, r.text[r.at]) >= 0 {
		r.at++
	}
}

// parseDictionary reads a dictionary in which no name repeats. The values of
// several headers are joined with commas before.
func parseDictionary(text string) ([]member, error) {
	if len(text) > maxFieldBytes {
		return nil, fmt.Errorf("it has %d bytes; the most is %d", len(text), maxFieldBytes)
	}
	r := &reader{text: text}
	r.skip(" ")
	var members []member
	for !r.end() {
		m, err := r.member()
		if err != nil {
			return nil, err
		}
		for i := range members {
			if members[i].name == m.name {
				return nil, errors.New("it has a member twice")
			}
		}
		if members = append(members, m); len(members) > maxMembers {
			return nil, fmt.Errorf("it has more than %d members", maxMembers)
		}
		r.skip(" \t")
		if r.end() {
			return members, nil
		}
		if !r.take(',') {
			return nil, errField
		}
		r.skip(" \t")
		if r.end() {
			return nil, errField
		}
	}
	return members, nil
}

func (r *reader) member() (m member, err error) {
	if m.name, err = r.key(); err != nil {
		return m, err
	}
	if !r.take('=') {
		parameters, err := r.parameters()
		m.items = []item{{value: true, parameters: parameters}}
		return m, err
	}
	if r.peek() != '(' {
		single, err := r.item()
		m.items = []item{single}
		return m, err
	}
	m.list = true
	if m.items, err = r.innerList(); err != nil {
		return m, err
	}
	m.parameters, err = r.parameters()
	return m, err
}

func (r *reader) innerList() ([]item, error) {
	r.at++ // the bracket
	var items []item
	for {
		r.skip(" ")
		if r.take(')') {
			return items, nil
		}
		next, err := r.item()
		if err != nil {
			return nil, err
		}
		if items = append(items, next); len(items) > maxItems {
			return nil, fmt.Errorf("it has a list of more than %d items", maxItems)
		}
		if c := r.peek(); c != ' ' && c != ')' {
			return nil, errField
		}
	}
}

func (r *reader) item() (item, error) {
	value, err := r.bare()
	if err != nil {
		return item{}, err
	}
	parameters, err := r.parameters()
	return item{value: value, parameters: parameters}, err
}

func (r *reader) parameters() ([]parameter, error) {
	var all []parameter
	for r.take(';') {
		r.skip(" ")
		name, err := r.key()
		if err != nil {
			return nil, err
		}
		p := parameter{name: name, value: true}
		if r.take('=') {
			if p.value, err = r.bare(); err != nil {
				return nil, err
			}
		}
		for i := range all {
			if all[i].name == name {
				return nil, errors.New("it has a parameter twice")
			}
		}
		if all = append(all, p); len(all) > maxParameters {
			return nil, fmt.Errorf("it has more than %d parameters", maxParameters)
		}
	}
	return all, nil
}

func (r *reader) key() (string, error) {
	start := r.at
	if c := r.peek(); !lower(c) && c != '*' {
		return "", errField
	}
	for !r.end() {
		if c := r.text[r.at]; !lower(c) && !digit(c) && strings.IndexByte("_-.*", c) < 0 {
			break
		}
		r.at++
	}
	return r.text[start:r.at], nil
}

func lower(c byte) bool { return 'a' <= c && c <= 'z' }
func upper(c byte) bool { return 'A' <= c && c <= 'Z' }
func digit(c byte) bool { return '0' <= c && c <= '9' }

func (r *reader) bare() (any, error) {
	switch c := r.peek(); {
	case c == '"':
		return r.quoted()
	case c == ':':
		return r.bytes()
	case c == '?':
		r.at++
		switch {
		case r.take('1'):
			return true, nil
		case r.take('0'):
			return false, nil
		}
		return nil, errField
	case c == '-' || digit(c):
		return r.integer()
	case c == '*' || lower(c) || upper(c):
		start := r.at
		for !r.end() {
			if c := r.text[r.at]; !lower(c) && !upper(c) && !digit(c) && strings.IndexByte("!#$%&'*+-.^_`|~:/", c) < 0 {
				break
			}
			r.at++
		}
		return symbol(r.text[start:r.at]), nil
	}
	return nil, errField
}

func (r *reader) quoted() (string, error) {
	r.at++
	var b strings.Builder
	for !r.end() {
		c := r.text[r.at]
		r.at++
		switch {
		case c == '"':
			return b.String(), nil
		case c == '\\':
			if c = r.peek(); c != '"' && c != '\\' {
				return "", errField
			}
			r.at++
		case c < ' ' || c > '~':
			return "", errField
		}
		b.WriteByte(c)
	}
	return "", errField
}

// bytes refuses what Go's decoder would let pass: bits that are left over.
func (r *reader) bytes() ([]byte, error) {
	length := strings.IndexByte(r.text[r.at+1:], ':')
	if length < 0 {
		return nil, errField
	}
	text := r.text[r.at+1 : r.at+1+length]
	r.at += length + 2
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errField
	}
	return raw, nil
}

func (r *reader) integer() (int64, error) {
	start := r.at
	r.take('-')
	digits := r.at
	for digit(r.peek()) {
		r.at++
	}
	if n := r.at - digits; n == 0 || n > 15 || r.peek() == '.' {
		return 0, errField
	}
	return strconv.ParseInt(r.text[start:r.at], 10, 64)
}

// writeList serializes an inner list (RFC 8941 section 4.1.1.1).
func writeList(b *strings.Builder, m *member) {
	b.WriteByte('(')
	for i := range m.items {
		if i > 0 {
			b.WriteByte(' ')
		}
		writeItem(b, &m.items[i])
	}
	b.WriteByte(')')
	writeParameters(b, m.parameters)
}

func writeItem(b *strings.Builder, i *item) {
	writeBare(b, i.value)
	writeParameters(b, i.parameters)
}

func writeParameters(b *strings.Builder, parameters []parameter) {
	for _, p := range parameters {
		b.WriteByte(';')
		b.WriteString(p.name)
		if p.value != true {
			b.WriteByte('=')
			writeBare(b, p.value)
		}
	}
}

func writeBare(b *strings.Builder, value any) {
	switch value := value.(type) {
	case string:
		b.WriteByte('"')
		for i := range len(value) {
			if value[i] == '"' || value[i] == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(value[i])
		}
		b.WriteByte('"')
	case symbol:
		b.WriteString(string(value))
	case int64:
		b.WriteString(strconv.FormatInt(value, 10))
	case []byte:
		b.WriteByte(':')
		b.WriteString(base64.StdEncoding.EncodeToString(value))
		b.WriteByte(':')
	case bool:
		if value {
			b.WriteString("?1")
		} else {
			b.WriteString("?0")
		}
	}
}
