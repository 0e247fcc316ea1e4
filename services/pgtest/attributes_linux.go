package pgtest

import "syscall"

// attributes runs a child as the given user, and ends it (fast shutdown) when
// this process dies without having stopped it.
func attributes(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: credential, Setpgid: true, Pdeathsig: syscall.SIGINT}
}
