package mtls

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Kinds of lines that the observer writes.
const (
	marker         = "weir_mtls"
	kindRequest    = "request"
	kindConnection = "connection"
	kindRefused    = "refused"
	// kindTLS is a connection in TLS without a client's certificate, or one whose
	// handshake has not ended: nothing was received over that yet.
	kindTLS = "tls"
)

// maxCallers bounds the callers that are told apart; others count as one.
const maxCallers = 1000

// maxConnections bounds the connections that are remembered by each.
const maxConnections = 10000

// Caller is one who called in plaintext, or was refused.
type Caller struct {
	// Address is its IP address.
	Address string `json:"address"`
	// Name is its namespace and pod, its node, or "unknown".
	Name string `json:"name"`
	// Workload is its Deployment or the like; "" when it is no pod.
	Workload string `json:"workload,omitempty"`
	// Meshed says that it has a sidecar, and calls in plaintext nevertheless.
	Meshed bool `json:"meshed,omitempty"`
	// Target is the pod that was called, TargetWorkload what it is of, Port the port.
	Target         string `json:"target"`
	TargetWorkload string `json:"targetWorkload,omitempty"`
	Port           uint32 `json:"port"`
	// Requests of HTTP, Connections of TCP, and those Refused.
	Requests    int `json:"requests,omitempty"`
	Connections int `json:"connections,omitempty"`
	Refused     int `json:"refused,omitempty"`
}

func (c *Caller) String() string {
	var counts []string
	for _, one := range []struct {
		count int
		what  string
	}{{c.Requests, "request"}, {c.Connections, "TCP connection"}, {c.Refused, "refused connection"}} {
		switch one.count {
		case 0:
		case 1:
			counts = append(counts, "1 "+one.what)
		default:
			counts = append(counts, fmt.Sprintf("%d %ss", one.count, one.what))
		}
	}
	name := c.Name
	if c.Workload != "" {
		name += " (" + c.Workload + ")"
	}
	if c.Meshed {
		name += " with a sidecar"
	}
	return fmt.Sprintf("%s, %s: %s to %s port %d", name, c.Address, strings.Join(counts, ", "), cmp.Or(c.TargetWorkload, c.Target), c.Port)
}

type callerKey struct {
	pod, from string
	port      uint32
}

// seen is what is counted of a caller. A request is told as it begins and as it
// ends, and some, which are no HTTP, only as they end.
type seen struct {
	begun, ended int
	connections  map[string]bool
	more         int
	refused      int
}

func (s *seen) connected(id string) {
	switch {
	case s.connections[id]:
	case len(s.connections) >= maxConnections:
		s.more++
	default:
		if s.connections == nil {
			s.connections = map[string]bool{}
		}
		s.connections[id] = true
	}
}

// tally counts what sidecars log. Safe for concurrent use.
type tally struct {
	run string
	mu  sync.Mutex
	all map[callerKey]*seen
	// strange is a line of ours that could not be read.
	strange string
}

func newTally(run string) *tally { return &tally{run: run, all: map[callerKey]*seen{}} }

// line counts one of a pod's sidecar; those of others are passed over.
func (t *tally) line(pod string, text []byte) {
	if !bytes.Contains(text, []byte(`"`+marker+`":"`+t.run+`"`)) {
		return
	}
	var said struct {
		What       string
		Type       string
		Connection json.Number
		From, To   string
		Received   int64
	}
	err := json.Unmarshal(text, &said)
	from, fromErr := netip.ParseAddrPort(said.From)
	to, toErr := netip.ParseAddrPort(said.To)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || fromErr != nil || toErr != nil {
		t.strange = fmt.Sprintf("sidecar of %s: %.200q", pod, text)
		return
	}
	if said.What == kindTLS && said.Received == 0 {
		return
	}
	key := callerKey{pod: pod, from: from.Addr().Unmap().String(), port: uint32(to.Port())}
	if t.all[key] == nil && len(t.all) >= maxCallers {
		key = callerKey{pod: pod, from: "others"}
	}
	if t.all[key] == nil {
		t.all[key] = &seen{}
	}
	one := t.all[key]
	switch {
	case said.What == kindRefused:
		one.refused++
	case said.What == kindConnection, said.What == kindTLS:
		one.connected(said.Connection.String())
	case said.Type == "DownstreamStart":
		one.begun++
	default:
		one.ended++
	}
}

// callers are all that were seen, sorted, with the names that a directory has.
func (t *tally) callers(directory Directory) []Caller {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Caller
	for key, one := range t.all {
		caller := Caller{
			Address: key.from, Target: key.pod, Port: key.port,
			Requests: max(one.begun, one.ended), Connections: len(one.connections) + one.more, Refused: one.refused,
		}
		directory.name(&caller)
		all = append(all, caller)
	}
	slices.SortFunc(all, func(a, b Caller) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Address, b.Address), strings.Compare(a.Target, b.Target), cmp.Compare(a.Port, b.Port))
	})
	return all
}

// Plaintext are those that were served in plaintext.
func Plaintext(callers []Caller) []Caller {
	return slices.DeleteFunc(slices.Clone(callers), func(c Caller) bool { return c.Requests == 0 && c.Connections == 0 })
}

// harmed are those whose count of anything rose since before.
func harmed(before, after []Caller) []Caller {
	type place struct {
		address, target string
		port            uint32
	}
	was := map[place]Caller{}
	for _, caller := range before {
		was[place{caller.Address, caller.Target, caller.Port}] = caller
	}
	var found []Caller
	for _, caller := range after {
		old := was[place{caller.Address, caller.Target, caller.Port}]
		caller.Requests -= old.Requests
		caller.Connections -= old.Connections
		if old.Refused > 0 {
			caller.Refused = 0 // it was refused already
		}
		if caller.Requests > 0 || caller.Connections > 0 || caller.Refused > 0 {
			found = append(found, caller)
		}
	}
	return found
}

// Pod is one of the cluster's.
type Pod struct {
	Namespace, Name string
	UID             string
	Addresses       []string
	Labels          map[string]string
	// Workload is what it is of, such as "Deployment orders"; "" when it stands alone.
	Workload string
	// Sidecar is the name of its sidecar's container; "" when it has none.
	Sidecar string
	// Running says that its containers have been started, and it is not about to end.
	Running bool
	// Gateway says that its proxy is a gateway's, whose modes are not a
	// PeerAuthentication's.
	Gateway bool
	// Ambient says that an ambient mesh has it, which this package knows nothing of.
	Ambient bool
	// Node says that it has the addresses of its node.
	Node bool
}

func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

// Directory says who has an address.
type Directory struct {
	// Pods by address and Nodes' names by address. A pod that was there at any time of
	// the observation counts.
	Pods  map[string]Pod
	Nodes map[string]string
	// Targets are the workloads of pods, by namespace/name.
	Targets map[string]string
}

// add takes another's names, for addresses that it has none for.
func (d *Directory) add(other Directory) {
	if d.Pods == nil {
		*d = Directory{Pods: map[string]Pod{}, Nodes: map[string]string{}, Targets: map[string]string{}}
	}
	merge(d.Pods, other.Pods)
	merge(d.Nodes, other.Nodes)
	merge(d.Targets, other.Targets)
}

func merge[V any](into, from map[string]V) {
	for key, value := range from {
		if _, there := into[key]; !there {
			into[key] = value
		}
	}
}

func (d *Directory) name(caller *Caller) {
	caller.TargetWorkload = d.Targets[caller.Target]
	if pod, ok := d.Pods[caller.Address]; ok {
		caller.Name, caller.Workload, caller.Meshed = "pod "+pod.String(), pod.Workload, pod.Sidecar != ""
		return
	}
	caller.Name = "unknown"
	if node, ok := d.Nodes[caller.Address]; ok {
		caller.Name = "node " + node
	}
}
