// Package bearer reads the tokens of the Authorization header (RFC 6750 section
// 2.1) far enough to tell which of several methods one is for. It verifies
// nothing: what it says is good for choosing who has to, and for nothing else.
package bearer
