// Package replay remembers what may be used once: ids of DPoP proofs and
// nonces of signed requests. It decides nothing about either.
package replay
