package datagrpc_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	datav1 "weir.dev/api/gen/weir/data/v1"
	"weir.dev/services/internal/servicetest"
)

// TestImportHundredThousand checks that memory does not grow with an import.
func TestImportHundredThousand(t *testing.T) {
	for name, start := range map[string]func(testing.TB) datav1.DataServiceClient{"sqlite": onSQLite, "postgres": onPostgres} {
		t.Run(name, func(t *testing.T) {
			ctx, client := servicetest.As(t.Context(), "acme"), start(t)
			newCollection(t, ctx, client, "notes", noteSchema)
			const count = 100_000
			var before, now runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			peak, started := uint64(0), time.Now()
			out, err := importAll(ctx, client, func(send func(*datav1.ImportRecordsRequest)) {
				for i := range count {
					send(&datav1.ImportRecordsRequest{Parent: "collections/notes", Data: &structpb.Struct{Fields: map[string]*structpb.Value{
						"title": structpb.NewStringValue("a title"), "size": structpb.NewNumberValue(float64(i)),
					}}})
					if i%5000 == 0 {
						runtime.ReadMemStats(&now)
						peak = max(peak, now.HeapInuse)
					}
				}
			})
			require.NoError(t, err)
			require.EqualValues(t, count, out.GetImported())
			elapsed := time.Since(started)
			t.Logf("%d records in %v: %.0f a second; heap %d MiB before, %d MiB at most",
				count, elapsed.Round(time.Millisecond), count/elapsed.Seconds(), before.HeapInuse>>20, peak>>20)
			require.Less(t, peak, before.HeapInuse+128<<20)
		})
	}
}

func BenchmarkService(b *testing.B) {
	for name, start := range map[string]func(testing.TB) datav1.DataServiceClient{"sqlite": onSQLite, "postgres": onPostgres} {
		b.Run(name, func(b *testing.B) {
			ctx, client := servicetest.As(b.Context(), "acme"), start(b)
			newCollection(b, ctx, client, "notes", noteSchema)
			data := object(b, `{"title":"a title","size":7}`)
			b.Run("create", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(8)
				b.RunParallel(func(loop *testing.PB) {
					for loop.Next() {
						if _, err := client.CreateRecord(ctx, &datav1.CreateRecordRequest{Parent: "collections/notes", Record: &datav1.Record{Data: data}}); err != nil {
							b.Fatal(err)
						}
					}
				})
			})
			_, err := importAll(ctx, client, func(send func(*datav1.ImportRecordsRequest)) {
				for range 20_000 {
					send(&datav1.ImportRecordsRequest{Parent: "collections/notes", Data: data})
				}
			})
			require.NoError(b, err)
			for name, request := range map[string]*datav1.ListRecordsRequest{
				"list 50":                  {Parent: "collections/notes"},
				"list 50 filtered":         {Parent: "collections/notes", Filter: `data.size > 3`},
				"list 50 of 20000 ordered": {Parent: "collections/notes", OrderBy: `data.title`},
			} {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, err := client.ListRecords(ctx, request); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
