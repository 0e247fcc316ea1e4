package check

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy"
)

// Bounds of asking issuers.
const (
	askTimeout  = 5 * time.Second
	maxKeySet   = 1 << 20
	maxIssuers  = 1000
	maxForwards = 3
)

// Issuers asks each issuer of tokens for its keys, as extauthz would have to, and
// adds those that do not give any to the result. It asks from where it runs, which
// may see other networks than extauthz. One after another, each for at most 5 s,
// and 1,000 of them.
func (r *Result) Issuers(ctx context.Context, plan *policy.Plan, progress func(string)) {
	client := &http.Client{Timeout: askTimeout, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > maxForwards {
			return errors.New("too many redirects")
		}
		return nil
	}}
	defer client.CloseIdleConnections()
	asked := map[string]bool{}
	for i := range plan.Ports {
		for j := range plan.Ports[i].Chains {
			for k := range plan.Ports[i].Chains[j].Hosts {
				for n := range plan.Ports[i].Chains[j].Hosts[k].Routes {
					r.issuersOf(ctx, client, plan, &plan.Ports[i].Chains[j].Hosts[k].Routes[n], asked, progress)
				}
			}
		}
	}
	r.Findings.Sort()
}

func (r *Result) issuersOf(ctx context.Context, client *http.Client, plan *policy.Plan, route *policy.Route, asked map[string]bool, progress func(string)) {
	if route.Auth == nil {
		return
	}
	for _, rules := range plan.AuthRoutes {
		if rules.GetRouteId() != route.Auth.RouteID {
			continue
		}
		for i, method := range rules.GetAuthenticators() {
			source, discovery := sourceOf(method)
			if source == "" || asked[source] || len(asked) == maxIssuers {
				continue
			}
			asked[source] = true
			progress(source)
			if err := askForKeys(ctx, client, source, discovery); err != nil {
				at := route.Auth.Origin
				if i < len(route.Auth.Authenticators) {
					at = route.Auth.Authenticators[i].Origin
				}
				r.checker.find(at, policy.CodeMeshIssuer, "%s gives no keys: %v", source, err)
			}
		}
	}
}

// sourceOf is where the keys are fetched, or discovered, by which a method verifies
// tokens or answers about them; empty for keys that are written down.
func sourceOf(method *rulesv1.Authenticator) (source string, discovery bool) {
	type keys interface {
		GetRemoteJwks() *rulesv1.RemoteJwks
		GetDiscoveredJwks() *rulesv1.DiscoveredJwks
	}
	var from keys = method.GetJwt()
	issuer := method.GetJwt().GetIssuer()
	if introspection := method.GetIntrospection(); introspection != nil {
		from, issuer = introspection.GetSignedResponse(), introspection.GetIssuer()
	}
	if found := from.GetDiscoveredJwks(); found != nil {
		return cmp.Or(found.GetUri(), strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration"), true
	}
	return from.GetRemoteJwks().GetUri(), false
}

func askForKeys(ctx context.Context, client *http.Client, source string, discovery bool) error {
	var said struct {
		Keys []json.RawMessage `json:"keys"`
		URI  string            `json:"jwks_uri"` // OpenID Connect Discovery 1.0 section 3
	}
	if err := fetch(ctx, client, source, &said); err != nil {
		return err
	}
	if discovery {
		if said.URI == "" {
			return errors.New("it names no jwks_uri")
		}
		if err := fetch(ctx, client, said.URI, &said); err != nil {
			return fmt.Errorf("%s: %w", said.URI, err)
		}
	}
	if len(said.Keys) == 0 {
		return errors.New("its set of keys is empty")
	}
	return nil
}

func fetch(ctx context.Context, client *http.Client, source string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			return inner.Err
		}
		return err
	}
	defer response.Body.Close() //nolint:errcheck // only read
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", response.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxKeySet+1))
	if err != nil {
		return err
	}
	if len(raw) > maxKeySet {
		return fmt.Errorf("it answers with more than %d bytes", maxKeySet)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return errors.New("what it answers is not JSON of the expected shape")
	}
	return nil
}
