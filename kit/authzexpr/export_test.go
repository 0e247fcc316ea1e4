package authzexpr

import "context"

// Fast reports whether the expression is compiled to closures.
func (p *Program) Fast() bool { return p.fast != nil }

// Slow evaluates by cel-go whatever else there is.
func (p *Program) Slow(ctx context.Context, input *Input) (bool, error) { return p.slow(ctx, input) }

// Fields counts the fields of each object.
func (e *Environment) Fields() map[string]int {
	counts := map[string]int{}
	for i := range e.variables {
		counts[e.variables[i].name] = len(e.variables[i].fields)
	}
	return counts
}
