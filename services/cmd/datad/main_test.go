package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/structpb"

	datav1 "weir.dev/api/gen/weir/data/v1"
	"weir.dev/services/internal/servicetest"
	"weir.dev/services/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(servicetest.RunMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestKilled kills the daemon while many clients write: whatever it has
// acknowledged must be there after a restart, and nothing half written.
func TestKilled(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "data.db")
		testKilled(t, servicetest.NewChild(t, "data", "{sqlite: {path: "+path+"}}"))
	})
	t.Run("postgres", func(t *testing.T) {
		url, err := pgtest.New(t).Database(t.Context())
		require.NoError(t, err)
		testKilled(t, servicetest.NewChild(t, "data", "{}", "WEIR_POSTGRES_URL="+url))
	})
}

func testKilled(t *testing.T, child *servicetest.Child) {
	ctx := servicetest.As(t.Context(), "acme")
	client := datav1.NewDataServiceClient(child.Start(t))
	_, err := client.CreateCollection(ctx, &datav1.CreateCollectionRequest{CollectionId: "notes", Collection: &datav1.Collection{}})
	require.NoError(t, err)
	acknowledged := map[string]string{}
	for round := range 3 {
		const enough = 150
		var mu sync.Mutex
		var group sync.WaitGroup
		reached := make(chan struct{})
		written := 0
		for worker := range 8 {
			group.Go(func() {
				for i := 0; ; i++ {
					text := fmt.Sprintf("%d/%d/%d", round, worker, i)
					data := &structpb.Struct{Fields: map[string]*structpb.Value{"text": structpb.NewStringValue(text)}}
					record, err := client.CreateRecord(ctx, &datav1.CreateRecordRequest{Parent: "collections/notes", Record: &datav1.Record{Data: data}})
					if err != nil {
						return
					}
					mu.Lock()
					acknowledged[record.GetName()] = text
					if written++; written == enough {
						close(reached)
					}
					mu.Unlock()
				}
			})
		}
		<-reached
		require.Error(t, child.Signal(t, syscall.SIGKILL))
		group.Wait()
		client = datav1.NewDataServiceClient(child.Start(t))
		for name, text := range acknowledged {
			record, err := client.GetRecord(ctx, &datav1.GetRecordRequest{Name: name})
			require.NoError(t, err, "%s was acknowledged", name)
			require.Equal(t, text, record.GetData().GetFields()["text"].GetStringValue())
		}
	}
	t.Logf("%d acknowledged records survived 3 kills", len(acknowledged))
	require.NoError(t, child.Signal(t, syscall.SIGTERM))
}

func TestWrongConfiguration(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"unknown key":   {"store: {sqlite: {pat: x}}", "pat"},
		"no store":      {"store: {sqlite: {path: ''}}", "set store.sqlite.path or store.postgres.url"},
		"no tls":        {"server: {allowedPeers: [a]}", "server"},
		"no peers":      {"log: {level: info}", "server.allowedPeers"},
		"wrong address": {"server: {listen: nowhere}", "server.listen"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			require.NoError(t, os.WriteFile(path, []byte(test.config), 0o600))
			output, code := execute(t, "--config", path)
			require.Equal(t, 1, code)
			require.Contains(t, output, test.want)
		})
	}
}

func execute(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	process := exec.Command(os.Args[0], args...)
	process.Env = append(os.Environ(), servicetest.RunMain+"=1")
	var text strings.Builder
	process.Stdout, process.Stderr = &text, &text
	err := process.Run()
	require.Error(t, err)
	return text.String(), process.ProcessState.ExitCode()
}
