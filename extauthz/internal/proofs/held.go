package proofs

import (
	"crypto/sha256"
	"sync"
	"weak"
)

// Held keeps one value for equal settings, and weakly: what no rule uses any more
// goes away by itself. Safe for concurrent use; the zero value is empty.
type Held[T any] struct {
	mu     sync.Mutex
	values map[[sha256.Size]byte]weak.Pointer[T]
}

// Get returns the value of a digest, or makes it.
func (h *Held[T]) Get(digest [sha256.Size]byte, create func() (*T, error)) (*T, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.values[digest].Value(); known != nil {
		return known, nil
	}
	made, err := create()
	if err != nil {
		return nil, err
	}
	for key, pointer := range h.values {
		if pointer.Value() == nil {
			delete(h.values, key)
		}
	}
	if h.values == nil {
		h.values = map[[sha256.Size]byte]weak.Pointer[T]{}
	}
	h.values[digest] = weak.Make(made)
	return made, nil
}
