package istio

import (
	"maps"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	compressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	transcoderv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_json_transcoder/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Weir's own target switches a filter on for a route by a FilterConfig whose config
// is an empty Any. Istio reads patches as JSON, where an Any without a type is a
// mistake. Filters that have a configuration per route are given one that changes
// nothing; the others are on, and switched off on the routes that do without.
type switches struct {
	// on is what switches a filter on, by its name in the chain.
	on map[string]*anypb.Any
	// everywhere are those that are on unless a route says otherwise.
	everywhere []string
}

// chain prepares a filter for the chain.
func (s *switches) chain(filter *hcmv3.HttpFilter) error {
	if !filter.GetDisabled() {
		return nil
	}
	neutral, err := neutral(filter.GetTypedConfig())
	if err != nil {
		return err
	}
	if neutral == nil {
		filter.Disabled = false
		s.everywhere = append(s.everywhere, filter.GetName())
		return nil
	}
	if s.on == nil {
		s.on = map[string]*anypb.Any{}
	}
	s.on[filter.GetName()] = neutral
	return nil
}

// neutral is a filter's configuration of a route that changes nothing, or nil where
// the filter has none.
func neutral(config *anypb.Any) (*anypb.Any, error) {
	for _, known := range []struct{ filter, route proto.Message }{
		{&luav3.Lua{}, &luav3.LuaPerRoute{}},
		{&headermutationv3.HeaderMutation{}, &headermutationv3.HeaderMutationPerRoute{Mutations: &headermutationv3.Mutations{}}},
		{&compressorv3.Compressor{}, &compressorv3.CompressorPerRoute{Override: &compressorv3.CompressorPerRoute_Overrides{
			Overrides: &compressorv3.CompressorOverrides{ResponseDirectionConfig: &compressorv3.ResponseDirectionOverrides{}},
		}}},
	} {
		if config.MessageIs(known.filter) {
			return anypb.New(known.route)
		}
	}
	if config.MessageIs(&transcoderv3.GrpcJsonTranscoder{}) {
		return proto.CloneOf(config), nil
	}
	return nil, nil
}

// route is what filters do on a route, with the switches as Istio reads them.
func (s *switches) route(configs map[string]*anypb.Any) (map[string]*anypb.Any, error) {
	made := map[string]*anypb.Any{}
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		config := configs[name]
		if name == extAuthzName {
			continue
		}
		name = renamed(name)
		if !switchesOn(config) {
			made[name] = config
		} else if on, ok := s.on[name]; ok {
			made[name] = on
		}
	}
	for _, name := range s.everywhere {
		if config, ok := configs[name]; ok && switchesOn(config) {
			continue
		}
		off, err := anypb.New(&routev3.FilterConfig{Disabled: true})
		if err != nil {
			return nil, err
		}
		made[name] = off
	}
	return made, nil
}

func switchesOn(config *anypb.Any) bool {
	filter := &routev3.FilterConfig{}
	return config.MessageIs(filter) && config.UnmarshalTo(filter) == nil &&
		!filter.GetDisabled() && filter.GetConfig() != nil && filter.GetConfig().GetTypeUrl() == ""
}
