package envoyagent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an admin answer.
const maxAnswer = 1 << 20

// activeEvery is how often a draining Envoy is asked for running requests.
const activeEvery = 100 * time.Millisecond

// client uses no proxy and keeps no connection: Envoy comes and goes, on loopback.
func client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

func ask(ctx context.Context, method, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client().Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d: %s", url, response.StatusCode, strings.ReplaceAll(strings.TrimSpace(string(body)), "\n", "; "))
	}
	return body, nil
}

// Drain has the Envoy whose admin interface is at host:port tell its clients to go
// elsewhere, and returns when no request runs any more, or with an error at the
// end of ctx. Envoy goes on taking connections.
func Drain(ctx context.Context, admin string) error {
	if _, err := ask(ctx, http.MethodPost, "http://"+admin+"/drain_listeners?graceful&skip_exit"); err != nil {
		return err
	}
	return idle(ctx, admin)
}

// idle returns when no request runs.
func idle(ctx context.Context, admin string) error {
	for {
		active, err := total(ctx, admin, `^http\..*\.downstream_rq_active$`)
		if err != nil || active == 0 {
			return err
		}
		select {
		case <-time.After(activeEvery):
		case <-ctx.Done():
			return fmt.Errorf("%d requests still run: %w", active, ctx.Err())
		}
	}
}

// total adds up Envoy's counters and gauges that match a pattern.
func total(ctx context.Context, admin, pattern string) (int, error) {
	found, err := stats(ctx, admin, pattern)
	sum := 0
	for _, value := range found {
		sum += value
	}
	return sum, err
}

// stats are Envoy's counters and gauges that match a pattern, without those of its
// admin interface.
func stats(ctx context.Context, admin, pattern string) (map[string]int, error) {
	body, err := ask(ctx, http.MethodGet, "http://"+admin+"/stats?format=json&filter="+url.QueryEscape(pattern))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("stats of Envoy: %w", err)
	}
	found := make(map[string]int, len(answer.Stats))
	for _, stat := range answer.Stats {
		if stat.Name != "" && !strings.HasPrefix(stat.Name, "http.admin.") {
			found[stat.Name] = stat.Value
		}
	}
	return found, nil
}
