package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"weir.dev/e2e/cluster/build"
)

// name is the node's, in its cluster.
const name = "node1"

// MaxSlot is the last of the slots.
const MaxSlot = 3

// Options say where things are.
type Options struct {
	// Sources is the folder components beside package cluster.
	Sources string
	// Slot tells nodes on one machine apart, 0 to MaxSlot: each has names, addresses
	// and state of its own.
	Slot int
	// Dir holds the state of the node; empty means cluster/state in Weir's cache, or
	// cluster/state-1 and so on.
	Dir string
	// Run holds sockets, whose paths have to be short; empty means
	// /run/weir-cluster, or /run/weir-cluster-1 and so on.
	Run string
	// Progress is where it is said what is being done; nil means nowhere.
	Progress io.Writer
}

// Node is the cluster. Its methods are not safe for concurrent use, nor may two
// processes call Up or Down at once.
type Node struct {
	Options
	tools string
}

// New checks that a node can run here, and builds what it is made of: about 15
// minutes on two cores the first time.
func New(ctx context.Context, options Options) (*Node, error) {
	if options.Progress == nil {
		options.Progress = io.Discard
	}
	if options.Slot < 0 || options.Slot > MaxSlot {
		return nil, fmt.Errorf("slot %d of a node is outside 0 to %d", options.Slot, MaxSlot)
	}
	if options.Run == "" {
		options.Run = "/run/" + options.namespace()
	}
	if options.Dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no cache folder: %w", err)
		}
		options.Dir = filepath.Join(cache, "weir", "cluster", "state"+options.suffix())
	}
	if err := possible(); err != nil {
		return nil, err
	}
	tools, err := build.Tools(ctx, options.Sources, options.Progress, build.Node, build.Helm)
	if err != nil {
		return nil, err
	}
	return &Node{Options: options, tools: tools}, nil
}

// possible says why no node can run on this machine.
func possible() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("a node without Docker needs Linux; this is %s", runtime.GOOS)
	}
	if os.Getuid() != 0 {
		return errors.New("a node without Docker needs root: it makes network namespaces and runs containers; run this with sudo")
	}
	var missing []string
	for program, debian := range map[string]string{"runc": "runc", "iptables": "iptables", "nft": "nftables", "conntrack": "conntrack", "ip": "iproute2", "nsenter": "util-linux"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, debian)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("a node without Docker needs %[1]s: apt-get install -y %[1]s", strings.Join(missing, " "))
	}
	return nil
}

func (n *Node) say(format string, arguments ...any) {
	fmt.Fprintf(n.Progress, format+"\n", arguments...)
}

// in is a path below the state.
func (n *Node) in(names ...string) string {
	return filepath.Join(append([]string{n.Dir}, names...)...)
}

// Kubeconfig is the path of a file with which any client on this machine reaches
// the API as its administrator.
func (n *Node) Kubeconfig() string { return n.in("pki", "admin.conf") }

// Tool is the path of one of the tools, such as kubectl, helm or ctr.
func (n *Node) Tool(name string) string { return filepath.Join(n.tools, name) }

// Command is a program that runs in the cluster's network, with its tools in the
// PATH and KUBECONFIG set. It is nsenter and not ip netns: that one hides the
// control groups.
func (n *Node) Command(ctx context.Context, program string, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.netns(), "--", program}, arguments...)...)
	command.Env = append(os.Environ(), "PATH="+n.tools+":"+os.Getenv("PATH"), "KUBECONFIG="+n.Kubeconfig())
	return command
}

// kubectl runs the client and returns what it says.
func (n *Node) kubectl(ctx context.Context, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, n.Tool("kubectl"), append([]string{"--kubeconfig", n.Kubeconfig()}, arguments...)...)
	output, err := command.CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("kubectl %s: %w: %s", strings.Join(arguments, " "), err, output)
	}
	return string(output), nil
}
