// Package logs keeps the output of components in bounded files, reads it back
// and makes it readable.
package logs
