package folder_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

const leftBackend = "apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: a}\nspec: {endpoints: [{address: 10.0.0.1, port: 80}]}\n"

func TestLeft(t *testing.T) {
	parser, err := policy.NewParser()
	require.NoError(t, err)
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(leftBackend)
	object := parser.Parse(file, []byte(leftBackend))[0].Object
	require.False(t, folder.Left(parser, object))
	write("a: [")
	require.False(t, folder.Left(parser, object), "half of it is written")
	write("apiVersion: weir.dev/v1alpha1\nkind: Backend\nmetadata: {name: b}\nspec: {endpoints: [{address: 10.0.0.1, port: 80}]}\n")
	require.True(t, folder.Left(parser, object))
	require.NoError(t, os.Remove(file))
	require.True(t, folder.Left(parser, object))
	require.NoError(t, os.Symlink(filepath.Join(dir, "away"), file))
	require.False(t, folder.Left(parser, object), "the file system that the link leads to is away")

	within := parser.Parse(filepath.Join(file, "deep", "a.yaml"), []byte(leftBackend))[0].Object
	require.False(t, folder.Left(parser, within))
	elsewhere := parser.Parse("kubernetes", []byte(leftBackend))[0].Object
	require.False(t, folder.Left(parser, elsewhere), "of no file")
}
