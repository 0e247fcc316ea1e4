package istio

import (
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	"google.golang.org/protobuf/types/known/anypb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy"
)

// bodyExtension is the context extension by which extauthz knows that a route's
// bodies are sent to it.
const bodyExtension = "weir.body"

// bodies has a route's bodies sent to extauthz, where its rules read them. Istio's
// provider could be told to, for all routes or for none.
func bodies(route *policy.Route, configs map[string]*anypb.Any) error {
	if route.Auth == nil || route.Auth.Refuse || route.Auth.BodyBytes == 0 {
		return nil
	}
	config, err := anypb.New(&extauthzv3.ExtAuthzPerRoute{Override: &extauthzv3.ExtAuthzPerRoute_CheckSettings{CheckSettings: &extauthzv3.CheckSettings{
		ContextExtensions: map[string]string{bodyExtension: "true"},
		WithRequestBody:   &extauthzv3.BufferSettings{MaxRequestBytes: route.Auth.BodyBytes, PackAsBytes: true},
	}}})
	configs[extAuthzName] = config
	return err
}

// announce has extauthz refuse what may have a body that the proxy was not told to
// send: without its EnvoyFilter a route is as closed as before.
func announce(body *rulesv1.BodyInput) {
	if body != nil {
		body.Announced = true
	}
}
