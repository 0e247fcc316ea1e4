package ads_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/stretchr/testify/require"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"

	"weir.dev/controlplane/envoy"
	"weir.dev/kit/certs"
)

// variant is a client of either variant of the protocol, seen from what it has:
// that is the same in both.
type variant interface {
	// want subscribes to names, to everything for none, on top of nothing else.
	want(typeURL string, names ...string)
	// take waits for a response, applies it unless refuse says why not, and
	// answers.
	take(refuse string)
	// state is "cds a=1 b=2", of all types.
	state() string
	// waiting says that a response is there to be taken.
	waiting() bool
	// stale answers a response that was never sent, with a rejection.
	stale(typeURL string)
	close()
}

// TestBothVariants runs each story over delta and over state-of-the-world ADS.
func TestBothVariants(t *testing.T) {
	stories := map[string]func(t *testing.T, f *fixture, c variant){
		"everything, then changes":          storyChanges,
		"rejections neither loop nor block": storyRejection,
		"names, more names, fewer":          storyNames,
		"make before break":                 storyOrder,
		"changed clusters warm again":       storyWarming,
		"old answers are passed over":       storyStale,
		"nothing is served before there is": storyEarly,
	}
	for name, story := range stories {
		for protocol, dial := range map[string]func(*fixture) variant{"delta": dialDelta, "state of the world": dialState} {
			t.Run(name+"/"+protocol, func(t *testing.T) {
				f := newFixture(t)
				c := dial(f)
				defer c.close()
				story(t, f, c)
			})
		}
	}
}

func storyChanges(t *testing.T, f *fixture, c variant) {
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds a=1 b=1 c=1", "lds p=1", "rds p=1"))))
	c.want(cds)
	c.take("")
	require.Equal(t, "cds a=1 b=1 c=1", c.state())
	c.want(lds)
	c.take("")
	c.want(rds, "p")
	c.take("")
	done := f.rollout(setOf(t, "cds a=1 b=2 d=1", "lds p=1", "rds p=1"))
	c.take("")
	require.Equal(t, "cds a=1 b=2 c=1 d=1 lds p=1 rds p=1", c.state(), "c is there as long as a route may lead there")
	c.take("")
	require.NoError(t, f.requireDone(done))
	require.Equal(t, "cds a=1 b=2 d=1 lds p=1 rds p=1", c.state())
	f.requireInSync()
}

func storyRejection(t *testing.T, f *fixture, c variant) {
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds a=1", "lds p=1"))))
	c.want(cds)
	c.take("")
	c.want(lds)
	c.take("")
	done := f.rollout(setOf(t, "cds a=1 bad=1", "lds p=1"))
	c.take("no")
	c.take("") // put back
	require.ErrorContains(t, f.requireDone(done), "rejected Cluster bad: no")
	require.Equal(t, "cds a=1 lds p=1", c.state())
	// The rest moves on, and nothing was offered in between.
	done = f.rollout(setOf(t, "cds a=1", "lds p=2"))
	c.take("")
	require.NoError(t, f.requireDone(done))
	require.Equal(t, "cds a=1 lds p=2", c.state())
	f.requireInSync()
}

func storyNames(t *testing.T, f *fixture, c variant) {
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "eds a=1 b=1 c=1", "lds p=1"))))
	c.want(eds, "a", "missing")
	c.take("")
	require.Equal(t, "eds a=1", c.state())
	c.want(eds, "a", "b")
	c.take("")
	require.Equal(t, "eds a=1 b=1", c.state())
	c.want(eds, "b")
	c.want(lds) // Its answer says that the request before it was taken in.
	c.take("")
	require.Eventually(t, func() bool { return f.ads.Clients()[0].InSync }, patience, time.Millisecond)
	done := f.rollout(setOf(t, "eds a=2 b=2 c=2", "lds p=1"))
	c.take("")
	require.NoError(t, f.requireDone(done))
	require.Contains(t, c.state(), "b=2")
	require.NotContains(t, c.state(), "a=2", "it was not asked for any more")
	c.want(eds, "a", "b") // asked for anew
	c.take("")
	require.Equal(t, "eds a=2 b=2 lds p=1", c.state())
}

func storyOrder(t *testing.T, f *fixture, c variant) {
	require.NoError(t, f.requireDone(f.rollout(before(t))))
	c.want(cds)
	c.take("")
	c.want(eds, "a")
	c.take("")
	c.want(lds)
	c.take("")
	c.want(rds, "port")
	c.take("")
	done := f.rollout(after(t))
	c.take("")
	require.Equal(t, "cds a=1 b=1 eds a=1 lds port=1 rds port=to-a", c.state(), "the cluster comes first")
	c.want(eds, "a", "b")
	c.take("")
	require.Equal(t, "cds a=1 b=1 eds a=1 b=1 lds port=1 rds port=to-a", c.state(), "then its endpoints")
	c.take("")
	c.take("")
	require.Equal(t, "cds a=1 b=1 eds a=1 b=1 lds port=2 rds port=to-b", c.state(), "then what leads there")
	c.take("")
	require.NotContains(t, c.state(), "cds a=1", "what nothing leads to goes last")
	c.want(eds, "b")
	for started, ended := time.Now(), false; !ended; {
		require.Less(t, time.Since(started), patience)
		select {
		case err := <-done:
			require.NoError(t, err)
			ended = true
		case <-time.After(time.Millisecond):
			if c.waiting() {
				c.take("") // the removal of its endpoints
			}
		}
	}
}

func storyWarming(t *testing.T, f *fixture, c variant) {
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds a=1", "eds a=1"))))
	c.want(cds)
	c.take("")
	c.want(eds, "a")
	c.take("")
	for n := 2; n < 6; n++ {
		done := f.rollout(setOf(t, fmt.Sprintf("cds a=%d", n), "eds a=1"))
		c.take("")
		c.take("") // the same endpoints
		require.NoError(t, f.requireDone(done))
		require.Equal(t, fmt.Sprintf("cds a=%d eds a=1", n), c.state())
	}
}

func storyStale(t *testing.T, f *fixture, c variant) {
	require.NoError(t, f.requireDone(f.rollout(setOf(t, "cds a=1"))))
	c.want(cds)
	c.take("")
	c.stale(cds)
	done := f.rollout(setOf(t, "cds a=2"))
	c.take("")
	require.NoError(t, f.requireDone(done))
	f.requireInSync()
}

func storyEarly(t *testing.T, f *fixture, c variant) {
	c.want(cds)
	require.Eventually(t, func() bool { return len(f.ads.Clients()) == 1 && f.ads.Clients()[0].Node != "" }, patience, time.Millisecond)
	require.Empty(t, c.state())
	done := f.rollout(setOf(t, "cds a=1"))
	c.take("")
	require.NoError(t, f.requireDone(done))
	require.Equal(t, "cds a=1", c.state())
}

// holding is what a client has, by type and name.
type holding map[string]map[string]string

func (h holding) String() string {
	var parts []string
	for _, short := range []struct{ name, typeURL string }{{"cds", cds}, {"eds", eds}, {"lds", lds}, {"rds", rds}} {
		if len(h[short.typeURL]) == 0 {
			continue
		}
		parts = append(parts, short.name)
		for _, name := range slices.Sorted(maps.Keys(h[short.typeURL])) {
			parts = append(parts, name+"="+h[short.typeURL][name])
		}
	}
	return strings.Join(parts, " ")
}

type deltaVariant struct {
	*client
	has   holding
	names map[string][]string
}

func dialDelta(f *fixture) variant {
	return &deltaVariant{client: f.dial("ingress"), has: holding{}, names: map[string][]string{}}
}

func (d *deltaVariant) want(typeURL string, names ...string) {
	request := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "delta"}, TypeUrl: typeURL}
	for _, name := range names {
		if !slices.Contains(d.names[typeURL], name) {
			request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, name)
		}
	}
	for _, name := range d.names[typeURL] {
		if !slices.Contains(names, name) {
			request.ResourceNamesUnsubscribe = append(request.ResourceNamesUnsubscribe, name)
			delete(d.has[typeURL], name)
		}
	}
	d.names[typeURL] = names
	d.send(request)
}

func (d *deltaVariant) take(refuse string) {
	d.t.Helper()
	var response *discoveryv3.DeltaDiscoveryResponse
	select {
	case response = <-d.responses:
	case err := <-d.ended:
		require.FailNow(d.t, "the stream ended", "%v", err)
	case <-time.After(patience):
		require.FailNow(d.t, "nothing came")
	}
	if refuse != "" {
		d.nack(response, refuse)
		return
	}
	if d.has[response.GetTypeUrl()] == nil {
		d.has[response.GetTypeUrl()] = map[string]string{}
	}
	for _, resource := range response.GetResources() {
		d.has[response.GetTypeUrl()][resource.GetName()] = contentOf(resource)
	}
	for _, name := range response.GetRemovedResources() {
		delete(d.has[response.GetTypeUrl()], name)
	}
	d.ack(response)
}

func (d *deltaVariant) waiting() bool { return len(d.responses) > 0 }
func (d *deltaVariant) state() string { return d.has.String() }
func (d *deltaVariant) close()        { d.cancel() }
func (d *deltaVariant) stale(typeURL string) {
	d.nack(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: "999"}, "not asked")
}

// stateVariant is a client of the state-of-the-world variant. Like Envoy, it
// takes what is missing for gone of listeners and clusters alone.
type stateVariant struct {
	t         testing.TB
	stream    discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	responses chan *discoveryv3.DiscoveryResponse
	cancel    func()
	has       holding
	names     map[string][]string
	version   map[string]string
	nonce     map[string]string
}

func dialState(f *fixture) variant {
	f.t.Helper()
	files, err := f.authority.Issue("ingress", f.t.TempDir(), time.Now())
	require.NoError(f.t, err)
	tls, err := files.ClientConfig(certs.PeerID("controlplane"))
	require.NoError(f.t, err)
	conn, err := grpc.NewClient(f.address, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	s := &stateVariant{
		t: f.t, responses: make(chan *discoveryv3.DiscoveryResponse, 100), has: holding{},
		names: map[string][]string{}, version: map[string]string{}, nonce: map[string]string{},
		cancel: sync.OnceFunc(func() {
			cancel()
			_ = conn.Close()
		}),
	}
	s.stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	require.NoError(f.t, err)
	go func() {
		for {
			response, err := s.stream.Recv()
			if err != nil {
				return
			}
			s.responses <- response
		}
	}()
	return s
}

func (s *stateVariant) say(typeURL string, failure *statuspb.Status) {
	s.t.Helper()
	require.NoError(s.t, s.stream.Send(&discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: "state"}, TypeUrl: typeURL, ResourceNames: s.names[typeURL],
		VersionInfo: s.version[typeURL], ResponseNonce: s.nonce[typeURL], ErrorDetail: failure,
	}))
}

func (s *stateVariant) want(typeURL string, names ...string) {
	s.names[typeURL] = names
	maps.DeleteFunc(s.has[typeURL], func(name, _ string) bool { return len(names) > 0 && !slices.Contains(names, name) })
	s.say(typeURL, nil)
}

func (s *stateVariant) take(refuse string) {
	s.t.Helper()
	var response *discoveryv3.DiscoveryResponse
	select {
	case response = <-s.responses:
	case <-time.After(patience):
		require.FailNow(s.t, "nothing came")
	}
	typeURL := response.GetTypeUrl()
	s.nonce[typeURL] = response.GetNonce()
	if refuse != "" {
		s.say(typeURL, &statuspb.Status{Code: 3, Message: refuse})
		return
	}
	require.NotEmpty(s.t, response.GetVersionInfo())
	s.version[typeURL] = response.GetVersionInfo()
	if s.has[typeURL] == nil || typeURL == envoy.TypeCluster || typeURL == envoy.TypeListener {
		s.has[typeURL] = map[string]string{}
	}
	for _, resource := range response.GetResources() {
		name, content := nameAndContent(s.t, resource)
		s.has[typeURL][name] = content
	}
	s.say(typeURL, nil)
}

func nameAndContent(t testing.TB, resource *anypb.Any) (name, content string) {
	t.Helper()
	message, err := resource.UnmarshalNew()
	require.NoError(t, err)
	switch message := message.(type) {
	case interface{ GetName() string }:
		name = message.GetName()
	case interface{ GetClusterName() string }:
		name = message.GetClusterName()
	}
	return name, contentOf(&discoveryv3.Resource{Resource: resource})
}

func (s *stateVariant) waiting() bool { return len(s.responses) > 0 }
func (s *stateVariant) state() string { return s.has.String() }
func (s *stateVariant) close()        { s.cancel() }
func (s *stateVariant) stale(typeURL string) {
	require.NoError(s.t, s.stream.Send(&discoveryv3.DiscoveryRequest{
		TypeUrl: typeURL, ResponseNonce: "999", ErrorDetail: &statuspb.Status{Code: 3, Message: "not asked"},
	}))
}
