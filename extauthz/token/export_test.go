package token

import (
	"context"
	"net/http"
)

// FetchWith fetches by the real fetcher over another transport.
func FetchWith(transport http.RoundTripper, ctx context.Context, uri string) ([]byte, error) {
	fetcher := newHTTPFetcher()
	fetcher.client.Transport = transport
	return fetcher.fetch(ctx, uri, 1<<10)
}
