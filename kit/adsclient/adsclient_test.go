package adsclient_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weir.dev/kit/adsclient"
	"weir.dev/kit/adsclient/adstest"
	"weir.dev/kit/certs"
)

const (
	stringType = "type.googleapis.com/google.protobuf.StringValue"
	numberType = "type.googleapis.com/google.protobuf.Int64Value"
)

// fixture is a server, and a client whose applied sets arrive as "name=value"
// lists on a channel. Values that start with "bad" are rejected.
type fixture struct {
	server  *adstest.Server
	applied chan string
	client  *adsclient.Client
}

func newFixture(t *testing.T) *fixture {
	authority, err := certs.OpenAuthority(t.TempDir(), time.Now())
	require.NoError(t, err)
	serverFiles, err := authority.Issue("controlplane", t.TempDir(), time.Now())
	require.NoError(t, err)
	clientFiles, err := authority.Issue("ratelimit", t.TempDir(), time.Now())
	require.NoError(t, err)
	serverTLS, err := serverFiles.ServerConfig([]string{certs.PeerID("ratelimit")})
	require.NoError(t, err)
	clientTLS, err := clientFiles.ClientConfig(certs.PeerID("controlplane"))
	require.NoError(t, err)
	f := &fixture{server: adstest.Start(t, serverTLS), applied: make(chan string, 100)}
	f.client = adsclient.New(adsclient.Config{Address: f.server.Address(), TLS: clientTLS, NodeID: "node-1"})
	f.client.Subscribe(stringType, f.apply)
	return f
}

func (f *fixture) apply(resources map[string]*anypb.Any) error {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		var value wrapperspb.StringValue
		if err := resources[name].UnmarshalTo(&value); err != nil {
			return err
		}
		if strings.HasPrefix(value.GetValue(), "bad") {
			return errors.New("resource " + name + " is bad")
		}
		parts = append(parts, name+"="+value.GetValue())
	}
	f.applied <- strings.Join(parts, " ")
	return nil
}

func (f *fixture) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.client.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

func (f *fixture) set(t *testing.T, pairs ...string) {
	messages := map[string]proto.Message{}
	for i := 0; i < len(pairs); i += 2 {
		messages[pairs[i]] = wrapperspb.String(pairs[i+1])
	}
	f.server.Set(t, stringType, messages)
}

func (f *fixture) requireApplied(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-f.applied:
		require.Equal(t, want, got)
	case <-time.After(time.Minute):
		require.FailNow(t, "nothing was applied")
	}
}

func (f *fixture) requireAck(t *testing.T) {
	t.Helper()
	request := f.server.Request(t)
	require.NotEmpty(t, request.GetResponseNonce())
	require.Nil(t, request.GetErrorDetail())
}

func (f *fixture) requireNack(t *testing.T, want string) {
	t.Helper()
	request := f.server.Request(t)
	require.NotEmpty(t, request.GetResponseNonce())
	require.Contains(t, request.GetErrorDetail().GetMessage(), want)
}

// started runs the client against a server that has a=1 and b=1.
func started(t *testing.T) *fixture {
	f := newFixture(t)
	f.set(t, "a", "1", "b", "1")
	f.run(t)
	first := f.server.Request(t)
	require.Equal(t, "node-1", first.GetNode().GetId())
	require.Equal(t, []string{"*"}, first.GetResourceNamesSubscribe())
	require.Empty(t, first.GetInitialResourceVersions())
	f.requireApplied(t, "a=1 b=1")
	f.requireAck(t)
	return f
}

func TestChangesAndRemovals(t *testing.T) {
	f := started(t)
	f.set(t, "a", "2", "b", "1")
	f.requireApplied(t, "a=2 b=1")
	f.requireAck(t)
	f.set(t, "a", "2", "c", "1")
	f.requireApplied(t, "a=2 c=1")
	f.requireAck(t)
	f.set(t)
	f.requireApplied(t, "")
	f.requireAck(t)
}

func TestARejectedUpdateKeepsTheOldAndLosesNothing(t *testing.T) {
	f := started(t)
	f.set(t, "a", "bad", "b", "2")
	f.requireNack(t, "resource a is bad")
	require.Empty(t, f.applied)
	// The server sends only a again. b=2 came with the rejected update.
	f.set(t, "a", "3", "b", "2")
	f.requireApplied(t, "a=3 b=2")
	f.requireAck(t)
	// The same for a removal.
	f.set(t, "a", "bad again")
	f.requireNack(t, "resource a is bad")
	f.set(t, "a", "4")
	f.requireApplied(t, "a=4")
	f.requireAck(t)
}

func TestReconnectTellsWhatIsAppliedAndGetsTheDifference(t *testing.T) {
	f := started(t)
	f.server.Down()
	f.set(t, "a", "1", "b", "2", "c", "1")
	f.server.Up(t)
	again := f.server.Request(t)
	require.Len(t, again.GetInitialResourceVersions(), 2)
	require.Contains(t, again.GetInitialResourceVersions(), "a")
	f.requireApplied(t, "a=1 b=2 c=1")
	f.requireAck(t)

	f.server.Down()
	f.set(t, "c", "1") // removed while nobody listened
	f.server.Up(t)
	require.Len(t, f.server.Request(t).GetInitialResourceVersions(), 3)
	f.requireApplied(t, "c=1")
	f.requireAck(t)
}

func TestAfterARejectionAReconnectAsksForItAgain(t *testing.T) {
	f := started(t)
	before := 0
	f.set(t, "a", "bad", "b", "1")
	f.requireNack(t, "resource a is bad")
	f.server.Down()
	f.server.Up(t)
	again := f.server.Request(t)
	require.Len(t, again.GetInitialResourceVersions(), 2)
	f.requireNack(t, "resource a is bad") // the server learns again that it is not in effect
	require.Len(t, f.applied, before)
	f.set(t, "a", "5", "b", "1")
	f.requireApplied(t, "a=5 b=1")
}

func TestTheControlPlaneMayComeLast(t *testing.T) {
	f := newFixture(t)
	f.server.Down()
	f.run(t)
	f.set(t, "a", "1")
	f.server.Up(t)
	require.NotNil(t, f.server.Request(t))
	f.requireApplied(t, "a=1")
}

func TestAnEmptySetArrivesToo(t *testing.T) {
	f := newFixture(t)
	f.run(t)
	require.NotNil(t, f.server.Request(t))
	f.requireApplied(t, "")
}

func TestTypesAreApart(t *testing.T) {
	f := newFixture(t)
	numbers := make(chan int, 10)
	f.client.Subscribe(numberType, func(resources map[string]*anypb.Any) error {
		numbers <- len(resources)
		return nil
	})
	f.set(t, "a", "bad")
	f.server.Set(t, numberType, map[string]proto.Message{"one": wrapperspb.Int64(1)})
	f.run(t)
	select {
	case got := <-numbers:
		require.Equal(t, 1, got, "one type's rejection does not hold up the other")
	case <-time.After(time.Minute):
		require.FailNow(t, "no numbers")
	}
	require.Empty(t, f.applied)
}

func TestAnUnparsableAddressEndsRun(t *testing.T) {
	f := newFixture(t)
	client := adsclient.New(adsclient.Config{Address: "dns://bad:authority:x/%%", TLS: nil})
	_ = f
	require.ErrorContains(t, client.Run(t.Context()), "control plane address")
}
