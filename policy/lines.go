package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// linesOf are the lines of the values of a document, in the order in which they
// stand in its JSON; those of the members of a mapping are their keys'. It is what
// is kept of a YAML tree, which has some hundred times the size.
func linesOf(node *yaml.Node, value any) []int32 {
	return appendLines(nil, node, value)
}

func appendLines(lines []int32, node *yaml.Node, value any) []int32 {
	step := func(part string, value any) {
		next, line := child(node, part)
		lines = append(lines, int32(line)) //nolint:gosec // of a file within bounds
		lines = appendLines(lines, next, value)
	}
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) { // as encoding/json writes them
			step(key, value[key])
		}
	case []any:
		for i, item := range value {
			step(strconv.Itoa(i), item)
		}
	}
	return lines
}

// lineWalk goes through a document's JSON, which json.Marshal made, and counts
// its values.
type lineWalk struct {
	raw   []byte
	at    int
	count int
}

// lineAt is the line of the deepest part of a path that is there, 0 for none.
func lineAt(raw []byte, lines []int32, parts []string) int {
	w := &lineWalk{raw: raw}
	line := 0
	for _, part := range parts {
		at, found := w.enter(part)
		if !found || at >= len(lines) {
			break
		}
		line = int(lines[at])
	}
	return line
}

// enter goes to a member of the value at hand, and returns its number.
func (w *lineWalk) enter(part string) (number int, found bool) {
	switch w.peek() {
	case '{':
		for w.at++; w.peek() == '"'; w.comma() {
			key := w.text()
			w.at++ // the colon
			number, w.count = w.count, w.count+1
			if key == part {
				return number, true
			}
			w.skip()
		}
	case '[':
		index, err := strconv.Atoi(part)
		if err != nil {
			return 0, false
		}
		for w.at++; w.peek() != ']' && w.peek() != 0; w.comma() {
			number, w.count = w.count, w.count+1
			if index == 0 {
				return number, true
			}
			index--
			w.skip()
		}
	}
	return 0, false
}

func (w *lineWalk) peek() byte {
	if w.at < len(w.raw) {
		return w.raw[w.at]
	}
	return 0
}

func (w *lineWalk) comma() {
	if w.peek() == ',' {
		w.at++
	}
}

// text reads a string.
func (w *lineWalk) text() string {
	start, escaped := w.at, false
	for w.at++; w.peek() != '"' && w.peek() != 0; w.at++ {
		if w.peek() == '\\' {
			escaped = true
			w.at++
		}
	}
	w.at++
	if escaped {
		var key string
		_ = json.Unmarshal(w.raw[start:min(w.at, len(w.raw))], &key)
		return key
	}
	return string(w.raw[start+1 : min(w.at, len(w.raw))-1])
}

// skip goes past a value and counts what is in it.
func (w *lineWalk) skip() {
	switch w.peek() {
	case '{':
		for w.at++; w.peek() == '"'; w.comma() {
			w.text()
			w.at++
			w.count++
			w.skip()
		}
		w.at++
	case '[':
		for w.at++; w.peek() != ']' && w.peek() != 0; w.comma() {
			w.count++
			w.skip()
		}
		w.at++
	case '"':
		w.text()
	default:
		for c := w.peek(); c != ',' && c != '}' && c != ']' && c != 0; c = w.peek() {
			w.at++
		}
	}
}
