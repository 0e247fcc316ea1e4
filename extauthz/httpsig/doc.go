// Package httpsig identifies callers by signatures over their requests (RFC
// 9421), made with keys of consumers, and holds bodies to the digests that were
// signed (RFC 9530). It reads structured fields with a parser of its own, which
// refuses what RFC 8941 lets a reader overlook: repeated keys and several
// spellings of one byte sequence.
package httpsig
