package datagrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"

	datav1 "weir.dev/api/gen/weir/data/v1"
	"weir.dev/services/data"
	"weir.dev/services/data/datagrpc"
	"weir.dev/services/data/store"
	"weir.dev/services/data/store/postgres"
	"weir.dev/services/data/store/sqlite"
	"weir.dev/services/internal/servicetest"
	"weir.dev/services/pgtest"
)

func serve(t testing.TB, storage *store.Store, err error) datav1.DataServiceClient {
	t.Helper()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, storage.Close()) })
	service := data.New(data.Options{Store: storage, PageSecret: []byte("0123456789abcdef")})
	return datav1.NewDataServiceClient(servicetest.Serve(t, func(r grpc.ServiceRegistrar) { datagrpc.Register(r, service) }))
}

func onSQLite(t testing.TB) datav1.DataServiceClient {
	t.Helper()
	storage, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "data.db"))
	return serve(t, storage, err)
}

func onPostgres(t testing.TB) datav1.DataServiceClient {
	t.Helper()
	url, err := pgtest.New(t).Database(t.Context())
	require.NoError(t, err)
	storage, err := postgres.Open(t.Context(), url)
	return serve(t, storage, err)
}

// TestService runs every scenario on both databases: the answers are equal.
func TestService(t *testing.T) {
	for name, start := range map[string]func(testing.TB) datav1.DataServiceClient{"sqlite": onSQLite, "postgres": onPostgres} {
		t.Run(name, func(t *testing.T) {
			client := start(t)
			for name, scenario := range map[string]func(*testing.T, context.Context, datav1.DataServiceClient){
				"collections": collections, "records": records, "schema": schemas, "idempotency": idempotency,
				"masks": masks, "etags": etags, "pages": pages, "tenants": tenants, "import": importing, "export": exporting,
				"bounds": bounds,
			} {
				t.Run(name, func(t *testing.T) {
					scenario(t, servicetest.As(t.Context(), "tenant of "+t.Name()), client)
				})
			}
		})
	}
}

func object(t testing.TB, json string) *structpb.Struct {
	t.Helper()
	s := &structpb.Struct{}
	require.NoError(t, s.UnmarshalJSON([]byte(json)))
	return s
}

func requireFault(t *testing.T, err error, code codes.Code, reason string, fields ...string) {
	t.Helper()
	require.Equal(t, code, status.Code(err), "%v", err)
	require.Equal(t, reason, servicetest.Reason(err), "%v", err)
	if len(fields) > 0 {
		require.ElementsMatch(t, fields, servicetest.Fields(err), "%v", err)
	}
}

func newCollection(t testing.TB, ctx context.Context, client datav1.DataServiceClient, id, schema string) *datav1.Collection {
	t.Helper()
	collection := &datav1.Collection{DisplayName: "A collection"}
	if schema != "" {
		collection.Schema = object(t, schema)
	}
	created, err := client.CreateCollection(ctx, &datav1.CreateCollectionRequest{CollectionId: id, Collection: collection})
	require.NoError(t, err)
	return created
}

func newRecord(t testing.TB, ctx context.Context, client datav1.DataServiceClient, collection, id, json string) *datav1.Record {
	t.Helper()
	created, err := client.CreateRecord(ctx, &datav1.CreateRecordRequest{
		Parent: "collections/" + collection, RecordId: id, Record: &datav1.Record{Data: object(t, json)},
	})
	require.NoError(t, err)
	return created
}

func collections(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	created := newCollection(t, ctx, client, "notes", `{"type":"object"}`)
	require.Equal(t, "collections/notes", created.GetName())
	require.NotEmpty(t, created.GetEtag())
	require.WithinDuration(t, time.Now(), created.GetCreateTime().AsTime(), time.Minute)
	generated := newCollection(t, ctx, client, "", "")
	require.Regexp(t, `^collections/[a-z][a-z0-9]{20,}$`, generated.GetName())

	got, err := client.GetCollection(ctx, &datav1.GetCollectionRequest{Name: created.GetName()})
	require.NoError(t, err)
	require.Equal(t, created.String(), got.String())

	updated, err := client.UpdateCollection(ctx, &datav1.UpdateCollectionRequest{Collection: &datav1.Collection{Name: created.GetName(), DisplayName: "Notes"}})
	require.NoError(t, err)
	require.Equal(t, "Notes", updated.GetDisplayName())
	require.NotNil(t, updated.GetSchema(), "without a mask, what isn't set stays")
	require.NotEqual(t, created.GetEtag(), updated.GetEtag())
	updated, err = client.UpdateCollection(ctx, &datav1.UpdateCollectionRequest{
		Collection: &datav1.Collection{Name: created.GetName()}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}},
	})
	require.NoError(t, err)
	require.Empty(t, updated.GetDisplayName())
	require.Nil(t, updated.GetSchema())

	list, err := client.ListCollections(ctx, &datav1.ListCollectionsRequest{Filter: `display_name = "A collection"`})
	require.NoError(t, err)
	require.Len(t, list.GetCollections(), 1)

	_, err = client.CreateCollection(ctx, &datav1.CreateCollectionRequest{CollectionId: "notes", Collection: &datav1.Collection{}})
	requireFault(t, err, codes.AlreadyExists, "COLLECTION_ALREADY_EXISTS")
	newRecord(t, ctx, client, "notes", "a", `{}`)
	_, err = client.DeleteCollection(ctx, &datav1.DeleteCollectionRequest{Name: "collections/notes"})
	requireFault(t, err, codes.FailedPrecondition, "COLLECTION_NOT_EMPTY")
	_, err = client.DeleteCollection(ctx, &datav1.DeleteCollectionRequest{Name: "collections/notes", Force: true})
	require.NoError(t, err)
	_, err = client.GetRecord(ctx, &datav1.GetRecordRequest{Name: "collections/notes/records/a"})
	requireFault(t, err, codes.NotFound, "RECORD_NOT_FOUND")
}

func records(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", "")
	const content = `{"text":"ü \u2028 \"","n":[0,-1.5,1e21,null,true],"o":{"deep":{}}}`
	created := newRecord(t, ctx, client, "notes", "a", content)
	require.Equal(t, "collections/notes/records/a", created.GetName())
	got, err := client.GetRecord(ctx, &datav1.GetRecordRequest{Name: created.GetName()})
	require.NoError(t, err)
	require.Equal(t, created.String(), got.String())
	require.Equal(t, object(t, content).AsMap(), got.GetData().AsMap())
	_, err = client.CreateRecord(ctx, &datav1.CreateRecordRequest{Parent: "collections/none", Record: &datav1.Record{Data: object(t, `{}`)}})
	requireFault(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")
	_, err = client.CreateRecord(ctx, &datav1.CreateRecordRequest{Parent: "collections/notes", RecordId: "a", Record: &datav1.Record{Data: object(t, `{}`)}})
	requireFault(t, err, codes.AlreadyExists, "RECORD_ALREADY_EXISTS")
	_, err = client.CreateRecord(ctx, &datav1.CreateRecordRequest{Parent: "collections/notes"})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "record.data")
	_, err = client.CreateRecord(ctx, &datav1.CreateRecordRequest{Parent: "collections/notes", RecordId: "A b", Record: &datav1.Record{Data: object(t, `{}`)}})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "record_id")
	_, err = client.GetRecord(ctx, &datav1.GetRecordRequest{Name: "collections/notes/records/../a"})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "name")
	_, err = client.DeleteRecord(ctx, &datav1.DeleteRecordRequest{Name: created.GetName()})
	require.NoError(t, err)
	_, err = client.DeleteRecord(ctx, &datav1.DeleteRecordRequest{Name: created.GetName()})
	requireFault(t, err, codes.NotFound, "RECORD_NOT_FOUND")
}

const noteSchema = `{"type":"object","required":["title","size"],"additionalProperties":false,
	"properties":{"title":{"type":"string","maxLength":10},"size":{"type":"integer","minimum":0},"mail":{"type":"string","format":"email"}}}`

func schemas(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", noteSchema)
	create := func(json string) error {
		_, err := client.CreateRecord(ctx, &datav1.CreateRecordRequest{Parent: "collections/notes", Record: &datav1.Record{Data: object(t, json)}})
		return err
	}
	require.NoError(t, create(`{"title":"ok","size":1,"mail":"a@b.example"}`))
	requireFault(t, create(`{"title":"far too long a title","mail":"x","more":1}`), codes.InvalidArgument, "SCHEMA_VIOLATION",
		"record.data.title", "record.data.size", "record.data.mail", "record.data.more")
	requireFault(t, create(`{"title":1,"size":-1}`), codes.InvalidArgument, "SCHEMA_VIOLATION", "record.data.title", "record.data.size")
	kept := newRecord(t, ctx, client, "notes", "kept", `{"title":"old","size":1}`)
	_, err := client.UpdateCollection(ctx, &datav1.UpdateCollectionRequest{
		Collection: &datav1.Collection{Name: "collections/notes", Schema: object(t, `{"required":["other"]}`)},
	})
	require.NoError(t, err)
	requireFault(t, create(`{"title":"ok","size":1}`), codes.InvalidArgument, "SCHEMA_VIOLATION", "record.data.other")
	got, err := client.GetRecord(ctx, &datav1.GetRecordRequest{Name: kept.GetName()})
	require.NoError(t, err)
	require.Equal(t, kept.GetEtag(), got.GetEtag())
	for name, schema := range map[string]string{
		"type":      `{"type":"strange"}`,
		"remote":    `{"$ref":"https://example.com/schema.json"}`,
		"file":      `{"$ref":"file:///etc/passwd"}`,
		"old draft": `{"$schema":"http://json-schema.org/draft-07/schema#"}`,
		"loop":      `{"$ref":"#"}`,
		"doubling":  `{"properties":{"a":{"allOf":[{"$ref":"#"},{"$ref":"#"}]}}}`,
		"pattern":   `{"pattern":"("}`,
	} {
		_, err := client.CreateCollection(ctx, &datav1.CreateCollectionRequest{Collection: &datav1.Collection{Schema: object(t, schema)}})
		require.Equal(t, "SCHEMA_INVALID", servicetest.Reason(err), name)
		require.Equal(t, []string{"collection.schema"}, servicetest.Fields(err), name)
	}
}

func idempotency(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", "")
	request := &datav1.CreateRecordRequest{Parent: "collections/notes", RequestId: "key-1", Record: &datav1.Record{Data: object(t, `{"a":1,"b":2}`)}}
	first, err := client.CreateRecord(ctx, request)
	require.NoError(t, err)
	again, err := client.CreateRecord(ctx, request)
	require.NoError(t, err)
	require.Equal(t, first.String(), again.String())
	_, err = client.UpdateRecord(ctx, &datav1.UpdateRecordRequest{Record: &datav1.Record{Name: first.GetName(), Data: object(t, `{}`)}})
	require.NoError(t, err)
	again, err = client.CreateRecord(ctx, request)
	require.NoError(t, err)
	require.Equal(t, first.String(), again.String(), "the first result is replayed, whatever happened since")
	request.Record.Data = object(t, `{"a":2}`)
	_, err = client.CreateRecord(ctx, request)
	requireFault(t, err, codes.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED", "request_id")
	_, err = client.CreateCollection(ctx, &datav1.CreateCollectionRequest{RequestId: "key-1", Collection: &datav1.Collection{}})
	requireFault(t, err, codes.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED")
	other := servicetest.As(t.Context(), "another tenant of "+t.Name())
	_, err = client.CreateCollection(other, &datav1.CreateCollectionRequest{RequestId: "key-1", Collection: &datav1.Collection{}})
	require.NoError(t, err)
	for _, bad := range []string{strings.Repeat("k", 256), "new\nline", "ü"} {
		_, err = client.CreateCollection(ctx, &datav1.CreateCollectionRequest{RequestId: bad, Collection: &datav1.Collection{}})
		requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "request_id")
	}
	list, err := client.ListRecords(ctx, &datav1.ListRecordsRequest{Parent: "collections/notes"})
	require.NoError(t, err)
	require.Len(t, list.GetRecords(), 1)
}

func masks(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", `{"required":["title"]}`)
	r := newRecord(t, ctx, client, "notes", "a", `{"title":"t","deep":{"x":1,"y":2}}`)
	update := func(json string, paths ...string) (*datav1.Record, error) {
		return client.UpdateRecord(ctx, &datav1.UpdateRecordRequest{
			Record: &datav1.Record{Name: r.GetName(), Data: object(t, json)}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
		})
	}
	got, err := update(`{"deep":{"x":10},"new":{"z":1},"ignored":true}`, "data.deep.x", "data.deep.y", "data.new.z", "data.absent")
	require.NoError(t, err)
	require.Equal(t, object(t, `{"title":"t","deep":{"x":10},"new":{"z":1}}`).AsMap(), got.GetData().AsMap())
	_, err = update(`{}`, "data.title")
	requireFault(t, err, codes.InvalidArgument, "SCHEMA_VIOLATION", "record.data.title")
	_, err = update(`{"title":{"x":1}}`, "data.title.x")
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "update_mask")
	_, err = update(`{}`, "name")
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "update_mask")
	_, err = update(`{"title":"new"}`, "*")
	require.NoError(t, err)
	got, err = client.GetRecord(ctx, &datav1.GetRecordRequest{Name: r.GetName(), ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"name", "data.title"}}})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"title": "new"}, got.GetData().AsMap())
	require.Empty(t, got.GetEtag())
	list, err := client.ListRecords(ctx, &datav1.ListRecordsRequest{Parent: "collections/notes", ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"etag"}}})
	require.NoError(t, err)
	require.Nil(t, list.GetRecords()[0].GetData())
	require.NotEmpty(t, list.GetRecords()[0].GetEtag())
	_, err = client.GetRecord(ctx, &datav1.GetRecordRequest{Name: r.GetName(), ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"nonsense"}}})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "read_mask")
}

func etags(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	c := newCollection(t, ctx, client, "notes", "")
	r := newRecord(t, ctx, client, "notes", "a", `{}`)
	updated, err := client.UpdateRecord(ctx, &datav1.UpdateRecordRequest{Record: &datav1.Record{Name: r.GetName(), Data: object(t, `{"v":1}`), Etag: r.GetEtag()}})
	require.NoError(t, err)
	_, err = client.UpdateRecord(ctx, &datav1.UpdateRecordRequest{Record: &datav1.Record{Name: r.GetName(), Data: object(t, `{"v":2}`), Etag: r.GetEtag()}})
	requireFault(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = client.DeleteRecord(ctx, &datav1.DeleteRecordRequest{Name: r.GetName(), Etag: r.GetEtag()})
	requireFault(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = client.DeleteRecord(ctx, &datav1.DeleteRecordRequest{Name: r.GetName(), Etag: `W/"` + updated.GetEtag() + `"`})
	require.NoError(t, err)
	_, err = client.UpdateCollection(ctx, &datav1.UpdateCollectionRequest{Collection: &datav1.Collection{Name: c.GetName(), DisplayName: "x", Etag: "wrong"}})
	requireFault(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = client.DeleteCollection(ctx, &datav1.DeleteCollectionRequest{Name: c.GetName(), Etag: "wrong"})
	requireFault(t, err, codes.Aborted, "ETAG_MISMATCH")
	_, err = client.DeleteCollection(ctx, &datav1.DeleteCollectionRequest{Name: c.GetName(), Etag: c.GetEtag()})
	require.NoError(t, err)
}

func pages(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", "")
	newCollection(t, ctx, client, "others", "")
	for i := range 60 {
		newRecord(t, ctx, client, "notes", fmt.Sprintf("r%02d", i), fmt.Sprintf(`{"n":%d,"even":%t}`, i%7, i%2 == 0))
	}
	request := &datav1.ListRecordsRequest{Parent: "collections/notes", OrderBy: "data.n desc, name desc", Filter: "data.even = true", PageSize: 7}
	var seen []string
	for {
		page, err := client.ListRecords(ctx, request)
		require.NoError(t, err)
		for _, r := range page.GetRecords() {
			seen = append(seen, fmt.Sprintf("%v %s", r.GetData().AsMap()["n"], r.GetName()))
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
		require.Len(t, page.GetRecords(), 7)
	}
	require.Len(t, seen, 30)
	require.IsDecreasing(t, seen)
	first, err := client.ListRecords(ctx, &datav1.ListRecordsRequest{Parent: "collections/notes"})
	require.NoError(t, err)
	require.Len(t, first.GetRecords(), 50)
	token := first.GetNextPageToken()
	for name, bad := range map[string]*datav1.ListRecordsRequest{
		"other filter": {Parent: "collections/notes", PageToken: token, Filter: "data.n = 1"},
		"other order":  {Parent: "collections/notes", PageToken: token, OrderBy: "name desc"},
		"other parent": {Parent: "collections/others", PageToken: token},
		"tampered":     {Parent: "collections/notes", PageToken: "A" + token[1:]},
		"cut":          {Parent: "collections/notes", PageToken: token[:10]},
		"no token":     {Parent: "collections/notes", PageToken: "???"},
	} {
		_, err := client.ListRecords(ctx, bad)
		require.Equal(t, "INVALID_PAGE_TOKEN", servicetest.Reason(err), name)
	}
	_, err = client.ListRecords(ctx, &datav1.ListRecordsRequest{Parent: "collections/notes", Filter: "nothing"})
	requireFault(t, err, codes.InvalidArgument, "INVALID_FILTER", "filter")
	_, err = client.ListRecords(ctx, &datav1.ListRecordsRequest{Parent: "collections/notes", OrderBy: "nothing"})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ORDER_BY", "order_by")
	_, err = client.ListRecords(ctx, &datav1.ListRecordsRequest{Parent: "collections/notes", PageSize: -1})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "page_size")
	_, err = client.ListRecords(ctx, &datav1.ListRecordsRequest{Parent: "collections/none"})
	requireFault(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")
}

func tenants(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", "")
	r := newRecord(t, ctx, client, "notes", "a", `{}`)
	for i := range 60 {
		newRecord(t, ctx, client, "notes", fmt.Sprintf("r%d", i), `{}`)
	}
	list, err := client.ListRecords(ctx, &datav1.ListRecordsRequest{Parent: "collections/notes"})
	require.NoError(t, err)
	evil := servicetest.As(t.Context(), "evil of "+t.Name())
	_, err = client.GetRecord(evil, &datav1.GetRecordRequest{Name: r.GetName()})
	requireFault(t, err, codes.NotFound, "RECORD_NOT_FOUND")
	_, err = client.UpdateRecord(evil, &datav1.UpdateRecordRequest{Record: &datav1.Record{Name: r.GetName(), Data: object(t, `{}`)}})
	requireFault(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")
	newCollection(t, evil, client, "notes", "")
	_, err = client.ListRecords(evil, &datav1.ListRecordsRequest{Parent: "collections/notes", PageToken: list.GetNextPageToken()})
	requireFault(t, err, codes.InvalidArgument, "INVALID_PAGE_TOKEN")
	for name, nobody := range map[string]context.Context{"none": t.Context(), "empty": servicetest.As(t.Context(), "")} {
		_, err = client.ListCollections(nobody, &datav1.ListCollectionsRequest{})
		require.Equal(t, codes.PermissionDenied, status.Code(err), name)
		require.Equal(t, "TENANT_REQUIRED", servicetest.Reason(err), name)
		_, err = importAll(nobody, client, func(func(*datav1.ImportRecordsRequest)) {})
		require.Equal(t, "TENANT_REQUIRED", servicetest.Reason(err), name)
	}
}

func importAll(ctx context.Context, client datav1.DataServiceClient, produce func(send func(*datav1.ImportRecordsRequest))) (*datav1.ImportRecordsResponse, error) {
	stream, err := client.ImportRecords(ctx)
	if err != nil {
		return nil, err
	}
	produce(func(in *datav1.ImportRecordsRequest) {
		_ = stream.Send(in) // an error is the server's, and CloseAndRecv has it
	})
	return stream.CloseAndRecv()
}

func importing(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", noteSchema)
	newRecord(t, ctx, client, "notes", "taken", `{"title":"old","size":0}`)
	out, err := importAll(ctx, client, func(send func(*datav1.ImportRecordsRequest)) {
		send(&datav1.ImportRecordsRequest{Parent: "collections/notes", RecordId: "a", Data: object(t, `{"title":"a","size":1}`)})
		send(&datav1.ImportRecordsRequest{Data: object(t, `{"title":"b","size":1}`)})
		send(&datav1.ImportRecordsRequest{RecordId: "bad", Data: object(t, `{"title":1}`)})
		send(&datav1.ImportRecordsRequest{RecordId: "taken", Data: object(t, `{"title":"c","size":1}`)})
		send(&datav1.ImportRecordsRequest{RecordId: "a", Data: object(t, `{"title":"d","size":1}`)})
		send(&datav1.ImportRecordsRequest{RecordId: "NOT AN ID", Data: object(t, `{"title":"d","size":1}`)})
		send(&datav1.ImportRecordsRequest{RecordId: "empty"})
		for range 1000 {
			send(&datav1.ImportRecordsRequest{Parent: "collections/notes", Data: object(t, `{"title":"e","size":1}`)})
		}
	})
	require.NoError(t, err)
	require.EqualValues(t, 1002, out.GetImported())
	require.EqualValues(t, 5, out.GetFailed())
	found := map[int64]string{}
	for _, failure := range out.GetErrors() {
		found[failure.GetIndex()] = failure.GetCode()
	}
	require.Equal(t, map[int64]string{
		2: "SCHEMA_VIOLATION", 3: "RECORD_ALREADY_EXISTS", 4: "RECORD_ALREADY_EXISTS", 5: "INVALID_ARGUMENT", 6: "INVALID_ARGUMENT",
	}, found)

	_, err = importAll(ctx, client, func(send func(*datav1.ImportRecordsRequest)) {
		send(&datav1.ImportRecordsRequest{Parent: "collections/none", Data: object(t, `{}`)})
	})
	requireFault(t, err, codes.NotFound, "COLLECTION_NOT_FOUND")
	_, err = importAll(ctx, client, func(send func(*datav1.ImportRecordsRequest)) {
		for i := range 600 {
			send(&datav1.ImportRecordsRequest{Parent: "collections/notes", RecordId: fmt.Sprintf("m%d", i), Data: object(t, `{"title":"e","size":1}`)})
		}
		send(&datav1.ImportRecordsRequest{Parent: "collections/other", Data: object(t, `{}`)})
	})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "parent")
	require.Contains(t, status.Convert(err).Message(), "500 records were committed before")
	_, err = client.GetRecord(ctx, &datav1.GetRecordRequest{Name: "collections/notes/records/m499"})
	require.NoError(t, err)
	_, err = client.GetRecord(ctx, &datav1.GetRecordRequest{Name: "collections/notes/records/m500"})
	requireFault(t, err, codes.NotFound, "RECORD_NOT_FOUND")
	_, err = importAll(ctx, client, func(func(*datav1.ImportRecordsRequest)) {})
	requireFault(t, err, codes.InvalidArgument, "INVALID_ARGUMENT", "parent")
}

func exporting(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", "")
	_, err := importAll(ctx, client, func(send func(*datav1.ImportRecordsRequest)) {
		for i := range 1200 {
			send(&datav1.ImportRecordsRequest{Parent: "collections/notes", RecordId: fmt.Sprintf("r%04d", i), Data: object(t, fmt.Sprintf(`{"n":%d}`, i))})
		}
	})
	require.NoError(t, err)
	stream, err := client.ExportRecords(ctx, &datav1.ExportRecordsRequest{
		Parent: "collections/notes", Filter: "data.n >= 100", ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"name"}},
	})
	require.NoError(t, err)
	var names []string
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		names = append(names, out.GetRecord().GetName())
	}
	require.Len(t, names, 1100)
	require.IsIncreasing(t, names)
}

func bounds(t *testing.T, ctx context.Context, client datav1.DataServiceClient) {
	newCollection(t, ctx, client, "notes", "")
	for name, json := range map[string]string{
		"large":  `{"a":"` + strings.Repeat("x", 256<<10) + `"}`,
		"deep":   strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33),
		"nul":    `{"a":"\u0000"}`,
		"digits": `{"a":[` + strings.Repeat("1e308,", 1000) + `1]}`,
	} {
		_, err := client.CreateRecord(ctx, &datav1.CreateRecordRequest{Parent: "collections/notes", Record: &datav1.Record{Data: object(t, json)}})
		require.Equal(t, "INVALID_ARGUMENT", servicetest.Reason(err), name)
		require.Equal(t, []string{"record.data"}, servicetest.Fields(err), name)
	}
	newRecord(t, ctx, client, "notes", "", strings.Repeat(`{"a":`, 31)+"{}"+strings.Repeat("}", 31))
	// A page of large records ends early, and the next one goes on.
	big := `{"a":"` + strings.Repeat("x", 200<<10) + `"}`
	for range 8 {
		newRecord(t, ctx, client, "notes", "", big)
	}
	total, request := 0, &datav1.ListRecordsRequest{Parent: "collections/notes", PageSize: 1000}
	for {
		page, err := client.ListRecords(ctx, request)
		require.NoError(t, err)
		total += len(page.GetRecords())
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			break
		}
	}
	require.Equal(t, 9, total)
}
