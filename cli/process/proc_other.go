//go:build !linux

package process

func startTime(int) (uint64, error) { return 0, errUnsupported }

// HolderOf is not known on this platform.
func HolderOf(int) (Holder, bool) { return Holder{}, false }
