// Package proofs remembers what was proved of credentials, and asks a provider
// about each one once, whatever the number of requests that wait for the answer.
// It knows nothing of what is asked, or how.
package proofs
