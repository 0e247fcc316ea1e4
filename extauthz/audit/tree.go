package audit

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// tree is the right edge of a Merkle tree: as much of it as the next record and
// the root need. Not safe for concurrent use.
type tree struct {
	size int64
	// last is the hash of the newest record, zero when there is none.
	last tlog.Hash
	// edge holds, by their place in tlog's numbering, the roots of the complete
	// subtrees that the tree consists of.
	edge map[int64]tlog.Hash
}

func newTree() *tree { return &tree{edge: map[int64]tlog.Hash{}} }

func (t *tree) clone() *tree {
	same := &tree{size: t.size, last: t.last, edge: make(map[int64]tlog.Hash, len(t.edge))}
	for index, hash := range t.edge {
		same.edge[index] = hash
	}
	return same
}

// ReadHashes implements tlog.HashReader.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hash, ok := t.edge[index]
		if !ok {
			return nil, fmt.Errorf("hash %d of the tree of size %d is not known", index, t.size)
		}
		hashes[i] = hash
	}
	return hashes, nil
}

// add makes line the next record.
func (t *tree) add(line []byte) error {
	leaf := tlog.RecordHash(line)
	hashes, err := tlog.StoredHashesForRecordHash(t.size, leaf, t)
	if err != nil {
		return err
	}
	at := tlog.StoredHashIndex(0, t.size)
	for i, hash := range hashes {
		t.edge[at+int64(i)] = hash
	}
	// A subtree that was completed takes the place of both its halves.
	for level := 0; level < len(hashes)-1; level++ {
		n := t.size >> level
		delete(t.edge, tlog.StoredHashIndex(level, n))
		delete(t.edge, tlog.StoredHashIndex(level, n-1))
	}
	t.size++
	t.last = leaf
	return nil
}

// root is the tree's hash (RFC 6962 section 2.1).
func (t *tree) root() (tlog.Hash, error) { return tlog.TreeHash(t.size, t) }

// places are those of the edge, in the order in which a header lists them.
func places(size int64) (found []int64) {
	// The reader hears what the root is made of; what it answers doesn't matter.
	_, _ = tlog.TreeHash(size, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found = append(found, indexes...)
		return make([]tlog.Hash, len(indexes)), nil
	}))
	return found
}

// hashes lists the edge for a header.
func (t *tree) hashes() ([]string, error) {
	found, err := t.ReadHashes(places(t.size))
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(found))
	for i, hash := range found {
		texts[i] = hashText(hash)
	}
	return texts, nil
}

// treeOf is the tree that a header describes.
func treeOf(h header) (*tree, error) {
	t := newTree()
	t.size = h.First
	want := places(h.First)
	if len(want) != len(h.Edge) {
		return nil, fmt.Errorf("its edge has %d hashes; a tree of size %d has %d", len(h.Edge), h.First, len(want))
	}
	for i, index := range want {
		hash, err := parseHash(h.Edge[i])
		if err != nil {
			return nil, fmt.Errorf("its edge: %w", err)
		}
		t.edge[index] = hash
	}
	if h.First == 0 {
		if h.Previous != "" {
			return nil, errors.New("the first segment has something before it")
		}
		return t, nil
	}
	previous, err := parseHash(h.Previous)
	if err != nil {
		return nil, fmt.Errorf("its previous hash: %w", err)
	}
	t.last = previous
	return t, nil
}
