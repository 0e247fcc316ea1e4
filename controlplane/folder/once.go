package folder

import (
	"fmt"
	"os"
	"time"

	"weir.dev/policy"
)

// Read reads folders and single files once, as a Source without history would.
// The error is about a path that cannot be read at all.
func Read(parser *policy.Parser, paths ...string) (Update, error) {
	source := &Source{parser: parser, files: map[string]*file{}, good: map[policy.ObjectRef]*policy.Object{}, down: map[string]error{}}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return Update{}, err
		}
		files := []string{path}
		if info.IsDir() {
			if files, err = list(path, nil); err != nil {
				return Update{}, err
			}
		} else if !isPolicyFile(info.Name()) {
			return Update{}, fmt.Errorf("%s: a policy file ends in .yaml, .yml or .json", path)
		}
		for _, file := range files {
			source.read(file, time.Now())
		}
	}
	return source.build(), nil
}
