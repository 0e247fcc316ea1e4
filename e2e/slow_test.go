//go:build slow

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// Every part is killed in turn, several times, under load: nothing protected is
// ever served to a stranger, what does not depend on the killed part is not
// disturbed, and all of it comes back.
func TestSlowKillEverythingUnderLoad(t *testing.T) {
	s, _ := edge(t, "")
	for round := range 3 {
		for _, name := range []string{"controlplaned", "ratelimitd", "extauthzd", "userd", "datad", "envoy"} {
			open := startLoad(s, 2, "/open")
			stranger := startLoad(s, 2, "/closed")
			member := startLoad(s, 2, "/closed", s.Key()...)
			victim := s.Component(name).PID
			require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
			s.Eventually(name+" to be back", 20*time.Second, func() bool {
				component := s.Component(name)
				return component.PID != victim && component.State == "ready"
			})
			s.Eventually("members to be served after "+name, 2*time.Second, func() bool {
				answer, err := s.TryDo(http.MethodGet, "/closed", "", s.Key()...)
				return err == nil && answer.Status == http.StatusOK
			})
			openCounts, openErrs := open.stop()
			strangerCounts, _ := stranger.stop()
			memberCounts, memberErrs := member.stop()
			require.Zero(t, strangerCounts[200], "%s: strangers were served: %v", name, strangerCounts)
			if name != "envoy" {
				require.Empty(t, openErrs, name)
				require.Len(t, openCounts, 1, "%s: open route: %v", name, openCounts)
			}
			if name != "envoy" && name != "extauthzd" {
				require.Empty(t, memberErrs, name)
				require.Len(t, memberCounts, 1, "%s: %v", name, memberCounts)
			}
			t.Logf("round %d, %s: open %v, members %v, strangers %v", round, name, openCounts, memberCounts, strangerCounts)
		}
	}
}

// 300 new routes, one at a time under load: each is served, and once served it
// never fails.
func TestSlowRoutesOneByOne(t *testing.T) {
	s, _ := edge(t, "")
	traffic := startLoad(s, 3, "/closed", s.Key()...)
	var slowest, sum time.Duration
	const count = 300
	for i := range count {
		name := fmt.Sprintf("route-%d", i)
		s.Write(name+".yaml", routeYAML(name, "/"+name))
		took := s.Eventually(name, 2*time.Second, func() bool { return s.Get("/"+name).Status == http.StatusOK })
		slowest, sum = max(slowest, took), sum+took
		for range 5 {
			require.Equal(t, http.StatusOK, s.Get("/"+name).Status, "served, and then not")
		}
	}
	t.Logf("%d routes: mean %s, slowest %s from rename to first 200", count, sum/count, slowest)
	counts, errs := traffic.stop()
	require.Empty(t, errs)
	require.Len(t, counts, 1, "%v", counts)
}

// 100,000 records over REST, as one JSON array of a request of unknown length,
// in bounded memory of the proxy, too.
func TestSlowImportOverREST(t *testing.T) {
	s := harness.Start(t, nil)
	createCollection(t, s, "bulk")
	before := map[string]int64{"datad": s.ResidentBytes("datad"), "envoy": s.ResidentBytes("envoy")}
	peak := map[string]int64{}
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				for name := range before {
					peak[name] = max(peak[name], s.ResidentBytes(name))
				}
			}
		}
	})
	reader, writer := io.Pipe()
	go func() {
		separator := "["
		for i := range 100_000 {
			if _, err := fmt.Fprintf(writer, `%s{"recordId":"r%d","data":{"n":%d,"text":"%0100d"}}`, separator, i, i, i); err != nil {
				return
			}
			separator = ","
		}
		_, _ = io.WriteString(writer, "]")
		_ = writer.Close()
	}()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/collections/bulk/records:import", reader)
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-API-Key", s.APIKey)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	close(stop)
	watching.Wait()
	require.Equal(t, http.StatusOK, answer.StatusCode, string(body))
	require.Contains(t, string(body), `"imported":"100000"`)
	for name := range before {
		grown := (peak[name] - before[name]) >> 20
		t.Logf("%s grew by %d MiB", name, grown)
		require.Less(t, grown, int64(128), name)
	}
}

// A stream of more than is buffered comes while its request is still checked: all
// that is held by then goes on in one piece, and is not too large.
func TestSlowStreamComesBeforeItsCheck(t *testing.T) {
	s := harness.Start(t, nil)
	createCollection(t, s, "early")
	var records strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&records, `%c{"recordId":"r%d","data":{"n":%d,"text":"%0100d"}}`, "[,"[min(i, 1)], i, i, i)
	}
	records.WriteString("]")
	upload := func() int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/collections/early/records:import", strings.NewReader(records.String()))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-API-Key", s.APIKey)
		s.Signal("extauthzd", syscall.SIGSTOP)
		go func() {
			time.Sleep(300 * time.Millisecond) // of the second that a check may take
			s.Signal("extauthzd", syscall.SIGCONT)
		}()
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		t.Logf("%d %.100s", answer.StatusCode, body)
		return answer.StatusCode
	}
	s.Eventually("a check that is not too late", 10*time.Second, func() bool {
		status := upload()
		require.Contains(t, []int{http.StatusOK, http.StatusServiceUnavailable}, status)
		return status == http.StatusOK
	})
}

// Stopping under load: requests that were taken are answered.
func TestSlowDownDrains(t *testing.T) {
	s, backend := edge(t, routeYAML("patient", "/patient"))
	s.Write("patient.yaml", openYAML("patient"))
	s.Eventually("the open route", 2*time.Second, func() bool { return s.Do(http.MethodGet, "/patient", "").Status == http.StatusOK })
	before := backend.requests.Load()
	var answers sync.WaitGroup
	results := make(chan string, 20)
	for range 20 {
		answers.Go(func() {
			answer, err := s.TryDo(http.MethodGet, "/patient?slow", "")
			if err != nil {
				results <- err.Error()
				return
			}
			results <- fmt.Sprint(answer.Status)
		})
	}
	s.Eventually("all requests to be under way", 2*time.Second, func() bool { return backend.requests.Load() == before+20 })
	s.Weir("down")
	answers.Wait()
	close(results)
	for result := range results {
		require.Equal(t, "504", result, "every request that was under way got its answer (the route's timeout)")
	}
}
