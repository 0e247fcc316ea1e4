package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"weir.dev/cli/development"
	"weir.dev/controlplane/envoy"
	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

// loaded is what folders and files of policy resolve to.
type loaded struct {
	// own is how many objects the paths hold; objects has those of weir up, too.
	own      int
	objects  []*policy.Object
	closings []policy.Closing
	plan     *policy.Plan
	problems policy.Problems
}

// loader loads paths, each time with the same development objects beside them.
type loader struct {
	parser *policy.Parser
	// added is what weir up adds; none when it is to be left out.
	added []development.File
}

func newLoader(alone bool) (*loader, error) {
	parser, err := policy.NewParser()
	if err != nil || alone {
		return &loader{parser: parser}, err
	}
	added, err := development.Placeholders()
	return &loader{parser: parser, added: added}, err
}

// runningLoader has the development objects of the Weir that runs.
func (a *App) runningLoader(alone bool) (*loader, error) {
	parser, err := policy.NewParser()
	if err != nil || alone {
		return &loader{parser: parser}, err
	}
	dir, err := a.state()
	if err != nil {
		return nil, err
	}
	l := &loader{parser: parser}
	entries, err := os.ReadDir(dir.Development())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".yaml" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir.Development(), entry.Name()))
		if err != nil {
			return nil, err
		}
		l.added = append(l.added, development.File{Name: entry.Name(), Content: content})
	}
	return l, nil
}

// load reads and resolves paths. What weir up adds counts as present unless
// alone is set.
func load(paths []string, alone bool) (*loaded, error) {
	l, err := newLoader(alone)
	if err != nil {
		return nil, err
	}
	return l.load(paths)
}

func (l *loader) load(paths []string) (*loaded, error) {
	update, err := folder.Read(l.parser, paths...)
	if err != nil {
		return nil, err
	}
	result := &loaded{own: len(update.Input.Objects), problems: update.Problems}
	added, err := l.developmentObjects(update.Input.Objects)
	if err != nil {
		return nil, err
	}
	update.Input.Objects = append(update.Input.Objects, added...)
	plan, problems := policy.Resolve(update.Input)
	result.objects, result.closings, result.plan = update.Input.Objects, update.Input.Closings, plan
	result.problems = append(result.problems, problems...)
	result.problems.Sort()
	if result.problems == nil {
		result.problems = policy.Problems{} // "problems": [] in JSON
	}
	return result, nil
}

// developmentObjects are those of weir up that the folder does not define
// itself.
func (l *loader) developmentObjects(own []*policy.Object) ([]*policy.Object, error) {
	var objects []*policy.Object
	for _, file := range l.added {
		for _, document := range l.parser.Parse("(weir up) "+file.Name, file.Content) {
			if document.Object == nil {
				return nil, fmt.Errorf("what weir up adds is broken: %w", document.Problems[0])
			}
			if !slices.ContainsFunc(own, func(o *policy.Object) bool { return o.Ref == document.Object.Ref }) {
				objects = append(objects, document.Object)
			}
		}
	}
	return objects, nil
}

// offlineOptions stand in for the addresses that a running control plane has.
func offlineOptions(fleet string) envoy.Options {
	return envoy.Options{
		ListenAddress: "127.0.0.1", ExtAuthzAddress: "extauthz.invalid:443", RateLimitAddress: "ratelimit.invalid:443", Fleet: fleet,
	}
}
