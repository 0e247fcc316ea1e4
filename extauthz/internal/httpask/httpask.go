// Package httpask asks one question over HTTP, within bounds: no redirect is
// followed, since the question holds a credential, and no more of the answer is
// read than is expected.
package httpask

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"weir.dev/extauthz/jose"
)

// NewClient makes a client with a pool of its own; roots may be nil for the
// system's. Deadlines come from each request's context. Safe for concurrent use.
func NewClient(config *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxIdleConnsPerHost:    64,
			MaxConnsPerHost:        256,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Answer is what came back.
type Answer struct {
	Status int
	// Type is the media type without parameters, empty when there is none.
	Type string
	Body []byte
}

// Do sends a request and reads at most limit bytes of its answer; a longer one is
// an error. Errors name the URL's host at most.
func Do(client *http.Client, request *http.Request, limit int64) (Answer, error) {
	response, err := client.Do(request) //nolint:gosec // the URL is the operator's, never a caller's
	if err != nil {
		return Answer{}, plain(request, err)
	}
	defer response.Body.Close()
	answer := Answer{Status: response.StatusCode}
	answer.Type, _, _ = mime.ParseMediaType(response.Header.Get("Content-Type"))
	if answer.Body, err = io.ReadAll(io.LimitReader(response.Body, limit+1)); err != nil {
		return answer, plain(request, err)
	}
	if int64(len(answer.Body)) > limit {
		return answer, fmt.Errorf("%s: answered more than %d bytes", request.URL.Host, limit)
	}
	return answer, nil
}

// Object reads an answer that is a JSON object; jose.ParseObject says how. Errors
// name the host, and quote nothing of the answer.
func (a Answer) Object(host string) (map[string]any, error) {
	if a.Type != "application/json" {
		return nil, fmt.Errorf("%s: answered %d with content type %q", host, a.Status, a.Type)
	}
	object, err := jose.ParseObject(a.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: its answer %w", host, err)
	}
	return object, nil
}

// NewPost is a request with a body that wants JSON back.
func NewPost(ctx context.Context, address, contentType string, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the address of the server cannot be used")
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("Accept", "application/json")
	return request, nil
}

// Content types of questions.
const (
	TypeForm = "application/x-www-form-urlencoded"
	TypeJSON = "application/json"
)

// plain leaves out the URL, whose query may hold what is asked about.
func plain(request *http.Request, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer in time")
	}
	return fmt.Errorf("%s: %w", request.URL.Host, err)
}

// CheckBase is CheckURL for a base that a path is added to: it has no query. It
// returns the base parsed.
func CheckBase(text string) (*url.URL, error) {
	if err := CheckURL(text); err != nil {
		return nil, err
	}
	base, err := url.Parse(text)
	if err != nil || base.RawQuery != "" || base.ForceQuery {
		return nil, errors.New("has a query, or cannot be read")
	}
	return base, nil
}

// CheckURL accepts an absolute https URL without user information and fragment,
// and http on this machine: a credential sent in the clear is everybody's.
func CheckURL(text string) error {
	parsed, err := url.Parse(text)
	switch {
	case err != nil || parsed.Host == "" || parsed.User != nil || parsed.Fragment != "":
		return errors.New("is not an absolute URL without user information and fragment")
	case parsed.Scheme == "https", parsed.Scheme == "http" && loopback(parsed.Hostname()):
		return nil
	}
	return errors.New("is not https")
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}
