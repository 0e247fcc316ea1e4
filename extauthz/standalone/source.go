package standalone

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/rules"
)

// pollEvery is how often a file is looked at. It is read, not only its date:
// mounted files are replaced in ways that dates don't tell.
const pollEvery = time.Second

// Source keeps the rules at what a file says. A file with a mistake changes
// nothing. Safe for concurrent use.
type Source struct {
	path     string
	compiler *extauthz.Compiler
	feed     *rules.Feed
	logger   *slog.Logger
	table    atomic.Pointer[Table]
	digest   atomic.Pointer[[sha256.Size]byte]

	// Of the one goroutine that loads.
	seen   [sha256.Size]byte
	routes map[string]*rulesv1.AuthRoute
	failed error
}

// NewSource makes a source that feeds the rules of path into feed; compiler is
// the feed's.
func NewSource(path string, compiler *extauthz.Compiler, feed *rules.Feed, logger *slog.Logger) *Source {
	return &Source{path: path, compiler: compiler, feed: feed, logger: logger}
}

// Choose is Table.Choose of the file in effect; it refuses while there is none.
func (s *Source) Choose(authority, method, target string) (id string, refused extauthz.Reason) {
	table := s.table.Load()
	if table == nil {
		return "", extauthz.ReasonRulesNotLoaded
	}
	return table.Choose(authority, method, target)
}

// Load takes the file as it is now. An error names each mistake; what was in
// effect stays.
func (s *Source) Load() error {
	content, err := read(s.path)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(content)
	if s.table.Load() != nil && digest == s.seen {
		return nil
	}
	parsed, err := Parse(content)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	next, err := compile(parsed)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	if err := s.apply(next); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	s.seen = digest
	s.digest.Store(&digest)
	return nil
}

// Digest is the SHA-256 of the file whose rules are in effect, false while there is
// none.
func (s *Source) Digest() ([sha256.Size]byte, bool) {
	digest := s.digest.Load()
	if digest == nil {
		return [sha256.Size]byte{}, false
	}
	return *digest, true
}

// apply brings everything into effect or nothing. Rules come first, then the
// choice between them; the last rules stay for requests that were given one.
func (s *Source) apply(next *compiled) error {
	_, err := s.compiler.Routes(nil, next.routes)
	if _, bad := s.compiler.Consumers(next.consumers); err != nil || bad != nil {
		return errors.Join(err, bad)
	}
	both := maps.Clone(next.routes)
	for id, route := range s.routes {
		if both[id] == nil {
			both[id] = route
		}
	}
	consumers, err := pack(next.consumers)
	if err != nil {
		return err
	}
	routes, err := pack(both)
	if err != nil {
		return err
	}
	if err := errors.Join(s.feed.ApplyConsumers(consumers), s.feed.ApplyRoutes(routes)); err != nil {
		return err
	}
	s.routes = next.routes
	s.table.Store(next.table)
	return nil
}

func pack[M proto.Message](messages map[string]M) (map[string]*anypb.Any, error) {
	packed := make(map[string]*anypb.Any, len(messages))
	for name, message := range messages {
		resource := &anypb.Any{}
		if err := anypb.MarshalFrom(resource, message, proto.MarshalOptions{Deterministic: true}); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		packed[name] = resource
	}
	return packed, nil
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	var content bytes.Buffer
	if _, err := io.Copy(&content, io.LimitReader(file, MaxFileBytes+1)); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}

// Run looks at the file until ctx ends, and returns ctx.Err().
func (s *Source) Run(ctx context.Context) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			s.reload(ctx)
		}
	}
}

// reload says once that a file is bad.
func (s *Source) reload(ctx context.Context) {
	before := s.seen
	err := s.Load()
	switch {
	case err != nil && (s.failed == nil || s.failed.Error() != err.Error()):
		s.logger.ErrorContext(ctx, "the file of rules is not taken; the last good one stays", "error", err)
	case err == nil && (before != s.seen || s.failed != nil):
		s.logger.InfoContext(ctx, "rules loaded", "file", s.path, "routes", len(s.routes))
	}
	s.failed = err
}
