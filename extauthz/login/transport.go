package login

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// maxAnswerBytes bounds what a provider may answer with.
const maxAnswerBytes = 1 << 20

// newClient makes the client for providers: bounded answers, and redirects for
// documents only, never for what carries a secret.
func newClient() *http.Client {
	return &http.Client{
		Transport: bounded{&http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:    5 * time.Second,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		}},
		CheckRedirect: func(request *http.Request, via []*http.Request) error {
			switch {
			case via[0].Method != http.MethodGet || via[0].Header.Get("Authorization") != "":
				return errors.New("the provider redirects a request that carries a secret")
			case len(via) > 3:
				return errors.New("too many redirects")
			case via[0].URL.Scheme == "https" && request.URL.Scheme != "https":
				return errors.New("refusing a redirect from https to " + request.URL.Scheme)
			}
			return nil
		},
	}
}

// bounded cuts answers off.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = limited{io.LimitReader(response.Body, maxAnswerBytes), response.Body}
	return response, nil
}

type limited struct {
	io.Reader
	io.Closer
}

// checkURL accepts https URLs, and http ones on loopback addresses.
func checkURL(text string) error {
	parsed, err := url.Parse(text)
	switch {
	case err != nil || parsed.Host == "" || parsed.User != nil || parsed.Fragment != "":
		return errors.New("is not an absolute URL without user information and fragment")
	case parsed.Scheme == "https" || parsed.Scheme == "http" && loopback(parsed.Host):
		return nil
	default:
		return errors.New("is not https; http is for loopback addresses only")
	}
}
