// Package guide runs the examples of Weir's guides as they stand there.
package guide

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Block is one example of a guide that is run.
type Block struct {
	// Line is where its comment stands, from 1.
	Line int
	// Mode is empty for a block that must succeed, Fails for one that must not, and
	// Retry for one that may be run again until its output is as expected, since what
	// it looks at takes a moment to change. Kubernetes is as Retry, where there is a
	// Kubernetes API.
	Mode   string
	expect []string
	script string
}

// Modes of a Block.
const (
	Fails      = "fails"
	Retry      = "retry"
	Kubernetes = "kubernetes"
)

var directive = regexp.MustCompile(`^<!-- (run|expect): ?(.*?) ?-->$|^<!-- (run) -->$`)

// Blocks extracts the ```sh blocks that "<!-- run -->" precedes, with the
// "<!-- expect: text -->" lines between the two.
func Blocks(guide string) ([]Block, error) {
	var blocks []Block
	var pending *Block
	lines := strings.Split(guide, "\n")
	for i := 0; i < len(lines); i++ {
		found := directive.FindStringSubmatch(strings.TrimSpace(lines[i]))
		switch {
		case found != nil && found[1] == "expect":
			if pending == nil {
				return nil, fmt.Errorf("line %d: expect without run before it", i+1)
			}
			pending.expect = append(pending.expect, found[2])
		case found != nil:
			if pending != nil {
				return nil, fmt.Errorf("line %d: no sh block follows this run", pending.Line)
			}
			if !slices.Contains([]string{"", Fails, Retry, Kubernetes}, found[2]) {
				return nil, fmt.Errorf("line %d: run: %s is not known; write fails, retry, kubernetes or nothing", i+1, found[2])
			}
			pending = &Block{Line: i + 1, Mode: found[2]}
		case pending != nil && lines[i] == "```sh":
			end := i + 1
			for end < len(lines) && lines[end] != "```" {
				end++
			}
			if end == len(lines) {
				return nil, fmt.Errorf("line %d: the block does not end", i+1)
			}
			pending.script = strings.Join(lines[i+1:end], "\n")
			blocks, pending, i = append(blocks, *pending), nil, end
		case pending != nil && strings.TrimSpace(lines[i]) != "":
			return nil, fmt.Errorf("line %d: no sh block follows this run", pending.Line)
		}
	}
	if pending != nil {
		return nil, fmt.Errorf("line %d: no sh block follows this run", pending.Line)
	}
	return blocks, nil
}

const (
	blockTimeout = time.Minute
	retryFor     = 10 * time.Second
	retryEvery   = 100 * time.Millisecond
)

// Run runs a guide's blocks in order, each by a sh of its own, in dir.
// Variables that one sets are there for the next.
func Run(ctx context.Context, blocks []Block, dir string, env []string) error {
	if len(blocks) == 0 {
		return errors.New("nothing in it is run: mark an example with <!-- run -->")
	}
	variables, err := os.CreateTemp("", "weir-guide-")
	if err != nil {
		return err
	}
	defer os.Remove(variables.Name())
	defer variables.Close()
	env = append(env, "GUIDE_VARIABLES="+variables.Name())
	for _, b := range blocks {
		started := time.Now()
		for {
			err := runBlock(ctx, b, dir, env)
			if err == nil {
				break
			}
			if b.Mode != Retry && b.Mode != Kubernetes || time.Since(started) > retryFor {
				return fmt.Errorf("line %d: %w", b.Line, err)
			}
			time.Sleep(retryEvery)
		}
	}
	return nil
}

func runBlock(ctx context.Context, b Block, dir string, env []string) error {
	ctx, cancel := context.WithTimeout(ctx, blockTimeout)
	defer cancel()
	shell := exec.CommandContext(ctx, "sh", "-c", "set -ea\n. \"$GUIDE_VARIABLES\"\n"+b.script+"\nexport -p > \"$GUIDE_VARIABLES\"\n")
	shell.Dir, shell.Env = dir, env
	out, err := shell.CombinedOutput()
	switch {
	case b.Mode == Fails && err == nil:
		return fmt.Errorf("succeeded and should not have:\n%s\n%s", b.script, out)
	case b.Mode != Fails && err != nil:
		return fmt.Errorf("%w:\n%s\n%s", err, b.script, out)
	}
	for _, want := range b.expect {
		if !strings.Contains(string(out), want) {
			return fmt.Errorf("%q is not in what this printed:\n%s\n%s", want, b.script, out)
		}
	}
	return nil
}
