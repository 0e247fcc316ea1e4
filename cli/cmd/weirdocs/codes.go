package main

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
)

// coded is one error that the source makes by fault.New.
type coded struct {
	module, reason, message string
	code                    codes.Code
}

// codesPage lists every coded error of the parts that answer requests. It reads
// their source: errors are made where they happen, and no list of them exists
// that could be forgotten.
func codesPage(checkout string) (string, error) {
	var all []coded
	for _, module := range []string{"extauthz", "kit", "ratelimit", "services"} {
		found, err := codesOf(checkout, module)
		if err != nil {
			return "", err
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b coded) int {
		return cmp.Or(cmp.Compare(a.reason, b.reason), cmp.Compare(a.module, b.module), cmp.Compare(a.message, b.message))
	})
	var b strings.Builder
	b.WriteString(header("Error codes", "the calls of fault.New in extauthz, kit, ratelimit and services"))
	b.WriteString("`code` of a problem document, and `reason` of the `google.rpc.ErrorInfo` in a gRPC status. `…` stands\n" +
		"for what differs between requests. What Envoy answers by itself is on [edge-answers.md](edge-answers.md).\n" +
		"Those of ratelimit are for Envoy and its log; clients get Envoy's answer.\n\n")
	b.WriteString(table("Code", "HTTP", "gRPC", "From", "Detail"))
	for _, one := range slices.Compact(all) {
		b.WriteString(row("`"+one.reason+"`", strconv.Itoa(fault.HTTPStatus(one.code)), one.code.String(), one.module, one.message))
	}
	return b.String(), nil
}

func codesOf(checkout, module string) ([]coded, error) {
	var found []coded
	files := token.NewFileSet()
	err := filepath.WalkDir(filepath.Join(checkout, module), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			path == filepath.Join(checkout, "kit", "fault", "fault.go") {
			return err
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		r := &reader{module: module, files: files, constants: constantsOf(file)}
		ast.Walk(r, file)
		found = append(found, r.found...)
		return errors.Join(r.problems...)
	})
	return found, err
}

// constantsOf maps the file's text constants to their values.
func constantsOf(file *ast.File) map[string]string {
	constants := map[string]string{"ReasonInternal": fault.ReasonInternal}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != len(spec.Values) {
			return true
		}
		for i, name := range spec.Names {
			if text, ok := literal(spec.Values[i]); ok {
				constants[name.Name] = text
			}
		}
		return true
	})
	return constants
}

// reader collects the calls of fault.New within one file.
type reader struct {
	module    string
	files     *token.FileSet
	constants map[string]string
	// reasons are those of the enclosing case clause, for string(r).
	reasons  []string
	found    []coded
	problems []error
}

// Visit implements ast.Visitor.
func (r *reader) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.CaseClause:
		inner := *r
		inner.reasons, inner.found, inner.problems = nil, nil, nil
		for _, value := range n.List {
			if name, ok := value.(*ast.Ident); ok && r.constants[name.Name] != "" {
				inner.reasons = append(inner.reasons, r.constants[name.Name])
			}
		}
		for _, statement := range n.Body {
			ast.Walk(&inner, statement)
		}
		r.found, r.problems = append(r.found, inner.found...), append(r.problems, inner.problems...)
		return nil
	case *ast.CallExpr:
		if isFaultNew(n) {
			r.read(n)
		}
	}
	return r
}

func isFaultNew(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != "New" || len(call.Args) < 3 {
		return false
	}
	pkg, ok := selector.X.(*ast.Ident)
	return ok && pkg.Name == "fault"
}

func (r *reader) read(call *ast.CallExpr) {
	reasons := r.reasonsOf(call.Args[1])
	kind, ok := call.Args[0].(*ast.SelectorExpr)
	if len(reasons) == 0 || !ok {
		r.problems = append(r.problems, fmt.Errorf("%s: write code and reason of fault.New as constants, so that they are documented", r.files.Position(call.Pos())))
		return
	}
	code, known := codeByName()[kind.Sel.Name]
	if !known {
		r.problems = append(r.problems, fmt.Errorf("%s: no gRPC code %s", r.files.Position(call.Pos()), kind.Sel.Name))
		return
	}
	message, _ := literal(call.Args[2])
	for _, verb := range []string{"%s", "%d", "%q", "%v"} {
		message = strings.ReplaceAll(message, verb, "…")
	}
	if message == "" {
		message = "…"
	}
	for _, reason := range reasons {
		r.found = append(r.found, coded{module: r.module, reason: reason, message: message, code: code})
	}
}

// reasonsOf understands a text, a constant and, in a case clause, string(r).
func (r *reader) reasonsOf(value ast.Expr) []string {
	if text, ok := literal(value); ok {
		return []string{text}
	}
	switch value := value.(type) {
	case *ast.Ident:
		return nonEmpty(r.constants[value.Name])
	case *ast.SelectorExpr:
		return nonEmpty(r.constants[value.Sel.Name])
	case *ast.CallExpr: // string(X)
		if len(value.Args) != 1 {
			return nil
		}
		if name, ok := value.Args[0].(*ast.Ident); ok && r.constants[name.Name] == "" {
			return r.reasons
		}
		return r.reasonsOf(value.Args[0])
	}
	return nil
}

func nonEmpty(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

func literal(value ast.Expr) (string, bool) {
	switch value := value.(type) {
	case *ast.BasicLit:
		if value.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(value.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		left, okLeft := literal(value.X)
		right, okRight := literal(value.Y)
		return left + right, okLeft && okRight && value.Op == token.ADD
	}
	return "", false
}

func codeByName() map[string]codes.Code {
	names := map[string]codes.Code{}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		names[code.String()] = code
	}
	return names
}
