// Package httpask asks one question over HTTP, within bounds: no redirect is
// followed, since the question holds a credential, and no more of the answer is
// read than is expected.
package httpask

import (
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
