// Package erstatsd sends the metrics of envoyproxy/ratelimit to a StatsD server,
// under the names that it has there, such as
// ratelimit.service.rate_limit.DOMAIN.KEY_VALUE.total_hits. Counts are gathered
// and sent at intervals; what cannot be sent is sent later, within bounds.
package erstatsd

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir.dev/ratelimit/erservice"
)

// Bounds.
const (
	// MaxNames bounds the names that are counted; those beyond are left out.
	MaxNames = 50_000
	// maxDatagram is what a datagram holds on every network.
	maxDatagram = 1400
	patience    = 2 * time.Second
)

// Options of a Sink. All but Tags are required.
type Options struct {
	// Network is tcp or udp.
	Network, Address string
	Every            time.Duration
	// Tags are added to each name, as gostats writes them.
	Tags   map[string]string
	Logger *slog.Logger
	// Dog writes tags as DogStatsD has them, after "|#", and takes more of them out
	// of names by Mogrifiers: the first that matches a name renames it.
	Dog        bool
	Mogrifiers []Mogrifier
}

// Sink is an erservice.Observer. Safe for concurrent use.
type Sink struct {
	options Options
	suffix  string
	tags    []string

	mu     sync.Mutex
	counts map[string]uint64
	failed bool
}

// New makes a sink; it sends once Run is called.
func New(options Options) *Sink {
	s := &Sink{options: options, counts: map[string]uint64{}}
	for _, name := range slices.Sorted(maps.Keys(options.Tags)) {
		if options.Dog {
			s.tags = append(s.tags, tag(name, options.Tags[name]))
			continue
		}
		s.suffix += ".__" + clean(name) + "=" + clean(options.Tags[name])
	}
	return s
}

func (s *Sink) count(name string, by uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.counts[name]; by > 0 && (known || len(s.counts) < MaxNames) {
		s.counts[name] += by
	}
}

// Limited implements erservice.Observer.
func (s *Sink) Limited(name string, hits uint64, outcome erservice.Outcome) {
	base := "ratelimit.service.rate_limit." + clean(name) + "."
	s.count(base+"total_hits", hits)
	switch {
	case outcome.Over:
		s.count(base+"over_limit", hits)
		if outcome.Remembered {
			s.count(base+"over_limit_with_local_cache", hits)
		}
		if outcome.Shadow {
			s.count(base+"shadow_mode", hits)
		}
	default:
		s.count(base+"within_limit", hits)
		s.count(base+"near_limit", outcome.Near)
	}
}

// UnknownDomain implements erservice.Observer.
func (s *Sink) UnknownDomain(domain string) {
	s.count("ratelimit.service.rate_limit.domain_not_found."+clean(strings.ReplaceAll(domain, ".", "_")), 1)
}

// Failed implements erservice.Observer.
func (s *Sink) Failed(store bool) {
	kind := "service_error"
	if store {
		kind = "redis_error"
	}
	s.count("ratelimit.service.call.should_rate_limit."+kind, 1)
}

// ShadowedAll implements erservice.Observer.
func (s *Sink) ShadowedAll() { s.count("ratelimit.service.global_shadow_mode", 1) }

// Loaded counts a configuration that came into effect, or was refused.
func (s *Sink) Loaded(good bool) {
	if good {
		s.count("ratelimit.service.config_load_success", 1)
		return
	}
	s.count("ratelimit.service.config_load_error", 1)
}

// Run sends until ctx ends, and then what is left.
func (s *Sink) Run(ctx context.Context) {
	ticker := time.NewTicker(s.options.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			s.Flush(context.WithoutCancel(ctx))
			return
		case <-ticker.C:
			s.Flush(ctx)
		}
	}
}

// Flush sends what was counted. What cannot be sent is kept.
func (s *Sink) Flush(ctx context.Context) {
	s.mu.Lock()
	counts := s.counts
	s.counts = make(map[string]uint64, len(counts))
	s.mu.Unlock()
	if len(counts) == 0 {
		return
	}
	err := s.send(ctx, counts)
	if err != nil {
		for name, by := range counts {
			s.count(name, by)
		}
	}
	if (err != nil) != s.failed {
		if s.failed = err != nil; s.failed {
			s.options.Logger.Warn("metrics cannot be sent to StatsD; they are kept until they can", "address", s.options.Address, "error", err)
		} else {
			s.options.Logger.Info("metrics are sent to StatsD again", "address", s.options.Address)
		}
	}
}

func (s *Sink) send(ctx context.Context, counts map[string]uint64) error {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, s.options.Network, s.options.Address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var packet bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		line := s.line(name, counts[name])
		if packet.Len() > 0 && packet.Len()+len(line) > maxDatagram {
			if _, err := conn.Write(packet.Bytes()); err != nil {
				return err
			}
			packet.Reset()
		}
		packet.WriteString(line)
	}
	_, err = conn.Write(packet.Bytes())
	return err
}

func (s *Sink) line(name string, count uint64) string {
	value := ":" + strconv.FormatUint(count, 10) + "|c"
	if !s.options.Dog {
		return name + s.suffix + value + "\n"
	}
	name, tags := mogrify(s.options.Mogrifiers, name)
	if tags = append(slices.Clone(s.tags), tags...); len(tags) > 0 {
		value += "|#" + strings.Join(tags, ",")
	}
	return name + value + "\n"
}

// clean replaces what would end a name or a line.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == ':' || r == '|' || r == '@' || r == 0x7f || r == 0xfffd {
			return '_'
		}
		return r
	}, text)
}

// Both tells two observers.
type Both struct{ First, Second erservice.Observer }

// Limited implements erservice.Observer.
func (b Both) Limited(name string, hits uint64, outcome erservice.Outcome) {
	b.First.Limited(name, hits, outcome)
	b.Second.Limited(name, hits, outcome)
}

// UnknownDomain implements erservice.Observer.
func (b Both) UnknownDomain(domain string) {
	b.First.UnknownDomain(domain)
	b.Second.UnknownDomain(domain)
}

// Failed implements erservice.Observer.
func (b Both) Failed(store bool) {
	b.First.Failed(store)
	b.Second.Failed(store)
}

// ShadowedAll implements erservice.Observer.
func (b Both) ShadowedAll() {
	b.First.ShadowedAll()
	b.Second.ShadowedAll()
}
