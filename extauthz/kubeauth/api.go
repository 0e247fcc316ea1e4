package kubeauth

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	"weir.dev/extauthz/internal/httpask"
)

// reviewPath is where reviews are made.
const reviewPath = "/apis/authentication.k8s.io/v1/tokenreviews"

// maxReviewBytes bounds an answer.
const maxReviewBytes = 64 << 10

// Server is an API server and how it is spoken to.
type Server struct {
	// Address is https://host[:port], or empty when there is none.
	Address string
	// CAFile holds the authorities of its certificate, in PEM; empty means the
	// system's. TokenFile holds the token that extauthz proves itself with. Both
	// are read again as they change.
	CAFile, TokenFile string
}

// api speaks to an API server. Safe for concurrent use.
type api struct {
	server Server

	mu          sync.Mutex
	client      *http.Client
	authorities []byte
}

func newAPI(server Server) (*api, error) {
	server.Address = strings.TrimSuffix(server.Address, "/")
	if server.Address != "" {
		if err := httpask.CheckURL(server.Address); err != nil {
			return nil, fmt.Errorf("kubernetes.server: %q %w", server.Address, err)
		}
		if server.TokenFile == "" {
			return nil, errors.New("kubernetes.tokenFile: is required: the API server has to know who asks")
		}
	}
	return &api{server: server}, nil
}

// errNoServer says what is missing.
var errNoServer = errors.New("extauthz knows no API server: set kubernetes.server in its configuration")

// review posts a review and returns what came back.
func (a *api) review(ctx context.Context, review any) (httpask.Answer, error) {
	if a.server.Address == "" {
		return httpask.Answer{}, errNoServer
	}
	client, err := a.http()
	if err != nil {
		return httpask.Answer{}, err
	}
	credential, err := os.ReadFile(a.server.TokenFile)
	if err != nil {
		return httpask.Answer{}, fmt.Errorf("own token: %w", err)
	}
	body, err := json.Marshal(review)
	if err != nil {
		return httpask.Answer{}, errors.New("the review cannot be written")
	}
	request, err := httpask.NewPost(ctx, a.server.Address+reviewPath, httpask.TypeJSON, body)
	if err != nil {
		return httpask.Answer{}, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(credential)))
	return httpask.Do(client, request, maxReviewBytes)
}

// http is a client that trusts the authorities as they now are.
func (a *api) http() (*http.Client, error) {
	var authorities []byte
	if a.server.CAFile != "" {
		var err error
		if authorities, err = os.ReadFile(a.server.CAFile); err != nil {
			return nil, fmt.Errorf("authorities of the API server: %w", err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil && bytes.Equal(a.authorities, authorities) {
		return a.client, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("authorities of the API server: %s holds no certificate", a.server.CAFile)
		}
	}
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
	a.client, a.authorities = httpask.NewClient(config), authorities
	return a.client, nil
}
