package metadata

import (
	"crypto/tls"
	"maps"
	"net"
	"net/url"
	"runtime"
	"sync"
	"weak"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	metadatav1 "weir.dev/api/gen/weir/metadata/v1"
)

// connection is the one to a server. It is closed when no fetcher has it any more.
type connection struct {
	metadatav1.MetadataServiceClient
}

// connections are those to the sources over gRPC; sources at one address share
// one. Safe for concurrent use.
type connections struct {
	config *tls.Config

	mu sync.Mutex
	// made holds on weakly: what no rule uses any more goes away by itself.
	made map[string]weak.Pointer[connection]
}

// to is the connection to a base, https or http; it is opened by the first
// question.
func (c *connections) to(base *url.URL) (*connection, error) {
	address := base.Scheme + "://" + base.Host
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.made[address].Value(); known != nil {
		return known, nil
	}
	secured, port := insecure.NewCredentials(), "80"
	if base.Scheme == "https" {
		config := c.config.Clone()
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		secured, port = credentials.NewTLS(config), "443"
	}
	if base.Port() != "" {
		port = base.Port()
	}
	dialled, err := grpc.NewClient("dns:///"+net.JoinHostPort(base.Hostname(), port),
		grpc.WithTransportCredentials(secured), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithIdleTimeout(idle))
	if err != nil {
		return nil, err
	}
	made := &connection{metadatav1.NewMetadataServiceClient(dialled)}
	runtime.AddCleanup(made, func(conn *grpc.ClientConn) { _ = conn.Close() }, dialled)
	maps.DeleteFunc(c.made, func(_ string, held weak.Pointer[connection]) bool { return held.Value() == nil })
	if c.made == nil {
		c.made = map[string]weak.Pointer[connection]{}
	}
	c.made[address] = weak.Make(made)
	return made, nil
}
