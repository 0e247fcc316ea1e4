package folder

import (
	"os"
	"syscall"
)

// Of fcntl(2), for which package syscall has no names.
const (
	setLease  = 1024 // F_SETLEASE
	readLease = 0    // F_RDLCK
	unlock    = 2    // F_UNLCK
)

// closed reports whether nobody has the file open for writing. Linux gives a
// lease for reading only then (fcntl(2), "Leases"); it is handed back at once.
// Where leases cannot be had, as on network file systems, the answer is no.
func closed(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	free := false
	err = raw.Control(func(fd uintptr) {
		if _, _, failed := syscall.Syscall(syscall.SYS_FCNTL, fd, setLease, readLease); failed == 0 {
			free = true
			_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setLease, unlock)
		}
	})
	return err == nil && free
}
