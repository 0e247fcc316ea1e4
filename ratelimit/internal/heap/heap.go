// Package heap keeps the garbage collector from running all the time in a server
// that holds little and allocates much.
package heap

import "runtime"

// floor is what the collector takes for live at least, in bytes.
const floor = 64 << 20

// Floor is memory that is never touched, and so takes room in no machine, but in
// the collector's reckoning: it runs when twice the floor is in use, not each time
// a few megabytes are.
type Floor struct{ untouched []byte }

// NewFloor takes effect until Release.
func NewFloor() *Floor { return &Floor{untouched: make([]byte, floor)} }

// Release ends it; until it is called, the floor is in use.
func (f *Floor) Release() { runtime.KeepAlive(f.untouched) }
