package main

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/stretchr/testify/require"
)

// records is a resolver.
type records struct {
	asked string
	list  []*net.SRV
	err   error
}

func (r *records) LookupSRV(_ context.Context, service, protocol, name string) (string, []*net.SRV, error) {
	r.asked = service + " " + protocol + " " + name
	return "", r.list, r.err
}

func TestServersOfARecord(t *testing.T) {
	resolver := &records{list: []*net.SRV{{Target: "127.0.0.2.", Port: 2}, {Target: "127.0.0.1.", Port: 1}, {Target: "127.0.0.1", Port: 1}}}
	record := &srvRecord{name: "_memcache._tcp.cache.example", servers: new(memcache.ServerList), resolver: resolver}
	addresses := func() (all []string) {
		require.NoError(t, record.servers.Each(func(address net.Addr) error {
			all = append(all, address.String())
			return nil
		}))
		return all
	}
	require.NoError(t, record.look(t.Context()))
	require.Equal(t, "memcache tcp cache.example", resolver.asked)
	require.Equal(t, []string{"127.0.0.1:1", "127.0.0.2:2"}, addresses(), "in one order for all, each once")

	resolver.err = errors.New("no answer")
	require.Error(t, record.look(t.Context()))
	resolver.err, resolver.list = nil, nil
	require.ErrorContains(t, record.look(t.Context()), "names no servers")
	require.Len(t, addresses(), 2, "those of before stay")
	resolver.list = []*net.SRV{{Target: "127.0.0.3", Port: 3}}
	require.NoError(t, record.look(t.Context()))
	require.Equal(t, []string{"127.0.0.3:3"}, addresses())
}
