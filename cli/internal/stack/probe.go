package stack

import (
	"context"
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
