package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	datav1 "weir.dev/api/gen/weir/data/v1"
	"weir.dev/e2e/internal/harness"
	"weir.dev/kit/certs"
)

func withKey(t *testing.T, s *harness.System) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "x-api-key", s.APIKey)
}

func createCollection(t *testing.T, s *harness.System, id string) {
	t.Helper()
	answer := s.Do(http.MethodPost, "/v1/collections?collectionId="+id, `{"displayName":"bulk","schema":{"type":"object","required":["n"],"properties":{"n":{"type":"integer"}}}}`,
		append(s.Key(), "Content-Type", "application/json")...)
	require.Equal(t, http.StatusOK, answer.Status, answer.Body)
}

// importRecords streams count records in and returns the answer.
func importRecords(t *testing.T, s *harness.System, collection string, count int) *datav1.ImportRecordsResponse {
	t.Helper()
	stream, err := datav1.NewDataServiceClient(s.Dial()).ImportRecords(withKey(t, s))
	require.NoError(t, err)
	for i := range count {
		request := &datav1.ImportRecordsRequest{RecordId: fmt.Sprintf("r%07d", i), Data: object(t, map[string]any{"n": float64(i), "text": strings.Repeat("x", 100)})}
		if i == 0 {
			request.Parent = "collections/" + collection
		}
		if err := stream.Send(request); err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
	}
	answer, err := stream.CloseAndRecv()
	require.NoError(t, err)
	return answer
}

func export(t *testing.T, s *harness.System, collection string) (count int) {
	t.Helper()
	stream, err := datav1.NewDataServiceClient(s.Dial()).ExportRecords(withKey(t, s), &datav1.ExportRecordsRequest{Parent: "collections/" + collection})
	require.NoError(t, err)
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return count
		}
		require.NoError(t, err)
		count++
	}
}

// 100,000 records by one gRPC stream, in bounded memory of service and proxy.
func TestImportOf100000Records(t *testing.T) {
	s := harness.Start(t, nil)
	createCollection(t, s, "bulk")
	require.Equal(t, int64(1000), importRecords(t, s, "bulk", 1000).GetImported()) // warm
	createCollection(t, s, "large")
	before := map[string]int64{"datad": s.ResidentBytes("datad"), "envoy": s.ResidentBytes("envoy")}
	peak := map[string]int64{}
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				for name := range before {
					peak[name] = max(peak[name], s.ResidentBytes(name))
				}
			}
		}
	})
	started := time.Now()
	answer := importRecords(t, s, "large", 100_000)
	took := time.Since(started)
	close(stop)
	watching.Wait()
	require.Equal(t, int64(100_000), answer.GetImported())
	require.Zero(t, answer.GetFailed())
	for name := range before {
		grown := (peak[name] - before[name]) >> 20
		t.Logf("%s: %d MiB before, grew by %d MiB", name, before[name]>>20, grown)
		require.Less(t, grown, int64(96), name)
	}
	t.Logf("100,000 records in %s (%.0f/s)", took, 100_000/took.Seconds())
	require.Equal(t, 100_000, export(t, s, "large"))
}

func TestStreamsOverREST(t *testing.T) {
	s := harness.Start(t, nil)
	createCollection(t, s, "bulk")
	var body strings.Builder
	body.WriteString("[")
	for i := range 2000 {
		if i > 0 {
			body.WriteString(",")
		}
		fmt.Fprintf(&body, `{"recordId":"r%d","data":{"n":%d}}`, i, i)
	}
	body.WriteString(`,{"recordId":"bad","data":{"n":"x"}}]`)
	answer := s.Do(http.MethodPost, "/v1/collections/bulk/records:import", body.String(), append(s.Key(), "Content-Type", "application/json")...)
	require.Equal(t, http.StatusOK, answer.Status, answer.Body)
	var result struct {
		Imported, Failed string
		Errors           []struct{ Index, RecordID, Code string }
	}
	require.NoError(t, json.Unmarshal([]byte(answer.Body), &result), answer.Body)
	require.Equal(t, "2000", result.Imported)
	require.Equal(t, "1", result.Failed)
	require.Equal(t, "2000", result.Errors[0].Index)
	exported := s.Get("/v1/collections/bulk/records:export")
	require.Equal(t, http.StatusOK, exported.Status)
	var records []json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(exported.Body), &records), exported.Body[:min(200, len(exported.Body))])
	require.Len(t, records, 2000)
}

// datad is killed during writes, several times: no acknowledged write is lost.
func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	for _, env := range []string{"WEIR_POSTGRES_URL=", "WEIR_POSTGRES_URL=" + postgres(t)} {
		t.Run(strings.SplitN(env, ":", 2)[0], func(t *testing.T) {
			s := harness.Start(t, nil, env)
			createCollection(t, s, "ledger")
			var mu sync.Mutex
			var acknowledged []string
			ctx, cancel := context.WithCancel(t.Context())
			var writers sync.WaitGroup
			for w := range 4 {
				writers.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						id := fmt.Sprintf("w%d-%d", w, i)
						answer, err := s.TryDo(http.MethodPost, "/v1/collections/ledger/records?recordId="+id, fmt.Sprintf(`{"data":{"n":%d}}`, i),
							append(s.Key(), "Content-Type", "application/json")...)
						if err == nil && answer.Status == http.StatusOK {
							mu.Lock()
							acknowledged = append(acknowledged, id)
							mu.Unlock()
						}
					}
				})
			}
			for range 3 {
				time.Sleep(300 * time.Millisecond)
				victim := s.Component("datad").PID
				require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
				s.Eventually("datad to be back", 10*time.Second, func() bool {
					component := s.Component("datad")
					return component.PID != victim && component.State == "ready"
				})
			}
			cancel()
			writers.Wait()
			require.NotEmpty(t, acknowledged)
			kept := map[string]bool{}
			for token, first := "", true; first || token != ""; first = false {
				answer := s.Get("/v1/collections/ledger/records?pageSize=1000&pageToken=" + token)
				require.Equal(t, http.StatusOK, answer.Status, answer.Body)
				var page struct {
					Records       []struct{ Name string }
					NextPageToken string
				}
				require.NoError(t, json.Unmarshal([]byte(answer.Body), &page))
				for _, record := range page.Records {
					kept[record.Name] = true
				}
				token = page.NextPageToken
			}
			for _, id := range acknowledged {
				require.True(t, kept["collections/ledger/records/"+id], "lost %s", id)
			}
			t.Logf("%d acknowledged writes, none lost over 3 kills", len(acknowledged))
		})
	}
}

// Field masks over REST reach names in camel case, in a record's data too.
func TestFieldMasksOverREST(t *testing.T) {
	s := harness.Start(t, nil)
	json := append(s.Key(), "Content-Type", "application/json")
	require.Equal(t, http.StatusOK, s.Do(http.MethodPost, "/v1/collections?collectionId=c", `{"displayName":"c"}`, json...).Status)
	require.Equal(t, http.StatusOK, s.Do(http.MethodPost, "/v1/collections/c/records?recordId=r", `{"data":{"fooBar":1,"b":2}}`, json...).Status)
	answer := s.Do(http.MethodPatch, "/v1/collections/c/records/r?updateMask=data.fooBar", `{"data":{"fooBar":5}}`, json...)
	require.Equal(t, http.StatusOK, answer.Status, answer.Body)
	require.Contains(t, answer.Body, `"fooBar":5`)
	require.Contains(t, answer.Body, `"b":2`)
	require.Contains(t, s.Get("/v1/collections/c/records/r?readMask=data.fooBar").Body, `"fooBar":5`)
}

// Two tenants never see each other's data.
func TestTenantsAreApart(t *testing.T) {
	const other = "weir_otherothorotherotherotherotherotherother"
	s := harness.Start(t, harness.Files{"other.yaml": consumerYAML("other", "rival", other)})
	createCollection(t, s, "mine")
	theirs := []string{"X-API-Key", other}
	require.NotContains(t, s.Do(http.MethodGet, "/v1/collections", "", theirs...).Body, "mine")
	s.Do(http.MethodGet, "/v1/collections/mine", "", theirs...).Problem(t, 404, "COLLECTION_NOT_FOUND")
	s.Do(http.MethodDelete, "/v1/collections/mine", "", theirs...).Problem(t, 404, "COLLECTION_NOT_FOUND")
	s.Do(http.MethodGet, "/v1/collections/mine", "", append(theirs, "x-weir-tenant", "demo")...).Problem(t, 404, "COLLECTION_NOT_FOUND")
	require.Equal(t, http.StatusOK, s.Get("/v1/collections/mine").Status)
}

// A service refuses callers that are not the edge: nobody reaches it around the
// policy, with or without a certificate of Weir's own.
func TestServicesRefuseOthersThanTheEdge(t *testing.T) {
	s := harness.Start(t, nil)
	request := &datav1.ListCollectionsRequest{}
	for name, creds := range map[string]credentials.TransportCredentials{
		"plain text":           insecure.NewCredentials(),
		"another part's cert":  peerCredentials(t, s, "extauthz"),
		"the edge's (control)": peerCredentials(t, s, "ingress"),
	} {
		conn, err := grpc.NewClient(s.Component("datad").Address, grpc.WithTransportCredentials(creds))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-weir-tenant", "demo"), 3*time.Second)
		_, err = datav1.NewDataServiceClient(conn).ListCollections(ctx, request)
		cancel()
		require.NoError(t, conn.Close())
		if strings.Contains(name, "control") {
			require.NoError(t, err, name)
			continue
		}
		require.Error(t, err, name)
	}
}

func peerCredentials(t *testing.T, s *harness.System, component string) credentials.TransportCredentials {
	t.Helper()
	config, err := certs.FilesIn(filepath.Join(s.State, "certs", component)).ClientConfig(certs.PeerID("data"))
	require.NoError(t, err)
	return credentials.NewTLS(config)
}
