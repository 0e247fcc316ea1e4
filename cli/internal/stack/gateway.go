package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"weir.dev/cli/state"
)

// Listener is one listening port that the policy folder asks for.
type Listener struct {
	Port int
	// HTTP is whether plain HTTP is spoken there.
	HTTP bool
}

// Bounds of what is read of a policy folder.
const maxPolicyFiles = 10_000

// Listeners finds the ports of the folder's Gateways, plain HTTP first. It reads
// only what it needs and leaves judging the files to the control plane; files
// that it cannot read as YAML are passed over.
func Listeners(dir string) ([]Listener, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("policy folder: %w; name one with --dir", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("policy folder %s is not a folder; name one with --dir", dir)
	}
	var listeners []Listener
	files := 0
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !isYAML(path) {
			return err
		}
		if files++; files > maxPolicyFiles {
			return fmt.Errorf("more than %d files", maxPolicyFiles)
		}
		content, err := state.ReadFile(path)
		if err == nil {
			listeners = append(listeners, listenersIn(content)...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("policy folder %s: %w", dir, err)
	}
	// Several listeners may share a port, told apart by host name.
	seen := map[int]bool{}
	listeners = slices.DeleteFunc(listeners, func(l Listener) bool {
		double := seen[l.Port]
		seen[l.Port] = true
		return double
	})
	slices.SortStableFunc(listeners, func(a, b Listener) int { return rank(a) - rank(b) })
	if len(listeners) == 0 || !listeners[0].HTTP {
		return nil, fmt.Errorf("policy folder %s has no Gateway with a listener of protocol HTTP: nothing would be served; name another folder with --dir", dir)
	}
	return listeners, nil
}

func isYAML(path string) bool {
	return strings.HasSuffix(path, ".yaml") || strings.HasSuffix(path, ".yml")
}

func listenersIn(content []byte) []Listener {
	var found []Listener
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var document struct {
			Kind string `yaml:"kind"`
			Spec struct {
				Listeners []struct {
					Protocol string `yaml:"protocol"`
					Port     int    `yaml:"port"`
				} `yaml:"listeners"`
			} `yaml:"spec"`
		}
		err := decoder.Decode(&document)
		var mismatch *yaml.TypeError
		if errors.Is(err, io.EOF) || err != nil && !errors.As(err, &mismatch) {
			return found
		}
		if err != nil || document.Kind != "Gateway" {
			continue
		}
		for _, listener := range document.Spec.Listeners {
			if listener.Port > 0 && listener.Port < 1<<16 {
				found = append(found, Listener{Port: listener.Port, HTTP: listener.Protocol == "HTTP"})
			}
		}
	}
}

func rank(l Listener) int {
	if l.HTTP {
		return 0
	}
	return 1
}
