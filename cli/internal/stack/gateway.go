package stack

import (
	"fmt"
	"os"

	"weir.dev/controlplane/folder"
	"weir.dev/policy"
)

// Listener is one port that the policy folder asks for.
type Listener struct{ Port int }

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
	listeners := make([]Listener, len(plan.Ports))
	for i, port := range plan.Ports {
		listeners[i] = Listener{Port: int(port.Number)}
	}
	if len(listeners) == 0 {
		return nil, fmt.Errorf("policy folder %s has no Gateway of class %s with a listener of protocol HTTP, so nothing would be served: weir validate %s says what is wrong with it, or name another folder with --dir",
			dir, policy.DefaultClass, dir)
	}
	return listeners, nil
}
