// Package rules keeps the rules in effect: it takes the control plane's
// resources, compiles the whole set beside the one in effect, and swaps. A set
// with a mistake in it is rejected and the old one stays. It decides nothing
// about requests and does no networking of its own.
package rules

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/extauthz"
)

// Type URLs of what is subscribed to.
const (
	RouteType    = "type.googleapis.com/weir.rules.v1.AuthRoute"
	ConsumerType = "type.googleapis.com/weir.rules.v1.Consumer"
)

// Events hears what happens, for metrics. It must not block.
type Events interface {
	RulesLoaded(kind string, count int)
	RulesRejected(kind string)
}

// Feed holds the rules in effect. Safe for concurrent use.
type Feed struct {
	compiler *extauthz.Compiler
	events   Events
	ready    func()
	current  atomic.Pointer[extauthz.Rules]

	mu sync.Mutex // serialises updates; reading needs no lock
	// decoded keeps each route by the resource it came from, so that those that
	// did not change are not compiled again.
	decoded   map[string]decodedRoute
	routes    *extauthz.RouteSet
	consumers *extauthz.ConsumerSet
}

type decodedRoute struct {
	from  *anypb.Any
	route *rulesv1.AuthRoute
}

// NewFeed makes a feed without rules. ready, which may be nil, is called once,
// when both types have been received.
func NewFeed(compiler *extauthz.Compiler, events Events, ready func()) *Feed {
	if ready == nil {
		ready = func() {}
	}
	return &Feed{compiler: compiler, events: events, ready: ready}
}

// Current is the rules in effect, nil until both types have been received.
func (f *Feed) Current() *extauthz.Rules { return f.current.Load() }

// ApplyRoutes takes the whole set of routes by resource name.
func (f *Feed) ApplyRoutes(resources map[string]*anypb.Any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	decoded := make(map[string]decodedRoute, len(resources))
	sources := make(map[string]*rulesv1.AuthRoute, len(resources))
	var errs []error
	for name, resource := range resources {
		known := f.decoded[name]
		if known.route == nil || !sameResource(known.from, resource) {
			known = decodedRoute{from: resource, route: &rulesv1.AuthRoute{}}
			if err := resource.UnmarshalTo(known.route); err != nil {
				errs = append(errs, fmt.Errorf("route %q: cannot be read: %w", name, err))
				continue
			}
		}
		decoded[name], sources[name] = known, known.route
	}
	if err := errors.Join(errs...); err != nil {
		return f.reject("routes", err)
	}
	set, err := f.compiler.Routes(f.routes, sources)
	if err != nil {
		return f.reject("routes", err)
	}
	f.routes, f.decoded = set, decoded
	f.events.RulesLoaded("routes", set.Len())
	f.swap()
	return nil
}

// sameResource also holds for an equal copy, as a control plane that restarted
// sends it.
func sameResource(a, b *anypb.Any) bool { return a == b || proto.Equal(a, b) }

// ApplyConsumers takes the whole set of consumers by resource name.
func (f *Feed) ApplyConsumers(resources map[string]*anypb.Any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sources := make(map[string]*rulesv1.Consumer, len(resources))
	var errs []error
	for name, resource := range resources {
		consumer := &rulesv1.Consumer{}
		if err := resource.UnmarshalTo(consumer); err != nil {
			errs = append(errs, fmt.Errorf("consumer %q: cannot be read: %w", name, err))
			continue
		}
		sources[name] = consumer
	}
	if err := errors.Join(errs...); err != nil {
		return f.reject("consumers", err)
	}
	set, err := f.compiler.Consumers(sources)
	if err != nil {
		return f.reject("consumers", err)
	}
	f.consumers = set
	f.events.RulesLoaded("consumers", set.Len())
	f.events.RulesLoaded("api_keys", set.Keys())
	f.swap()
	return nil
}

func (f *Feed) reject(kind string, err error) error {
	f.events.RulesRejected(kind)
	return err
}

// swap puts a new whole in effect; f.mu is held.
func (f *Feed) swap() {
	if f.routes == nil || f.consumers == nil {
		return
	}
	first := f.current.Load() == nil
	f.current.Store(extauthz.NewRules(f.routes, f.consumers))
	if first {
		f.ready()
	}
}
