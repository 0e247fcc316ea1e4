package stack

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"weir.dev/cli/state"
	"weir.dev/kit/certs"
)

// AuthorityDir is where the certificate authority is kept.
func AuthorityDir(dir state.Dir) string { return filepath.Join(dir.Certs(), "ca") }

// ensureCertificates issues what is missing or soon to expire, and lists whose.
func ensureCertificates(dir state.Dir, now time.Time) ([]string, error) {
	authority, err := certs.OpenAuthority(AuthorityDir(dir), now)
	if err != nil {
		return nil, err
	}
	var renewed []string
	for _, identity := range Identities() {
		_, issued, err := authority.Ensure(identity, filepath.Join(dir.Certs(), identity), now)
		if err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", identity, err)
		}
		if issued {
			renewed = append(renewed, identity)
		}
	}
	return renewed, nil
}

// renewEvery is how often certificates are looked at; they are renewed with a
// third of their life left, so one look missed is no harm.
const renewEvery = time.Hour

// renewCertificates goes on until ctx ends. Components pick renewed files up by
// themselves.
func renewCertificates(ctx context.Context, dir state.Dir, logger *slog.Logger) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			switch renewed, err := ensureCertificates(dir, now); {
			case err != nil:
				logger.Error("certificates not renewed; trying again in an hour", "error", err)
			case len(renewed) > 0:
				logger.Info("certificates renewed", "of", renewed)
			}
		}
	}
}
