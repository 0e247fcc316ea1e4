package stack

import (
	"fmt"
	"io"
	"net"
)

// markPort uses the abstract socket namespace (unix(7)): no file, and gone with
// the process.
func markPort(port int) (io.Closer, error) {
	return net.Listen("unix", fmt.Sprintf("@weir.dev/port/%d", port)) //nolint:noctx // Does not wait.
}
