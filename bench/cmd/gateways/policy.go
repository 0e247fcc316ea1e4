package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// perFile is how many routes share a file of the base.
const perFile = 100

// dialect is what differs between the products in otherwise equal policy.
type dialect struct {
	class, classController     string
	backendGroup, backendExtra string
	backend                    string
}

// writeBase writes the gateway, its backend and n routes.
func (d dialect) writeBase(dir string, port, backendPort, n int) error {
	var head strings.Builder
	fmt.Fprintf(&head, `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: %s}
spec:
  controllerName: %s
%s---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  gatewayClassName: %s
  listeners: [{name: http, protocol: HTTP, port: %d}]
---
`, d.class, d.classController, d.backendExtra, d.class, port)
	fmt.Fprintf(&head, d.backend, backendPort)
	if err := save(dir, "base.yaml", head.String()); err != nil {
		return err
	}
	for first := 0; first < n; first += perFile {
		var b strings.Builder
		for i := first; i < min(n, first+perFile); i++ {
			b.WriteString("---\n" + d.route(fmt.Sprintf("r%05d", i), fmt.Sprintf("/r/%05d", i)))
		}
		if err := save(dir, fmt.Sprintf("routes-%03d.yaml", first/perFile), b.String()); err != nil {
			return err
		}
	}
	return nil
}

// route is one HTTPRoute with one path.
func (d dialect) route(name, path string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: default}
spec:
  parentRefs: [{name: edge}]
  rules:
    - matches: [{path: {type: PathPrefix, value: %s}}]
      backendRefs: [{group: %s, kind: Backend, name: echo}]
`, name, path, d.backendGroup)
}

// save writes a file as editors do: beside it, then renamed.
func save(dir, name, content string) error {
	// Outside of the folder: a product may read every file that is in it.
	temp := filepath.Join(filepath.Dir(dir), "."+name+".new")
	if err := os.WriteFile(temp, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, name))
}
