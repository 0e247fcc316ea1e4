// Package audit is an append-only log of JSON records that tells when somebody
// changed it. Each line holds the hash of the one before it, all lines are
// leaves of a Merkle tree (RFC 6962, by golang.org/x/mod/sumdb/tlog), and the
// tree's root is signed every so often as a checkpoint (a note by
// golang.org/x/mod/sumdb/note, in the form of C2SP tlog-checkpoint, so that a
// witness can take it).
//
// Log writes, with many callers sharing one sync; Verify finds edits, gaps,
// reordering and truncation; Read hands out the records. The package knows
// nothing of what a record says.
package audit
