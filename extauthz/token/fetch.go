package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// httpFetcher gets key sets over HTTP.
type httpFetcher struct{ client *http.Client }

// maxRedirects bounds a chain of redirects; none leaves its scheme and host.
const maxRedirects = 3

// newHTTPFetcher makes a fetcher with a small pool of its own; deadlines come
// from each call's context.
func newHTTPFetcher() *httpFetcher {
	return &httpFetcher{client: &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(request *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			// Whoever can have one page of a host redirect could otherwise name the
			// keys that everything is verified by.
			if from := via[0].URL; from.Scheme != request.URL.Scheme || from.Host != request.URL.Host {
				return errors.New("refusing a redirect to another host")
			}
			return nil
		},
	}}
}

func (f *httpFetcher) fetch(ctx context.Context, uri string, limit int64) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := f.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s", response.Status)
	}
	if kind := response.Header.Get("Content-Type"); !plausible(kind) {
		return nil, fmt.Errorf("answered with content type %q", kind)
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("answered more than %d bytes", limit)
	}
	return raw, nil
}

// checkURI accepts absolute http and https URIs without user information.
func checkURI(text string) error {
	uri, err := url.Parse(text)
	if err != nil || uri.Host == "" || (uri.Scheme != "http" && uri.Scheme != "https") {
		return errors.New("is not an absolute http or https URI")
	}
	if uri.User != nil {
		return errors.New("holds user information; key sets are public")
	}
	return nil
}

// plausible refuses what is made to be looked at, such as the page of a login: a
// host's own documents have one of these types, as files on plain servers do.
func plausible(contentType string) bool {
	if contentType == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	switch kind {
	case "application/json", "application/jwk-set+json", "text/json", "text/plain", "application/octet-stream":
		return err == nil
	}
	return err == nil && strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")
}
