// Package datagrpc serves data.Service as weir.data.v1.DataService: it converts
// messages, makes one call each, and passes the coded errors on.
package datagrpc
