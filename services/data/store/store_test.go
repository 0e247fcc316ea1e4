package store_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/services/data"
	"weir.dev/services/data/store/postgres"
	"weir.dev/services/data/store/sqlite"
	"weir.dev/services/data/storetest"
	"weir.dev/services/pgtest"
)

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) data.Store {
		store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "a folder", "data?%.db"))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		return store
	})
}

func TestPostgres(t *testing.T) {
	server := pgtest.New(t)
	storetest.Run(t, func(t *testing.T) data.Store {
		url, err := server.Database(t.Context())
		require.NoError(t, err)
		store, err := postgres.Open(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		return store
	})
}
