// Command weirdocs writes the reference pages that are made from code, so that
// they say what the code does.
//
//	weirdocs CHECKOUT writes CHECKOUT/docs/reference/*.md
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: weirdocs CHECKOUT")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "weirdocs:", err)
		os.Exit(1)
	}
}

// write makes every page before it writes the first.
func write(checkout string) error {
	codes, err := codesPage(checkout)
	if err != nil {
		return fmt.Errorf("error codes: %w", err)
	}
	pages := map[string]string{
		"problems.md": problemsPage(), "commands.md": commandsPage(),
		"edge-answers.md": answersPage(), "error-codes.md": codes,
	}
	for name, content := range pages {
		path := filepath.Join(checkout, "docs", "reference", name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil { //nolint:gosec // A page for everyone.
			return err
		}
	}
	return nil
}
