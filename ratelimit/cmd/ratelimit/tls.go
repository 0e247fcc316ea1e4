package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"weir.dev/ratelimit/ersettings"
)

// reloadEvery is how often a changed certificate is looked for.
const reloadEvery = time.Second

// serverTLS is the gRPC server's: files are read again when they change, and
// the old ones serve on while new ones cannot be read.
func serverTLS(settings *ersettings.Settings) (*tls.Config, error) {
	keys := &keyPair{certFile: settings.GRPCServerTLSCert, keyFile: settings.GRPCServerTLSKey}
	if err := keys.read(); err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return keys.current(time.Now()), nil },
	}
	if settings.GRPCClientTLSCA == "" {
		return config, nil
	}
	raw, err := os.ReadFile(settings.GRPCClientTLSCA)
	if err != nil {
		return nil, fmt.Errorf("GRPC_CLIENT_TLS_CACERT: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("GRPC_CLIENT_TLS_CACERT: %s holds no PEM certificate", settings.GRPCClientTLSCA)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	if name := settings.GRPCClientTLSSAN; name != "" {
		config.VerifyConnection = func(state tls.ConnectionState) error { return named(state, name) }
	}
	return config, nil
}

// named reports whether the client's certificate bears a name.
func named(state tls.ConnectionState, name string) error {
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		if slices.Contains(leaf.DNSNames, name) {
			return nil
		}
		for _, uri := range leaf.URIs {
			if uri.String() == name {
				return nil
			}
		}
	}
	return errors.New("the client's certificate does not bear the name of GRPC_CLIENT_TLS_SAN")
}

// keyPair is a certificate with its key, from files.
type keyPair struct {
	certFile, keyFile string

	mu      sync.Mutex
	looked  time.Time
	changed [2]time.Time
	pair    *tls.Certificate
}

func (k *keyPair) read() error {
	k.changed = [2]time.Time{modified(k.certFile), modified(k.keyFile)}
	pair, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err != nil {
		return fmt.Errorf("GRPC_SERVER_TLS_CERT: %w", err)
	}
	k.pair = &pair
	return nil
}

func (k *keyPair) current(now time.Time) *tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Sub(k.looked) >= reloadEvery {
		k.looked = now
		if k.changed != [2]time.Time{modified(k.certFile), modified(k.keyFile)} {
			if before := k.changed; k.read() != nil {
				k.changed = before // half of the pair may be there; look again
			}
		}
	}
	return k.pair
}

func modified(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
