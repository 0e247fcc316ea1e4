package folder

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file is whole only once nobody writes to it any more.
func TestClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	require.False(t, closed(path), "it is not there")
	file, err := os.Create(path)
	require.NoError(t, err)
	require.False(t, closed(path), "it is being written")
	reader, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, reader.Close()) }()
	require.NoError(t, file.Close())
	require.True(t, closed(path), "others may read it")
	more, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err, "the lease was handed back")
	require.False(t, closed(path))
	require.NoError(t, more.Close())
}
