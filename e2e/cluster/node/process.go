package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// start runs one of the tools in the cluster's network. It lives on when this
// process ends; down finds it by its network namespace.
func (n *Node) start(tool string, arguments ...string) error {
	output, err := os.OpenFile(n.log(tool), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	// nsenter execs, so that the process is the tool itself.
	command := n.Command(context.Background(), n.Tool(tool), arguments...)
	command.Stdout, command.Stderr, command.Dir = output, output, n.Dir
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return err
	}
	go func() { _ = command.Wait() }()
	return nil
}

func (n *Node) log(tool string) string { return n.in("log", tool+".log") }

// await tries until it goes well, and says the end of the tool's log when it does
// not.
func (n *Node) await(ctx context.Context, tool string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w\n%s", tool, readyTimeout, err, n.tail(tool))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tail is the end of a tool's log.
func (n *Node) tail(tool string) string {
	content, err := os.ReadFile(n.log(tool))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// members are the processes in the network namespace of the node or of one of its
// pods: whatever it ever started, and nothing else.
func (n *Node) members() []int {
	ours := map[identity]bool{}
	files, _ := filepath.Glob(filepath.Join(n.Run, "*", "netns", "*"))
	for _, path := range append(files, n.netns()) {
		if id, ok := identityOf(path); ok {
			ours[id] = true
		}
	}
	var found []int
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if id, ok := identityOf(filepath.Join("/proc", entry.Name(), "ns", "net")); ok && ours[id] {
			found = append(found, pid)
		}
	}
	return found
}

// identity tells namespaces, and files, apart.
type identity struct{ device, inode uint64 }

func identityOf(path string) (identity, bool) {
	var status syscall.Stat_t
	if err := syscall.Stat(path, &status); err != nil {
		return identity{}, false
	}
	return identity{device: status.Dev, inode: status.Ino}, true
}

// kill ends all members, the containers' included, and waits until they are gone.
func (n *Node) kill(ctx context.Context) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		members := n.members()
		if len(members) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of the node do not end", members)
		}
		for _, pid := range members {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Processes are those of a program in the node and its pods.
func (n *Node) Processes(program string) (found []int) {
	for _, pid := range n.members() {
		// The kernel keeps 15 bytes of a name.
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err == nil && strings.TrimSpace(string(name)) == program[:min(15, len(program))] {
			found = append(found, pid)
		}
	}
	return found
}

// Kill ends the processes of a program, as a crash does, and tells how many there
// were. The kubelet starts again what is in pods.
func (n *Node) Kill(program string) (killed int) {
	for _, pid := range n.Processes(program) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// Down stops everything and removes all state; only what was built stays.
// It is no error if nothing is up.
func (n *Node) Down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := n.kill(ctx); err != nil {
		return err
	}
	if err := n.unmount(); err != nil {
		return err
	}
	if _, ok := identityOf(n.netns()); ok {
		if err := run(ctx, "ip", "netns", "delete", n.namespace()); err != nil {
			return err
		}
	}
	// It went with the namespace, unless the node fell in between.
	_ = exec.CommandContext(ctx, "ip", "link", "delete", n.device()).Run()
	if err := os.RemoveAll(n.Run); err != nil {
		return err
	}
	return os.RemoveAll(n.Dir)
}

// unmount lets go of the mounts below the state, the innermost first.
func (n *Node) unmount() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) < 2 || !strings.HasPrefix(fields[1], n.Dir+"/") && !strings.HasPrefix(fields[1], n.Run+"/") {
			continue
		}
		if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", fields[1], err)
		}
	}
	return nil
}
