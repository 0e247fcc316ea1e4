// Package storetest is the conformance suite of data.Store: every
// implementation passes it.
package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"weir.dev/kit/fault"
	"weir.dev/services/data"
	"weir.dev/services/internal/query"
)

// Run checks the stores that newStore makes; each call gives an empty one.
func Run(t *testing.T, newStore func(t *testing.T) data.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, data.Store){
		"collections":        collections,
		"records":            records,
		"tenants":            tenants,
		"stale":              staleVersions,
		"results":            results,
		"import":             importing,
		"filters":            filters,
		"orders and pages":   orders,
		"concurrent creates": concurrentCreates,
		"concurrent updates": concurrentUpdates,
		"concurrent results": concurrentResults,
	} {
		t.Run(name, func(t *testing.T) { test(t, newStore(t)) })
	}
}

func epoch() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 678_000, time.UTC) }

func requireCode(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	require.Error(t, err)
	coded := fault.From(err)
	require.Equal(t, reason, coded.Reason, "%v", err)
	require.Equal(t, code, coded.Kind)
}

func collection(tenant, id string) data.Collection {
	return data.Collection{Tenant: tenant, ID: id, DisplayName: "C " + id, CreateTime: epoch(), UpdateTime: epoch(), Revision: 1}
}

func record(tenant, collection, id, document string) data.Record {
	return data.Record{
		Tenant: tenant, Collection: collection, ID: id, Data: data.Document(document),
		CreateTime: epoch(), UpdateTime: epoch(), Revision: 1,
	}
}

func create(t *testing.T, store data.Store, c data.Collection, records ...data.Record) {
	t.Helper()
	_, err := store.CreateCollection(t.Context(), c, nil)
	require.NoError(t, err)
	for _, r := range records {
		_, err := store.CreateRecord(t.Context(), r, c.Revision, nil)
		require.NoError(t, err)
	}
}

func collections(t *testing.T, store data.Store) {
	ctx := t.Context()
	c := collection("acme", "notes")
	c.Schema = data.Document(`{"type":"object"}`)
	create(t, store, c)
	got, err := store.GetCollection(ctx, "acme", "notes")
	require.NoError(t, err)
	require.Equal(t, c, got)

	_, err = store.CreateCollection(ctx, c, nil)
	requireCode(t, err, codes.AlreadyExists, "COLLECTION_ALREADY_EXISTS")
	_, err = store.GetCollection(ctx, "acme", "other")
	requireCode(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")

	c.DisplayName, c.Schema, c.Revision, c.UpdateTime = "Notes ☃", nil, 2, epoch().Add(time.Second)
	require.NoError(t, store.UpdateCollection(ctx, c))
	got, err = store.GetCollection(ctx, "acme", "notes")
	require.NoError(t, err)
	require.Equal(t, c, got)

	_, err = store.CreateRecord(ctx, record("acme", "notes", "a", `{}`), 2, nil)
	require.NoError(t, err)
	requireCode(t, store.DeleteCollection(ctx, "acme", "notes", 0, false), codes.FailedPrecondition, "COLLECTION_NOT_EMPTY")
	require.NoError(t, store.DeleteCollection(ctx, "acme", "notes", 2, true))
	requireCode(t, store.DeleteCollection(ctx, "acme", "notes", 0, false), codes.NotFound, "COLLECTION_NOT_FOUND")
	_, err = store.GetRecord(ctx, "acme", "notes", "a")
	requireCode(t, err, codes.NotFound, "RECORD_NOT_FOUND")
}

func records(t *testing.T, store data.Store) {
	ctx := t.Context()
	create(t, store, collection("acme", "notes"))
	for i, document := range []string{
		`{}`, `{"a":null,"b":true,"c":[1,2.5,-0.1,{"d":"x"}],"e":{"f":{}}}`,
		`{"big":` + fmt.Sprintf("%.0f", 1e308) + `,"small":0.000001}`, `{"text":"ünïcødé \" \\ \n 😀"}`,
	} {
		r := record("acme", "notes", fmt.Sprintf("r%d", i), document)
		_, err := store.CreateRecord(ctx, r, 1, nil)
		require.NoError(t, err)
		got, err := store.GetRecord(ctx, "acme", "notes", r.ID)
		require.NoError(t, err)
		require.JSONEq(t, document, string(got.Data))
		got.Data = r.Data
		require.Equal(t, r, got)
	}
	r := record("acme", "notes", "r0", `{"new":1}`)
	_, err := store.CreateRecord(ctx, r, 1, nil)
	requireCode(t, err, codes.AlreadyExists, "RECORD_ALREADY_EXISTS")
	_, err = store.CreateRecord(ctx, record("acme", "none", "r0", `{}`), 1, nil)
	requireCode(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")

	r.Revision, r.UpdateTime = 2, epoch().Add(time.Minute)
	require.NoError(t, store.UpdateRecord(ctx, r, 1))
	got, err := store.GetRecord(ctx, "acme", "notes", "r0")
	require.NoError(t, err)
	require.JSONEq(t, `{"new":1}`, string(got.Data))
	require.Equal(t, r.UpdateTime, got.UpdateTime)
	require.Equal(t, epoch(), got.CreateTime)

	require.NoError(t, store.DeleteRecord(ctx, "acme", "notes", "r0", 0))
	requireCode(t, store.DeleteRecord(ctx, "acme", "notes", "r0", 0), codes.NotFound, "RECORD_NOT_FOUND")
	requireCode(t, store.DeleteRecord(ctx, "acme", "notes", "r0", 2), codes.NotFound, "RECORD_NOT_FOUND")
}

// tenants checks that no method reaches another tenant's rows.
func tenants(t *testing.T, store data.Store) {
	ctx := t.Context()
	create(t, store, collection("acme", "notes"), record("acme", "notes", "a", `{"v":1}`))
	other := collection("evil", "notes")
	other.DisplayName = "theirs"
	_, err := store.GetCollection(ctx, "evil", "notes")
	requireCode(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")
	_, err = store.GetRecord(ctx, "evil", "notes", "a")
	requireCode(t, err, codes.NotFound, "RECORD_NOT_FOUND")
	_, _, err = store.ListRecords(ctx, "evil", "notes", query.List{Limit: 10})
	requireCode(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")
	page, _, err := store.ListCollections(ctx, "evil", query.List{Limit: 10})
	require.NoError(t, err)
	require.Empty(t, page)
	other.Revision = 2
	require.ErrorIs(t, store.UpdateCollection(ctx, other), data.ErrStale)
	requireCode(t, store.DeleteCollection(ctx, "evil", "notes", 0, true), codes.NotFound, "COLLECTION_NOT_FOUND")
	requireCode(t, store.DeleteRecord(ctx, "evil", "notes", "a", 0), codes.NotFound, "RECORD_NOT_FOUND")
	_, err = store.ImportRecords(ctx, []data.Record{record("evil", "notes", "b", `{}`)}, 1)
	requireCode(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")

	other.Revision = 1
	create(t, store, other, record("evil", "notes", "a", `{"v":2}`))
	r, err := store.GetRecord(ctx, "acme", "notes", "a")
	require.NoError(t, err)
	require.JSONEq(t, `{"v":1}`, string(r.Data))
	rows, _, err := store.ListRecords(ctx, "acme", "notes", query.List{Limit: 10})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	result := data.Result{RequestID: "k", Fingerprint: "f", Response: []byte(`{}`), Time: epoch()}
	_, err = store.CreateRecord(ctx, record("acme", "notes", "c", `{}`), 1, &result)
	require.NoError(t, err)
	found, err := store.FindResult(ctx, "evil", "k")
	require.NoError(t, err)
	require.Nil(t, found)
}

func staleVersions(t *testing.T, store data.Store) {
	ctx := t.Context()
	c := collection("acme", "notes")
	create(t, store, c, record("acme", "notes", "a", `{}`))
	c.Revision = 2
	require.NoError(t, store.UpdateCollection(ctx, c))
	require.ErrorIs(t, store.UpdateCollection(ctx, c), data.ErrStale)
	require.ErrorIs(t, store.DeleteCollection(ctx, "acme", "notes", 1, true), data.ErrStale)
	_, err := store.CreateRecord(ctx, record("acme", "notes", "b", `{}`), 1, nil)
	require.ErrorIs(t, err, data.ErrStale)
	_, err = store.ImportRecords(ctx, []data.Record{record("acme", "notes", "b", `{}`)}, 1)
	require.ErrorIs(t, err, data.ErrStale)
	r := record("acme", "notes", "a", `{"v":1}`)
	r.Revision = 2
	require.ErrorIs(t, store.UpdateRecord(ctx, r, 1), data.ErrStale)
	require.NoError(t, store.UpdateRecord(ctx, r, 2))
	require.ErrorIs(t, store.UpdateRecord(ctx, r, 2), data.ErrStale)
	require.ErrorIs(t, store.DeleteRecord(ctx, "acme", "notes", "a", 1), data.ErrStale)
	require.NoError(t, store.DeleteRecord(ctx, "acme", "notes", "a", 2))
	_, err = store.GetRecord(ctx, "acme", "notes", "b")
	requireCode(t, err, codes.NotFound, "RECORD_NOT_FOUND")
}

func results(t *testing.T, store data.Store) {
	ctx := t.Context()
	first := data.Result{RequestID: "k1", Fingerprint: "f1", Response: []byte(`{"ID":"a"}`), Time: epoch()}
	earlier, err := store.CreateCollection(ctx, collection("acme", "a"), &first)
	require.NoError(t, err)
	require.Nil(t, earlier)
	again := data.Result{RequestID: "k1", Fingerprint: "f2", Response: []byte(`{"ID":"b"}`), Time: epoch().Add(time.Hour)}
	earlier, err = store.CreateCollection(ctx, collection("acme", "b"), &again)
	require.NoError(t, err)
	require.Equal(t, &first, earlier)
	_, err = store.GetCollection(ctx, "acme", "b")
	requireCode(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")

	// A create that fails leaves its key free.
	taken := data.Result{RequestID: "k2", Fingerprint: "f", Response: []byte(`{}`), Time: epoch()}
	_, err = store.CreateCollection(ctx, collection("acme", "a"), &taken)
	requireCode(t, err, codes.AlreadyExists, "COLLECTION_ALREADY_EXISTS")
	found, err := store.FindResult(ctx, "acme", "k2")
	require.NoError(t, err)
	require.Nil(t, found)

	count, err := store.ForgetResults(ctx, epoch())
	require.NoError(t, err)
	require.Zero(t, count)
	count, err = store.ForgetResults(ctx, epoch().Add(time.Microsecond))
	require.NoError(t, err)
	require.EqualValues(t, 1, count)
	found, err = store.FindResult(ctx, "acme", "k1")
	require.NoError(t, err)
	require.Nil(t, found)
}

func importing(t *testing.T, store data.Store) {
	ctx := t.Context()
	create(t, store, collection("acme", "notes"), record("acme", "notes", "taken", `{"old":true}`))
	batch := []data.Record{
		record("acme", "notes", "a", `{"v":1}`), record("acme", "notes", "taken", `{}`),
		record("acme", "notes", "b", `{"v":1}`), record("acme", "notes", "a", `{"v":2}`),
	}
	added, err := store.ImportRecords(ctx, batch, 1)
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"a": true, "b": true}, added)
	for id, document := range map[string]string{"a": `{"v":1}`, "b": `{"v":1}`, "taken": `{"old":true}`} {
		r, err := store.GetRecord(ctx, "acme", "notes", id)
		require.NoError(t, err)
		require.JSONEq(t, document, string(r.Data))
	}
}

func concurrentCreates(t *testing.T, store data.Store) {
	create(t, store, collection("acme", "notes"))
	var won atomic.Int64
	parallel(16, func(i int) {
		for j := range 10 {
			_, err := store.CreateRecord(t.Context(), record("acme", "notes", fmt.Sprintf("r%d", j), fmt.Sprintf(`{"by":%d}`, i)), 1, nil)
			if err == nil {
				won.Add(1)
			} else if fault.From(err).Reason != "RECORD_ALREADY_EXISTS" {
				t.Errorf("create: %v", err)
			}
		}
	})
	require.EqualValues(t, 10, won.Load())
}

// concurrentUpdates counts in a record, and changes the collection meanwhile:
// no increment may be lost.
func concurrentUpdates(t *testing.T, store data.Store) {
	ctx := t.Context()
	create(t, store, collection("acme", "notes"), record("acme", "notes", "n", `{"n":0}`))
	const workers, each = 6, 5
	var conflicts atomic.Int64
	parallel(workers, func(i int) {
		for done := 0; done < each; {
			c, err := store.GetCollection(ctx, "acme", "notes")
			if err != nil {
				t.Errorf("get: %v", err)
				return
			}
			if i == 0 {
				c.Revision++
				err = store.UpdateCollection(ctx, c)
			} else {
				r, failed := store.GetRecord(ctx, "acme", "notes", "n")
				if failed != nil {
					t.Errorf("get: %v", failed)
					return
				}
				r.Data, r.Revision = fmt.Appendf(nil, `{"n":%d}`, r.Revision), r.Revision+1
				err = store.UpdateRecord(ctx, r, c.Revision)
			}
			switch {
			case err == nil:
				done++
			case err == data.ErrStale: //nolint:errorlint // identity is the contract
				conflicts.Add(1)
			default:
				t.Errorf("update: %v", err)
				return
			}
		}
	})
	r, err := store.GetRecord(ctx, "acme", "notes", "n")
	require.NoError(t, err)
	require.JSONEq(t, fmt.Sprintf(`{"n":%d}`, (workers-1)*each), string(r.Data))
}

func concurrentResults(t *testing.T, store data.Store) {
	create(t, store, collection("acme", "notes"))
	var created atomic.Int64
	parallel(12, func(i int) {
		id := fmt.Sprintf("r%d", i)
		result := data.Result{RequestID: "same", Fingerprint: "f", Response: []byte(id), Time: epoch()}
		earlier, err := store.CreateRecord(t.Context(), record("acme", "notes", id, `{}`), 1, &result)
		if err != nil {
			t.Errorf("create: %v", err)
		} else if earlier == nil {
			created.Add(1)
		}
	})
	require.EqualValues(t, 1, created.Load())
	page, _, err := store.ListRecords(t.Context(), "acme", "notes", query.List{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page, 1)
}

func parallel(n int, work func(i int)) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { work(i) })
	}
	group.Wait()
}
