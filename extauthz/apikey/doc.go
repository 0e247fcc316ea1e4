// Package apikey finds the owner of an API key without ever holding the key: it
// is an immutable index of SHA-256 digests. It decides nothing about what the
// owner may do, and knows nothing of headers or requests.
package apikey
