// Package cache maps what a step is (Key) to what it made (Record).
//
// A Key is computed from named parts, and a Record keeps the parts it was made
// from, so that a miss can say what changed. What a record points to (a layer) is
// not the cache's business: whoever loads a record checks that it is still there,
// and a record that cannot be used is a miss, never a failure.
package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// format salts every key: a change in how keys are computed, or in what a step does
// with the same parts, must change it, so that a newer strake never takes a record that meant something else.
const format = "strake cache key 3"

// Key names a repeatable piece of work. It is not a content digest: two keys may
// well lead to the same layer.
type Key [sha256.Size]byte

// String is the key in hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Part is one named ingredient of a key, such as {"args", "/bin/sh -c make"}.
// Parts are written to disk in the clear, so a secret must never be one.
type Part struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// Local: the part means nothing on another machine, and a record with it stays on this one. It makes no difference to the key.
	Local bool `json:"local,omitempty"`
}

// NewKey computes the key of parts. Names and values are framed by their
// lengths, so different lists of parts never run into the same bytes.
func NewKey(parts []Part) Key {
	h := sha256.New()
	frame := func(s string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	frame(format)
	for _, p := range parts {
		frame(p.Name)
		frame(p.Value)
	}
	var k Key
	h.Sum(k[:0])
	return k
}
