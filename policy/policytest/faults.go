// Package policytest reads the table of faults that package policy and the
// custom resource definitions are both tested with: single mistakes in good
// objects, each of which both have to refuse. It is used in tests alone.
package policytest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Case is one object of the table.
type Case struct {
	// Name is the kind, and what is wrong with it, if anything is.
	Name string
	// Object is the object as JSON.
	Object []byte
	// Refused says whether the parser has to refuse it; good ones are in the table
	// too.
	Refused bool
	// OnlyParser is why a definition cannot say so; the API server then takes it.
	OnlyParser string
}

type table struct {
	Kinds []struct {
		Good   map[string]any `yaml:"good"`
		Faults []fault        `yaml:"faults"`
	} `yaml:"kinds"`
}

type fault struct {
	At         string `yaml:"at"`
	To         any    `yaml:"to"`
	Drop       bool   `yaml:"drop"`
	Fine       bool   `yaml:"fine"`
	OnlyParser string `yaml:"onlyParser"`
}

// Cases reads the table.
func Cases(content []byte) ([]Case, error) {
	var read table
	if err := yaml.Unmarshal(content, &read); err != nil {
		return nil, err
	}
	var cases []Case
	for _, kind := range read.Kinds {
		good, err := json.Marshal(kind.Good)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprint(kind.Good["kind"])
		cases = append(cases, Case{Name: name + ": good", Object: good})
		for _, fault := range kind.Faults {
			one, err := fault.in(good)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, fault.At, err)
			}
			to, err := json.Marshal(fault.To)
			if err != nil {
				return nil, err
			}
			text := name + ": " + fault.At + " = " + string(to)
			if fault.Drop {
				text = name + ": no " + fault.At
			}
			cases = append(cases, Case{Name: shortened(text), Object: one, Refused: !fault.Fine, OnlyParser: fault.OnlyParser})
		}
	}
	return cases, nil
}

func shortened(text string) string {
	if len(text) > 120 {
		return text[:120] + "..."
	}
	return text
}

// in is the good object with the fault.
func (f fault) in(good []byte) ([]byte, error) {
	var object any
	if err := json.Unmarshal(good, &object); err != nil {
		return nil, err
	}
	object, err := f.change(object, strings.Split(f.At, "."))
	if err != nil {
		return nil, err
	}
	return json.Marshal(object)
}

// change puts the fault at a path, such as spec, rules, 0, name.
func (f fault) change(value any, path []string) (any, error) {
	if len(path) == 0 {
		return f.To, nil
	}
	switch at := value.(type) {
	case map[string]any:
		if len(path) == 1 && f.Drop {
			if _, ok := at[path[0]]; !ok {
				return nil, fmt.Errorf("there is no %s", path[0])
			}
			delete(at, path[0])
			return at, nil
		}
		changed, err := f.change(at[path[0]], path[1:])
		at[path[0]] = changed
		return at, err
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i > len(at) {
			return nil, fmt.Errorf("%s is no place in a list of %d", path[0], len(at))
		}
		if i == len(at) {
			at = append(at, nil)
		}
		changed, err := f.change(at[i], path[1:])
		at[i] = changed
		return at, err
	case nil:
		changed, err := f.change(nil, path[1:])
		return map[string]any{path[0]: changed}, err
	default:
		return nil, fmt.Errorf("%s is below a %T", path[0], value)
	}
}
