// Package term writes for people: progress, tables and colours, plain when
// nobody watches.
package term
