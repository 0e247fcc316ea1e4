package livekeys

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/timestamppb"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	"weir.dev/extauthz/apikey"
)

// Bounds of the connection to the user service.
const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = time.Second
	// brief is an outage that nobody has to be told of: the user service is still
	// starting, or is replaced by another.
	brief = 2 * time.Second
	// silence is how long the feed may be still; it sends a sign of life every
	// two seconds.
	silence         = 8 * time.Second
	maxMessageBytes = 8 << 20
	// reportEvery is how often last uses are told, reportTimeout how long one
	// report may take, reportBatch how many keys it names.
	reportEvery   = 20 * time.Second
	reportTimeout = 5 * time.Second
	reportBatch   = 1000
)

// errSilent says that the feed sent no sign of life.
var errSilent = errors.New("no sign of life from the feed")

// Client keeps a Store at what the user service has.
type Client struct {
	store   *Store
	address string
	tls     *tls.Config
	// every is how often last uses are told.
	every time.Duration
	// brief is how long an outage lasts before it is logged.
	brief time.Duration
}

// NewClient makes a client of the service at address, host:port; nothing
// connects before Run. tls authenticates both sides.
func NewClient(store *Store, address string, tls *tls.Config) *Client {
	return &Client{store: store, address: address, tls: tls, every: reportEvery, brief: brief}
}

// Run connects and reconnects until ctx ends; it returns only then, with
// ctx.Err(), or at once when the address cannot be parsed.
func (c *Client) Run(ctx context.Context) error {
	conn, err := grpc.NewClient(c.address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.tls)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return fmt.Errorf("user service address %q: %w", c.address, err)
	}
	defer func() { _ = conn.Close() }()
	feed := keysv1.NewApiKeyFeedServiceClient(conn)
	reporting := make(chan struct{})
	go func() { defer close(reporting); c.report(ctx, feed) }()
	wait, lost := firstBackoff, false
	last := time.Now() // when the feed was last heard
	for ctx.Err() == nil {
		heard, err := c.session(ctx, feed)
		if ctx.Err() != nil {
			break
		}
		if heard {
			wait, lost, last = firstBackoff, false, time.Now()
		}
		if c.store.options.Events.KeyFeed(err); !lost && time.Since(last) >= c.brief { // once an outage
			c.store.options.Logger.WarnContext(ctx, "the feed of issued API keys ended; going by what is known", "address", c.address, "error", err, "max_age", c.store.options.MaxAge)
			lost = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)): //nolint:gosec // jitter needs no secrecy
		}
		wait = min(2*wait, maxBackoff)
	}
	<-reporting
	return ctx.Err()
}

// session takes batches until the stream ends; heard says whether any came.
func (c *Client) session(ctx context.Context, feed keysv1.ApiKeyFeedServiceClient) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer alive.Stop()
	epoch, version := c.store.Resume()
	stream, err := feed.WatchApiKeys(ctx, &keysv1.WatchApiKeysRequest{Epoch: epoch, Version: version})
	for err == nil {
		var batch *keysv1.WatchApiKeysResponse
		if batch, err = stream.Recv(); err != nil {
			break
		}
		alive.Reset(silence)
		if err = c.store.Apply(batch); err == nil && !heard {
			heard = true
			c.store.options.Events.KeyFeed(nil)
		}
	}
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		err = cause
	}
	return heard, err
}

// report tells when keys were last used, until ctx ends. What can't be told is
// told later, or never: last uses are approximate.
func (c *Client) report(ctx context.Context, feed keysv1.ApiKeyFeedServiceClient) {
	told := map[apikey.Digest]int64{}
	ticker := time.NewTicker(c.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		uses := c.uses(told)
		for len(uses) > 0 {
			batch := uses[:min(reportBatch, len(uses))]
			uses = uses[len(batch):]
			if !c.tell(ctx, feed, batch, told) {
				break
			}
		}
	}
}

type use struct {
	digest apikey.Digest
	id     string
	at     time.Time
}

func (c *Client) uses(told map[apikey.Digest]int64) (uses []use) {
	c.store.current.Load().all(func(digest apikey.Digest, key *issued) bool {
		if at := key.LastUse(); !at.IsZero() && at.Unix() > told[digest] {
			uses = append(uses, use{digest, key.ID, at})
		}
		return true
	})
	return uses
}

func (c *Client) tell(ctx context.Context, feed keysv1.ApiKeyFeedServiceClient, batch []use, told map[apikey.Digest]int64) bool {
	request := &keysv1.ReportApiKeyUseRequest{}
	for _, use := range batch {
		request.Uses = append(request.Uses, &keysv1.KeyUse{Id: use.id, Time: timestamppb.New(use.at)})
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if _, err := feed.ReportApiKeyUse(ctx, request); err != nil {
		return false
	}
	for _, use := range batch {
		told[use.digest] = use.at.Unix()
	}
	return true
}
