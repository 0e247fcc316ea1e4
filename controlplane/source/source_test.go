package source_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/source"
	"weir.dev/policy"
)

// scripted emits what it is given.
type scripted struct {
	name string
	say  chan source.Update
	end  chan error
}

func newScripted(name string) *scripted {
	return &scripted{name: name, say: make(chan source.Update), end: make(chan error, 1)}
}

func (s *scripted) Name() string { return s.name }

func (s *scripted) Run(ctx context.Context, emit func(source.Update)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.end:
			return err
		case update := <-s.say:
			emit(update)
		}
	}
}

func parse(t *testing.T, file, name string) *policy.Object {
	t.Helper()
	parser, err := policy.NewParser()
	require.NoError(t, err)
	document := parser.ParseObject(file, []byte(`{"apiVersion":"weir.dev/v1alpha1","kind":"Backend","metadata":{"name":"`+name+`"},"spec":{"endpoints":[{"address":"127.0.0.1","port":1}]}}`))
	require.Empty(t, document.Problems)
	return document.Object
}

func update(objects ...*policy.Object) source.Update {
	return source.Update{Input: policy.Input{Objects: objects, Closings: []policy.Closing{{}}}, Problems: policy.Problems{{Message: "m"}}}
}

func TestJoined(t *testing.T) {
	a, b := newScripted("a"), newScripted("b")
	joined := source.Joined{Sources: []source.Source{a, b}, Logger: slog.New(slog.DiscardHandler)}
	require.Equal(t, "a, b", joined.Name())
	ctx, cancel := context.WithCancel(t.Context())
	emitted, ended := make(chan source.Update, 10), make(chan error, 1)
	go func() { ended <- joined.Run(ctx, func(u source.Update) { emitted <- u }) }()
	one, two := parse(t, "a", "one"), parse(t, "b", "two")
	a.say <- update(one)
	a.say <- update(one) // The first is through by now.
	require.Empty(t, emitted, "nothing before every source has said something")
	b.say <- update(two)
	first := <-emitted
	require.Equal(t, []*policy.Object{one, two}, first.Input.Objects)
	require.Len(t, first.Input.Closings, 2)
	require.Len(t, first.Problems, 2)
	a.say <- update()
	next := <-emitted
	if len(next.Input.Objects) == 2 { // The second that a said was not through before b said something.
		next = <-emitted
	}
	require.Equal(t, []*policy.Object{two}, next.Input.Objects)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestJoinedEndsWithASource(t *testing.T) {
	a, b := newScripted("a"), newScripted("b")
	b.end <- errors.New("gone")
	err := source.Joined{Sources: []source.Source{a, b}, Logger: slog.New(slog.DiscardHandler)}.Run(t.Context(), func(source.Update) {})
	require.EqualError(t, err, "b: gone")
}

func TestKeeper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "keep.json")
	parser, err := policy.NewParser()
	require.NoError(t, err)
	var log bytes.Buffer
	keeper := source.NewKeeper(path, slog.New(slog.NewTextHandler(&log, nil)))
	objects, err := keeper.Load(parser)
	require.NoError(t, err)
	require.Empty(t, objects)

	stop := keeper.Start()
	for _, name := range []string{"a", "b", "c"} {
		keeper.Keep([]*policy.Object{parse(t, "file.yaml", name)})
	}
	stop()
	objects, err = keeper.Load(parser)
	require.NoError(t, err)
	require.Len(t, objects, 1)
	require.Equal(t, "c", objects[0].Ref.Name, "what came last is kept at the end")
	require.Equal(t, "file.yaml", objects[0].File)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	objects, err = keeper.Load(parser)
	require.NoError(t, err)
	require.Empty(t, objects)
	require.Contains(t, log.String(), "damaged")

	none := source.NewKeeper("", slog.New(slog.DiscardHandler))
	stop = none.Start()
	none.Keep(nil)
	stop()
	objects, err = none.Load(parser)
	require.NoError(t, err)
	require.Empty(t, objects)
}
