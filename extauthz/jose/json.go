package jose

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
)

// MaxDepth bounds how deep objects and lists of a document may be nested.
const MaxDepth = 16

// Mistakes in a document. They quote nothing of it: it may be a secret.
var (
	errNotJSON   = errors.New("is not JSON")
	errTwice     = errors.New("has a member name twice")
	errTail      = errors.New("has text after its JSON object")
	errNotObject = errors.New("is not a JSON object")
	errNotUTF8   = errors.New("is not UTF-8")
	errTooDeep   = fmt.Errorf("is nested more than %d deep", MaxDepth)
)

// ParseObject parses one JSON object (RFC 8259) by the rules of ParseStruct:
// objects are map[string]any, lists []any, numbers float64.
func ParseObject(raw []byte) (map[string]any, error) {
	object, err := ParseStruct(raw)
	if err != nil {
		return nil, err
	}
	return object.AsMap(), nil
}

// ParseStruct parses one JSON object (RFC 8259). Refused are names that appear
// twice in an object, at any depth and however they are spelled, since parsers
// disagree about which counts; text that is not UTF-8; escapes that stand for half
// a character; numbers that a float64 cannot hold; and nesting deeper than
// MaxDepth. Its size is for the caller to bound. Errors quote nothing of the text.
// The parts of what it returns share memory: keep all of it or copies.
func ParseStruct(raw []byte) (*structpb.Struct, error) {
	if !utf8.Valid(raw) {
		return nil, errNotUTF8
	}
	p := parser{text: string(raw)}
	p.space()
	if p.peek() != '{' {
		if _, err := p.value(0); err != nil {
			return nil, err
		}
		return nil, errNotObject
	}
	object, err := p.object(0)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.at != len(p.text) {
		return nil, errTail
	}
	return object, nil
}

// parser is one reading under way.
type parser struct {
	text string
	at   int
	// leaves are what the next values are made in.
	leaves []leaf
}

// leaf is a value with room for the two kinds that most values are of. Made a few
// at a time, they are a third of the allocations that structpb's own functions
// make.
type leaf struct {
	value  structpb.Value
	text   structpb.Value_StringValue
	number structpb.Value_NumberValue
}

const leavesAtOnce = 8

func (p *parser) leaf() *leaf {
	if len(p.leaves) == 0 {
		p.leaves = make([]leaf, leavesAtOnce)
	}
	next := &p.leaves[0]
	p.leaves = p.leaves[1:]
	return next
}

// peek is the next byte, 0 at the end; a 0 byte is JSON nowhere.
func (p *parser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *parser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) value(depth int) (*structpb.Value, error) {
	made := p.leaf()
	var err error
	switch c := p.peek(); {
	case c == '{':
		object := &structpb.Value_StructValue{}
		object.StructValue, err = p.object(depth)
		made.value.Kind = object
	case c == '[':
		list := &structpb.Value_ListValue{}
		list.ListValue, err = p.list(depth)
		made.value.Kind = list
	case c == '"':
		made.text.StringValue, err = p.string()
		made.value.Kind = &made.text
	case c == '-' || '0' <= c && c <= '9':
		made.number.NumberValue, err = p.number()
		made.value.Kind = &made.number
	case p.word("true"):
		made.value.Kind = &structpb.Value_BoolValue{BoolValue: true}
	case p.word("false"):
		made.value.Kind = &structpb.Value_BoolValue{}
	case p.word("null"):
		made.value.Kind = &structpb.Value_NullValue{}
	default:
		err = errNotJSON
	}
	if err != nil {
		return nil, err
	}
	return &made.value, nil
}

func (p *parser) word(word string) bool {
	if !strings.HasPrefix(p.text[p.at:], word) {
		return false
	}
	p.at += len(word)
	return true
}

// object reads from "{" on.
func (p *parser) object(depth int) (*structpb.Struct, error) {
	if depth >= MaxDepth {
		return nil, errTooDeep
	}
	p.at++
	fields := map[string]*structpb.Value{}
	object := &structpb.Struct{Fields: fields}
	p.space()
	if p.peek() == '}' {
		p.at++
		return object, nil
	}
	for {
		p.space()
		if p.peek() != '"' {
			return nil, errNotJSON
		}
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if _, twice := fields[name]; twice {
			return nil, errTwice
		}
		p.space()
		if p.peek() != ':' {
			return nil, errNotJSON
		}
		p.at++
		p.space()
		value, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		fields[name] = value
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case '}':
			p.at++
			return object, nil
		default:
			return nil, errNotJSON
		}
	}
}

// list reads from "[" on.
func (p *parser) list(depth int) (*structpb.ListValue, error) {
	if depth >= MaxDepth {
		return nil, errTooDeep
	}
	p.at++
	list := &structpb.ListValue{}
	p.space()
	if p.peek() == ']' {
		p.at++
		return list, nil
	}
	for {
		p.space()
		value, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list.Values = append(list.Values, value)
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case ']':
			p.at++
			return list, nil
		default:
			return nil, errNotJSON
		}
	}
}

// string reads from the opening quote on. Without escapes it is a part of the
// text, not a copy.
func (p *parser) string() (string, error) {
	p.at++
	start := p.at
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			return p.text[start : p.at-1], nil
		case c == '\\':
			return p.escaped(start)
		case c < ' ':
			return "", errNotJSON
		}
		p.at++
	}
	return "", errNotJSON
}

// escaped reads on where the first escape of a string stands.
func (p *parser) escaped(start int) (string, error) {
	out := append(make([]byte, 0, 2*(p.at-start)+16), p.text[start:p.at]...)
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch {
		case c == '"':
			return string(out), nil
		case c < ' ':
			return "", errNotJSON
		case c != '\\':
			out = append(out, c)
			continue
		}
		kind := p.peek()
		p.at++
		if plain := strings.IndexByte(`"\/bfnrt`, kind); plain >= 0 && kind != 0 {
			out = append(out, "\"\\/\b\f\n\r\t"[plain])
			continue
		}
		if kind != 'u' {
			return "", errNotJSON
		}
		char, err := p.unicode()
		if err != nil {
			return "", err
		}
		out = utf8.AppendRune(out, char)
	}
	return "", errNotJSON
}

// unicode reads behind "\u": one character, of one escape or of a pair.
func (p *parser) unicode() (rune, error) {
	first, err := p.hex4()
	if err != nil || !utf16.IsSurrogate(first) {
		return first, err
	}
	if !p.word(`\u`) {
		return 0, errNotJSON
	}
	second, err := p.hex4()
	if err != nil {
		return 0, err
	}
	char := utf16.DecodeRune(first, second)
	if char == utf8.RuneError {
		return 0, errNotJSON
	}
	return char, nil
}

func (p *parser) hex4() (rune, error) {
	if p.at+4 > len(p.text) {
		return 0, errNotJSON
	}
	var char rune
	for _, c := range []byte(p.text[p.at : p.at+4]) {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, errNotJSON
		}
		char = char<<4 | rune(c)
	}
	p.at += 4
	return char, nil
}

// number reads by the grammar of RFC 8259 section 6.
func (p *parser) number() (float64, error) {
	start := p.at
	if p.peek() == '-' {
		p.at++
	}
	if p.peek() == '0' {
		p.at++
	} else if !p.digits() {
		return 0, errNotJSON
	}
	if p.peek() == '.' {
		p.at++
		if !p.digits() {
			return 0, errNotJSON
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		if !p.digits() {
			return 0, errNotJSON
		}
	}
	number, err := strconv.ParseFloat(p.text[start:p.at], 64)
	if err != nil {
		return 0, errNotJSON
	}
	return number, nil
}

// digits reads one and more.
func (p *parser) digits() bool {
	start := p.at
	for p.at < len(p.text) && '0' <= p.text[p.at] && p.text[p.at] <= '9' {
		p.at++
	}
	return p.at > start
}
