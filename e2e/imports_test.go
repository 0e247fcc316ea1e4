package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"weir.dev/e2e/internal/harness"
)

// allowed is the table of DESIGN.md: which of our modules each may import.
func allowed() map[string][]string {
	return map[string][]string{
		"api":          {},
		"kit":          {"api"},
		"policy":       {"api", "kit"},
		"extauthz":     {"api", "kit"},
		"ratelimit":    {"api", "kit"},
		"controlplane": {"api", "kit", "policy"},
		"services":     {"api", "kit"},
		"mesh":         {"api", "kit", "policy"},
		"cli":          {"api", "kit", "policy", "extauthz", "ratelimit", "controlplane", "mesh", "services"},
	}
}

// forbidden names import prefixes that a module, or one package of it, may not
// use itself, with the packages that are excepted.
func forbidden() map[string][]string {
	envoy := []string{"github.com/envoyproxy/", "istio.io/"}
	return map[string][]string{
		"api":    append([]string{"net/http", "database/sql"}, envoy...),
		"policy": append([]string{"os", "net", "net/http", "k8s.io/client-go", "sigs.k8s.io/controller-runtime"}, envoy...),
		"kit":    {"istio.io/"},
		"services": append([]string{
			"crypto/tls", "github.com/golang-jwt/", "github.com/coreos/go-oidc", "golang.org/x/time/rate",
			"github.com/cenkalti/backoff", "github.com/failsafe-go/", "github.com/avast/retry-go", "weir.dev/kit/certs",
		}, envoy...),
	}
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, module string) []listed {
	t.Helper()
	command := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Imports,Deps", "./...")
	command.Dir = filepath.Join(harness.Root(t), module)
	out, err := command.Output()
	require.NoError(t, err)
	var packages []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for decoder.More() {
		var one listed
		require.NoError(t, decoder.Decode(&one))
		packages = append(packages, one)
	}
	require.NotEmpty(t, packages, module)
	return packages
}

// violations lists what breaks the tables, for any set of packages.
func violations(module string, packages []listed) []string {
	var found []string
	for _, pkg := range packages {
		if pkg.ImportPath == "weir.dev/services/internal/servicetest" {
			continue // plays the edge in tests; no service imports it
		}
		for _, imported := range pkg.Imports {
			if own, ok := strings.CutPrefix(imported, "weir.dev/"); ok {
				name, _, _ := strings.Cut(own, "/")
				if name != module && !contains(allowed()[module], name) {
					found = append(found, pkg.ImportPath+" imports "+imported)
				}
			}
			for _, prefix := range forbidden()[module] {
				if imported == prefix || (strings.HasSuffix(prefix, "/") && strings.HasPrefix(imported, prefix)) || strings.HasPrefix(imported, prefix+"/") && strings.Contains(prefix, ".") {
					found = append(found, pkg.ImportPath+" imports "+imported)
				}
			}
			if module == "kit" && strings.HasPrefix(imported, "github.com/envoyproxy/") && !strings.HasPrefix(pkg.ImportPath, "weir.dev/kit/adsclient") {
				found = append(found, pkg.ImportPath+" imports "+imported+" (only kit/adsclient may, see ADR 0003)")
			}
		}
		if module == "services" {
			for _, dependency := range pkg.Deps {
				if strings.HasPrefix(dependency, "github.com/envoyproxy/") || strings.HasPrefix(dependency, "istio.io/") {
					found = append(found, pkg.ImportPath+" depends on "+dependency)
				}
			}
		}
	}
	return found
}

func contains(names []string, name string) bool {
	for _, have := range names {
		if have == name {
			return true
		}
	}
	return false
}

func TestImportsFollowTheDesign(t *testing.T) {
	for module := range allowed() {
		t.Run(module, func(t *testing.T) {
			require.Empty(t, violations(module, list(t, module)))
		})
	}
}

// The guard must be able to fail.
func TestImportGuardRefuses(t *testing.T) {
	require.NotEmpty(t, violations("services", []listed{{ImportPath: "weir.dev/services/user", Imports: []string{"weir.dev/policy"}}}))
	require.NotEmpty(t, violations("services", []listed{{ImportPath: "weir.dev/services/user", Imports: []string{"crypto/tls"}}}))
	require.NotEmpty(t, violations("services", []listed{{ImportPath: "weir.dev/services/user", Deps: []string{"github.com/envoyproxy/go-control-plane/envoy/config/core/v3"}}}))
	require.NotEmpty(t, violations("policy", []listed{{ImportPath: "weir.dev/policy", Imports: []string{"os"}}}))
	require.NotEmpty(t, violations("kit", []listed{{ImportPath: "weir.dev/kit/fault", Imports: []string{"github.com/envoyproxy/go-control-plane/envoy/config/core/v3"}}}))
	require.Empty(t, violations("kit", []listed{{ImportPath: "weir.dev/kit/adsclient", Imports: []string{"github.com/envoyproxy/go-control-plane/envoy/config/core/v3"}}}))
}
