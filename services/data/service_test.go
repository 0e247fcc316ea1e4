package data_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/kit/fault"
	"weir.dev/kit/identity"
	"weir.dev/services/data"
	"weir.dev/services/data/store/sqlite"
)

// TestResultsAreKept checks how long an idempotency key holds.
func TestResultsAreKept(t *testing.T) {
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "data.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	service := data.New(data.Options{Store: store, Clock: func() time.Time { return now }})
	ctx := identity.NewContext(t.Context(), identity.Identity{Tenant: "acme"})
	request := data.NewCollection{DisplayName: "one", RequestID: "key"}
	first, err := service.CreateCollection(ctx, request)
	require.NoError(t, err)

	now = now.Add(25 * time.Hour)
	count, err := service.Forget(ctx)
	require.NoError(t, err)
	require.Zero(t, count)
	again, err := service.CreateCollection(ctx, request)
	require.NoError(t, err)
	require.Equal(t, first, again)

	now = now.Add(data.ResultsKept)
	count, err = service.Forget(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, count)
	fresh, err := service.CreateCollection(ctx, request)
	require.NoError(t, err)
	require.NotEqual(t, first.ID, fresh.ID)
}

// changingStore changes the schema of a collection behind the service's back,
// between its decision and its write.
type changingStore struct {
	data.Store
	change func()
}

func (s *changingStore) CreateRecord(ctx context.Context, r data.Record, revision int64, result *data.Result) (*data.Result, error) {
	if s.change != nil {
		change := s.change
		s.change = nil
		change()
	}
	return s.Store.CreateRecord(ctx, r, revision, result)
}

// TestSchemaChangeDuringWrite checks that a record is held to the schema that
// is in force when it is written.
func TestSchemaChangeDuringWrite(t *testing.T) {
	sql, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "data.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sql.Close()) })
	store := &changingStore{Store: sql}
	service := data.New(data.Options{Store: store})
	ctx := identity.NewContext(t.Context(), identity.Identity{Tenant: "acme"})
	_, err = service.CreateCollection(ctx, data.NewCollection{ID: "notes"})
	require.NoError(t, err)
	store.change = func() {
		_, err := service.UpdateCollection(ctx, data.CollectionUpdate{Name: "collections/notes", Schema: data.Object{"required": []any{"title"}}})
		require.NoError(t, err)
	}
	_, err = service.CreateRecord(ctx, data.NewRecord{Parent: "collections/notes", Data: data.Object{}})
	require.Equal(t, "SCHEMA_VIOLATION", fault.From(err).Reason)
	require.True(t, strings.HasPrefix(fault.From(err).Fields[0].Field, "record.data.title"))
}
