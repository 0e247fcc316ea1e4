package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"weir.dev/ratelimit/erconfig"
	"weir.dev/ratelimit/ersettings"
	"weir.dev/ratelimit/erxds"
)

// configurations loads the first configuration, where it is in files, and returns
// what follows the next ones until its context ends. Over xDS health is false
// until the first has come.
func (s *server) configurations() (follow func(context.Context), err error) {
	if s.settings.ConfigType != "GRPC_XDS_SOTW" {
		s.folder.seen = s.folder.signature()
		if err := s.reload(); err != nil && !s.settings.ForceStart {
			return nil, errors.New("the first configuration cannot be loaded; FORCE_START_WITHOUT_INITIAL_CONFIG=true starts without")
		}
		return func(ctx context.Context) {
			s.folder.watch(ctx, func() { _ = s.reload() }) // it is logged, and what was in effect stays
		}, nil
	}
	transport, err := xdsTransport(s.settings)
	if err != nil {
		return nil, err
	}
	nodeMetadata, err := ersettings.Pairs(s.settings.XDSNodeMetadata)
	headers, other := ersettings.Pairs(s.settings.XDSHeaders)
	if err := errors.Join(err, other); err != nil {
		return nil, err
	}
	s.announce()
	return func(ctx context.Context) {
		err := erxds.Run(ctx, erxds.Options{
			Address: s.settings.XDSServer, Credentials: transport, NodeID: s.settings.XDSNodeID, Metadata: nodeMetadata, Headers: headers,
			MaxMessageBytes: s.settings.XDSMaxBytes, FirstPause: s.settings.XDSFirstPause, MaxPause: s.settings.XDSMaxPause, Logger: s.logger,
			Apply: func(files []erconfig.File) error {
				config, err := erconfig.Load(files, s.folder.options)
				return s.adopt(config, err, s.settings.XDSServer)
			},
		})
		if ctx.Err() == nil {
			s.logger.Error("configurations are no longer followed", "error", err)
		}
	}, nil
}

// xdsTransport is how the configuration server is spoken to.
func xdsTransport(settings *ersettings.Settings) (credentials.TransportCredentials, error) {
	if !settings.XDSTLS {
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: settings.XDSTLSName}
	if settings.XDSTLSCA != "" {
		raw, err := os.ReadFile(settings.XDSTLSCA)
		if err != nil {
			return nil, fmt.Errorf("CONFIG_GRPC_XDS_SERVER_TLS_CACERT: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("CONFIG_GRPC_XDS_SERVER_TLS_CACERT: %s holds no PEM certificate", settings.XDSTLSCA)
		}
	}
	if settings.XDSTLSCert != "" {
		if _, err := tls.LoadX509KeyPair(settings.XDSTLSCert, settings.XDSTLSKey); err != nil {
			return nil, fmt.Errorf("CONFIG_GRPC_XDS_CLIENT_TLS_CERT: %w", err)
		}
		// Read for each connection, so that a renewed one is used.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(settings.XDSTLSCert, settings.XDSTLSKey)
			return &pair, err
		}
	}
	return credentials.NewTLS(config), nil
}
