// Package stack knows what a local Weir is made of: its components, their ports,
// certificates and configuration files, how each says that it is ready and how
// it drains. Running them is left to package supervisor.
package stack
