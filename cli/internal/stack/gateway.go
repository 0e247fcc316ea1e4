package stack

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

// Listener is one port that the policy folder asks for.
type Listener struct {
	Port int
	// TLS says that connections begin with a TLS handshake.
	TLS bool
}

// url is where the listener is bound.
func (l Listener) url(bound int) string {
	if l.TLS {
		return "https://" + local(bound)
	}
	return "http://" + local(bound)
}

// first is the listener to show and to wait for: one without TLS where there is
// any, since it needs no name and no trust.
func first(listeners []Listener) Listener {
	for _, listener := range listeners {
		if !listener.TLS {
			return listener
		}
	}
	return listeners[0]
}

// HostOf is the host:port of a base URL.
func HostOf(base string) string {
	_, host, _ := strings.Cut(base, "://")
	return host
}

// Listeners finds the ports of the folder's Gateways, in order of their
// numbers, with the control plane's own eyes: what it would not serve is not
// counted.
func Listeners(dir string) ([]Listener, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("policy folder: %w; name one with --dir", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("policy folder %s is not a folder; name one with --dir", dir)
	}
	parser, err := policy.NewParser()
	if err != nil {
		return nil, err
	}
	update, err := folder.Read(parser, dir)
	if err != nil {
		return nil, fmt.Errorf("policy folder %s: %w", dir, err)
	}
	plan, _ := policy.Resolve(update.Input)
	var listeners []Listener
	for _, port := range plan.Ports {
		found := Listener{Port: int(port.Number), TLS: port.Chains[0].Name != policy.PlainChain}
		// One number may be bound at several addresses.
		if !slices.ContainsFunc(listeners, func(l Listener) bool { return l.Port == found.Port }) {
			listeners = append(listeners, found)
		}
	}
	if len(listeners) == 0 {
		return nil, fmt.Errorf("policy folder %s has no Gateway of class %s with a listener that can be served, so nothing would be served: weir validate %s says what is wrong with it, or name another folder with --dir",
			dir, policy.DefaultClass, dir)
	}
	return listeners, nil
}
