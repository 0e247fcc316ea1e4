//go:build !linux

package folder

// closed reports whether nobody has the file open for writing, which is not
// known here.
func closed(string) bool { return false }
