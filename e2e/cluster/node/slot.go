package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SlotVariable is the environment variable that tests and the command take
// Options.Slot from.
const SlotVariable = "WEIR_NODE_SLOT"

// SlotFromEnvironment is 0 where the variable is not set.
func SlotFromEnvironment() (int, error) {
	value := os.Getenv(SlotVariable)
	if value == "" {
		return 0, nil
	}
	slot, err := strconv.Atoi(value)
	if err != nil || slot < 0 || slot > MaxSlot {
		return 0, fmt.Errorf("%s: %q is no number from 0 to %d", SlotVariable, value, MaxSlot)
	}
	return slot, nil
}

func (o *Options) suffix() string {
	if o.Slot == 0 {
		return ""
	}
	return "-" + strconv.Itoa(o.Slot)
}

// namespace is the name of the network namespace.
func (o *Options) namespace() string { return "weir-cluster" + o.suffix() }

func (o *Options) netns() string { return "/var/run/netns/" + o.namespace() }

// device is this machine's end of the pair of devices.
func (o *Options) device() string { return "weir-cluster" + strconv.Itoa(o.Slot) }

// cgroup is below which the kubelet makes the groups of its pods, as those it does
// not know of there it removes.
func (o *Options) cgroup() string {
	if o.Slot == 0 {
		return "/"
	}
	return "/" + o.namespace()
}

// makeCgroup makes that group, in every hierarchy there is.
func (o *Options) makeCgroup() error {
	const root = "/sys/fs/cgroup"
	if o.Slot == 0 {
		return nil
	}
	controllers, err := os.ReadFile(root + "/cgroup.controllers")
	if err == nil { // Version 2: one hierarchy, and what its children may use is said in it.
		if err := os.MkdirAll(root+o.cgroup(), 0o755); err != nil {
			return err
		}
		all := " " + strings.TrimSpace(string(controllers))
		return os.WriteFile(root+"/cgroup.subtree_control", []byte(strings.ReplaceAll(all, " ", " +")), 0o600)
	}
	hierarchies, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, hierarchy := range hierarchies {
		if !hierarchy.IsDir() || hierarchy.Name() == "unified" {
			continue
		}
		group := root + "/" + hierarchy.Name() + o.cgroup()
		if err := os.MkdirAll(group, 0o755); err != nil {
			return err
		}
		if hierarchy.Name() != "cpuset" {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // Empty at first: nothing could run.
			content, err := os.ReadFile(filepath.Join(root, "cpuset", file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(group, file), content, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// Address is the node's.
func (o *Options) Address() string { return fmt.Sprintf("198.19.%d.1", 255-o.Slot) }

// outside is the address of this machine's end of the pair.
func (o *Options) outside() string { return fmt.Sprintf("198.19.%d.2", 255-o.Slot) }

// pool is of addresses that Services of type LoadBalancer may ask for.
func (o *Options) pool() string { return fmt.Sprintf("198.19.%d.64/26", 255-o.Slot) }

// PoolAddress is an address that a Service of type LoadBalancer may ask for, and
// is given then.
func (o *Options) PoolAddress() string { return fmt.Sprintf("198.19.%d.65", 255-o.Slot) }

// apiIP is the first of services: the API's.
func (o *Options) apiIP() string { return fmt.Sprintf("198.19.%d.1", 32*o.Slot) }

func (o *Options) services() string { return fmt.Sprintf("198.19.%d.0/19", 32*o.Slot) }

func (o *Options) pods() string { return fmt.Sprintf("198.18.%d.0/18", 64*o.Slot) }
