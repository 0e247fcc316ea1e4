// Package heap keeps the garbage collector from running all the time in a server
// that holds little and allocates much.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
)

const (
	// most is what the collector takes for live at least, in bytes, and limitPart the
	// part of the memory limit (GOMEMLIMIT, in the charts that of the container) that
	// it is at most: it counts towards that limit.
	most      = 64 << 20
	limitPart = 8
)

// Floor is memory that is never touched, and so takes room in no machine, but in
// the collector's reckoning: it runs when twice the floor is in use, not each time
// a few megabytes are. So a server may hold as much garbage as the floor is large.
type Floor struct{ untouched []byte }

// NewFloor takes effect until Release. GOGC in the environment leaves all to that.
func NewFloor() *Floor {
	if os.Getenv("GOGC") != "" {
		return &Floor{}
	}
	return &Floor{untouched: make([]byte, floorFor(debug.SetMemoryLimit(-1)))}
}

// floorFor is the floor below a memory limit, in bytes.
func floorFor(limit int64) int64 { return max(0, min(most, limit/limitPart)) }

// Release ends it; until it is called, the floor is in use.
func (f *Floor) Release() { runtime.KeepAlive(f.untouched) }
