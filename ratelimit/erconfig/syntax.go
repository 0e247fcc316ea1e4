package erconfig

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
)

// lineOf is how the YAML reader begins what it has to say of a line.
var lineOf = regexp.MustCompile(`^line (\d+): `)

// beforeToken is what stands before the first token of a line: spaces, tabs, and
// the dashes of lists.
var beforeToken = regexp.MustCompile(`^[ \t-]*`)

// notYAML is what the YAML reader says of content that is none: its line apart, 0
// for none, and in plain words for what people most often write.
func notYAML(content []byte, err error) (line int, message string) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	if found := lineOf.FindStringSubmatch(message); found != nil {
		if number, wrong := strconv.Atoi(found[1]); wrong == nil {
			line, message = number, message[len(found[0]):]
		}
	}
	tabbed, start := strings.Contains(message, "a tab character"), strings.Contains(message, "cannot start any token")
	if !tabbed && !start {
		return line, message
	}
	// The line is at times the one before.
	lines := bytes.SplitN(content, []byte("\n"), line+2)
	for at := max(line, 1); at <= min(line+1, len(lines)); at++ {
		if bytes.ContainsRune(beforeToken.Find(lines[at-1]), '\t') {
			return at, "a tab in the indentation; write spaces"
		}
	}
	if start {
		message += "; a text that begins with @, ` or % stands in quotes"
	}
	return line, message
}
