// Package usergrpc serves user.Service as weir.user.v1.UserService: it converts
// messages, makes one call each, and passes the coded errors on.
package usergrpc
