package authzexpr

import (
	"errors"
	"fmt"

	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
)

// estimator knows how large an input can be.
type estimator struct{}

// EstimateSize implements checker.CostEstimator.
func (estimator) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	path := node.Path()
	most := uint64(maxElements)
	switch kind := node.Type().Kind(); {
	case kind == types.StringKind && len(path) > 0 && path[0] == "request", kind == types.DynKind && len(path) == 0:
		most = MaxTextBytes
	case len(path) > 1 && path[0] == "request" && (path[1] == "headers" || path[1] == "query"):
		most = MaxValues
	}
	return &checker.SizeEstimate{Min: 0, Max: most}
}

// EstimateCallCost implements checker.CostEstimator.
func (estimator) EstimateCallCost(function, _ string, target *checker.AstNode, _ []checker.AstNode) *checker.CallEstimate {
	switch function {
	case functionHeader, functionParameter:
		return &checker.CallEstimate{
			CostEstimate: checker.CostEstimate{Min: 1, Max: MaxValues},
			ResultSize:   &checker.SizeEstimate{Min: 0, Max: MaxTextBytes},
		}
	case functionHasScope, functionHasRole:
		return &checker.CallEstimate{CostEstimate: checker.CostEstimate{Min: 1, Max: maxElements}}
	}
	return nil
}

// maxGrowth bounds how many times longer than what went in a text can get.
const maxGrowth = 64

// checkGrowth refuses calls whose result could be far larger than what they are
// given, since work is counted after a call, and objects, which nothing needs.
func checkGrowth(checked *ast.AST) error {
	var err error
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if err == nil && e.Kind() == ast.StructKind {
			err = located(checked, e, errors.New("objects cannot be made by an expression"))
		}
		if err != nil || e.Kind() != ast.CallKind {
			return
		}
		switch e.AsCall().FunctionName() {
		case "format", "strings.quote":
			err = located(checked, e, fmt.Errorf("the function %s is not available here", e.AsCall().FunctionName()))
		case "replace", "join":
			if n := growth(e); n > maxGrowth {
				err = located(checked, e, errors.New("replace and join take a short literal as the text to put in, and do not nest: the result could be too long"))
			}
		}
	}))
	return err
}

// growth is how many times longer than its inputs the text of an expression can
// be.
func growth(e ast.Expr) int {
	if e.Kind() != ast.CallKind {
		return 1
	}
	call := e.AsCall()
	most := 1
	if call.IsMemberFunction() {
		most = growth(call.Target())
	}
	args := call.Args()
	for _, argument := range args {
		most = max(most, growth(argument))
	}
	var put ast.Expr
	switch {
	case call.FunctionName() == "replace" && len(args) >= 2:
		put = args[1]
	case call.FunctionName() == "join" && len(args) == 1:
		put = args[0]
	default:
		return most
	}
	if put.Kind() != ast.LiteralKind {
		return maxGrowth + 1
	}
	text, ok := put.AsLiteral().(types.String)
	if !ok {
		return maxGrowth + 1
	}
	return min(most*(len(text)+1), maxGrowth+1)
}

func located(checked *ast.AST, e ast.Expr, err error) error {
	place := checked.SourceInfo().GetStartLocation(e.ID())
	return fmt.Errorf("at %d:%d: %w", max(place.Line(), 1), max(place.Column()+1, 1), err)
}
