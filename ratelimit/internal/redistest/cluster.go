package redistest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// Node is one server of a Cluster.
type Node struct {
	*Server
	Address string
	// ID is the node's name in the cluster.
	ID string
	// Client talks to this node alone.
	Client *goredis.Client
}

// Cluster is a Redis Cluster, stopped when the test ends.
type Cluster struct {
	// Masters hold a third of the slots each, at first. Replicas has one for each.
	Masters, Replicas []*Node
}

// freePort finds a port that nobody listens on. Redis Cluster can't be told to
// take one itself.
func freePort(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}

// StartCluster starts masters, with a replica each if asked for.
func StartCluster(t testing.TB, masters int, replicas bool) *Cluster {
	t.Helper()
	cluster := &Cluster{}
	for range masters {
		cluster.Masters = append(cluster.Masters, startNode(t))
	}
	for i, node := range cluster.Masters {
		from, to := i*slots/masters, (i+1)*slots/masters-1
		require.NoError(t, node.Client.Do(t.Context(), "cluster", "set-config-epoch", i+1).Err())
		require.NoError(t, node.Client.ClusterAddSlotsRange(t.Context(), from, to).Err())
		cluster.meet(t, node)
	}
	cluster.settled(t, masters)
	if replicas {
		for _, master := range cluster.Masters {
			replica := startNode(t)
			cluster.meet(t, replica)
			require.Eventually(t, func() bool {
				return replica.Client.Do(context.Background(), "cluster", "replicate", master.ID).Err() == nil
			}, startTimeout, 20*time.Millisecond, "a replica learns of its master")
			cluster.Replicas = append(cluster.Replicas, replica)
		}
		cluster.settled(t, 2*masters)
		for _, replica := range cluster.Replicas {
			require.Eventually(t, func() bool {
				info, err := replica.Client.Info(context.Background(), "replication").Result()
				return err == nil && strings.Contains(info, "master_link_status:up")
			}, startTimeout, 20*time.Millisecond, "a replica follows its master")
		}
	}
	return cluster
}

func startNode(t testing.TB) *Node {
	server := newServer(t)
	port := freePort(t)
	node := &Node{Server: server, Address: net.JoinHostPort("127.0.0.1", port)}
	server.url = "redis://" + node.Address
	server.arguments = []string{
		"--bind", "127.0.0.1", "--port", port, "--cluster-enabled", "yes", "--cluster-port", freePort(t),
		"--cluster-config-file", filepath.Join(server.dir, "nodes.conf"), "--cluster-node-timeout", "1000",
		"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
	}
	server.Restart(t)
	node.Client = goredis.NewClient(&goredis.Options{Addr: node.Address, MaxRetries: -1})
	t.Cleanup(func() { _ = node.Client.Close() })
	id, err := node.Client.Do(t.Context(), "cluster", "myid").Text()
	require.NoError(t, err)
	node.ID = id
	return node
}

// meet introduces a node to the first one.
func (c *Cluster) meet(t testing.TB, node *Node) {
	first := c.Masters[0]
	if node == first {
		return
	}
	host, port, err := net.SplitHostPort(first.Address)
	require.NoError(t, err)
	bus := first.arguments[7]
	require.NoError(t, node.Client.Do(t.Context(), "cluster", "meet", host, port, bus).Err())
}

// settled waits until every node knows that many and that all slots are served.
func (c *Cluster) settled(t testing.TB, nodes int) {
	for _, node := range append(append([]*Node{}, c.Masters...), c.Replicas...) {
		require.Eventually(t, func() bool {
			info, err := node.Client.ClusterInfo(context.Background()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(nodes)+"\r\n")
		}, startTimeout, 20*time.Millisecond, "the cluster comes up")
	}
}

// URL is where the cluster is, for redis.Config with mode cluster.
func (c *Cluster) URL() string {
	url := "redis://" + c.Masters[0].Address + "?"
	for _, node := range c.Masters[1:] {
		url += "addr=" + node.Address + "&"
	}
	return strings.TrimRight(url, "?&")
}

// Owner is the master that has a slot now.
func (c *Cluster) Owner(t testing.TB, slot int) *Node {
	shards, err := c.Masters[0].Client.ClusterShards(t.Context()).Result()
	require.NoError(t, err)
	for _, shard := range shards {
		if !slices.ContainsFunc(shard.Slots, func(r goredis.SlotRange) bool { return r.Start <= int64(slot) && int64(slot) <= r.End }) {
			continue
		}
		for _, node := range append(append([]*Node{}, c.Masters...), c.Replicas...) {
			if slices.ContainsFunc(shard.Nodes, func(n goredis.Node) bool { return n.ID == node.ID && n.Role == "master" }) {
				return node
			}
		}
	}
	require.FailNow(t, "nobody owns the slot", slot)
	return nil
}

// MoveSlot moves a slot and its keys, one key at a time, as redis-cli does it
// while resharding. between is called after each key, and may be nil.
func (c *Cluster) MoveSlot(t testing.TB, slot int, to *Node, between func()) {
	from := c.Owner(t, slot)
	if from == to {
		return
	}
	ctx := t.Context()
	set := func(node *Node, what ...any) {
		require.NoError(t, node.Client.Do(ctx, append([]any{"cluster", "setslot", slot}, what...)...).Err(), fmt.Sprint(what...))
	}
	set(to, "importing", from.ID)
	set(from, "migrating", to.ID)
	host, port, err := net.SplitHostPort(to.Address)
	require.NoError(t, err)
	for {
		keys, err := from.Client.ClusterGetKeysInSlot(ctx, slot, 1).Result()
		require.NoError(t, err)
		if between != nil {
			between()
		}
		if len(keys) == 0 {
			break
		}
		require.NoError(t, from.Client.Migrate(ctx, host, port, keys[0], 0, 5*time.Second).Err())
	}
	set(to, "node", to.ID)
	set(from, "node", to.ID)
}
