package e2e

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/controlplane"
	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

// quarantineYAML is a policy of three routes that answer by redirecting; the one
// in the middle is of the test's making.
func quarantineYAML(version int, middle string) string {
	route := func(name, filters string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s}
spec:
  parentRefs: [{name: edge}]
  rules:
  - name: all
    matches: [{path: {type: PathPrefix, value: /%[1]s}}]
    filters: [%[2]s]
---
`, name, filters)
	}
	redirect := func(to string) string {
		return fmt.Sprintf("{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /%s}}}", to)
	}
	return `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, protocol: HTTP, port: 8080}]}
---
` + route("first", redirect(fmt.Sprint("v", version))) + route("middle", redirect(fmt.Sprint("v", version))+middle) + route("last", redirect(fmt.Sprint("v", version)))
}

// The real Envoy rejects one route of three: its last good version stays, the
// others go on, and the object is named.
func TestEnvoyRejectsOneRouteOfThree(t *testing.T) {
	for name, middle := range rejectedFilters() {
		t.Run(name, func(t *testing.T) {
			p := startEnvoy(t)
			parser, err := policy.NewParser()
			require.NoError(t, err)
			loop := &controlplane.Loop{Server: p.server, Options: p.options, Logger: slog.New(slog.DiscardHandler)}
			ctx, cancel := context.WithCancel(t.Context())
			updates, ended := make(chan folder.Update), make(chan error, 1)
			go func() { ended <- loop.Run(ctx, updates) }()
			defer func() {
				cancel()
				require.ErrorIs(t, <-ended, context.Canceled)
			}()
			apply := func(text string) {
				var update folder.Update
				for _, document := range parser.Parse("p.yaml", []byte(text)) {
					require.Empty(t, document.Problems, "validation must not see what only Envoy does")
					update.Input.Objects = append(update.Input.Objects, document.Object)
				}
				updates <- update
			}
			apply(quarantineYAML(1, ""))
			require.Eventually(t, func() bool { return loop.Outcome().Fleets[""].Programmed }, 10*time.Second, 5*time.Millisecond)
			apply(quarantineYAML(2, ", "+middle))
			require.Eventually(t, func() bool {
				fleet := loop.Outcome().Fleets[""]
				return fleet.Programmed && len(fleet.Quarantined) == 1
			}, 10*time.Second, 5*time.Millisecond, "%+v", loop.Outcome().Fleets)
			q := loop.Outcome().Fleets[""].Quarantined[0]
			t.Logf("%s: %s", q.Origin, q.Message)
			require.Equal(t, "HTTPRoute default/middle", q.Origin.Object.String())
			require.True(t, q.Kept)
			for path, want := range map[string]string{"first": "v2", "middle": "v1", "last": "v2"} {
				require.Contains(t, p.location(path), want, path)
			}
			apply(quarantineYAML(3, ""))
			require.Eventually(t, func() bool {
				fleet := loop.Outcome().Fleets[""]
				return fleet.Programmed && len(fleet.Quarantined) == 0 && strings.Contains(p.location("middle"), "v3")
			}, 10*time.Second, 5*time.Millisecond)
		})
	}
}

// rejectedFilters are filters that pass validation and that Envoy rejects.
func rejectedFilters() map[string]string {
	return map[string]string{
		"host":   `{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: other}]}}`,
		"pseudo": `{type: ResponseHeaderModifier, responseHeaderModifier: {remove: ["host"]}}`,
	}
}

func (p *proxied) location(path string) string {
	p.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: 5 * time.Second}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/%s", p.ports[8080], path))
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.Header.Get("Location")
}
