// Package bench holds side-by-side measurements of Weir and its peers. Each is a
// program under cmd; peers are built from their public Go modules, in modules of
// their own.
package bench
