// Package process answers questions about the machine's processes: is this the
// same one as before, who listens on a port. It starts and kills nothing but
// what it is given.
package process
