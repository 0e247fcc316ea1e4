package source

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weir.dev/kit/atomicfile"
	"weir.dev/policy"
)

// keepEvery is how often the file is written while objects keep changing: it
// holds all of them.
const keepEvery = time.Second

// Keeper keeps a source's last good objects in a file, so that they serve after
// a restart when the source cannot be read or an object has become broken. The
// file has mode 0600: it holds what the objects hold, secrets included. Use
// NewKeeper.
type Keeper struct {
	path   string
	logger *slog.Logger
	newest chan []*policy.Object
}

// NewKeeper keeps in the file at path; "" keeps nothing.
func NewKeeper(path string, logger *slog.Logger) *Keeper {
	return &Keeper{path: path, logger: logger, newest: make(chan []*policy.Object, 1)}
}

// kept is one object on disk.
type kept struct {
	File     string          `json:"file"`
	Document json.RawMessage `json:"document"`
}

// Load reads what was kept; nothing was when there is no file. A damaged file is
// named in the log and replaced at the next Keep: it is a cache of the source,
// and refusing to start would serve nobody.
func (k *Keeper) Load(parser *policy.Parser) ([]*policy.Object, error) {
	if k.path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(k.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("last good policy: %w", err)
	}
	var documents []kept
	if err := json.Unmarshal(raw, &documents); err != nil {
		k.logger.Error("the kept last good policy is damaged and is not used", "file", k.path, "error", err)
		return nil, nil
	}
	var objects []*policy.Object
	for _, one := range documents {
		// Lines are not kept: the file may have changed since.
		if document := parser.ParseObject(one.File, one.Document); document.Object != nil {
			objects = append(objects, document.Object)
		}
	}
	return objects, nil
}

// Keep hands over the objects to keep in place of earlier ones; it does not wait
// for the disk. The slice is the Keeper's from then on. Calls come from one
// goroutine.
func (k *Keeper) Keep(objects []*policy.Object) {
	select {
	case <-k.newest:
	default:
	}
	k.newest <- objects
}

// Start begins to write what Keep is given; stop writes what is left and returns
// when that is done. Failing to keep does not stop serving; it is logged.
func (k *Keeper) Start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.run(ctx)
	}()
	return func() { cancel(); <-ended }
}

func (k *Keeper) run(ctx context.Context) {
	for {
		select {
		case objects := <-k.newest:
			k.write(objects)
		case <-ctx.Done():
			select {
			case objects := <-k.newest:
				k.write(objects)
			default:
			}
			return
		}
		select {
		case <-time.After(keepEvery):
		case <-ctx.Done():
		}
	}
}

func (k *Keeper) write(objects []*policy.Object) {
	if k.path == "" {
		return
	}
	slices.SortFunc(objects, func(a, b *policy.Object) int {
		return cmp.Or(strings.Compare(a.File, b.File), bytes.Compare(a.JSON(), b.JSON()))
	})
	raw, err := encode(objects)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(k.path), 0o700)
	}
	if err == nil {
		err = atomicfile.Write(k.path, raw, 0o600)
	}
	if err != nil {
		k.logger.Error("cannot keep the last good policy", "file", k.path, "error", err)
	}
}

// encode is a list of kept as JSON. Objects are JSON already: they are put in as
// they are.
func encode(objects []*policy.Object) ([]byte, error) {
	size := 2
	for _, object := range objects {
		size += len(object.JSON()) + len(object.File) + 32
	}
	raw := append(make([]byte, 0, size), '[')
	file, name := []byte(nil), ""
	for i, object := range objects {
		if file == nil || object.File != name {
			var err error
			if file, err = json.Marshal(object.File); err != nil {
				return nil, err
			}
			name = object.File
		}
		if i > 0 {
			raw = append(raw, ',')
		}
		raw = append(append(raw, `{"file":`...), file...)
		raw = append(append(raw, `,"document":`...), object.JSON()...)
		raw = append(raw, '}')
	}
	return append(raw, ']'), nil
}
