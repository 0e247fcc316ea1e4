package sqldb_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	datapostgres "weir.dev/services/data/store/postgres"
	datasqlite "weir.dev/services/data/store/sqlite"
	"weir.dev/services/internal/sqldb"
	"weir.dev/services/pgtest"
	userpostgres "weir.dev/services/user/store/postgres"
	usersqlite "weir.dev/services/user/store/sqlite"
)

type storage interface {
	Close() error
}

// TestSharedDatabase starts several processes' worth of both services at once
// on one database: the migrations and the secrets agree.
func TestSharedDatabase(t *testing.T) {
	url, err := pgtest.New(t).Database(t.Context())
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "both.db")
	for name, open := range map[string]struct {
		user, data func() (storage, []byte, error)
	}{
		"postgres": {
			func() (storage, []byte, error) {
				s, err := userpostgres.Open(t.Context(), url)
				if err != nil {
					return nil, nil, err
				}
				secret, err := s.PageSecret(t.Context())
				return s, secret, err
			},
			func() (storage, []byte, error) {
				s, err := datapostgres.Open(t.Context(), url)
				if err != nil {
					return nil, nil, err
				}
				secret, err := s.PageSecret(t.Context())
				return s, secret, err
			},
		},
		"sqlite": {
			func() (storage, []byte, error) {
				s, err := usersqlite.Open(t.Context(), path)
				if err != nil {
					return nil, nil, err
				}
				secret, err := s.PageSecret(t.Context())
				return s, secret, err
			},
			func() (storage, []byte, error) {
				s, err := datasqlite.Open(t.Context(), path)
				if err != nil {
					return nil, nil, err
				}
				secret, err := s.PageSecret(t.Context())
				return s, secret, err
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			workers := 4
			if name == "sqlite" {
				workers = 1 // one process has the file
			}
			var group sync.WaitGroup
			secrets := make([][]byte, 2*workers)
			for i := range secrets {
				start := open.user
				if i%2 == 1 {
					start = open.data
				}
				group.Go(func() {
					s, secret, err := start()
					if err != nil {
						t.Errorf("open: %v", err)
						return
					}
					secrets[i] = secret
					if err := s.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
				})
			}
			group.Wait()
			for i, secret := range secrets {
				require.Len(t, secret, 32)
				require.Equal(t, secrets[i%2], secret)
			}
			require.NotEqual(t, secrets[0], secrets[1])
			s, again, err := open.user()
			require.NoError(t, err)
			require.NoError(t, s.Close())
			require.Equal(t, secrets[0], again)
		})
	}
}

func TestErrorsKeepThePassword(t *testing.T) {
	for _, url := range []string{
		"postgres://user:hunter2@/%zz", "postgres://user:hunter2@127.0.0.1:1/db?connect_timeout=1",
		"host=/nowhere password=hunter2 dbname=x", "postgres://user:hunter2@host:port/db",
	} {
		_, err := sqldb.OpenPostgres(t.Context(), url)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestSQLitePathErrors(t *testing.T) {
	_, err := sqldb.OpenSQLite(t.Context(), "")
	require.ErrorContains(t, err, "store.sqlite.path")
	_, err = sqldb.OpenSQLite(t.Context(), t.TempDir())
	require.Error(t, err)
}
