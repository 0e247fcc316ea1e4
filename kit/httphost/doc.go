// Package httphost reads the host of HTTP requests: what a Host header or the
// pseudo-header ":authority" names, whatever the port that stands there too.
package httphost
