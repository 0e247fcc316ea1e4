//go:build unix && !linux

package pgtest

import "syscall"

// attributes runs a child as the given user.
func attributes(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: credential, Setpgid: true}
}
