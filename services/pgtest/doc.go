// Package pgtest runs a private PostgreSQL server for tests, from the programs
// of an installed PostgreSQL. It listens on a unix socket only, so there is no
// port to collide on, and it leaves nothing behind.
package pgtest
