package authzexpr

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// MaxTemplateBytes bounds the text of a template and what it expands to.
const MaxTemplateBytes = 8 << 10

// Template is text with expressions in braces, such as "user:{identity.subject}".
// Two braces stand for one. Safe for concurrent use.
type Template struct {
	parts      []templatePart
	references []string
}

type templatePart struct {
	literal string
	text    *textProgram
}

// textProgram is an expression whose value is a text.
type textProgram struct {
	fast       word
	program    cel.Program
	counted    bool
	expression string
}

// CompileTemplate checks a template: each expression is a text, or a claim or
// another JSON value, which has to be a text when it is expanded.
func (e *Environment) CompileTemplate(template string) (*Template, error) {
	if len(template) > MaxTemplateBytes {
		return nil, fmt.Errorf("is %d bytes long; the most is %d", len(template), MaxTemplateBytes)
	}
	compiled := &Template{}
	for rest := template; rest != ""; {
		literal, expression, after, err := nextPart(rest)
		if err != nil {
			return nil, fmt.Errorf("at 1:%d: %w", len(template)-len(rest)+1, err)
		}
		if literal != "" {
			compiled.parts = append(compiled.parts, templatePart{literal: literal})
		}
		rest = after
		if expression == "" {
			continue
		}
		text, references, err := e.text(expression)
		if err != nil {
			return nil, fmt.Errorf("in {%s}: %w", expression, err)
		}
		compiled.parts = append(compiled.parts, templatePart{text: text})
		compiled.references = append(compiled.references, references...)
	}
	slices.Sort(compiled.references)
	compiled.references = slices.Compact(compiled.references)
	return compiled, nil
}

// nextPart cuts the text up to and with the next expression.
func nextPart(rest string) (literal, expression, after string, err error) {
	var text strings.Builder
	for i := 0; i < len(rest); i++ {
		c := rest[i]
		switch {
		case c != '{' && c != '}':
			text.WriteByte(c)
		case i+1 < len(rest) && rest[i+1] == c:
			text.WriteByte(c)
			i++
		case c == '}':
			return "", "", "", errors.New("a closing brace without its opening one; write }} for a brace")
		default:
			end := closing(rest[i+1:])
			if end < 0 {
				return "", "", "", errors.New("an opening brace without its closing one; write {{ for a brace")
			}
			expression = strings.TrimSpace(rest[i+1 : i+1+end])
			if expression == "" {
				return "", "", "", errors.New("braces without an expression")
			}
			return text.String(), expression, rest[i+2+end:], nil
		}
	}
	return text.String(), "", "", nil
}

// closing is where the expression's closing brace is, -1 without one. Braces in
// quotes and pairs of them do not count.
func closing(text string) int {
	depth, quote := 0, byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '{':
			depth++
		case c == '}':
			if depth == 0 {
				return i
			}
			depth--
		}
	}
	return -1
}

func (e *Environment) text(expression string) (*textProgram, []string, error) {
	checked, err := e.check(expression, cel.StringType, cel.DynType)
	if err != nil {
		return nil, nil, err
	}
	program, counted, err := e.program(checked)
	if err != nil {
		return nil, nil, err
	}
	text := &textProgram{program: program, counted: counted, expression: expression}
	compiler := fastCompiler{variables: &e.variables, checked: checked.NativeRep()}
	if fast, ok := compiler.word(checked.NativeRep().Expr()); ok {
		text.fast = fast
	}
	return text, references(checked), nil
}

// References lists what the expressions read, as Program.References does.
func (t *Template) References() []string { return t.references }

// Literal is the whole text when there is no expression in it.
func (t *Template) Literal() (string, bool) {
	switch {
	case len(t.parts) == 0:
		return "", true
	case len(t.parts) == 1 && t.parts[0].text == nil:
		return t.parts[0].literal, true
	}
	return "", false
}

// Expand puts the values in; each value, and no literal part, goes through
// escape unless it is nil. An empty value is an error, since what is asked for
// with it is not what the template means.
func (t *Template) Expand(ctx context.Context, input *Input, escape func(string) (string, error)) (string, error) {
	if len(t.parts) == 1 && t.parts[0].text == nil {
		return t.parts[0].literal, nil
	}
	var out strings.Builder
	for i := range t.parts {
		part := &t.parts[i]
		if part.text == nil {
			out.WriteString(part.literal)
			continue
		}
		value, err := part.text.eval(ctx, input)
		if err == nil && value == "" {
			err = errors.New("is empty")
		}
		if err == nil && escape != nil {
			value, err = escape(value)
		}
		if err != nil {
			return "", fmt.Errorf("{%s}: %w", part.text.expression, err)
		}
		out.WriteString(value)
		if out.Len() > MaxTemplateBytes {
			return "", fmt.Errorf("expands to more than %d bytes", MaxTemplateBytes)
		}
	}
	return out.String(), nil
}

func (p *textProgram) eval(ctx context.Context, input *Input) (string, error) {
	if p.fast != nil {
		return p.fast(input)
	}
	value, err := evaluate(ctx, p.program, p.counted, input)
	if err != nil {
		return "", err
	}
	text, ok := value.(types.String)
	if !ok {
		return "", fmt.Errorf("is of type %s, not a text", value.Type().TypeName())
	}
	return string(text), nil
}

func evaluate(ctx context.Context, program cel.Program, counted bool, input *Input) (ref.Val, error) {
	if counted {
		value, _, err := program.ContextEval(ctx, (*activation)(input))
		return value, err
	}
	value, _, err := program.Eval((*activation)(input))
	return value, err
}
