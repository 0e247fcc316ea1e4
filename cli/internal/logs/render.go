package logs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Entry is one line of a log, understood as far as possible.
type Entry struct {
	Component string
	// Time is zero when the line does not say.
	Time time.Time
	// Level is upper case, or empty.
	Level string
	// Message is the whole line when it is not JSON.
	Message string
	// Fields are the other members of a JSON line, as text.
	Fields map[string]string
	// Raw is the line itself.
	Raw string
}

// Parse understands a line; any line will do.
func Parse(component, line string) Entry {
	entry := Entry{Component: component, Message: line, Raw: line}
	var members map[string]json.RawMessage
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &members) != nil {
		return entry
	}
	entry.Message = ""
	entry.Fields = map[string]string{}
	for name, raw := range members {
		value := text(raw)
		switch name {
		case "time", "start_time":
			if at, err := time.Parse(time.RFC3339Nano, value); err == nil {
				entry.Time = at
				continue
			}
		case "level":
			entry.Level = strings.ToUpper(value)
			continue
		case "msg":
			entry.Message = value
			continue
		case "component":
			continue // Known from the file.
		}
		entry.Fields[name] = value
	}
	return entry
}

func text(raw json.RawMessage) string {
	var value string
	if json.Unmarshal(raw, &value) == nil {
		return value
	}
	return string(raw)
}

// Severe reports whether the entry is a warning or worse.
func (e Entry) Severe() bool {
	switch e.Level {
	case "WARN", "WARNING", "ERROR", "CRITICAL":
		return true
	}
	return false
}

// Painter colours a text; see Render.
type Painter func(component, text string) string

// Render makes one line for people. Control characters are shown as such, so
// that no log can play with the terminal. paint may be nil.
func (e Entry) Render(paint Painter) string {
	name := fmt.Sprintf("%-12s", e.Component)
	if paint != nil {
		name = paint(e.Component, name)
	}
	at := "            "
	if !e.Time.IsZero() {
		at = e.Time.Local().Format("15:04:05.000")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s ", at, name)
	if e.Level != "" {
		fmt.Fprintf(&b, "%-5s ", e.Level)
	}
	b.WriteString(printable(e.Message))
	for _, key := range slices.Sorted(maps.Keys(e.Fields)) {
		value := printable(e.Fields[key])
		if value == "" || value == "null" {
			continue
		}
		if strings.ContainsAny(value, " \"") && !strings.HasPrefix(value, "{") && !strings.HasPrefix(value, "[") {
			value = fmt.Sprintf("%q", value)
		}
		if !strings.HasSuffix(b.String(), " ") {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s", printable(key), value)
	}
	return strings.TrimRight(b.String(), " ")
}

func printable(text string) string {
	if strings.IndexFunc(text, unicode.IsControl) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n':
			b.WriteString(" ⏎ ")
		case r == '\t':
			b.WriteByte(' ')
		case unicode.IsControl(r):
			fmt.Fprintf(&b, "\\x%02x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
