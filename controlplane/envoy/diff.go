package envoy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"weir.dev/policy"
)

// ResourceChange is a resource that differs between two sets. Its JSON is that
// of weir.admin.v1.ResourceChange.
type ResourceChange struct {
	// Type is a short name, see Types.
	Type string `json:"type"`
	Name string `json:"name"`
	// Action is one of policy's Change constants.
	Action string `json:"action"`
	// Diff is in the unified format, of the resources as YAML with secrets hidden;
	// empty for what is added or removed whole, and when it was not asked for.
	Diff string `json:"diff,omitempty"`
}

// Diff lists the resources that differ, by type and name; text asks for the
// differences themselves. Either set may be nil.
func Diff(before, after Set, text bool) ([]ResourceChange, error) {
	types := maps.Clone(before)
	if types == nil {
		types = Set{}
	}
	maps.Copy(types, after)
	var changes []ResourceChange
	for _, typeURL := range types.TypeURLs() {
		names := maps.Clone(before[typeURL])
		if names == nil {
			names = map[string]Resource{}
		}
		maps.Copy(names, after[typeURL])
		for _, name := range slices.Sorted(maps.Keys(names)) {
			old, was := before[typeURL][name]
			next, is := after[typeURL][name]
			change := ResourceChange{Type: ShortType(typeURL), Name: name}
			switch {
			case !was:
				change.Action = policy.ChangeAdded
			case !is:
				change.Action = policy.ChangeRemoved
			case old.Version == next.Version:
				continue
			default:
				change.Action = policy.ChangeChanged
				if !text {
					break
				}
				var err error
				if change.Diff, err = diffResources(old, next); err != nil {
					return nil, err
				}
			}
			changes = append(changes, change)
		}
	}
	return changes, nil
}

// AddAll takes over the resources of a fleet; those of a named one are called
// after it.
func (s Set) AddAll(fleet string, other Set) {
	for typeURL, resources := range other {
		if s[typeURL] == nil {
			s[typeURL] = map[string]Resource{}
		}
		for name, resource := range resources {
			if fleet != "" && !strings.Contains(typeURL, "/weir.") {
				name = fleet + ": " + name
			}
			s[typeURL][name] = resource
		}
	}
}

func diffResources(old, next Resource) (string, error) {
	before, err := YAML(old)
	if err != nil {
		return "", err
	}
	after, err := YAML(next)
	if err != nil {
		return "", err
	}
	if before == after {
		return "(only what is hidden differs)\n", nil
	}
	return unified(strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")), nil
}

// YAML is Show as YAML.
func YAML(resource Resource) (string, error) {
	raw, err := Show(resource)
	if err != nil {
		return "", err
	}
	var tree any
	if err := yaml.Unmarshal(raw, &tree); err != nil {
		return "", err
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(tree); err != nil {
		return "", err
	}
	return out.String(), nil
}

const (
	// diffContext is how many equal lines surround a difference.
	diffContext = 3
	// maxEdits bounds the search for the shortest difference: time and memory grow
	// with its square.
	maxEdits = 1500
)

// edit is a line that is kept (' '), removed ('-') or added ('+').
type edit struct {
	kind byte
	line string
}

// unified compares lines, with context and without a heading.
func unified(a, b []string) string {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	middle := shortestEdit(a[head:len(a)-tail], b[head:len(b)-tail])
	edits := make([]edit, 0, len(middle)+head+tail)
	for _, line := range a[:head] {
		edits = append(edits, edit{' ', line})
	}
	edits = append(edits, middle...)
	for _, line := range a[len(a)-tail:] {
		edits = append(edits, edit{' ', line})
	}
	return hunks(edits)
}

// hunks prints edits with what surrounds them.
func hunks(edits []edit) string {
	var out strings.Builder
	last := -1 // the last edit printed
	oldLine, newLine := 1, 1
	for i, e := range edits {
		if e.kind != ' ' {
			from := max(last+1, i-diffContext)
			if from > last+1 || last < 0 {
				back := i - from
				fmt.Fprintf(&out, "@@ -%d +%d @@\n", oldLine-back, newLine-back)
			}
			to := min(len(edits), i+1+diffContext)
			for j := from; j < to && (j <= i || edits[j].kind == ' '); j++ {
				writeEdit(&out, edits[j])
				last = j
			}
		}
		if e.kind != '+' {
			oldLine++
		}
		if e.kind != '-' {
			newLine++
		}
	}
	return out.String()
}

func writeEdit(out *strings.Builder, e edit) {
	if e.line == "" {
		return
	}
	out.WriteByte(e.kind)
	out.WriteString(e.line)
	if !strings.HasSuffix(e.line, "\n") {
		out.WriteByte('\n')
	}
}

// shortestEdit turns a into b by the greedy algorithm of E. Myers, "An O(ND)
// Difference Algorithm and Its Variations" (1986); beyond maxEdits all of a is
// replaced by all of b.
func shortestEdit(a, b []string) []edit {
	var trace [][]int
	offset := len(a) + len(b) + 1
	offset = min(offset, maxEdits+1)
	v := make([]int, 2*offset+1)
	for d := 0; d <= len(a)+len(b); d++ {
		if d > maxEdits {
			return replaceAll(a, b)
		}
		trace = append(trace, slices.Clone(v[offset-min(d, offset):offset+min(d, offset)+1]))
		for k := -d; k <= d; k += 2 {
			var x int
			if k == -d || k != d && v[offset+k-1] < v[offset+k+1] {
				x = v[offset+k+1]
			} else {
				x = v[offset+k-1] + 1
			}
			y := x - k
			for x < len(a) && y < len(b) && a[x] == b[y] {
				x, y = x+1, y+1
			}
			v[offset+k] = x
			if x >= len(a) && y >= len(b) {
				return backtrack(trace, a, b)
			}
		}
	}
	return nil // a and b are empty
}

func replaceAll(a, b []string) []edit {
	edits := make([]edit, 0, len(a)+len(b))
	for _, line := range a {
		edits = append(edits, edit{'-', line})
	}
	for _, line := range b {
		edits = append(edits, edit{'+', line})
	}
	return edits
}

// backtrack walks the trace from the end; trace[d] holds diagonals -d to d.
func backtrack(trace [][]int, a, b []string) []edit {
	var edits []edit
	x, y := len(a), len(b)
	for d := len(trace) - 1; d > 0; d-- {
		v := trace[d]
		at := func(k int) int { return v[k+d] }
		k := x - y
		before := k - 1
		if k == -d || k != d && at(k-1) < at(k+1) {
			before = k + 1
		}
		startX := at(before)
		startY := startX - before
		for x > startX && y > startY && x > 0 && y > 0 && a[x-1] == b[y-1] {
			x, y = x-1, y-1
			edits = append(edits, edit{' ', a[x]})
		}
		if before == k+1 {
			y--
			edits = append(edits, edit{'+', b[y]})
		} else {
			x--
			edits = append(edits, edit{'-', a[x]})
		}
	}
	for x > 0 {
		x--
		edits = append(edits, edit{' ', a[x]})
	}
	slices.Reverse(edits)
	return edits
}
