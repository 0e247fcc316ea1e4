package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"weir.dev/ratelimit/ersettings"
)

// srvTimeout bounds one look-up.
const srvTimeout = 5 * time.Second

// srvRecord keeps servers as an SRV record has them.
type srvRecord struct {
	name     string
	servers  *memcache.ServerList
	resolver interface {
		LookupSRV(ctx context.Context, service, protocol, name string) (string, []*net.SRV, error)
	}
	last []string
}

// look looks the record up. The servers are sorted, so that all replicas find a
// counter on the same one, whatever order they are told of.
func (r *srvRecord) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, srvTimeout)
	defer cancel()
	service, protocol, domain, _ := ersettings.SRV(r.name)
	_, records, err := r.resolver.LookupSRV(ctx, service, protocol, domain)
	if err != nil {
		return err
	}
	list := make([]string, 0, len(records))
	for _, record := range records {
		list = append(list, net.JoinHostPort(strings.TrimSuffix(record.Target, "."), strconv.Itoa(int(record.Port))))
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) == 0 {
		return errors.New("the record names no servers")
	}
	if slices.Equal(list, r.last) {
		return nil
	}
	if err := r.servers.SetServers(list...); err != nil {
		return err
	}
	r.last = list
	return nil
}

// follow looks again and again until ctx ends. What can't be looked up leaves the
// servers as they were.
func (r *srvRecord) follow(ctx context.Context, every time.Duration, logger *slog.Logger) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			logger.Warn("the memcached servers' record cannot be looked up; those of before stay", "record", r.name, "error", err)
		}
	}
}
