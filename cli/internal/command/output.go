package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// Formats of output.
const (
	formatText = "text"
	formatJSON = "json"
	formatYAML = "yaml"
)

// formatFlag adds -o with text, json and yaml to a command; see checkFormat.
func formatFlag(c *cobra.Command) *string {
	return c.Flags().StringP("output", "o", formatText, "`format` of the output: text, json or yaml")
}

func checkFormat(format string) error {
	switch format {
	case formatText, formatJSON, formatYAML:
		return nil
	}
	return usageError{fmt.Errorf("--output %q is not known; use text, json or yaml", format)}
}

// write prints a value as text by the function given, or as JSON or YAML.
func write(w io.Writer, format string, value any, text func(io.Writer)) error {
	switch format {
	case formatJSON:
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case formatYAML:
		raw, err := json.Marshal(value)
		if err != nil {
			return err
		}
		return writeYAML(w, raw)
	default:
		// Written at once: half a page is of no use to who reads through a pipe.
		var page bytes.Buffer
		text(&page)
		_, err := w.Write(page.Bytes())
		return err
	}
}

// writeYAML writes JSON as YAML, in the order of the JSON.
func writeYAML(w io.Writer, raw []byte) error {
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return err
	}
	blockStyle(&node)
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(&node); err != nil {
		return err
	}
	return encoder.Close()
}

// blockStyle takes JSON's braces and quotes away where YAML needs none.
func blockStyle(node *yaml.Node) {
	node.Style &^= yaml.FlowStyle
	if node.Kind == yaml.ScalarNode && node.Tag == "!!str" {
		node.Style &^= yaml.DoubleQuotedStyle
	}
	for _, inner := range node.Content {
		blockStyle(inner)
	}
}

// answersDiffer marks the commands whose exit code 2 says that something
// differs; wrong usage ends them with 1.
const answersDiffer = "answers-differ"

// differError ends with exit code 2 and says nothing more.
type differError struct{}

func (differError) Error() string { return "differs" }

const exitDiffer = 2
