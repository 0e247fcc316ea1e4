package process_test

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/cli/process"
)

func TestIdentityOutlivesNoReuse(t *testing.T) {
	child := exec.Command("sleep", "60")
	require.NoError(t, child.Start())
	id := process.Identify(child.Process.Pid)
	require.NotZero(t, id.StartTime)
	require.True(t, id.Alive())

	reused := process.ID{PID: id.PID, StartTime: id.StartTime + 1}
	require.False(t, reused.Alive(), "the same pid with another start time is another process")
	require.ErrorIs(t, reused.Signal(syscall.SIGKILL), syscall.ESRCH)
	require.True(t, id.Alive(), "the signal must not have been sent")

	require.NoError(t, id.Signal(syscall.SIGKILL))
	_ = child.Wait()
	require.True(t, id.AwaitEnd(5*time.Second))
}

func TestAliveIsFalseForNonsense(t *testing.T) {
	require.False(t, process.ID{}.Alive())
	require.False(t, process.ID{PID: -1}.Alive())
}

func TestHolderOf(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	holder, ok := process.HolderOf(port)
	require.True(t, ok)
	require.Equal(t, os.Getpid(), holder.PID)
	require.NotEmpty(t, holder.Name)
	require.NoError(t, listener.Close())
	_, ok = process.HolderOf(port)
	require.False(t, ok)
}
