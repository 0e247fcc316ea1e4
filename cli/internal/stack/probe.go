package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an admin answer.
const maxAnswer = 1 << 20

// envoyDrain is how long Envoy lets requests finish at a stop, out of the whole
// stop's time.
const envoyDrain = 8 * time.Second

// activeEvery is how often a draining Envoy is asked for running requests.
const activeEvery = 100 * time.Millisecond

// httpClient uses no proxy and keeps no connection: what it talks to comes and
// goes, on loopback.
func httpClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

func send(ctx context.Context, method, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return "", err
	}
	response, err := httpClient().Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %d: %s", url, response.StatusCode, strings.ReplaceAll(strings.TrimSpace(string(body)), "\n", "; "))
	}
	return string(body), nil
}

// Probe reports nil when the URL answers 200.
func Probe(ctx context.Context, url string) error {
	_, err := send(ctx, http.MethodGet, url)
	return err
}

// dial reports nil when something accepts connections at the address.
func dial(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("the ingress does not listen yet: %w", err)
	}
	return conn.Close()
}

// drainEnvoy has Envoy tell its clients to go elsewhere, and returns when no
// request runs any more or the time for it is over.
func drainEnvoy(ctx context.Context, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, envoyDrain)
	defer cancel()
	if _, err := send(ctx, http.MethodPost, "http://"+admin+"/drain_listeners?graceful&skip_exit"); err != nil {
		return err
	}
	for {
		answer, err := send(ctx, http.MethodGet, "http://"+admin+"/stats?format=json&filter="+`^http\..*\.downstream_rq_active$`)
		if err != nil {
			return err
		}
		active, err := activeRequests([]byte(answer))
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

// activeRequests adds up Envoy's gauges, without those of its admin interface.
func activeRequests(stats []byte) (int, error) {
	var answer struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(stats, &answer); err != nil {
		return 0, fmt.Errorf("stats of Envoy: %w", err)
	}
	total := 0
	for _, stat := range answer.Stats {
		if strings.HasSuffix(stat.Name, ".downstream_rq_active") && !strings.HasPrefix(stat.Name, "http.admin.") {
			total += stat.Value
		}
	}
	return total, nil
}
