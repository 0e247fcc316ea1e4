// Package command is the weir command line: flags, what is printed, exit codes.
// The work is done by the packages that it calls.
package command
