package ratelimit

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// maxPlainKeyBytes is how long a key may be before it is hashed; it bounds the
// memory that a counter takes.
const maxPlainKeyBytes = 64

// Entry is one name and value of a descriptor.
type Entry struct {
	Name  string
	Value string
}

// Key names one counter. Two different lists of parts never give the same key:
// each part carries its length, and long keys are SHA-256 hashes of that form.
// A key holds no spaces or line breaks only if its parts hold none: treat it as
// bytes, and keep it out of logs, since it can hold client addresses.
type Key string

// NewKey makes the key under which a rule counts the given entries, which come
// in the order of the descriptor.
func NewKey(ruleID string, limit Limit, entries []Entry) Key {
	var space [4 * maxPlainKeyBytes]byte
	buffer := append(space[:0], 'k')
	buffer = appendPart(buffer, ruleID)
	buffer = append(buffer, limit.Algorithm.letter())
	buffer = strconv.AppendInt(buffer, limit.Window.Microseconds(), 36)
	buffer = append(buffer, ';')
	if limit.Calendar != NoCalendar {
		buffer = append(buffer, 'c', 'd'+byte(limit.Calendar)-1)
		buffer = appendPart(buffer, limit.Zone.String())
	}
	for _, entry := range entries {
		buffer = appendPart(buffer, entry.Name)
		buffer = appendPart(buffer, entry.Value)
	}
	if len(buffer) <= maxPlainKeyBytes {
		return Key(buffer)
	}
	sum := sha256.Sum256(buffer)
	hashed := append(space[:0], 'h')
	return Key(base64.RawURLEncoding.AppendEncode(hashed, sum[:]))
}

// letter stands for the algorithm in keys, and in the scripts of stores.
func (a Algorithm) letter() byte {
	switch a {
	case GCRA:
		return 'g'
	case SlidingWindow:
		return 's'
	case Concurrency:
		return 'l'
	default:
		return 'f'
	}
}

func appendPart(buffer []byte, part string) []byte {
	buffer = strconv.AppendInt(buffer, int64(len(part)), 10)
	buffer = append(buffer, ':')
	return append(buffer, part...)
}

// NewGroup is the Group of a charge by a rule: counters of the same entries are
// together, such as all limits of one consumer, and of rules without entries
// those of one policy, which is a rule's id up to its last slash. It depends on
// nothing else, so that replicas agree, and it is never 0.
func NewGroup(ruleID string, entries []Entry) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a
	hash := uint64(offset)
	add := func(text string) {
		for i := range len(text) {
			hash = (hash ^ uint64(text[i])) * prime
		}
		hash = (hash ^ 0xff) * prime // no part of UTF-8
	}
	for _, entry := range entries {
		add(entry.Name)
		add(entry.Value)
	}
	if len(entries) == 0 {
		add(ruleID[:max(0, strings.LastIndexByte(ruleID, '/'))])
	}
	return max(hash, 1)
}
