package data

import (
	"errors"
	"fmt"
	"maps"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Bounds of a schema's cost.
const (
	// maxSubschemas bounds the parts of a schema.
	maxSubschemas = 2000
	// maxEvaluations bounds how many parts are applied along one path from the
	// root of the data to a leaf, MaxDepth levels down.
	maxEvaluations = 2000
)

// checkCost refuses schemas that a small document could make evaluate an
// exponential number of parts: by references that double within one level
// (allOf of allOf of ...), or from level to level (a recursive schema that
// applies itself twice to the same child).
func checkCost(root *jsonschema.Schema) error {
	c := coster{closures: map[*jsonschema.Schema]multiset{}, costs: map[costKey]float64{}, open: map[*jsonschema.Schema]bool{}}
	_, err := c.cost(root, MaxDepth)
	return err
}

// multiset counts how often each part is applied to one value.
type multiset map[*jsonschema.Schema]float64

type costKey struct {
	schema *jsonschema.Schema
	levels int
}

type coster struct {
	closures map[*jsonschema.Schema]multiset
	costs    map[costKey]float64
	open     map[*jsonschema.Schema]bool
}

var errTooCostly = fmt.Errorf("applies more than %d of its parts along one path of the data; use fewer alternatives or references", maxEvaluations)

// closure is the multiset of parts applied to the same value as s.
func (c *coster) closure(s *jsonschema.Schema) (multiset, error) {
	if known, ok := c.closures[s]; ok {
		return known, nil
	}
	if c.open[s] {
		return nil, errors.New("a reference leads back to itself without going into the data")
	}
	if len(c.closures) > maxSubschemas {
		return nil, fmt.Errorf("has more than %d parts", maxSubschemas)
	}
	if s.DynamicRef != nil || s.RecursiveRef != nil {
		return nil, errors.New("$dynamicRef is not supported; use $ref")
	}
	c.open[s] = true
	defer delete(c.open, s)
	all, total := multiset{s: 1}, 1.0
	for _, part := range inPlace(s) {
		inner, err := c.closure(part)
		if err != nil {
			return nil, err
		}
		for schema, count := range inner {
			all[schema] += count
			total += count
		}
		if total > maxEvaluations {
			return nil, errTooCostly
		}
	}
	c.closures[s] = all
	return all, nil
}

func inPlace(s *jsonschema.Schema) []*jsonschema.Schema {
	var parts []*jsonschema.Schema
	for _, part := range []*jsonschema.Schema{s.Ref, s.Not, s.If, s.Then, s.Else} {
		if part != nil {
			parts = append(parts, part)
		}
	}
	parts = append(append(append(parts, s.AllOf...), s.AnyOf...), s.OneOf...)
	for _, part := range s.DependentSchemas {
		parts = append(parts, part)
	}
	for _, dependency := range s.Dependencies {
		if part, ok := dependency.(*jsonschema.Schema); ok {
			parts = append(parts, part)
		}
	}
	return parts
}

// cost bounds the parts applied along any one path of the data that goes at
// most the given number of levels down.
func (c *coster) cost(s *jsonschema.Schema, levels int) (float64, error) {
	key := costKey{s, levels}
	if known, ok := c.costs[key]; ok {
		return known, nil
	}
	here, err := c.closure(s)
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, count := range here {
		total += count
	}
	if levels > 0 {
		below, err := c.children(here, levels-1)
		if err != nil {
			return 0, err
		}
		total += below
	}
	if total > maxEvaluations {
		return 0, errTooCostly
	}
	c.costs[key] = total
	return total, nil
}

// children bounds the cost of the costliest child of a value to which the
// parts in here apply.
func (c *coster) children(here multiset, levels int) (float64, error) {
	wild, named, indexed := 0.0, map[string]float64{}, map[int]float64{}
	for s, count := range here {
		for _, part := range wildcards(s) {
			cost, err := c.cost(part, levels)
			if err != nil {
				return 0, err
			}
			wild += count * cost
		}
		for name, part := range s.Properties {
			cost, err := c.cost(part, levels)
			if err != nil {
				return 0, err
			}
			named[name] += count * cost
		}
		for i, part := range s.PrefixItems {
			cost, err := c.cost(part, levels)
			if err != nil {
				return 0, err
			}
			indexed[i] += count * cost
		}
	}
	most := 0.0
	for cost := range maps.Values(named) {
		most = max(most, cost)
	}
	for cost := range maps.Values(indexed) {
		most = max(most, cost)
	}
	return wild + most, nil
}

// wildcards are the parts that may apply to any child.
func wildcards(s *jsonschema.Schema) []*jsonschema.Schema {
	var parts []*jsonschema.Schema
	for _, part := range []*jsonschema.Schema{s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020, s.UnevaluatedItems} {
		if part != nil {
			parts = append(parts, part)
		}
	}
	for _, part := range s.PatternProperties {
		parts = append(parts, part)
	}
	for _, either := range []any{s.AdditionalProperties, s.AdditionalItems, s.Items} {
		if part, ok := either.(*jsonschema.Schema); ok {
			parts = append(parts, part)
		}
	}
	return parts
}
